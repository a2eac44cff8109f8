terraform {
  # Oldest with validation of variables, optional attributes and preconditions as they are used here.
  required_version = ">= 1.5.0, < 2.0.0"

  required_providers {
    libvirt = {
      source = "dmacvicar/libvirt"
      # Later ones (0.9) have other attributes.
      version = "~> 0.8.0"
    }
  }
}

provider "libvirt" {
  uri = var.uri
}
