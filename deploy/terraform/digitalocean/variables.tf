variable "name" {
  description = "What the names of all resources begin with; also the tag that the firewall goes by."
  type        = string
  default     = "lb"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$", var.name))
    error_message = "The name has to be of lower-case letters, digits and -, 32 characters at most."
  }
}

variable "region" {
  description = "Where the machines stand: a slug of DigitalOcean."
  type        = string
  default     = "fra1"

  validation {
    condition     = can(regex("^[a-z]{3}[0-9]$", var.region))
    error_message = "The region has to be a slug like fra1."
  }
}

variable "image" {
  description = "What the machines run: a slug of a Linux with systemd."
  type        = string
  default     = "ubuntu-24-04-x64"
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
  default     = "s-1vcpu-1gb"
}

variable "client_size" {
  description = "Size of the Nomad clients."
  type        = string
  default     = "s-2vcpu-2gb"
}

variable "ssh_public_keys" {
  description = "Public keys to add to the account and to the machines, by name."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for key in values(var.ssh_public_keys) : can(regex("^(ssh|ecdsa|sk)-[^ ]+ [A-Za-z0-9+/=]+", key))])
    error_message = "Each value has to be a public key as in a .pub file, like \"ssh-ed25519 AAAA…\"."
  }
}

variable "ssh_key_ids" {
  description = "Keys that the account has already, by id or fingerprint (doctl compute ssh-key list)."
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

variable "dynamic_ports" {
  description = "Ports that Nomad gives to tasks, first and last: lb on one client reaches tasks on another by them."
  type        = string
  default     = "20000-32000"

  validation {
    condition     = can(regex("^[0-9]{4,5}-[0-9]{4,5}$", var.dynamic_ports))
    error_message = "Write them like 20000-32000."
  }
}
