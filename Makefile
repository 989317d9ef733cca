PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint audit faults chaos bench bench-gpu proofs secrets bundle clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.ready ## Create the virtual environment and install the project.

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing (torch with CUDA among it: some minutes, 6 GB) ..."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## Run the quickstart search.
	$(BIN)/tuner run searches/quickstart.yaml

lint: setup ## Run ruff and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup ## Look up known vulnerabilities of the pinned packages.
	$(BIN)/python .ci/audit.py

# Two processes share the tests, for half of a test's time is waiting. Each takes a half, then what the other has left.
test: lint ## Run make lint and the tests; CI also runs make audit.
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu and not faults" --durations=10

faults: setup ## Cause every fault that a job survives (takes minutes).
	$(BIN)/python -m pytest tests/faults/test_faults.py tests/faults/test_shared.py tests/cluster/test_cluster_faults.py \
	    tests/cluster/test_partition.py --durations=0

SEED ?= 1
chaos: setup ## Cause random faults (takes minutes); SEED=7, or SEED="7 8 9".
	$(BIN)/python -m tests.faults.chaos $(SEED)

# Syne Tune, a peer, is put into a folder of its own, which is gone afterwards.
bench: setup ## Measure against other tools and write docs/performance.md (takes hours).
	$(BIN)/python -m benchmarks --pairs 5
	$(BIN)/python -m benchmarks.page

bench-gpu: setup ## Run the benchmarks that need a GPU.
	$(BIN)/python -m benchmarks --gpu --pairs 5
	$(BIN)/python -m benchmarks.page

proofs: setup ## Run the long tests, and the GPU tests if there is a GPU.
	$(BIN)/python -m pytest -m "slow or gpu" --timeout=3600

secrets: ## Create the secrets that docker-compose.yml mounts, once.
	sh cluster/deploy/secrets.sh

# For another machine: make bundle PYTHON_VERSION=3.12 PLATFORM=aarch64; WITHOUT_TORCH=1 where it has torch.
bundle: setup ## Build a folder that installs the project on a machine without a network.
	$(BIN)/python -m cluster.deploy.offline_bundle dist/bundle \
	    $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION)) $(if $(PLATFORM),--platform $(PLATFORM)) \
	    $(if $(WITHOUT_TORCH),--without-torch)

clean: ## Delete the virtual environment, build files and caches.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
