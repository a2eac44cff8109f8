terraform {
  # Oldest with validation of variables, optional attributes and preconditions as they are used here.
  required_version = ">= 1.5.0, < 2.0.0"

  required_providers {
    hcloud = {
      source  = "hetznercloud/hcloud"
      version = "~> 1.45"
    }
  }
}

# The token comes from the environment, HCLOUD_TOKEN, and so into no file.
provider "hcloud" {}
