# `make help` lists the targets. Everything is built in one profile and one target directory: what `make demo` has
# compiled, `make test` does not compile again. Only `bench` uses the release profile.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test soak bench peers lint deny setup setup-test

# Where rustup puts cargo; a shell that was open before does not have it.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin

# Machines that build one clone after the other keep what was compiled.
ifneq ($(CI),)
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tributary/target
endif

CARGO_FLAGS := --locked
DEMO_DIR := tributary-demo
# About a million events.
CUSTOMERS := 12650
MONTHS := 18
# Of the restart that `bench` times.
SUBSCRIPTIONS := 200000
# Of each kind of soak.
SOAK_SECONDS := 600

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup ## Simulate an account, run everything on it, serve PostgreSQL until Ctrl-C (ONCE=1: exit instead)
	cargo build $(CARGO_FLAGS)
	rm -rf $(DEMO_DIR)
	cargo run --quiet $(CARGO_FLAGS) -- demo --data-dir $(DEMO_DIR) $(if $(ONCE),--once)

test: setup-test ## Run every test, with a real Kafka, S3 server, psql and Stripe's own SDK beside it
	scripts/minio.sh install
	cargo test $(CARGO_FLAGS) --no-run
	TRIBUTARY_TEST_PYTHON=$$(scripts/python-env.sh); export TRIBUTARY_TEST_PYTHON; \
	TRIBUTARY_TEST_ALL=1 scripts/with-kafka.sh scripts/with-minio.sh cargo test $(CARGO_FLAGS)

soak: setup-test ## Random queries, facts and kills for SOAK_SECONDS=600 each; a failure names its seed
	cargo test $(CARGO_FLAGS) --no-run
	TRIBUTARY_TEST_PYTHON=$$(scripts/python-env.sh); export TRIBUTARY_TEST_PYTHON; \
	TRIBUTARY_TEST_ALL=1 TRIBUTARY_SOAK_SECONDS=$(SOAK_SECONDS) scripts/with-kafka.sh \
	    cargo test $(CARGO_FLAGS) --test it -- --ignored --nocapture --test-threads 1 soak

bench: setup-test ## Speed, freshness, memory and restart beside their aims, in release (CUSTOMERS=12650 MONTHS=18 SUBSCRIPTIONS=200000)
	SUBSCRIPTIONS=$(SUBSCRIPTIONS) scripts/with-kafka.sh scripts/bench.sh $(CUSTOMERS) $(MONTHS)

peers: setup-test ## The same two jobs in Apache Flink SQL beside ours, answers compared (CUSTOMERS=12650 MONTHS=18)
	cargo build --release $(CARGO_FLAGS) --bin tributary
	CUSTOMERS=$(CUSTOMERS) MONTHS=$(MONTHS) scripts/with-kafka.sh \
	    benches/peers/run.py $${CARGO_TARGET_DIR:-target}/release/tributary

lint: setup ## Formatting, clippy, shell scripts and the compose file
	cargo fmt --check
	scripts/lint-files.sh
	cargo clippy $(CARGO_FLAGS) --all-targets -- -D warnings

deny: ## Check licences, advisories and sources of the dependencies
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check; \
	else echo "cargo-deny is not installed: cargo install --locked cargo-deny" >&2; exit 1; fi

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test
