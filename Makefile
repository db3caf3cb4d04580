# Needs only Python 3.11 or later; everything is installed into .venv, in the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCKED := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint lock python-is-new-enough

help:  ## Show what there is to make
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.installed  ## Install Tamis and curate the documentation that is on this machine into runs/demo
	$(BIN)/tamis run jobs/recipes/demo.yaml --output runs/demo --overwrite

test: $(VENV)/.installed-dev  ## Run the tests (not the slow ones)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope

lint: $(VENV)/.installed-dev  ## Check style, and the types of an ordinary installation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(PIP) install --no-deps --target build/installed .
	cd build/installed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --package tamis

lock: python-is-new-enough  ## Write constraints.txt anew, from the newest versions that fit together
	rm -rf build
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install '.[dev]'
	sed '/^[^#]/d' constraints.txt > build/constraints.txt
	build/lock/bin/python -m pip freeze --exclude tamis >> build/constraints.txt
	mv build/constraints.txt constraints.txt
	rm -rf build

python-is-new-enough:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	{ echo "Tamis needs Python 3.11 or later, which $(PYTHON) is not. Name another: make PYTHON=python3.12 ..." >&2; exit 1; }

$(BIN)/python: | python-is-new-enough
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(LOCKED) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(LOCKED) | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/.installed
