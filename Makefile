# Two targets matter to a newcomer: `make demo` and `make test`. The rest are their parts.

# Tools that scripts/install-test-tools.sh builds land beside cargo's own.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

# What `lb version` and lb_build_info say; empty outside git.
export LB_REVISION ?= $(shell git rev-parse --short HEAD 2>/dev/null)

CARGO ?= cargo
IMAGE ?= lb:dev

.PHONY: help demo test check fmt build bench bench-tools bench-micro audit image tools

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## build and watch it work: three sample services, the router in front, nothing to install
	$(CARGO) run --locked -- demo

test: tools check ## everything: installs what is missing, then checks and tests
	$(CARGO) test --quiet --locked --bench lookup --bench pick --bench rebuild --bench head --bench policies --bench token --bench wire \
		--bench end_to_end
	scripts/test

check: ## formatting, lints, documentation, dependencies
	$(CARGO) fmt --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps
	$(CARGO) deny --locked check bans licenses sources

fmt: ## format the code
	$(CARGO) fmt
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml

build: ## the optimised binary, in target/release/lb
	$(CARGO) build --locked --release

# CASES="h1-64 tls-64" PROXIES="lb haproxy nginx" ROUNDS=5 SECONDS=3 narrow it; HAPROXY_BIN and the like name programs.
bench: ## lb beside haproxy, nginx, envoy, fabio and caddy: CPU time per request (docs/performance.md)
	$(CARGO) bench --locked --bench end_to_end -- --cases "$(CASES)" --proxies "$(PROXIES)" \
		--rounds $(or $(ROUNDS),5) --seconds $(or $(SECONDS),3)

bench-tools: ## what `make bench` can use and Debian has: load generators and peers
	sudo apt-get install -y --no-install-recommends wrk nghttp2-client haproxy nginx libnginx-mod-stream

bench-micro: ## single steps of the router and of reading Consul, by criterion
	$(CARGO) bench --locked --bench lookup --bench pick --bench rebuild --bench head --bench policies --bench token --bench wire

audit: ## known vulnerabilities of dependencies (needs the network)
	$(CARGO) deny --locked check advisories

image: ## container image, by podman or docker
	scripts/image $(IMAGE)

tools: ## what the tests need: consul, cargo-deny, h2spec, …
	scripts/install-test-tools.sh
