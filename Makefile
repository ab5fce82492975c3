# One task runner, for people and for CI. Everything sets itself up; a second run finds nothing to set up.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# .venv's own programs, whatever is activated in the caller's shell.
BIN := .venv/bin
GATEWAY := .build/tollbook-gateway
# Stripe's own mock server and its OpenAPI document, which tests hold our requests and our stand-in's answers against.
STRIPE_MOCK := .build/stripe-mock/stripe-mock
# buf keeps a cache even of nothing but local modules: in the checkout, with the rest.
export BUF_CACHE_DIR := $(CURDIR)/.build/buf
# Packages under `make check`. A folder joins with its __init__.py, which ruff demands as soon as it holds a module.
PACKAGES := $(patsubst %/__init__.py,%,$(wildcard $(addsuffix /__init__.py,kit services cli tools tests))) sdks/python
# Extra arguments, for example: make test ARGS='-k quota -n 2'
ARGS ?=
CHECKS_ARGS ?=

.PHONY: help run test check bench soak generate accept-contract lock clean setup

help: ## list what this file can do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@grep -rqs 'mark\.soak' tests || echo "  (no soak test is written yet: make soak has nothing to run)"

run: setup $(GATEWAY) ## start the whole suite on this machine, replay a sample trace, stay up
	@exec $(BIN)/tollbook up --state .state --replay deploy/sample_trace.csv $(ARGS)

test: setup $(GATEWAY) $(STRIPE_MOCK) ## run all tests, on two processes, a file on one of them (ARGS="-k words", ARGS="-n 0")
	@exec $(BIN)/pytest tests -n 2 --dist loadfile $(ARGS)

check: setup ## lint, types, architecture, contracts, generated code: what CI runs besides the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES)
	$(BIN)/lint-imports --cache-dir .build/importlinter
	$(BIN)/buf lint
	@test -f protos/contract.binpb || { echo "protos/contract.binpb is missing: run make accept-contract" >&2; exit 1; }
	$(BIN)/buf breaking protos --against protos/contract.binpb
	tools/go.sh vet ./...
	@unformatted="$$(tools/go.sh gofmt -l gateway tests/bench/load $(wildcard *.go))"; \
		test -z "$$unformatted" || { echo "gofmt would change: $$unformatted" >&2; exit 1; }
	$(BIN)/python -m tools.generate --out .build/regenerated
	@diff --recursive --exclude=__pycache__ gen .build/regenerated || \
		{ echo "gen/ is not what protos/ says: run make generate" >&2; exit 1; }

bench: setup $(GATEWAY) ## print the benchmark tables, of ingest (ARGS=--quick, ARGS="I2 I5"), of checks (CHECKS_ARGS) and of leases; fails when a floor is missed
	@missed=0; $(BIN)/python -m tests.bench $(ARGS) || missed=1; \
		$(BIN)/python -m tests.bench.checks $(CHECKS_ARGS) || missed=1; \
		$(BIN)/python -m tests.bench.lease || missed=1; exit $$missed

soak: setup $(GATEWAY) $(STRIPE_MOCK) ## run the tests that take hours on purpose
	@exec $(BIN)/pytest tests -m soak $(ARGS)

generate: setup ## make gen/ anew from protos/
	$(BIN)/python -m tools.generate

accept-contract: setup ## renew the image that `make check` holds the protos against
	$(BIN)/buf lint
	$(BIN)/buf build protos --exclude-source-info --output protos/contract.binpb

lock: setup ## resolve requirements.in into requirements.lock (ARGS=--upgrade for newer versions)
	UV_SYSTEM_CERTS=true $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--custom-compile-command 'make lock' --output-file requirements.lock requirements.in $(ARGS)
	@tools/bootstrap.sh

clean: ## remove what builds, checks and tests made (keeps .venv, .tools and .state)
	rm -rf .build .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './.tools/*' -prune -exec rm -rf {} +

setup: # .venv, brought up to date; silent and instant when it is
	@tools/bootstrap.sh

# Embedded assets are sources too, hence every file and not only *.go.
$(GATEWAY): go.mod go.sum $(wildcard *.go) $(shell find gateway gen/go gen/openapi -type f 2>/dev/null) | setup
	@echo "setup: building $@ (a minute or two the first time)" >&2
	@tools/go.sh build -o $@ ./gateway
	@touch $@

# The document first: what tests look for is the binary, so it comes last.
$(STRIPE_MOCK): tools/stripe_mock/go.mod tools/stripe_mock/go.sum | setup
	@echo "setup: building $@ (a minute the first time)" >&2
	@mkdir -p $(@D)
	@tools/go.sh -C tools/stripe_mock mod download github.com/stripe/stripe-mock
	@module="$$(tools/go.sh -C tools/stripe_mock list -m -f '{{.Dir}}' github.com/stripe/stripe-mock)"; \
		install -m 644 "$$module/embedded/openapi/spec3.json" $(@D)/openapi.json
	@tools/go.sh -C tools/stripe_mock build -o $(CURDIR)/$@ github.com/stripe/stripe-mock
	@touch $@
