# Every target sets up what it needs: an environment of its own in .venv, with the project and its tools installed.
# Needs Python 3.11 or newer, make, and network to the package index.
#
#   make demo | test | lint | format | clean
#   make test PYTEST_ARGS="-k resume -x"        make demo DEMO_ARGS="--help"        make test PYTHON=python3.12

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.vlmprep-installed
PYTHONS := $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python)
# A file's tests stay on one worker: what they share is set up once.
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?=

.DEFAULT_GOAL := test
.PHONY: setup demo test lint format clean

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/vlmprep demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy vlmprep tests $(wildcard scripts/*.py examples/*.py)
	$(BIN)/lint-imports --no-logo

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# The stamp is made last: an installation that stopped half way is taken up again.
$(STAMP): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for python in $(PYTHONS); do \
	        if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	            echo "Creating $(VENV) with $$($$python --version) ($$(command -v $$python))"; \
	            exec $$python -m venv $(VENV); \
	        fi; \
	    done; \
	    echo "vlmprep needs Python 3.11 or newer with its venv module, and none of these is one:" \
	        "$(PYTHONS)." >&2; \
	    echo "Name one with 'make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3'" \
	        "(Debian and Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; \
	fi
	@echo "Installing vlmprep and its tools into $(VENV) (once; torch makes it some gigabytes)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@
