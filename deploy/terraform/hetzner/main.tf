# The machines and their private network. What runs on them is the business of `lb bootstrap`.

locals {
  # Name of each node, with what tells its machine from others.
  nodes = merge(
    { for at in range(var.consul_servers) : "consul-${at}" => { role = "consul_servers", size = var.server_size } },
    { for at in range(var.nomad_servers) : "nomad-server-${at}" => { role = "nomad_servers", size = var.server_size } },
    { for at in range(var.nomad_clients) : "nomad-client-${at}" => { role = "nomad_clients", size = var.client_size } },
  )

  ssh_keys = concat(var.ssh_key_ids, [for key in hcloud_ssh_key.operator : key.id])
}

resource "hcloud_ssh_key" "operator" {
  for_each = var.ssh_public_keys

  name       = "${var.name}-${each.key}"
  public_key = each.value
}

resource "hcloud_network" "cluster" {
  name     = var.name
  ip_range = var.private_network
}

resource "hcloud_network_subnet" "cluster" {
  network_id   = hcloud_network.cluster.id
  type         = "cloud"
  network_zone = var.network_zone
  ip_range     = var.private_network
}

resource "hcloud_server" "node" {
  for_each = local.nodes

  name        = "${var.name}-${each.key}"
  image       = var.image
  location    = var.region
  server_type = each.value.size
  ssh_keys    = local.ssh_keys
  labels = {
    cluster = var.name
    role    = each.value.role
  }

  lifecycle {
    # A newer image or another key must not take a living node away: `lb bootstrap replace-node` does that in order.
    ignore_changes = [image, ssh_keys]

    precondition {
      condition     = length(var.ssh_key_ids) + length(var.ssh_public_keys) > 0
      error_message = "Give at least one key in ssh_public_keys or ssh_key_ids: no login would be possible otherwise."
    }
  }
}

resource "hcloud_server_network" "node" {
  for_each = local.nodes

  server_id = hcloud_server.node[each.key].id
  subnet_id = hcloud_network_subnet.cluster.id
}
