variable "name" {
  description = "What the names of all resources begin with; also the label that the firewall goes by."
  type        = string
  default     = "lb"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", var.name))
    error_message = "The name has to be of lower-case letters, digits and -, 32 characters at most."
  }
}

variable "region" {
  description = "Where the machines stand: a location of Hetzner, inside network_zone."
  type        = string
  default     = "fsn1"

  validation {
    condition     = can(regex("^[a-z]{3}[0-9]?$", var.region))
    error_message = "The region has to be a location like fsn1."
  }
}

variable "network_zone" {
  description = "Zone of the private network, the one that the region is in."
  type        = string
  default     = "eu-central"
}

variable "image" {
  description = "What the machines run: the name of a Linux with systemd."
  type        = string
  default     = "ubuntu-24.04"
}

variable "private_network" {
  description = "Range of the private network, on which the nodes reach each other."
  type        = string
  default     = "10.88.0.0/24"

  validation {
    condition     = can(cidrnetmask(var.private_network)) && try(tonumber(split("/", var.private_network)[1]), 0) >= 16 && try(tonumber(split("/", var.private_network)[1]), 99) <= 28
    error_message = "The network has to be IPv4, from /16 to /28, like 10.88.0.0/24."
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

variable "server_size" {
  description = "Size of the Consul and Nomad servers."
  type        = string
  default     = "cx22"
}

variable "client_size" {
  description = "Size of the Nomad clients."
  type        = string
  default     = "cx22"
}

variable "ssh_public_keys" {
  description = "Public keys to add to the project and to the machines, by name."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in values(var.ssh_public_keys) : can(regex("^(ssh|ecdsa|sk)-[^ ]+ [A-Za-z0-9+/=]+", key))])
    error_message = "Each value has to be a public key as in a .pub file, like \"ssh-ed25519 AAAA…\"."
  }
}

variable "ssh_key_ids" {
  description = "Keys that the project has already, by id or name (hcloud ssh-key list)."
  type        = list(string)
  default     = []
}

variable "operator_networks" {
  description = "Where operators come from: these may reach ssh (22). Your own address with /32 is a good start."
  type        = list(string)

  validation {
    condition     = length(var.operator_networks) > 0 && alltrue([for network in var.operator_networks : can(cidrhost(network, 0))])
    error_message = "Name at least one network, like 203.0.113.7/32."
  }
}

variable "operators_reach_apis" {
  description = "Whether operators may reach the HTTPS APIs and UIs of Consul (8501) and Nomad (4646), too. Both ask for a client certificate."
  type        = bool
  default     = true
}

variable "public_ports" {
  description = "Ports of lb on the clients that everybody may reach; [] for none."
  type        = list(number)
  default     = [80, 443, 9999]

  validation {
    condition     = alltrue([for port in var.public_ports : port >= 1 && port <= 65535 && floor(port) == port])
    error_message = "Ports are whole numbers from 1 to 65535."
  }
}
