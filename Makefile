# What everybody types. `make test` is what CI runs.

CARGO ?= cargo

.PHONY: help test lint unit soak lag zoo cost story chaos model package features deploy watch image power-cuts durability rehearse e2e deny clean

help:                     ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: lint features package unit deploy watch image power-cuts ## everything that CI runs; needs Debian's packages in .ci/packages

lint:                     ## format, clippy, documentation and its pages
	tests/docs/check.py
	python3 -m unittest discover --quiet --start-directory tests/e2e
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets --features grpc -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --features grpc

unit:                     ## unit, property, process and rollout tests
	$(CARGO) test --locked --features grpc

soak:                     ## rollouts under load, again and again (LAMEDUCK_SOAK=10 times; 20 s each)
	$(CARGO) test --locked --test it rollouts_again -- --ignored --nocapture

lag:                      ## a rollout behind balancers that lag 0 to 10 s, beside a sleep of 5 s (2 minutes)
	$(CARGO) test --locked --test it a_shutdown_follows -- --ignored --nocapture

story:                    ## the founding story at full length: minutes of rollouts, half an hour of SIGKILLs
	$(CARGO) test --locked --test it -- process::story process::rolling --ignored --nocapture --test-threads=1

chaos:                    ## three replicas on PostgreSQL, and everything that can happen to them (LAMEDUCK_CHAOS=2000 times)
	$(CARGO) test --locked --test it process::chaos -- --ignored --nocapture

cost:                     ## what a drain costs the API server, by the size of its Service
	$(CARGO) test --locked --test it what_a_drain_costs -- --ignored --nocapture

model:                    ## the protocol of claims and leases, searched and replayed for larger sizes (minutes)
	$(CARGO) test --locked --test it protocol -- --ignored --nocapture --test-threads=1

package:                  ## what a registry would get
	$(CARGO) package --locked --no-verify --allow-dirty --quiet

zoo:                      ## rollouts behind curl, Python, Node, nginx, HAProxy: a row each (tests/zoo/packages)
	tests/zoo/prepare
	$(CARGO) build --locked --example rolled
	$(CARGO) test --locked --test it zoo:: -- --ignored --nocapture --test-threads=1

features:                 ## the library, as those take it who want only a part of it
	$(CARGO) check --locked --no-default-features --lib
	$(CARGO) check --locked --no-default-features --lib --features http
	$(CARGO) check --locked --no-default-features --lib --features tls
	$(CARGO) check --locked --no-default-features --lib --features http,kubernetes,k8s-openapi/latest
	$(CARGO) check --locked --no-default-features --lib --features sqlite
	$(CARGO) check --locked --no-default-features --lib --features http-handler
	$(CARGO) check --locked --no-default-features --lib --features api
	$(CARGO) check --locked --no-default-features --lib --features postgres

deploy:                   ## chart and manifests: rendered, linted, validated, compared
	$(CARGO) build --locked --features grpc
	tests/deploy/run

watch:                    ## alerts, dashboard, Compose and systemd: unit-tested, and asked of a real Prometheus
	$(CARGO) build --locked --features grpc
	tests/deploy/watch

image:                    ## the image: built, run as PID 1, drained (needs root and buildah)
	tests/deploy/image

power-cuts:               ## what was answered survives thousands of them (half a minute; needs strace)
	$(CARGO) build --locked --features grpc
	tests/durability/run

durability:               ## the same with more jobs and more cuts (minutes)
	$(CARGO) build --locked --features grpc
	tests/durability/run --long

rehearse:                 ## the cluster's suite against a double that can misbehave (minutes; needs make deploy's tools)
	tests/e2e/rehearse

e2e:                      ## in the cluster that KUBECONFIG names; skipped where there is none
	tests/e2e/run

deny:                     ## licences, sources and bans of all dependencies (needs cargo-deny)
	$(CARGO) deny --locked check bans licenses sources

clean:
	$(CARGO) clean
	rm -rf .tools
