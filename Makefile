# The commands of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PROJECT ?= jukebox
# The embedded sample, unless DATA=folder, file or fsspec URL is given.
DATA ?=
PORT ?= 3000
OVERLAY ?= k8s/overlays/local
# More options of pytest, for example --require-parts: a test whose real part is absent fails.
PYTEST_ARGS ?=
# One place for runs, artifacts, the MLflow database and the model store.
export DAGSTER_HOME ?= $(CURDIR)/.dagster

.PHONY: help install train ui mlflow-ui test test-tutorial test-crashes test-slow lint format bench replay kfp-test image k8s-test-images k8s-up k8s-test k8s-test-faults k8s-down k8s-render lock clean

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: .venv/installed $(DAGSTER_HOME)/dagster.yaml ## create .venv with the locked packages and this checkout

train: install ## train and register: make train [PROJECT=jukebox] [DATA=FOLDER]
	printf 'source: {location: "%s"}\n' '$(DATA)' > $(DAGSTER_HOME)/train.yaml
	$(BIN)/dagster job execute -m jukebox_orch.definitions -j $(PROJECT)_training -c $(DAGSTER_HOME)/train.yaml
	$(BIN)/jukebox-orch show $(PROJECT)

ui: install ## Dagster's web server and daemon: make ui [PORT=3000]
	@echo "Dagster UI: http://127.0.0.1:$(PORT)"
	$(BIN)/dagster dev --workspace workspace.yaml --host 127.0.0.1 --port $(PORT)

mlflow-ui: install ## MLflow's web server over the embedded store, on port 5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server --backend-store-uri sqlite:///$(DAGSTER_HOME)/mlflow.db --default-artifact-root $(DAGSTER_HOME)/mlflow --host 127.0.0.1

test: install ## the test suite: make test [PYTEST_ARGS=--require-parts]
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not crash and not cluster" $(PYTEST_ARGS)

test-tutorial: install ## pages of examples/ as typed, the wheel alone: new environments
	$(BIN)/pytest -n 2 --dist loadfile -m slow jukebox_orch_tests/test_tutorial.py jukebox_orch_tests/test_packaging.py jukebox_orch_tests/test_examples.py $(PYTEST_ARGS)

test-crashes: install ## daemon, steps and registrations killed at each point
	$(BIN)/pytest -n 2 --dist loadfile -m "crash and not slow" $(PYTEST_ARGS)

test-slow: install ## the repeated crash tests and other long ones
	$(BIN)/pytest -m "slow and not cluster" $(PYTEST_ARGS)

lint: install ## check style, format, types, layers and declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/deptry jukebox_orch kfp_bridge

format: install ## format and sort imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## measure medians of three with their spread, in one run
	$(BIN)/python -m benchmarks

replay: install ## play the real days with the daemon: make replay [DATA=FOLDER]
	$(BIN)/python -m benchmarks.replay $(or $(DATA),../shared/data)

kfp-test: install ## test on a real KFP: make kfp-test KFP_HOST=URL IMAGE=NAME
	$(BIN)/python -m jukebox_orch_tests.bridge.kfp.acceptance --host $(KFP_HOST) --image $(IMAGE) $(KFP_ARGS)

image: ## the images localhost/jukebox-{orchestrator,step,mlflow}:dev
	k8s/image/build dev

k8s-test-images: ## images of the tests: step-test, PostgreSQL, a 2nd commit
	k8s/tests/images/build

k8s-up: ## apply to KUBECONFIG's cluster: make k8s-up [OVERLAY=FOLDER]
	k8s/create-secrets
	kubectl apply -k $(OVERLAY)
	for d in $$(kubectl -n jukebox get statefulset,deployment -o name); do kubectl -n jukebox rollout status $$d --timeout=300s || exit 1; done

k8s-test: install ## test on that cluster: every promise, every fault once
	$(BIN)/pytest -p no:cacheprovider --timeout 900 --durations 0 $(PYTEST_ARGS) k8s/tests

k8s-test-faults: install ## every fault three times
	FAULT_ROUNDS=3 $(BIN)/pytest -p no:cacheprovider --timeout 900 -k "faults or daemon" k8s/tests

k8s-down: ## delete everything except volumes and secrets
	k8s/delete $(OVERLAY)

k8s-render: ## write the manifests for kapp-controller
	kubectl kustomize k8s/overlays/production > k8s/gitops/rendered/production.yaml

lock: ## resolve requirements.lock again from pyproject.toml
	$(BIN)/python -m uv pip compile -q --universal --python-version 3.11 --no-header --no-emit-index-url --all-extras --group dev --upgrade pyproject.toml -o requirements.lock

clean: ## remove runs, artifacts and models of this checkout
	rm -rf .dagster

# Bytecode is compiled at install time: without it every process spends seconds compiling TensorFlow again.
.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install -q --disable-pip-version-check uv
	VIRTUAL_ENV=.venv $(BIN)/python -m uv pip sync -q --compile-bytecode requirements.lock
	VIRTUAL_ENV=.venv $(BIN)/python -m uv pip install -q --no-deps --compile-bytecode -e .
	touch $@

# This checkout's own home follows its settings; a home of the user's keeps those that it has.
$(DAGSTER_HOME)/dagster.yaml: $(if $(filter $(CURDIR)/.dagster,$(DAGSTER_HOME)),dagster.yaml)
	mkdir -p $(DAGSTER_HOME)
	cp dagster.yaml $@
