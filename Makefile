# Two commands: `make demo` sets up and takes the refusal out of the demo model; `make test` sets up and passes the tests.
# Both can be run again. Other Python, environment or folder: make demo PYTHON=python3.12 VENV=/tmp/excise OUT=runs/mine
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?=

.PHONY: demo test lint setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "setup: expected Python 3.11 or newer as '$(PYTHON)'. Name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Excise refuses a folder that exists. Without OUT this takes the first free name: runs/demo, runs/demo-2, ...
demo: setup
	@out='$(OUT)'; number=1; \
	while [ -z "$$out" ]; do \
	  name=runs/demo; [ $$number -eq 1 ] || name=runs/demo-$$number; \
	  [ -e $$name ] || out=$$name; number=$$((number + 1)); \
	done; \
	echo "$(BIN)/excise run --out $$out"; $(BIN)/excise run --out "$$out"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest --cov --cov-report=term:skip-covered -m "not slow"

clean:
	rm -rf $(VENV) build dist
