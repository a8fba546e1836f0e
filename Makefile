# One environment (.venv), a few verbs. `make help` lists them. Settings:
#   ARGS="..."         passed to the verb's command
#   PYTHON=python3.12  the interpreter to make the environment with
#   VENV=.venv         its folder
#   REQUIREMENTS=...   the set of versions: requirements.txt (newest), requirements-oldest.txt; an environment keeps its own
#   PIP_ARGS="..."     extra pip options (an index, a proxy)
#   D2_ARGS="..."      options of tools/install_detectron2.py
#   WORKERS=2          processes that share the tests; 0: none beside pytest itself
#   OUT=output/gpu     folder of the GPU sheet's records
SHELL := bash
.DEFAULT_GOAL := help

VENV ?= .venv
# Detectron2 and torch announce their own deprecations on every import.
export PYTHONWARNINGS ?= ignore::FutureWarning
PY := $(VENV)/bin/python
ifeq ($(strip $(REQUIREMENTS)),)
override REQUIREMENTS := $(or $(shell cat $(VENV)/.bpkd-requirements 2>/dev/null),requirements.txt)
endif
export REQUIREMENTS
STAMP := $(VENV)/.bpkd-installed-$(notdir $(REQUIREMENTS))
# Each takes the tests that are next in the files' order, so that what a file's tests share is mostly made once, and at
# the end the rest of another's. Processes that are more than the cores only wait for each other.
WORKERS ?= 2
OUT ?= output/gpu
PYTEST = $(PY) -m pytest -q -n $(WORKERS) --dist worksteal --durations=10

.PHONY: help env quickstart quickstart-full test test-slow test-levels test-browser lint type bench bench-losses bench-distillers bench-loader gpu clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' Makefile

quickstart: env ## distil a small student on built-in scenes (about 4 minutes on 2 cores)
	@$(PY) tools/quickstart.py $(ARGS)

quickstart-full: env ## the same with KD too and 3 seeds
	@$(PY) tools/quickstart.py --full $(ARGS)

test: env ## the tests, without the slow ones and the browser's
	@$(PYTEST) $(ARGS)

test-slow: env ## the slow tests: they train, interpret or generate code
	@$(PYTEST) -m slow $(ARGS)

test-levels: env ## losses, masks, distillers and metrics on the processor's other instruction sets
	@$(PY) dev/test_levels.py -n $(WORKERS) --dist worksteal $(ARGS)

test-browser: env ## the report's page in headless Chromium, which is installed where that is possible
	@chromium=$$(dev/find_chromium.sh) || exit; CHROMIUM="$$chromium" $(PY) -m pytest -q -m browser tests/analysis/test_browser.py $(ARGS)

lint: env ## ruff
	@$(PY) -m ruff check . $(ARGS)

type: env ## mypy
	@$(PY) -m mypy $(ARGS)

bench: env ## time a whole training step, its teacher and the student's inference (ARGS="--json FILE --peer-root DIR ...")
	@$(PY) -m benchmarks.step $(ARGS)

bench-losses: env ## time the losses and the edge masks
	@$(PY) -m benchmarks.losses $(ARGS)

bench-distillers: env ## time a training step of each distiller
	@$(PY) -m benchmarks.distillers $(ARGS)

bench-loader: env ## time loading and augmentation beside mmsegmentation's (ARGS="--peer-root DIR", or --no-rival)
	@$(PY) -m benchmarks.loader $(ARGS)

gpu: env ## on a GPU: the sheet of what only a GPU can show, nine minutes (OUT=output/gpu ARGS="--data data")
	@$(PY) tools/gpu_sheet.py $(OUT) $(ARGS)

clean: ## remove the environment and the caches (results in output/ stay)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is complete, and it is this folder's: costs a few milliseconds.
env: $(STAMP) ## make the environment, where it is not there yet
	@$(PY) -c '' 2>/dev/null || { echo "make: $(VENV) exists but is broken ($(PY) does not run)." \
	  "Run 'make clean', then this again."; exit 1; }
	@test "$$(cat $(STAMP))" = "$(CURDIR)" || { echo "make: $(VENV) was made for another folder" \
	  "($$(cat $(STAMP))). Run 'make clean', then this again."; exit 1; }

$(STAMP): $(wildcard $(REQUIREMENTS)) setup.py dev/make_env.sh bpkd/install_detectron2.py $(wildcard bpkd/functional/backends/native/*.cpp bpkd/functional/backends/native/*.h)
	@dev/make_env.sh $(VENV)
