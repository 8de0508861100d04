# `make train` and `make test` set everything up by themselves on a fresh machine; a second call
# finds the set-up done. Variables, all optional:
#   ARGS="..."     arguments handed on:  make train ARGS="--suite mini2 --seeds 0,1"
#                                        make test ARGS="-m 'not slow'"
#   PYTHON=...     the interpreter that makes the virtual environment (3.11 or newer)
#   VENV=...       where the virtual environment goes
#   VENV=          none: use PYTHON and the packages it has as they are (a machine that brings its own
#                  torch, or has no network); only compt_fast itself is installed, without dependencies
#   PARALLEL=...   how tests run side by side (pytest-xdist's flags; empty: they do not)
#   TORCH_INDEX=.. a package index that torch is taken from in place of pip's own: on a machine without
#                  a GPU, PyTorch's index of CPU builds spares gigabytes of CUDA libraries
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
# Every test takes one thread, so as many run side by side as there are cores; PARALLEL= for one after the other.
PARALLEL ?= --numprocesses=logical --maxprocesses=4 --dist=worksteal

ifeq ($(strip $(VENV)),)
PY := $(PYTHON)
READY := build/.installed
else
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
endif
PIP := $(PY) -m pip --disable-pip-version-check --quiet

.PHONY: train test lint format clean
.DELETE_ON_ERROR:

train: $(READY)
	$(PY) -m compt_fast.train $(ARGS)

test: lint
	$(PY) -m pytest $(PARALLEL) $(ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean:
	rm -rf build dist .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first, and alone, so that nothing after it can choose another.
$(READY): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	    f"compt_fast needs Python 3.11 or newer, and {sys.executable} is {v[0]}.{v[1]}: make PYTHON=python3.12")'
ifeq ($(strip $(VENV)),)
	$(PIP) install --no-deps --no-build-isolation --editable .
	@mkdir -p $(@D)
else
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt setuptools ninja
	$(PIP) install --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install --constraint constraints.txt --no-build-isolation --editable '.[baselines,bench,dev,docs,mlflow,plot,ray,search,serve,tensorboard,trackio,wandb]'
endif
	@touch $@
