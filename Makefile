# Two commands: `make demo` shows what incr does, `make test` checks that it does. Both build what they need.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo demo-full test lint types laws unit install clean

demo: install
	@$(BIN)/python -m examples.flights.demo

demo-full: install
	@$(BIN)/python -m examples.flights.demo --full

test: lint types unit

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

unit: install
	$(BIN)/pytest

laws: install
	$(BIN)/pytest tests/laws

install: $(VENV)/.installed

# Plain pip, so that an index of CPU builds that pip is set up with is respected.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
