# Everything a contributor runs. `make` alone says what there is; each target does its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PIP_ARGS ?= --quiet --disable-pip-version-check --retries 5 --timeout 60
TESTS ?= tests/unit tests/kernel tests/scenarios
PYTEST_ARGS ?=
BENCH_ARGS ?=
VM_ARGS ?=
SOURCES := orchestrator tests workloads

.PHONY: help
help: ## print this
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: venv
venv: $(STAMP) ## make .venv with orch and the development tools in it

$(STAMP): pyproject.toml
	@tools/host-packages venv
	@[ -x $(BIN)/python ] || "$$(tools/find-python)" -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) --editable '.[dev]'
	@$(BIN)/python -m compileall -q orchestrator # also where PYTHONDONTWRITEBYTECODE is set
	@touch $@

.PHONY: quickstart
quickstart: venv ## set everything up and run the example application (Ctrl-C ends it)
	@tools/host-packages run
	$(SUDO) $(BIN)/orch up workloads/quickstart/manifest.toml

.PHONY: test
# pytest's exit code 5, no tests, is fine when a word narrows them down.
test: venv ## run all tests; TESTS="tests/unit ..." and PYTEST_ARGS="-k word" narrow it
	@tools/host-packages test
	@failed=; \
	for suite in $(TESTS); do \
	    code=0; $(BIN)/python -m pytest $$suite $(PYTEST_ARGS) || code=$$?; \
	    if [ $$code = 5 ] && [ -n '$(PYTEST_ARGS)' ]; then code=0; fi; \
	    if [ $$code != 0 ]; then failed="$$failed $$suite"; fi; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

.PHONY: test-vm
test-vm: TESTS = tests/kernel tests/scenarios
test-vm: venv ## run tests on a second host: cgroup v2 only, systemd, AppArmor, in a virtual machine (as root)
	@tools/host-packages test
	@tools/host-packages vm
	@$(if $(findstring selinux,$(VM_ARGS)),tools/host-packages vm-selinux)
	$(SUDO) PYTHONPATH=tests $(BIN)/python -m vm $(VM_ARGS) -- $(TESTS) $(PYTEST_ARGS)

.PHONY: bench
bench: venv ## measure, as root; BENCH_ARGS="--list", "--only start,exec", "--json bench.json"
	@tools/host-packages test
	PYTHONPATH=tests $(BIN)/python -m bench $(BENCH_ARGS)

.PHONY: lint
lint: venv ## style, types and the floors of the house
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: venv ## put the sources into the house style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: clean
clean: ## remove .venv and everything else that is not in the repository
	rm -rf $(VENV) build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache bench.json
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +
