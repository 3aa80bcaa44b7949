# Everything sets itself up: a virtual environment in .venv, made anew when pyproject.toml changes.
#
#   make demo    a dozen images from the built-in simulator: no key, no cost
#   make test    all that CI runs
#   make torture the long tries to make it lose or pay twice (hours; as root for power cuts)
#   make bench   the figures: speed, CPU, memory (two hours; quiet machine)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cksum pyproject.toml | cut -d' ' -f1)
JOBS ?= 2

.PHONY: demo test torture bench format lint types unit core wheel system clean

demo: $(READY)
	$(BIN)/rsbatch run manifests/quickstart.yaml --simulate --report

test: lint types core unit wheel

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rsbatch needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@rm -f $(VENV)/.ready-*
	@touch $@

# Some tests follow the documentation to the letter, which uses curl and jq; the report's page is tried in a browser.
system:
	@{ command -v curl && command -v jq; } >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get -qq update && apt-get -qq install -y curl jq; } >/dev/null || \
	  { echo "the tests need curl and jq; please install them"; exit 1; }
	@command -v chromedriver >/dev/null || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get -qq update && \
	    apt-get -qq install -y --no-install-recommends chromium chromium-driver; } >/dev/null || \
	  echo "without chromium and chromedriver the page of rsbatch report is not tried; please install them"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: $(READY)
	$(BIN)/mypy

# The pure core, every branch of it.
core: $(READY)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -q tests/core
	$(BIN)/coverage report --fail-under=100

unit: $(READY) system
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal tests --ignore tests/core

torture: $(READY)
	$(BIN)/python -m torture

bench: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m benchmarks

# The wheel as a user gets it: built, installed apart from this folder, and run.
wheel: $(READY)
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --quiet --outdir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check build/wheel/*.whl
	cd build/wheel && venv/bin/rsbatch init try && venv/bin/rsbatch run try/manifest.yaml --simulate --quiet
	build/wheel/venv/bin/python -c 'import importlib.metadata as m, rsbatch; assert m.version("rsbatch") == rsbatch.__version__'

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .ruff_cache .hypothesis
