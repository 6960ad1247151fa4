# Everything runs in .venv, which is made when first needed, of the versions in constraints.txt, and
# renewed when these or pyproject.toml change.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := all,docs,test
# The build of torch without CUDA, everywhere; pyproject.toml has the range that users may have.
TORCH := $(shell grep '^torch==' constraints.txt)
# What setuptools says of every editable install.
QUIET := PYTHONWARNINGS="ignore:Editable installation"

.PHONY: install demo docs test test-fast test-versions lint types format bench lock clean
.PHONY: .venv-lowest .venv-newest

install: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools
	$(QUIET) $(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--build-constraint constraints.txt --editable ".[$(EXTRAS),lint]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/demo.py

# The site, read from site/index.html: `.venv/bin/properdocs serve` shows it while it is written. Its
# pictures are drawn by docs/images/make.py and kept.
docs: $(READY)
	$(BIN)/properdocs build --strict

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

# With the lowest versions that pyproject.toml allows, then with the newest.
test-versions: .venv-lowest .venv-newest
	for venv in $^; do \
		OMP_NUM_THREADS=1 $$venv/bin/python -m pytest -n 2; echo "exit status $$?" > $$venv/outcome; \
	done
	for venv in $^; do echo "$$venv: $$(cat $$venv/outcome)"; done
	! grep -v "exit status 0" $(^:=/outcome)

.venv-lowest:
	$(PYTHON) -m venv --clear $@
	$(PYTHON) tools/lowest_versions.py $(EXTRAS) | sed "s/^torch==.*/$(TORCH)/" > $@/constraints.txt
	$(QUIET) $@/bin/python -m pip install --quiet --constraint $@/constraints.txt \
		--editable ".[$(EXTRAS)]"

.venv-newest:
	$(PYTHON) -m venv --clear $@
	$@/bin/python -m pip install --quiet --upgrade pip setuptools
	$(QUIET) $@/bin/python -m pip install --quiet "$(TORCH)" --editable ".[$(EXTRAS),lint]"

# Takes the newest versions for `make install` from now on, once `make test-versions` passed with them.
lock:
	test "$$(cat .venv-newest/outcome)" = "exit status 0"
	{ echo "# The versions that make install takes; written by make lock."; \
		.venv-newest/bin/python -m pip freeze --all --exclude milp-rl | sed "s/+cpu$$//"; \
	} > constraints.txt.new
	mv constraints.txt.new constraints.txt

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
	for program in argmax rough dqn_loop growth memory allocation; do \
		OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$program.py || exit 1; \
	done

clean:
	rm -rf $(VENV) .venv-lowest .venv-newest build demo site *.egg-info
