# `make quickstart` and `make test` each work by themselves on a bare machine; `make help` lists the rest.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || command -v sudo)
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' requirements.txt)
# requirements.txt is used as constraints: every version is pinned and every hash is checked.
INSTALL := UV_HTTP_TIMEOUT=300 $(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode \
	-c requirements.txt
PIPELINE := pipelines/quickstart/pipeline.yaml

.DEFAULT_GOAL := help
.PHONY: help install quickstart test check lint types imports docs lock bench clean

help:  ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

quickstart: $(VENV)/.quickstart  ## Install, then run pipelines/quickstart from data to a promoted model
	$(BIN)/platformctl submit $(PIPELINE)

test: $(VENV)/.dev system-packages check  ## Install, then run every check and every test
	$(BIN)/pytest --numprocesses=auto --maxprocesses=4 --no-loadscope-reorder

check: lint types imports  ## Lint, types, layers
lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: $(VENV)/.dev
	$(BIN)/mypy
imports: $(VENV)/.dev
	$(BIN)/lint-imports

install: $(VENV)/.dev  ## Install everything that development needs into .venv
docs: $(VENV)/.dev  ## Regenerate the component and CLI references and the JSON Schema
	$(BIN)/python -m crucible.cli.reference --write
LOCK_IMAGE = $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-emit-index-url --no-annotate \
	--python-version 3.11 -c requirements.txt
lock: $(VENV)/.dev  ## Resolve requirements.txt and the images' lists anew
	$(BIN)/uv pip compile --quiet --all-extras --generate-hashes --no-header --no-emit-index-url \
		--python-version 3.11 pyproject.toml -o requirements.txt
	@for set in base cluster train eval serve; do \
		extra=$$([ $$set = base ] || echo --extra $$set); \
		$(LOCK_IMAGE) $$extra pyproject.toml -o components/images/$$set/requirements.txt || exit 1; done
	@$(LOCK_IMAGE) components/images/tools/requirements.in -o components/images/tools/requirements.txt
bench: $(VENV)/.dev  ## Run every benchmark; each ends with one JSON line
	@for script in $$(grep -l '^def main' tests/bench/*.py); do \
		echo "== $$script"; $(BIN)/python $$script || exit 1; done
clean:  ## Remove the environment and all local runs
	rm -rf $(VENV) .crucible .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.quickstart: pyproject.toml requirements.txt | $(BIN)/uv
	$(INSTALL) -e '.[train,eval]'
	@touch $@
$(VENV)/.dev: pyproject.toml requirements.txt | $(BIN)/uv
	$(INSTALL) -e '.[cluster,train,eval,dev]'
	@touch $@ $(VENV)/.quickstart

$(BIN)/uv:
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 or later found. Install python3.11."; exit 1; }
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || { rm -rf $(VENV); $(call apt,python3-venv); $(PYTHON) -m venv $(VENV); }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# A browser that looks at the report's page, what a Kubernetes of our own runs on, and what builds
# images. Without root, or without Go, the tests that need them skip and say so at the end.
SYSTEM_PACKAGES := chromium containerd runc containernetworking-plugins iptables conntrack \
	busybox-static iproute2 buildah podman mmdebstrap
.PHONY: system-packages
system-packages:
	@dpkg -s $(SYSTEM_PACKAGES) >/dev/null 2>&1 || { $(call apt,$(SYSTEM_PACKAGES)); } \
		|| echo "note: these could not be installed: $(SYSTEM_PACKAGES)"

define apt
$(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq $(1) >/dev/null
endef
