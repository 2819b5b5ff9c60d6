# `make demo` shows what incr does, `make test` checks it. Both build what they need.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# One process of tests for each core, and one more. Tests that share a Ray share a process (tests/conftest.py).
PARALLEL ?= -n auto
GPU_PARALLEL ?= -n 8
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo demo-federated demo-serve demo-full niid test chaos s3 quick lint types laws gpu unit docs install lock latest dist clean

demo: install
	@$(BIN)/python -m examples.flights.demo

# Three owners with files of their own, over a SuperLink; two minutes.
demo-federated: install
	@$(BIN)/python -m examples.owners.demo

# The flights of February: predicted over HTTP, labelled after landing, and learned by a run that follows.
demo-serve: install
	@$(BIN)/python -m examples.served.demo

demo-full: install
	@$(BIN)/python -m examples.flights.demo --full

# NIID-Bench on Fashion-MNIST, one seed. It takes hours; the same command resumes it.
niid: install
	$(BIN)/python -m benchmarks.niid

# mypy runs beside the tests: it uses one core, and tests on Ray wait for each other.
test: lint
	@$(MAKE) --no-print-directory --jobs 2 types unit

# For use during development: the tests without Ray and Flower that are not slow.
quick: install
	$(BIN)/pytest $(PARALLEL) -m "not slow and not ray and not flower and not chaos"

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/pytest $(PARALLEL) -m "not chaos"

# All failures of a cluster run at every stage, and fifty kills at random moments; about an hour.
chaos: install
	$(BIN)/pytest -m chaos

# Runs in an object store, killed at every write.
s3: install
	$(BIN)/pytest tests/stores

laws: install
	$(BIN)/pytest $(PARALLEL) tests/laws

# For a machine with a GPU; under eight minutes. Without a package index, use a Python that has PyTorch, pyarrow, pydantic
# and pytest; Ray and Flower are not needed: `make gpu GPU_PYTHON=python3`.
gpu: $(if $(GPU_PYTHON),,install)
	$(or $(GPU_PYTHON),$(BIN)/python) -c "from setuptools import setup; setup()" -q egg_info
	$(or $(GPU_PYTHON),$(BIN)/python) -m pytest $(GPU_PARALLEL) -p no:benchmark -W default -m gpu tests
	$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks.gpu

# The documentation site, in site/. With SERVE=1 on http://127.0.0.1:8000, rebuilt as pages change.
docs: install
	$(BIN)/mkdocs $(if $(SERVE),serve,build --clean)

install: $(VENV)/.installed

# Plain pip, so that pip's own configuration of indexes applies; every version is that of the lock.
$(VENV)/.installed: pyproject.toml locks/dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint locks/dev.txt --editable '.[dev]'
	touch $@

# Writes both locks; `make lock NAMES=dev` writes one of them.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m tools.lock $(NAMES)

# Runs the tests on the newest versions, and lists those that differ from the lock.
latest:
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m tools.latest > .venv-latest/requirements.txt
	.venv-latest/bin/pip install --quiet --upgrade --upgrade-strategy eager --requirement .venv-latest/requirements.txt
	.venv-latest/bin/pip install --quiet --no-deps --editable .
	.venv-latest/bin/python -m tools.latest --installed
	.venv-latest/bin/pytest $(PARALLEL) -m "not chaos"

# A wheel and an sdist, by the setuptools of the lock.
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) .venv-latest .venv-lock runs build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache
