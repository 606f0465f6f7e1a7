# One verb for each task. Nothing is needed but Python 3.11 or newer and make.
#
#   make demo    install milepost with Keras and TensorFlow, and see it work
#   make test    install every framework, and run the whole test suite
#   make lint    format, style, types, layers
#   make sweep   the long tests, which `make test` leaves out
#   make fuzz    every format, changed 200,000 times at random and as many times guided: hours
#   make bench   milepost beside its peers and the limits of this machine: docs/benchmarks.md;
#                BENCH=small in a few minutes, to see that it works, in build/bench/small

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
KERAS_TESTS := tests/keras
# Two test files at a time; the tests of one file stay in one process. Long files come first, see
# tests/conftest.py, not those of many tests.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
# As an installation does, but not one that is editable; every process would do it again where
# PYTHONDONTWRITEBYTECODE is set.
COMPILE := $(BIN)/python -m compileall -q src tests benchmarks

.PHONY: demo test lint sweep fuzz bench clean

demo: $(VENV)/demo
	$(BIN)/milepost demo

test: $(VENV)/dev
	$(COMPILE)
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) $(KERAS_TESTS)
	KERAS_BACKEND=torch $(PYTEST) $(KERAS_TESTS)

sweep: $(VENV)/dev
	$(COMPILE)
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow
	KERAS_BACKEND=jax $(PYTEST) -m slow $(KERAS_TESTS)
	KERAS_BACKEND=torch $(PYTEST) -m slow $(KERAS_TESTS)

FUZZ ?= 200000

fuzz: $(VENV)/fuzz
	MILEPOST_FUZZ=$(FUZZ) $(PYTEST) --timeout=0 tests/formats -k changed_at_random
	$(BIN)/python -m tests.fuzz --runs $(FUZZ)

lint: $(VENV)/dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy -n 2
	$(BIN)/lint-imports

BENCH ?= full

bench: $(VENV)/bench
	$(COMPILE)
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:
	rm -rf $(VENV) build dist

# The environment is made once; each stamp says which extra it has, for which pyproject.toml.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("milepost needs Python 3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# torch first, alone: a range that another package asks for would otherwise be answered with
# the newest build, and its gigabytes of CUDA.
$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(PIP) --editable ".[dev]"
	@touch $@

$(VENV)/bench: $(VENV)/dev
	$(PIP) --editable ".[bench]"
	@touch $@

$(VENV)/fuzz: $(VENV)/dev
	$(PIP) --editable ".[fuzz]"
	@touch $@

$(VENV)/demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[demo]"
	@touch $@
