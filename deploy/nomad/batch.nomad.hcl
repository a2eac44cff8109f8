# A job that runs once and ends: here it asks the sample service through lb a number of times and fails if one
# answer is missing.
#
#   nomad job run deploy/nomad/batch.nomad.hcl
#   nomad job run -var url=http://10.0.0.17:9999/hello -var requests=500 deploy/nomad/batch.nomad.hcl

variable "datacenters" {
  type        = list(string)
  default     = ["dc1"]
  description = "Where it may run."
}

variable "url" {
  type        = string
  default     = "http://$${meta.bind}:9999/hello"
  description = "What to ask: by default the sample, through the lb of the node."
}

variable "requests" {
  type        = number
  default     = 100
  description = "How often."
}

job "ask" {
  datacenters = var.datacenters
  type        = "batch"

  group "ask" {
    # Once is enough: neither here nor elsewhere again.
    restart {
      attempts = 0
      mode     = "fail"
    }
    reschedule {
      attempts  = 0
      unlimited = false
    }

    task "ask" {
      driver = "raw_exec"

      config {
        command = "/bin/sh"
        args    = ["local/ask.sh", var.url, "${var.requests}"]
      }

      template {
        destination = "local/ask.sh"
        data        = <<-SCRIPT
          set -eu
          number=0
          while [ "$number" -lt "$2" ]; do
            curl --fail --silent --show-error --max-time 5 --output /dev/null "$1"
            number=$((number + 1))
          done
          echo "$number answers from $1"
        SCRIPT
      }

      resources {
        cpu    = 50
        memory = 32
      }
    }
  }
}
