# The machines and their network. What runs on them is the business of `lb bootstrap`.

locals {
  # Name of each node, with what tells its machine from others.
  nodes = merge(
    { for at in range(var.consul_servers) : "consul-${at}" => { role = "consul_servers", memory = var.server_memory } },
    { for at in range(var.nomad_servers) : "nomad-server-${at}" => { role = "nomad_servers", memory = var.server_memory } },
    { for at in range(var.nomad_clients) : "nomad-client-${at}" => { role = "nomad_clients", memory = var.client_memory } },
  )

  # Addresses of a role follow each other, with room for all that it may have: a change of counts moves no node.
  addresses = merge(
    { for at in range(var.consul_servers) : "consul-${at}" => cidrhost(var.private_network, at + 11) },
    { for at in range(var.nomad_servers) : "nomad-server-${at}" => cidrhost(var.private_network, at + 31) },
    { for at in range(var.nomad_clients) : "nomad-client-${at}" => cidrhost(var.private_network, at + 51) },
  )
}

resource "libvirt_network" "cluster" {
  name      = var.name
  mode      = "nat"
  addresses = [var.private_network]
  autostart = true

  dhcp {
    enabled = true
  }
}

resource "libvirt_volume" "image" {
  name   = "${var.name}-image"
  pool   = var.pool
  source = var.image
}

resource "libvirt_volume" "disk" {
  for_each = local.nodes

  name           = "${var.name}-${each.key}"
  pool           = var.pool
  base_volume_id = libvirt_volume.image.id
  size           = var.disk_bytes
}

resource "libvirt_cloudinit_disk" "node" {
  for_each = local.nodes

  name = "${var.name}-${each.key}-cloudinit.iso"
  pool = var.pool
  user_data = join("\n", ["#cloud-config", yamlencode({
    hostname            = each.key
    disable_root        = false
    ssh_authorized_keys = values(var.ssh_public_keys)
    users = [{
      name                = "root"
      ssh_authorized_keys = values(var.ssh_public_keys)
    }]
  })])
}

resource "libvirt_domain" "node" {
  for_each = local.nodes

  name      = "${var.name}-${each.key}"
  memory    = each.value.memory
  vcpu      = var.cpus
  autostart = true
  cloudinit = libvirt_cloudinit_disk.node[each.key].id

  cpu {
    mode = "host-passthrough"
  }

  network_interface {
    network_id     = libvirt_network.cluster.id
    hostname       = each.key
    addresses      = [local.addresses[each.key]]
    wait_for_lease = true
  }

  disk {
    volume_id = libvirt_volume.disk[each.key].id
  }

  console {
    type        = "pty"
    target_type = "serial"
    target_port = "0"
  }
}
