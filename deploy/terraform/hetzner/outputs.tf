# What `lb bootstrap` reads from `terraform output -json`:
#
# ```json
# {
#   "inventory": {
#     "sensitive": false,
#     "value": {
#       "consul_servers": [
#         { "name": "consul-0", "address": "10.88.0.2", "ssh": "203.0.113.10" },
#         { "name": "consul-1", "address": "10.88.0.3", "ssh": "203.0.113.11" },
#         { "name": "consul-2", "address": "10.88.0.4", "ssh": "203.0.113.12" }
#       ],
#       "nomad_servers": [
#         { "name": "nomad-server-0", "address": "10.88.0.5", "ssh": "203.0.113.13" },
#         { "name": "nomad-server-1", "address": "10.88.0.6", "ssh": "203.0.113.14" },
#         { "name": "nomad-server-2", "address": "10.88.0.7", "ssh": "203.0.113.15" }
#       ],
#       "nomad_clients": [
#         { "name": "nomad-client-0", "address": "10.88.0.8", "ssh": "203.0.113.16" },
#         { "name": "nomad-client-1", "address": "10.88.0.9", "ssh": "203.0.113.17" },
#         { "name": "nomad-client-2", "address": "10.88.0.10", "ssh": "203.0.113.18" }
#       ]
#     }
#   }
# }
# ```

output "inventory" {
  description = "The nodes by role: name, address on the private network, and where ssh goes."
  value = {
    for role in ["consul_servers", "nomad_servers", "nomad_clients"] : role => [
      for name, node in local.nodes : {
        name    = name
        address = hcloud_server_network.node[name].ip
        ssh     = hcloud_server.node[name].ipv4_address
      } if node.role == role
    ]
  }
}
