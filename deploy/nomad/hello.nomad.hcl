# A service that lb finds by its tags, updated without a failed request.
#
#   nomad job run deploy/nomad/hello.nomad.hcl
#   nomad job run -var text=v2 -var canaries=1 deploy/nomad/hello.nomad.hcl
#   nomad deployment promote ID
#
# `lb bootstrap up --with-sample` submits this very file.

variable "datacenters" {
  type        = list(string)
  default     = ["dc1"]
  description = "Where it may run."
}

variable "count" {
  type        = number
  default     = 3
  description = "How many instances."
}

variable "canaries" {
  type        = number
  default     = 0
  description = "Instances of a new version that run beside the old ones until the deployment is promoted."
}

variable "text" {
  type        = string
  default     = "v1"
  description = "The version that it answers with: change it to see an update."
}

variable "lb" {
  type        = string
  default     = "$${meta.lb_bin}"
  description = "The lb program on the node; it serves the sample. lb bootstrap tells each client where it is."
}

job "hello" {
  datacenters = var.datacenters
  type        = "service"

  update {
    # One at a time, and on to the next when its checks have passed for a while.
    max_parallel     = 1
    min_healthy_time = "3s"
    health_check     = "checks"
    healthy_deadline = "1m"
    auto_revert      = true
    canary           = var.canaries
  }

  group "web" {
    count = var.count

    # The instance leaves Consul first and is stopped later, so that no router sends it anything by then.
    shutdown_delay = "3s"

    # Not distinct_hosts: with as many instances as nodes there would be no place for a canary.
    spread {
      attribute = "${node.unique.name}"
    }

    network {
      port "http" {}
    }

    service {
      name     = "hello"
      port     = "http"
      provider = "consul"

      # lb bootstrap sets meta.bind on each client. Without it leave the address out: Nomad knows the node's own.
      address = "${meta.bind}"

      tags = [
        "urlprefix-/hello",
        "urlprefix-hello.example.com/",
      ]

      check {
        type     = "http"
        path     = "/health"
        interval = "1s"
        timeout  = "1s"
      }
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = var.lb
        args = [
          "sample",
          "--listen", "${meta.bind}:${NOMAD_PORT_http}",
          "--name", "hello",
          "--node", "${node.unique.name}",
          "--version-text", var.text,
        ]
      }

      # SIGINT: running requests are finished, at most this long.
      kill_timeout = "15s"

      resources {
        cpu    = 50
        memory = 64
      }
    }
  }
}
