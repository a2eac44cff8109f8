# Which addresses may reach what on the public interface. Hetzner's firewalls do not look at the private network: there
# the nodes reach each other on all ports, and nothing else is in it.

locals {
  anywhere = ["0.0.0.0/0", "::/0"]

  operator_ports = concat(["22"], var.operators_reach_apis ? ["8501", "4646"] : [])
}

resource "hcloud_firewall" "nodes" {
  name = "${var.name}-nodes"

  dynamic "rule" {
    for_each = local.operator_ports
    content {
      direction  = "in"
      protocol   = "tcp"
      port       = rule.value
      source_ips = var.operator_networks
    }
  }

  rule {
    direction  = "in"
    protocol   = "icmp"
    source_ips = var.operator_networks
  }

  apply_to {
    label_selector = "cluster=${var.name}"
  }
}

# Clients take the world's requests: lb runs on them.
resource "hcloud_firewall" "clients" {
  count = length(var.public_ports) > 0 ? 1 : 0

  name = "${var.name}-clients"

  dynamic "rule" {
    for_each = toset([for port in var.public_ports : tostring(port)])
    content {
      direction  = "in"
      protocol   = "tcp"
      port       = rule.value
      source_ips = local.anywhere
    }
  }

  apply_to {
    label_selector = "cluster=${var.name},role=nomad_clients"
  }
}
