# One door for people and for CI. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.installed
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
PYTEST := $(PY) -m pytest
SOURCES := .

.DEFAULT_GOAL := help
# More flags of the program: make run FLAGS="--port 8189"
FLAGS ?=
.PHONY: help setup run demo demo-loading browser test test-fast lint format bench custom-node clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## Make .venv with everything that running and testing needs

# torch is installed first, alone and pinned: pip would otherwise take the newest build, which can
# mean gigabytes of CUDA packages, before it learns of the constraint.
$(STAMP): requirements.txt requirements-dev.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$$(grep -E '^torch==' constraints.txt)" -c constraints.txt
	$(PIP) install -r requirements.txt -r requirements-dev.txt -c constraints.txt
	@touch $(STAMP)

run: $(STAMP) ## Serve the web page, until Ctrl-C
	$(PY) main.py $(FLAGS)

demo: $(STAMP) ## Start the server, let it draw pictures, print what memory it took
	$(PY) tools/demo.py --load-strategy=file-slice

demo-loading: $(STAMP) ## Load a synthetic checkpoint with every strategy, print what it cost
	$(PY) tools/loading_demo.py

browser: $(STAMP)
	$(PY) -m tools.get_browser

# pytest comes last, so that its summary line is what one reads.
test: lint browser ## Lint, types and every test, the slow ones included
	$(PYTEST)

test-fast: $(STAMP) ## Only the tests that take seconds
	$(PYTEST) -m "not slow"

lint: $(STAMP) ## ruff, its formatter and mypy; changes nothing
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)
	$(PY) -m mypy

format: $(STAMP) ## Mend what ruff can mend
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

bench: $(STAMP) ## Compare our strategies with the peers that are installed
	-$(PIP) install -r benchmarks/requirements.txt -c constraints.txt
	$(PY) -m benchmarks.load

custom-node: $(STAMP) ## Build dist/onecopy-loader.zip: our loading for an unchanged ComfyUI
	$(PY) tools/build_custom_node.py

clean: ## Remove the environment, all caches and what was built
	rm -rf $(VENV) dist .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
