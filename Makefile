# Everything a developer or a user runs here. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Documents that `make up` applies, and what pytest is to run: make test ARGS=tests/unit
DOCUMENTS ?= manifests/examples
ARGS ?= tests --ignore=tests/cluster --ignore=tests/operator
# Options of `make deploy` and of `make undeploy`.
DEPLOY ?=
UNDEPLOY ?=
# What `make render` is to print: local, small or production. OUT is a folder to write it to; for
# `make sbom`, a file.
PROFILE ?= small
OUT ?=
# The image as docker or buildah saves it, for `make sbom`.
IMAGE ?=

# Stamps inside .venv: an install happens again when its lock has changed.
VENV := .venv/.made
RUNTIME := .venv/.runtime
PROJECT := .venv/.project
DEV := .venv/.dev
EXAMPLES := .venv/.examples

.PHONY: help up down status render deploy undeploy manifests test test-cluster soak check bench lint docs sbom lock

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(RUNTIME) $(PROJECT) ## Install what is missing, start the local stack, apply the examples
	@$(BIN)/mlplatform up $(DOCUMENTS)

down: $(RUNTIME) $(PROJECT) ## Stop the local stack; its data stays
	@$(BIN)/mlplatform down

status: $(RUNTIME) $(PROJECT) ## Show the local stack's processes, ports and health
	@$(BIN)/mlplatform status

deploy: $(RUNTIME) $(PROJECT) ## Bring MLflow to the cluster of the kubeconfig (DEPLOY='-f my-values.yaml -n team')
	@$(BIN)/mlplatform deploy $(DEPLOY)

undeploy: $(RUNTIME) $(PROJECT) ## Take it away again; its data stay (UNDEPLOY='-n team')
	@$(BIN)/mlplatform undeploy $(UNDEPLOY)

manifests: $(RUNTIME) $(PROJECT) ## Write manifests/quickstart.yaml, production and crds from chart and models
	@$(BIN)/python -m mlflow_platform.deploy.manifests

render: $(RUNTIME) $(PROJECT) ## Print the chart's Kubernetes objects (PROFILE=production; OUT=DIR: into files)
	@$(BIN)/mlplatform render --profile '$(PROFILE)' $(if $(OUT),--output-dir '$(OUT)')

check: lint test ## All checks of a change: lint, then test

lint: $(DEV) $(PROJECT) ## Formatting, lints, types, the direction of imports
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

test: $(EXAMPLES) $(PROJECT) ## Run the tests on real servers (ARGS=tests/unit for some)
	@$(BIN)/python -m pytest $(ARGS)

test-cluster: $(DEV) $(PROJECT) ## Run the tests on a real Kubernetes; needs root
	@$(BIN)/python -m pytest tests/operator tests/cluster

soak: $(EXAMPLES) $(PROJECT) ## Run the long sweeps, for an hour or so; needs root
	@$(BIN)/python -m pytest -m soak -s tests

bench: $(EXAMPLES) $(PROJECT) ## Measure against the bars that the documents promise
	@$(BIN)/python -m tests.bench

docs: $(RUNTIME) $(PROJECT) ## Write the reference pages from the models and commands
	@$(BIN)/python -m mlflow_platform.cli.reference
	@$(BIN)/python -m mlflow_platform.chart.reference

sbom: $(DEV) $(PROJECT) ## List what the image contains as CycloneDX, to OUT (IMAGE=archive.tar: Debian's packages too)
	@$(BIN)/python platform/sbom.py $(IMAGE) >'$(or $(OUT),sbom.cdx.json)' || \
	  { rm -f '$(or $(OUT),sbom.cdx.json)'; exit 1; }

# Locks hold versions and hashes, no address: they install from any index. A present lock is the
# starting point, so that a new dependency moves no other; UPGRADE=1 moves all to the latest.
LOCK = $(BIN)/python -m piptools compile --quiet --generate-hashes --strip-extras --allow-unsafe \
  --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options \
  --no-header --no-annotate --build-deps-for editable $(if $(UPGRADE),--upgrade)

lock: $(DEV) ## Write the locks anew from pyproject.toml (UPGRADE=1: latest versions)
	$(LOCK) --extra local --extra kubernetes --output-file platform/requirements.txt pyproject.toml
	$(LOCK) --extra server --extra kubernetes --constraint platform/requirements.txt \
	  --output-file platform/requirements-server.txt pyproject.toml
	$(LOCK) --extra local --extra kubernetes --extra client --extra dev \
	  --constraint platform/requirements.txt --output-file platform/requirements-dev.txt pyproject.toml
	$(LOCK) --extra local --extra kubernetes --extra client --extra dev --extra examples \
	  --constraint platform/requirements-dev.txt --output-file platform/requirements-examples.txt pyproject.toml

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1); Python 3.11 or later is needed." >&2; \
	    echo "    Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "error: no virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(RUNTIME): platform/requirements.txt | $(VENV)
	@echo "Installing into .venv (the first time this takes some minutes) ..." >&2
	@$(PIP) install --quiet --require-hashes --requirement $<
	@touch $@

$(DEV): platform/requirements-dev.txt | $(VENV)
	@echo "Installing the development tools into .venv ..."
	@$(PIP) install --quiet --require-hashes --requirement $<
	@touch $@

# What examples and notebooks use; the tests run them.
$(EXAMPLES): platform/requirements-examples.txt | $(DEV)
	@echo "Installing what the examples use into .venv ..."
	@$(PIP) install --quiet --require-hashes --requirement $<
	@touch $@

# The build backend comes from the lock that was installed before: nothing is fetched here.
$(PROJECT): pyproject.toml platform/mlflow_platform/__init__.py | $(VENV)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
