# `make help` lists the targets. SUITE= DEVICES= JOBS= SEEDS= ARGS= pass through to the command line.

PYTHON ?= python3
VENV ?= .venv
SUITE ?= digits

BIN = $(VENV)/bin
OPTIONS = $(if $(DEVICES),--devices $(DEVICES)) $(if $(JOBS),--jobs $(JOBS))
INSTALLED = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install bench smoke test soak lint report ui gallery perf perf-methods fidelity clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "variables: SUITE=$(SUITE) (a name in suites/ or a file)  DEVICES=cpu|0,1  JOBS=2  SEEDS=3  ARGS='--set ...'"

install: $(INSTALLED)  ## make the environment in .venv

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

bench: $(INSTALLED)  ## run a suite: trials, MLflow, report (SUITE=digits)
	$(BIN)/bench run $(SUITE) $(OPTIONS) $(if $(SEEDS),--seeds '$(SEEDS)') $(ARGS)

smoke: $(INSTALLED)  ## run the smallest suite, about 20 seconds
	$(BIN)/bench run smoke $(OPTIONS) $(ARGS)

test: $(INSTALLED)  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

soak: $(INSTALLED)  ## kill workers and supervisors at random over 200 trials, about 10 minutes
	BENCH_SOAK=1 $(BIN)/python -m pytest -m soak tests/test_soak.py $(ARGS)

lint: $(INSTALLED)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

report: $(INSTALLED)  ## render the report of a suite from whatever has finished
	$(BIN)/bench report $(SUITE) $(if $(SEEDS),--seeds '$(SEEDS)') $(ARGS)

ui: $(INSTALLED)  ## serve MLflow's pages on 127.0.0.1
	$(BIN)/bench ui $(ARGS)

gallery: $(INSTALLED)  ## run suites in miniature and put their figures into the README, 15 minutes
	$(BIN)/python -m reports.gallery

perf: $(INSTALLED)  ## measure a step and a trial beside those of others, into docs/performance.md
	$(BIN)/python -m bench.perf $(ARGS)

perf-methods: $(INSTALLED)  ## measure a training step of each method against ERM's (ARGS='--network mlp')
	$(BIN)/python -m bench.perf.methods $(ARGS)

fidelity: $(INSTALLED)  ## compare our corruptions with public implementations (downloads 430 MB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,fidelity]'
	$(BIN)/python -m pytest -q tests/data/test_data_corruptions_fidelity.py
	$(BIN)/python tests/data/corruption_fidelity.py

clean:  ## delete results, reports and caches, but not the environment
	rm -rf results reports/out .hypothesis .pytest_cache .mypy_cache .ruff_cache
