# Everything starts here: `make demo` for the main job on a trained pair, `make test` for the tests.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: help install demo test lint outlines schema bench paper torture mutants clean
help:
	@echo "make demo    install into $(VENV), then align and interpolate the trained pair that ships"
	@echo "make test    lint, type check, layer check and tests"
	@echo "make outlines note for each shipped spec which names it has lines for, after a change to one"
	@echo "make schema  write the JSON schema of the run document, after a change to it"
	@echo "make torture attack with hostile files, faults and kills, and print a table (slow); TORTURE='--quick' for less"
	@echo "make mutants change the source in small ways and list what no test notices (slow); MUTANTS='--minutes 15' for fewer"
	@echo "make paper   the claims of Git Re-Basin on trained networks, one by one (hours; QUICK=1 for less; PAPER='--seed 1')"
	@echo "make bench   time the engine (slow); BENCH='--help' shows the choices"

# torch first and by itself: a plain newer torch would bring gigabytes of CUDA along.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml setup.py
	$(BIN)/pip install -q -e '.[plot]'
	@touch $@

$(VENV)/.dev: $(VENV)/.installed tests/requirements-networks.txt tests/requirements-networks-support.txt
	$(BIN)/pip install -q -e '.[dev]' -r tests/requirements-networks-support.txt
	$(BIN)/pip install -q --no-deps -r tests/requirements-networks.txt
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	@PATH="$(BIN):$$PATH" sh tests/data/demo.sh

outlines: $(VENV)/.installed
	$(BIN)/python -c 'from rebasin_cli.spec.registry import write_outlines; write_outlines()'

schema: $(VENV)/.installed
	$(BIN)/python -c 'from rebasin_cli.report.codec import write_schema; write_schema()'

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

torture: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture $(TORTURE)

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants $(MUTANTS)

bench: $(VENV)/.dev
	$(BIN)/python -m tests.benchmarks $(BENCH)

$(VENV)/.paper: $(VENV)/.dev tests/requirements-paper.txt
	$(BIN)/pip install -q --no-deps -r tests/requirements-paper.txt
	@touch $@

paper: $(VENV)/.paper
	$(BIN)/python -m tests.paper $(if $(QUICK),--quick) $(PAPER)

clean:
	rm -rf $(VENV) build dist demo bench *.egg-info
