# Every command makes the virtual environment it needs in .venv, without root and without Docker.
# Installing is skipped until pyproject.toml changes.

PYTHON ?= python3
# Tests wait more than they compute: four at once, or as many as there are processors.
JOBS ?= $(shell $(PYTHON) -c 'import os; print(max(4, os.cpu_count() or 1))')
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
CHECKED := src tests $(wildcard examples tools)

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench soak build venv clean

help:
	@echo "make demo    the product's story in twenty seconds"
	@echo "make test    lint, types and tests on every server found"
	@echo "make lint    lint, format and types alone"
	@echo "make format  rewrite the files as the formatter wants them"
	@echo "make bench   measure against plain redis-py"
	@echo "make soak    the long tests, for hours; SOAK_SECONDS=60 SOAK_SEEDS=1000 make them short"
	@echo "make build   wheel and sdist in dist/"
	@echo "make venv    the environment for development in .venv"
	@echo "make clean   remove what the others made"

demo: $(VENV)/.demo
	@$(BIN)/remanence demo

test: lint
	@echo "tests:"
	@$(BIN)/python -m pytest --quiet -n $(JOBS) $(ARGS)

lint: $(VENV)/.dev
	@echo "lint, format, types:"
	@$(BIN)/ruff check --quiet $(CHECKED)
	@$(BIN)/ruff format --quiet --check $(CHECKED) || \
		{ echo "the files above are not formatted: make format"; exit 1; }
	@$(BIN)/mypy

format: $(VENV)/.dev
	@$(BIN)/ruff check --quiet --fix $(CHECKED)
	@$(BIN)/ruff format $(CHECKED)

bench: $(VENV)/.demo
	@$(BIN)/remanence bench $(ARGS)

soak: $(VENV)/.dev
	@$(BIN)/python -m pytest --quiet -n $(JOBS) --timeout 7200 -m soak $(ARGS)

build: $(VENV)/.dev
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log; exit 1; }
	@ls -1 dist

venv: $(VENV)/.dev

clean:
	@rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.dev: pyproject.toml $(VENV)/.made
	@echo "installing Remanence and the tools for development into $(VENV)"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.demo: pyproject.toml $(VENV)/.made
	@echo "installing Remanence into $(VENV)"
	@$(PIP) install --editable '.[demo]'
	@touch $@

$(VENV)/.made:
	@command -v $(PYTHON) >/dev/null || { \
		echo "There is no $(PYTHON) here. Remanence needs Python 3.11 or newer (Debian: apt install python3 python3-venv),"; \
		echo "or name the one you have: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Remanence needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) -V 2>&1)."; \
		echo "Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@if $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then $(PYTHON) -m venv --clear $(VENV); \
	elif $(PYTHON) -c 'import virtualenv' 2>/dev/null; then $(PYTHON) -m virtualenv --quiet --clear $(VENV); \
	else echo "$(PYTHON) cannot make virtual environments. As root: apt install python3-venv"; \
		echo "Without root: $(PYTHON) -m pip install --user virtualenv (or --break-system-packages with it)"; exit 1; fi
	@touch $@
