# Who may reach what. Nothing else comes in; there is no plain HTTP port of Consul or Nomad to open.

locals {
  anywhere = ["0.0.0.0/0", "::/0"]

  between_nodes = [
    { protocol = "tcp", ports = "8300-8302" }, # Consul: RPC, gossip
    { protocol = "udp", ports = "8301-8302" },
    { protocol = "tcp", ports = "8501" },      # Consul: HTTPS
    { protocol = "tcp", ports = "4646-4648" }, # Nomad: HTTPS, RPC, gossip
    { protocol = "udp", ports = "4648" },
    { protocol = "tcp", ports = "9997" },            # lb: metrics
    { protocol = "tcp", ports = var.dynamic_ports }, # lb to tasks
    { protocol = "udp", ports = var.dynamic_ports },
  ]

  operator_ports = concat(["22"], var.operators_reach_apis ? ["8501", "4646"] : [])
}

resource "digitalocean_firewall" "nodes" {
  name = "${var.name}-nodes"
  tags = [digitalocean_tag.node.id]

  dynamic "inbound_rule" {
    for_each = local.between_nodes
    content {
      protocol         = inbound_rule.value.protocol
      port_range       = inbound_rule.value.ports
      source_addresses = [var.private_network]
    }
  }

  dynamic "inbound_rule" {
    for_each = local.operator_ports
    content {
      protocol         = "tcp"
      port_range       = inbound_rule.value
      source_addresses = var.operator_networks
    }
  }

  inbound_rule {
    protocol         = "icmp"
    source_addresses = concat([var.private_network], var.operator_networks)
  }

  outbound_rule {
    protocol              = "tcp"
    port_range            = "1-65535"
    destination_addresses = local.anywhere
  }

  outbound_rule {
    protocol              = "udp"
    port_range            = "1-65535"
    destination_addresses = local.anywhere
  }

  outbound_rule {
    protocol              = "icmp"
    destination_addresses = local.anywhere
  }
}

# Clients take the world's requests: lb runs on them.
resource "digitalocean_firewall" "clients" {
  count = length(var.public_ports) > 0 ? 1 : 0

  name = "${var.name}-clients"
  tags = [digitalocean_tag.client.id]

  dynamic "inbound_rule" {
    for_each = toset([for port in var.public_ports : tostring(port)])
    content {
      protocol         = "tcp"
      port_range       = inbound_rule.value
      source_addresses = local.anywhere
    }
  }
}
