variable "name" {
  description = "What the names of all resources begin with."
  type        = string
  default     = "lb"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", var.name))
    error_message = "The name has to be of lower-case letters, digits and -, 32 characters at most."
  }
}

variable "uri" {
  description = "The libvirt daemon: qemu:///system, or qemu+ssh://USER@HOST/system."
  type        = string
  default     = "qemu:///system"
}

variable "pool" {
  description = "Storage pool for the disks; it has to be there."
  type        = string
  default     = "default"
}

variable "image" {
  description = "What the machines run: path or URL of a cloud image (qcow2) of a Linux with systemd and cloud-init."
  type        = string
}

variable "private_network" {
  description = "Range of the network, on which the nodes reach each other and the host reaches them."
  type        = string
  default     = "10.88.0.0/24"

  validation {
    condition     = can(cidrnetmask(var.private_network)) && try(tonumber(split("/", var.private_network)[1]), 0) >= 16 && try(tonumber(split("/", var.private_network)[1]), 99) <= 24
    error_message = "The network has to be IPv4, from /16 to /24, like 10.88.0.0/24."
  }
}

variable "consul_servers" {
  description = "How many Consul servers: 1, 3 or 5."
  type        = number
  default     = 3

  validation {
    condition     = contains([1, 3, 5], var.consul_servers)
    error_message = "Take 1, 3 or 5: an even number of servers outlives no more failures."
  }
}

variable "nomad_servers" {
  description = "How many Nomad servers: 1, 3 or 5."
  type        = number
  default     = 3

  validation {
    condition     = contains([1, 3, 5], var.nomad_servers)
    error_message = "Take 1, 3 or 5: an even number of servers outlives no more failures."
  }
}

variable "nomad_clients" {
  description = "How many Nomad clients, which run the jobs and lb."
  type        = number
  default     = 3

  validation {
    condition     = var.nomad_clients >= 0 && var.nomad_clients <= 100 && floor(var.nomad_clients) == var.nomad_clients
    error_message = "The clients have to be a whole number from 0 to 100."
  }
}

variable "server_memory" {
  description = "Memory of the Consul and Nomad servers, in MiB."
  type        = number
  default     = 1024
}

variable "client_memory" {
  description = "Memory of the Nomad clients, in MiB."
  type        = number
  default     = 2048
}

variable "cpus" {
  description = "Processors of each machine."
  type        = number
  default     = 2
}

variable "disk_bytes" {
  description = "Size of each machine's disk, in bytes; not below that of the image."
  type        = number
  default     = 10737418240
}

variable "ssh_public_keys" {
  description = "Public keys that may log in as root, by name."
  type        = map(string)

  validation {
    condition     = length(var.ssh_public_keys) > 0 && alltrue([for key in values(var.ssh_public_keys) : can(regex("^(ssh|ecdsa|sk)-[^ ]+ [A-Za-z0-9+/=]+", key))])
    error_message = "Give at least one public key as in a .pub file, like \"ssh-ed25519 AAAA…\"."
  }
}
