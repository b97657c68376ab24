# `make demo` and `make test` set up everything they need in .venv.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check -q
# A compiler per core, no more: compiling torch_scatter takes a gigabyte each.
export MAX_JOBS ?= $(shell nproc 2>/dev/null || echo 2)

.PHONY: demo test lint format clean help

help:
	@echo "make demo    train on real molecules, write a picture to outputs/"
	@echo "make test    run all tests, torch_scatter included"
	@echo "make lint    check style and types"
	@echo "make clean   remove .venv and everything that was made"

demo: $(VENV)/.installed
	$(PY) examples/quickstart.py

# The second run hides torch_scatter: PyG's own scatters must do as well. Triton's
# kernels know neither.
test: $(VENV)/.installed $(VENV)/.torch_scatter $(VENV)/.boltz
	$(PY) -m pytest
	PYG_ATOMENC_TEST_WITHOUT=torch_scatter $(PY) -m pytest tests/ops tests/nn --ignore-glob='*triton*'

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(PY)
	@echo "Setting up $(VENV) (a few minutes on the first run) ..."
	$(PIP) install -c constraints.txt torch
	$(PIP) install -c constraints.txt -e '.[all]'
	touch $@

# Built without isolation, as its build imports torch. A wheel that pip kept from
# another torch would not load: then it is built once more.
$(VENV)/.torch_scatter: $(VENV)/.installed
	@$(PY) -c "import torch_scatter" 2>/dev/null || { \
	echo "Building torch_scatter against the installed torch, once; this takes about 6 minutes ..."; \
	$(PIP) install -c constraints.txt setuptools wheel ninja && \
	$(PIP) install -c constraints.txt --no-build-isolation --no-deps torch_scatter && \
	{ $(PY) -c "import torch_scatter" 2>/dev/null || \
	$(PIP) install -c constraints.txt --no-build-isolation --no-deps --force-reinstall \
	--no-cache-dir torch_scatter; } && $(PY) -c "import torch_scatter"; }
	touch $@

# The oracle of the Boltz layers: its modules alone, without what else it would bring.
$(VENV)/.boltz: $(VENV)/.installed
	@echo "Installing boltz, to compare with ..."
	$(PIP) install -c constraints.txt --no-deps boltz einops fairscale
	$(PIP) install -c constraints.txt scipy
	touch $@

clean:
	rm -rf $(VENV) outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	.hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
