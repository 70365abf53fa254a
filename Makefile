# Every command a contributor needs; `make help` lists them. CI runs `make test`.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.stamp
TOOLCHAINS := $(VENV)/.toolchains
SHELL_SCRIPTS := $(wildcard scripts/*) docker/fetch-firecracker guest/init .ci/run

.DEFAULT_GOAL := help
.PHONY: help setup toolchains microvms demo validate test check fmt bench proto lock clean

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 18

setup: $(STAMP) ## make .venv and install the project into it, pinned

$(STAMP): pyproject.toml requirements.txt scripts/setup
	@scripts/setup $(PYTHON) $(VENV)
	@touch $(STAMP)

toolchains: $(TOOLCHAINS) ## install the compilers of the four languages

$(TOOLCHAINS): $(STAMP) scripts/toolchains src/plexspaces_node/build/toolchains/typescript/package-lock.json
	@scripts/toolchains
	@touch $(TOOLCHAINS)

microvms: $(STAMP) ## install QEMU and build the guest image, for tests in microVMs
	@scripts/microvms

demo: $(TOOLCHAINS) ## build the sample applications, run them on a node, print the reports
	@scripts/demo

validate: ## check a checkout step by step, on a node; VALIDATE_ARGS=--docker in containers
	@PYTHON=$(PYTHON) scripts/validate.sh $(VALIDATE_ARGS)

test: check $(TOOLCHAINS) ## every check and test; PYTEST_ARGS names what must run
	@$(BIN)/pytest $(PYTEST_ARGS)

check: $(STAMP) ## formatting, lint, types, layers, shell scripts, drift of generated stubs
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@! [ -x $(BIN)/shellcheck ] || $(BIN)/shellcheck --external-sources $(SHELL_SCRIPTS)
	@scripts/proto --check

fmt: $(STAMP) ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(STAMP) ## measure against floors taken in the same run
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

proto: $(STAMP) ## generate the gRPC stubs anew
	@scripts/proto

lock: $(STAMP) ## pin what pyproject.toml allows into requirements.txt
	@scripts/lock

clean: ## remove what was built
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build-output
