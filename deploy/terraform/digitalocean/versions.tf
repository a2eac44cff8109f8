terraform {
  # Oldest with validation of variables, optional attributes and preconditions as they are used here.
  required_version = ">= 1.5.0, < 2.0.0"

  required_providers {
    digitalocean = {
      source  = "digitalocean/digitalocean"
      version = "~> 2.34"
    }
  }
}

# The token comes from the environment, DIGITALOCEAN_TOKEN, and so into no file.
provider "digitalocean" {}
