# lb itself on every Nomad client, as a system job. The clients need lb's files (configuration, certificate, token):
# `lb bootstrap` puts them there, names their folder in meta.lb_dir, and in meta.lb_bin the program that starts lb as the
# user lb, without the rights of root that raw_exec has.
#
#   nomad job run deploy/nomad/lb.nomad.hcl
#
# On an update each node's lb drains and ends before the next one starts there: the ports are fixed. Clients reach the
# other nodes meanwhile, by DNS (lb.service.consul) or a balancer in front that follows its check.

variable "datacenters" {
  type        = list(string)
  default     = ["dc1"]
  description = "Where it runs, on every client."
}

variable "lb" {
  type        = string
  default     = "$${meta.lb_bin}"
  description = "The lb program: an absolute path on the nodes, or local/lb with an artifact."
}

variable "artifact" {
  type        = string
  default     = ""
  description = "URL to fetch the program from; empty: it is on the nodes. Add ?checksum=sha256:…"
}

variable "config" {
  type        = string
  default     = "$${meta.lb_dir}/lb.toml"
  description = "Its configuration file on the nodes."
}

job "lb" {
  datacenters = var.datacenters
  type        = "system"

  # Before the services that it fronts, when a node comes back.
  priority = 80

  update {
    max_parallel     = 1
    min_healthy_time = "3s"
    health_check     = "checks"
    healthy_deadline = "1m"
    auto_revert      = true
  }

  group "lb" {
    # Leaves DNS first, drains later.
    shutdown_delay = "3s"

    network {
      port "lb" {
        static = 9999
      }
      port "admin" {
        static = 9998
      }
    }

    # Its sockets open once every route is known: that a connection is taken means that it can serve.
    service {
      name     = "lb"
      port     = "lb"
      provider = "consul"
      address  = "${meta.bind}"

      check {
        type     = "tcp"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # Ready, not merely alive: /ready fails until all routes are known and from the moment of draining, and a
    # deployment must not go on to the next node before. Being unready is no reason for a restart (it would forget
    # the routes that it has), so there is no check_restart. The admin listener is plain HTTP for the node alone.
    service {
      name     = "lb-admin"
      port     = "admin"
      provider = "consul"
      address  = "${meta.lb_admin}"

      check {
        type     = "http"
        path     = "/ready"
        interval = "2s"
        timeout  = "1s"
      }
    }

    # It is needed as long as the node is up.
    restart {
      attempts = 10
      interval = "1m"
      delay    = "2s"
      mode     = "delay"
    }

    task "lb" {
      driver = "raw_exec"

      dynamic "artifact" {
        for_each = var.artifact == "" ? [] : [var.artifact]
        content {
          source      = artifact.value
          destination = "local/lb"
          mode        = "file"
        }
      }

      config {
        command = var.lb
        args    = ["run", "--config", var.config]
      }

      # SIGTERM starts the drain ([drain] timeout, 25s in the file of lb bootstrap); what then still runs is cut.
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
