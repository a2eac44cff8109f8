# What `lb bootstrap` reads from `terraform output -json`:
#
# ```json
# {
#   "inventory": {
#     "sensitive": false,
#     "value": {
#       "consul_servers": [
#         { "name": "consul-0", "address": "10.88.0.11", "ssh": "10.88.0.11" },
#         { "name": "consul-1", "address": "10.88.0.12", "ssh": "10.88.0.12" },
#         { "name": "consul-2", "address": "10.88.0.13", "ssh": "10.88.0.13" }
#       ],
#       "nomad_servers": [
#         { "name": "nomad-server-0", "address": "10.88.0.31", "ssh": "10.88.0.31" },
#         { "name": "nomad-server-1", "address": "10.88.0.32", "ssh": "10.88.0.32" },
#         { "name": "nomad-server-2", "address": "10.88.0.33", "ssh": "10.88.0.33" }
#       ],
#       "nomad_clients": [
#         { "name": "nomad-client-0", "address": "10.88.0.51", "ssh": "10.88.0.51" },
#         { "name": "nomad-client-1", "address": "10.88.0.52", "ssh": "10.88.0.52" },
#         { "name": "nomad-client-2", "address": "10.88.0.53", "ssh": "10.88.0.53" }
#       ]
#     }
#   }
# }
# ```

output "inventory" {
  description = "The nodes by role: name, address, and where ssh goes."
  value = {
    for role in ["consul_servers", "nomad_servers", "nomad_clients"] : role => [
      for name, node in local.nodes : {
        name    = name
        address = local.addresses[name]
        ssh     = local.addresses[name]
      } if node.role == role
    ]
  }
}
