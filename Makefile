# Every command a contributor needs; `make help` lists them. CI runs `make test`.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
STAMP := $(VENV)/.stamp
TOOLCHAINS := $(VENV)/.toolchains
SHELL_SCRIPTS := $(wildcard scripts/*) docker/fetch-firecracker .ci/run

.DEFAULT_GOAL := help
.PHONY: help setup programs toolchains microvms clients demo cluster-demo cluster-faults validate test check fmt bench proto reference wheel screenshots lock sbom clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */  make \1\t/' | expand -t 18

setup: $(STAMP) programs ## make .venv with the project in it, pinned, and build the native programs

$(STAMP): pyproject.toml requirements.txt scripts/setup
	@scripts/setup $(PYTHON) $(VENV)
	@touch $(STAMP)

programs: ## build the native programs, unless the user's cache has them for these sources
	@PYTHON=$(PYTHON) scripts/agent

toolchains: $(TOOLCHAINS) ## install the compilers of the four languages

$(TOOLCHAINS): $(STAMP) scripts/toolchains src/plexspaces_node/toolchains/locked/typescript/package-lock.json
	@scripts/toolchains
	@touch $(TOOLCHAINS)

microvms: $(STAMP) programs ## install QEMU and build the guest image, for tests in microVMs
	@scripts/microvms

clients: ## install curl and a browser, and get Prometheus, for tests with real clients
	@scripts/clients
	@scripts/prometheus

demo: $(TOOLCHAINS) programs ## build the sample applications, run them on a node, print the reports
	@scripts/demo

cluster-demo: $(TOOLCHAINS) programs ## three nodes on this machine: one is killed, one drained
	@scripts/cluster-demo

cluster-faults: $(STAMP) programs ## nodes that are killed, cut off and paused at random; ARGS=--cluster-seed=7
	@$(BIN)/pytest tests/integration/cluster/test_faults.py --cluster --capture=no --cluster-seconds=300 $(ARGS)

validate: ## check a checkout step by step, on a node; VALIDATE_ARGS=--docker in containers
	@PYTHON=$(PYTHON) scripts/validate.sh $(VALIDATE_ARGS)

test: check $(TOOLCHAINS) programs ## every check and test; PYTEST_ARGS names what must run
	@scripts/agent test
	@$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(PYTEST_ARGS)

check: $(STAMP) ## formatting, lint, types, layers, shell scripts, drift of generated code
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@! [ -x $(BIN)/shellcheck ] || $(BIN)/shellcheck --external-sources $(SHELL_SCRIPTS)
	@scripts/proto --check
	@scripts/reference --check
	@scripts/agent check $(AGENT_CHECK)

fmt: $(STAMP) ## format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@scripts/agent fmt

bench: $(STAMP) programs ## measure against floors taken in the same run
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

proto: $(STAMP) ## generate the gRPC stubs anew
	@scripts/proto

wheel: $(STAMP) programs ## build the wheel, with the native programs in it, into dist/
	@$(BIN)/uv build --wheel --no-build-isolation --python $(BIN)/python --out-dir dist

screenshots: $(TOOLCHAINS) programs ## make the pictures of the dashboard in docs/images anew
	@scripts/screenshots

reference: $(STAMP) ## write the reference of the command line anew
	@scripts/reference

lock: $(STAMP) ## pin what pyproject.toml allows, with digests, into requirements*.txt
	@scripts/lock

sbom: $(STAMP) ## list what the product is made of, in CycloneDX, into dist/
	@$(BIN)/python -m bill_of_materials dist/plexspaces-node.cdx.json

clean: ## remove what was built
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build-output dist
