# The commands of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
# One place for runs, artifacts, the MLflow database and the model store.
export DAGSTER_HOME ?= $(CURDIR)/.dagster

.PHONY: help install lock
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: .venv/installed ## create .venv with the locked packages and this checkout

.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/python -m uv pip sync -q --compile-bytecode requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/python -m uv pip install -q --no-deps --compile-bytecode -e .
	touch $@

lock: ## resolve requirements.lock again from pyproject.toml
	$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --all-extras --upgrade pyproject.toml -o requirements.lock
