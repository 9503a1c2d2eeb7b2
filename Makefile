# rqdkm: every task of the repository. `make` or `make help` prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
JOBS ?= 2
export TOPHUB_LOCATION := NONE

.PHONY: help setup demo test bench lint format doctor wheel clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install Debian packages, the virtual environment, the virtual board and the test models

$(STAMP): requirements.lock pyproject.toml .ci/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/setup.sh
	@touch $@

demo: $(STAMP) ## deploy a trained image classifier on the virtual STM32F407 and report what it costs
	@$(BIN)/rqdkm deploy .cache/models/image_classification.tflite --out build/demo --samples 20

test: $(STAMP) ## run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

bench: $(STAMP) ## measure the networks and the kernels on the virtual board, layer by layer (slow)
	@$(BIN)/rqdkm bench --out build/bench --samples 20 --markdown docs/benchmarks.md
	@$(BIN)/python -m tests.kernels.measure
	@$(MAKE) --no-print-directory -C plugin/vboard PYTHON=$(CURDIR)/$(BIN)/python bench

lint: $(STAMP) ## check formatting, lint and types of Python and C
	@$(BIN)/ruff format --check plugin tvm_passes tests examples
	@$(BIN)/ruff check plugin tvm_passes tests examples
	@$(BIN)/mypy
	@git ls-files '*.c' '*.h' '*.cc' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP) ## rewrite Python and C in the house format
	@$(BIN)/ruff format plugin tvm_passes tests examples
	@$(BIN)/ruff check --fix plugin tvm_passes tests examples
	@git ls-files '*.c' '*.h' '*.cc' | xargs $(BIN)/clang-format -i

doctor: $(STAMP) ## check every tool and say how to get what is missing
	@$(BIN)/rqdkm doctor

wheel: $(STAMP) ## build the wheel, C sources included, into dist/
	@$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean: ## remove build products (keeps .venv and .cache)
	rm -rf build dist
