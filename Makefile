# `make demo` and `make test` set up everything they need in .venv. Another Python gets
# an environment of its own: `make test PYTHON=python3.12` works in .venv-3.12.

ifeq ($(origin PYTHON),undefined)
PYTHON := python3
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
CONSTRAINTS := constraints.txt
CORES := $(shell nproc 2>/dev/null || echo 2)
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
# A worker for every core, each with one thread (tests/conftest.py).
PYTEST := $(PY) -m pytest -n $(CORES) --dist worksteal --durations 10
# A compiler per core, no more: compiling torch_scatter takes a gigabyte each.
export MAX_JOBS ?= $(CORES)

.PHONY: demo test test-all test-biotite test-oldest lint format clean help

help:
	@echo "make demo         train on real molecules, write a picture to outputs/"
	@echo "make test         run the tests, torch_scatter included; some minutes"
	@echo "make test-all     run the slow ones too"
	@echo "make test-oldest  run the tests with the oldest packages that will do"
	@echo "make test-biotite PYTHON=python3.12  run those of structures with BIOTITE=1.8.0"
	@echo "make lint         check style and types"
	@echo "make clean        remove the environments and everything that was made"
	@echo "PYTHON=python3.12 takes that Python, in an environment of its own"

demo: $(VENV)/.installed
	$(PY) examples/quickstart.py

# What meets torch_scatter runs without it as well: PyG's own scatters must do, too.
test: $(VENV)/.installed $(VENV)/.torch_scatter $(VENV)/.boltz
	PYG_ATOMENC_TEST_WITHOUT=torch_scatter $(PYTEST) -m "scatter and not slow"
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.installed $(VENV)/.torch_scatter $(VENV)/.boltz
	PYG_ATOMENC_TEST_WITHOUT=torch_scatter $(PYTEST) -m scatter
	$(PYTEST)

# Of three lines of biotite, constraints.txt pins one for each Python; this takes another.
BIOTITE := 1.8.0
test-biotite: $(VENV)/.installed
	$(PIP) install --upgrade --no-deps --target $(VENV)/biotite-$(BIOTITE) biotite==$(BIOTITE)
	PYTHONPATH=$(VENV)/biotite-$(BIOTITE) $(PYTEST) -m "not slow" \
	tests/io tests/chem tests/tokenizers tests/transforms tests/data tests/datasets

test-oldest:
	$(MAKE) test VENV=$(VENV)-oldest CONSTRAINTS=constraints-oldest.txt

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | $(PY)
	@echo "Setting up $(VENV) (a few minutes on the first run) ..."
	$(PIP) install -c $(CONSTRAINTS) torch
	$(PIP) install -c $(CONSTRAINTS) -e '.[all]'
	touch $@

# Built without isolation, as its build imports torch. A wheel that pip kept from
# another torch would not load: then it is built once more.
$(VENV)/.torch_scatter: $(VENV)/.installed
	@$(PY) -c "import torch_scatter" 2>/dev/null || { \
	echo "Building torch_scatter against the installed torch, once; this takes about 6 minutes ..."; \
	$(PIP) install -c $(CONSTRAINTS) setuptools wheel ninja && \
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation --no-deps torch_scatter && \
	{ $(PY) -c "import torch_scatter" 2>/dev/null || \
	$(PIP) install -c $(CONSTRAINTS) --no-build-isolation --no-deps --force-reinstall \
	--no-cache-dir torch_scatter; } && $(PY) -c "import torch_scatter"; }
	touch $@

# The oracle of the Boltz layers: its modules alone, without what else it would bring.
# It has no release for Python 3.13, where its tests are skipped.
$(VENV)/.boltz: $(VENV)/.installed
	@echo "Installing boltz, to compare with ..."
	$(PIP) install -c $(CONSTRAINTS) --no-deps 'boltz; python_version < "3.13"' einops fairscale
	$(PIP) install -c $(CONSTRAINTS) scipy
	touch $@

clean:
	rm -rf .venv .venv-* outputs build dist *.egg-info .pytest_cache .mypy_cache \
	.ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
