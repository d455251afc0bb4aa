# `make demo` and `make test` need Python >= 3.10 and nothing else; each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# The pin of torch keeps pip from gigabytes of CUDA; GPU=1 lifts it, and it alone.
GPU ?=
CONSTRAINTS := -c $(VENV)/constraints.txt

.PHONY: demo evening test faults lint bench install clean

demo: $(VENV)/installed
	$(PY) jobs/demo.py $(ARGS)

evening: $(VENV)/installed
	$(PY) jobs/demo.py --preset evening --out demo-evening $(ARGS)

test: $(VENV)/installed-test
	$(PY) -m pytest $(ARGS)

# What a training and annotate survive: kills, of annotate at SEEDS random moments each, a bad day in S3, a full disk, a
# cluster that is too small.
SEEDS ?= 5
faults: $(VENV)/installed-test
	ANNOMESH_FAULT_SEEDS=$(SEEDS) $(PY) -m pytest -m faults $(ARGS)

lint: $(VENV)/installed-test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/pyright

bench: $(VENV)/installed-test
	for bench in tests/bench/bench_*.py; do $(PY) -m tests.bench.$$(basename $$bench .py) || exit 1; done
	$(PY) -m pytest -m slow

install: $(VENV)/installed

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "annomesh needs Python 3.10 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/constraints.txt: constraints.txt | $(VENV)/bin/python
	grep $(if $(GPU),-v '^torch==',.) $< > $@

$(VENV)/installed: pyproject.toml $(VENV)/constraints.txt | $(VENV)/bin/python
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
