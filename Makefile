# make demo, test, check: each sets up all it needs in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two files of tests at once, in the order of tests/conftest.py: those that last come first.
TWO := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help demo test test-fast test-live test-pythons test-prefect test-liger check deploy bench benchmark-gpu format clean
help: ## show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 15

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## run the packaged study and print where its report is
	@$(BIN)/chatpipe demo

test: $(STAMP) ## run the whole test suite
	@$(BIN)/python -m pytest $(TWO) -m 'not live and not speed'
	@$(BIN)/python -m pytest -m speed

test-fast: $(STAMP) ## run the tests that take seconds
	@$(BIN)/python -m pytest -m 'not slow and not drill and not live'

test-live: $(STAMP) ## run the tests that wait for live servers (minutes)
	@$(BIN)/python -m pytest $(TWO) -m live

test-pythons: ## run the tests that need no torch on Python 3.12 and 3.13, if they are installed
	@.ci/other-pythons

test-prefect: $(STAMP) ## run tests of flows with the newest Prefect, if it installs
	@.ci/newest-prefect

test-liger: $(STAMP) ## run the tests of Liger's kernels by Triton's interpreter (installs 1 GB for them)
	@.ci/liger

check: $(STAMP) ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

deploy: $(STAMP) ## put variants and studies on the server that PREFECT_API_URL names
	@$(BIN)/chatpipe deploy

bench: $(STAMP) ## run the benchmarks (60 minutes) and write benchmarks/results/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/chatpipe demo
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.loss_curves
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.evaluation --adapter
	$(BIN)/python -m benchmarks.generation
	$(BIN)/python -m benchmarks.serving
	$(BIN)/python -m benchmarks.generation --models 4
	$(BIN)/python -m benchmarks.kernels
	$(BIN)/python -m benchmarks.orchestration
	$(BIN)/python -m benchmarks.wide_study
	$(BIN)/python -m benchmarks.verdicts --json benchmarks/results/verdicts.json
	$(BIN)/python -m benchmarks.data_at_scale --rows 100000 1000000 10000000 --json benchmarks/results/data_at_scale.json

benchmark-gpu: $(STAMP) ## measure on one GPU in less than nine minutes (needs no network once installed)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,gpu]'
	$(BIN)/python -m benchmarks.gpu --json benchmarks/results/gpu.json

format: $(STAMP) ## mend format and lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and everything that was made
	rm -rf $(VENV) .chatpipe
