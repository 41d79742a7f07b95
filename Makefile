# What everybody types. `make test` is what CI runs.

CARGO ?= cargo
# With the tests, so that the program is built of the same units as theirs and nothing is compiled twice.
BUILD = $(CARGO) build --locked --bins --tests

.PHONY: help test lint unit api api-suites soak lag zoo cost story chaos model package features deploy checkov watch image power-cuts durability rehearse e2e deny clean

help:                     ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test: lint features package unit deploy watch image power-cuts ## everything that CI runs; needs Debian's packages in .ci/packages

lint:                     ## format, clippy, documentation and its pages
	tests/docs/check.py
	python3 -m unittest discover --quiet --start-directory tests/e2e
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --workspace --all-features

unit:                     ## unit, property, process and rollout tests
	$(CARGO) test --locked --workspace

api:                      ## the API by its own description: validated, clients made of it, Schemathesis (a minute)
	$(BUILD)
	tests/api/run

api-suites:               ## the same on both engines, with all phases and more examples (many minutes)
	$(BUILD)
	tests/api/run --long

soak:                     ## rollouts under load, again and again (LAMEDUCK_SOAK=10 times; 20 s each)
	$(CARGO) test --locked --test it rollouts_again -- --ignored --nocapture

lag:                      ## rollouts behind balancers that lag 0 to 10 s, beside a sleep of 5 s, and under requests of 3 s (3 minutes)
	$(CARGO) test --locked --test it a_shutdown_follows -- --ignored --nocapture --test-threads=1

story:                    ## the founding story at full length: minutes of rollouts, half an hour of SIGKILLs
	$(CARGO) test --locked --test it -- process::story process::rolling --ignored --nocapture --test-threads=1

chaos:                    ## three replicas on PostgreSQL, and everything that can happen to them (LAMEDUCK_CHAOS=2000 times)
	$(CARGO) test --locked --test it process::chaos -- --ignored --nocapture

cost:                     ## what a drain costs the API server, by the size of its Service
	$(CARGO) test --locked --test it what_a_drain_costs -- --ignored --nocapture

model:                    ## the protocol of claims and leases, searched and replayed for larger sizes (minutes)
	$(CARGO) test --locked --test it protocol -- --ignored --nocapture --test-threads=1

package:                  ## what a registry would get
	$(CARGO) package --locked --workspace --no-verify --allow-dirty --quiet

zoo:                      ## rollouts behind curl, Python, Node, nginx, HAProxy: a row each (tests/zoo/packages)
	tests/zoo/prepare
	$(CARGO) build --locked --example rolled
	$(CARGO) test --locked --test it zoo:: -- --ignored --nocapture --test-threads=1

features:                 ## each crate with each of its features alone, as those take it who want only a part
	$(CARGO) check --locked -p lameduck --no-default-features
	$(CARGO) check --locked -p lameduck
	$(CARGO) check --locked -p lameduck-http
	$(CARGO) check --locked -p lameduck-http --features tls
	$(CARGO) check --locked -p lameduck-http --features ws
	$(CARGO) check --locked -p lameduck-http --features grpc
	$(CARGO) check --locked -p lameduck-kubernetes --features k8s-openapi/latest
	$(CARGO) check --locked -p lameduck-jobs
	$(CARGO) check --locked -p lameduck-jobs --features http-handler
	$(CARGO) check --locked -p lameduck --features sqlite
	$(CARGO) check --locked -p lameduck --features postgres
	$(CARGO) check --locked -p lameduck --features api
	$(CARGO) check --locked -p lameduck --features proxy
	$(CARGO) check --locked -p lameduck-process

deploy:                   ## chart and manifests: rendered, linted, validated, compared
	$(BUILD)
	tests/deploy/run

checkov:                  ## checkov's policies on the rendered chart (needs make deploy's tools)
	tests/deploy/checkov

watch:                    ## alerts, dashboard, Compose and systemd: unit-tested, and asked of a real Prometheus
	$(BUILD)
	tests/deploy/watch

image:                    ## the image: built, run as PID 1, drained (needs root and buildah)
	tests/deploy/image

power-cuts:               ## what was answered survives thousands of them (half a minute; needs strace)
	$(BUILD)
	tests/durability/run

durability:               ## the same with more jobs and more cuts (minutes)
	$(BUILD)
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
