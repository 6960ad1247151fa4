# Everything runs in .venv, which is made when first needed and renewed when pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: install demo docs test test-fast lint types format bench clean

install: $(READY)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable ".[dask,docs,gurobi,scip,test]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py

# The site, in site/: `.venv/bin/mkdocs serve` shows it while it is written. Its pictures are drawn
# by docs/images/make.py and kept.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

lint: $(READY) types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The folders map under one import root only once installed, so the installed package is checked.
types: $(READY)
	rm -rf build $(VENV)/checked
	$(BIN)/python -m pip install --quiet --no-deps --target $(VENV)/checked .
	MYPYPATH=$(VENV)/checked $(BIN)/mypy --python-executable $(BIN)/python -p milp_rl

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	for program in argmax dqn_loop growth memory; do \
		OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$program.py || exit 1; \
	done

clean:
	rm -rf $(VENV) build demo site *.egg-info
