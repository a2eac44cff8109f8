# The machines and their private network. What runs on them is the business of `lb bootstrap`.

locals {
  # Name of each node, with what tells its machine from others.
  nodes = merge(
    { for at in range(var.consul_servers) : "consul-${at}" => { role = "consul_servers", size = var.server_size } },
    { for at in range(var.nomad_servers) : "nomad-server-${at}" => { role = "nomad_servers", size = var.server_size } },
    { for at in range(var.nomad_clients) : "nomad-client-${at}" => { role = "nomad_clients", size = var.client_size } },
  )

  ssh_keys = concat(var.ssh_key_ids, [for key in digitalocean_ssh_key.operator : key.fingerprint])
}

resource "digitalocean_ssh_key" "operator" {
  for_each = var.ssh_public_keys

  name       = "${var.name}-${each.key}"
  public_key = each.value
}

resource "digitalocean_vpc" "cluster" {
  name     = var.name
  region   = var.region
  ip_range = var.private_network
}

resource "digitalocean_tag" "node" {
  name = var.name
}

resource "digitalocean_tag" "client" {
  name = "${var.name}-client"
}

resource "digitalocean_droplet" "node" {
  for_each = local.nodes

  name     = "${var.name}-${each.key}"
  image    = var.image
  region   = var.region
  size     = each.value.size
  vpc_uuid = digitalocean_vpc.cluster.id
  ssh_keys = local.ssh_keys
  tags = concat(
    [digitalocean_tag.node.id],
    each.value.role == "nomad_clients" ? [digitalocean_tag.client.id] : [],
  )

  lifecycle {
    # A newer image or another key must not take a living node away: `lb bootstrap replace-node` does that in order.
    ignore_changes = [image, ssh_keys]

    precondition {
      condition     = length(var.ssh_key_ids) + length(var.ssh_public_keys) > 0
      error_message = "Give at least one key in ssh_public_keys or ssh_key_ids: nobody could log in otherwise."
    }
  }
}
