# Everything a newcomer or CI needs; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REPORTS := .cache/reports
REQUIREMENTS := requirements-cpu.txt requirements-dev.txt requirements-demo.txt
SOURCES := registry adapters layers kernels models tests/conformance
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Most of the tests' time one core starts an engine. The tests of a file share their engines: they stay together.
TWO_AT_A_TIME := -n 2 --dist loadfile

.PHONY: help env suites demo test lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.project ## create .venv with the pinned packages and mszoo itself

suites: $(VENV)/.suites ## add MindSpore Transformers and MindSpore One to .venv

demo: env ## serve SmolLM2 on MindSpore with vllm serve and ask it a question
	@$(BIN)/python -m mszoo.registry.cli.demo

test: env suites ## run the unit tests, then the tests that start engines
	@mkdir -p $(REPORTS)
	$(BIN)/python -m pytest tests/unit $(TWO_AT_A_TIME) --durations=10 --junitxml=$(REPORTS)/unit.xml
	$(BIN)/python -m pytest tests/engine $(TWO_AT_A_TIME) --durations=10 --junitxml=$(REPORTS)/engine.xml

lint: env ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what make made: .venv, .cache and build
	rm -rf $(VENV) .cache build

# The pinned packages have wheels for these Pythons only.
$(VENV)/.python:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
	  { echo "make: $(PYTHON) is not installed. Name a Python 3.11 or 3.12: make PYTHON=python3.12 env" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "make: the pinned packages need Python 3.11 or 3.12, $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	         "Name another: make PYTHON=python3.12 env" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.requirements: $(VENV)/.python $(REQUIREMENTS) .ci/vllm-metadata/pyproject.toml
	$(PIP) install --no-deps $(REQUIREMENTS:%=-r %)
	$(PIP) install --no-deps --no-build-isolation ./.ci/vllm-metadata
	@touch $@

# A strict editable install links single files, so it is made again when files come or go.
$(VENV)/.project: $(VENV)/.requirements $(VENV)/.files pyproject.toml
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=strict -e .
	@touch $@

# After the project, so that pip runs once at a time; and again only if what is pinned changes.
$(VENV)/.suites: $(VENV)/.requirements requirements-suites.txt | $(VENV)/.project
	$(PIP) install --no-deps -r requirements-suites.txt
	@touch $@

$(VENV)/.files: $(VENV)/.python FORCE
	@find $(SOURCES) -type f -not -name '*.pyc' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.PHONY: FORCE
FORCE:
