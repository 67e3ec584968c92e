# Every target sets itself up: a virtual environment in .venv with the versions of constraints.txt.
# PIP_ARGS goes to pip (an index with CPU wheels of torch, for instance); PYTHON chooses the interpreter; WORLD is the
# world that `make world` trains again.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
WORLD ?= authors
BIN := $(VENV)/bin
SOURCES := src tests benchmarks

.PHONY: demo test test-all lint format bench world clean

demo: $(VENV)/.installed
	$(BIN)/expunge demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m 'not gpu and not network'

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks $(ONLY)

world: $(VENV)/.installed
	$(BIN)/expunge world build $(WORLD)

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expunge needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist src/*.egg-info runs .pytest_cache .ruff_cache .mypy_cache
