# make demo  sets up and runs the quickstart search
# make test  sets up and runs all that CI runs
# make secrets  makes what docker-compose.yml mounts, once
# make bundle   makes a folder that installs all of it on a machine without a network
# make audit asks for known vulnerabilities of the pinned packages
# make faults causes every fault that a job is said to survive: minutes
# make chaos causes random ones for minutes; SEED=7, or several
# make bench measures against other tools and writes docs/performance.md: hours; make bench-gpu does what needs a GPU
# make proofs runs the long tests, GPU tests among them where there is a GPU

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test lint audit faults chaos bench bench-gpu proofs secrets bundle clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing (torch with CUDA among it: some minutes, 6 GB) ..."
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup
	$(BIN)/tuner run searches/quickstart.yaml

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: setup
	$(BIN)/python .ci/audit.py

test: lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not faults" --durations=10

faults: setup
	$(BIN)/python -m pytest tests/faults/test_faults.py tests/faults/test_shared.py tests/cluster/test_cluster_faults.py \
	    tests/cluster/test_partition.py --durations=0

SEED ?= 1
chaos: setup
	$(BIN)/python -m tests.faults.chaos $(SEED)

# Syne Tune, a peer, is put into a folder of its own, which is gone afterwards.
bench: setup
	$(BIN)/python -m benchmarks --pairs 5
	$(BIN)/python -m benchmarks.page

bench-gpu: setup
	$(BIN)/python -m benchmarks --gpu --pairs 5
	$(BIN)/python -m benchmarks.page

proofs: setup
	$(BIN)/python -m pytest -m "slow or gpu" --timeout=3600

secrets:
	sh cluster/deploy/secrets.sh

# For another machine: make bundle PYTHON_VERSION=3.12 PLATFORM=aarch64; WITHOUT_TORCH=1 where it has torch.
bundle: setup
	$(BIN)/python -m cluster.deploy.offline_bundle dist/bundle \
	    $(if $(PYTHON_VERSION),--python-version $(PYTHON_VERSION)) $(if $(PLATFORM),--platform $(PLATFORM)) \
	    $(if $(WITHOUT_TORCH),--without-torch)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
