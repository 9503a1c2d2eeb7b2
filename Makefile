# rqdkm: every task of the repository. `make` or `make help` prints this list.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
JOBS ?= 2
export TOPHUB_LOCATION := NONE

.PHONY: help setup demo test bench configurations ablation patches morphing lint format doctor wheel clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install Debian packages, the virtual environment, the virtual board and the test models

$(STAMP): requirements.lock pyproject.toml .ci/setup.sh
	@PYTHON="$(PYTHON)" VENV="$(VENV)" sh .ci/setup.sh
	@touch $@

demo: $(STAMP) ## deploy a trained image classifier on the virtual STM32F407 and report what it costs
	@$(BIN)/rqdkm deploy .cache/models/image_classification.tflite --out build/demo --samples 20

# most tests compile the same C sources, each in a folder of its own
test: export CCACHE_DIR := $(CURDIR)/.cache/ccache
test: export CCACHE_BASEDIR := /
test: export CCACHE_NOHASHDIR := true
test: export PATH := /usr/lib/ccache:$(PATH)
test: $(STAMP) ## run every test
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests

bench: $(STAMP) ## measure networks, configurations, sensitivities and kernels; write their pages in docs/ (slow)
	@$(BIN)/rqdkm bench --out build/bench --samples 20 --markdown docs/benchmarks.md
	@$(MAKE) --no-print-directory configurations ablation patches morphing
	@$(BIN)/python -m tests.kernels.measure
	@$(BIN)/python -m tests.patches.sweep
	@$(MAKE) --no-print-directory -C plugin/vboard PYTHON=$(CURDIR)/$(BIN)/python bench

configurations: $(STAMP) .cache/machinery_val.npz .cache/machinery_test.npz ## the machinery model as baseline, int8 and rq
	@$(BIN)/rqdkm experiment configurations examples/machinery/model.tflite --calib .cache/machinery_val.npz \
	  --data .cache/machinery_test.npz --plan examples/machinery/rq/plan.json --out build/machinery --title "Machinery CNN: configurations side by side" \
	  --markdown docs/machinery.md --check

ablation: $(STAMP) .cache/mnist_val.npz .cache/mnist_test.npz .cache/machinery_val.npz .cache/machinery_test.npz ## REP against other sensitivities at equal size
	@$(BIN)/rqdkm experiment ablation examples/mnist/model.tflite examples/machinery/model.tflite \
	  --calib .cache/mnist_val.npz --data .cache/mnist_test.npz \
	  --calib .cache/machinery_val.npz --data .cache/machinery_test.npz --markdown docs/ablation.md

# small products: threads would wait for each other
patches: export OPENBLAS_NUM_THREADS = 1
patches: $(STAMP) .cache/machinery_val.npz .cache/machinery_test.npz .cache/mobilenet_val.npz .cache/mobilenet_test.npz ## patch-based inference: VDPC and VDQS at one RAM budget
	@$(BIN)/rqdkm experiment patches examples/machinery/model.tflite --calib .cache/machinery_val.npz \
	  --data .cache/machinery_test.npz --ram 16128 --plan examples/machinery/rq/plan.json --out build/patches/machinery \
	  --markdown docs/patches-machinery.md
	@$(BIN)/rqdkm experiment patches examples/mobilenet/model.tflite --calib .cache/mobilenet_val.npz \
	  --data .cache/mobilenet_test.npz --ram 49408 --plan examples/mobilenet/rq/plan.json --max-drop 0.65 \
	  --out build/patches/mobilenet --markdown docs/patches-mobilenet.md
	@$(BIN)/rqdkm experiment cuts .cache/models/visual_wake_words.tflite --ram 24K --ram 25K --out build/patches/cuts \
	  --markdown docs/patches-wake-words.md
	@$(BIN)/rqdkm experiment vdqs examples/machinery/model.tflite --calib .cache/machinery_val.npz \
	  --split conv5_bn_1/batchnorm --markdown docs/vdqs.md

MORPH := examples/machinery/morph
morphing: $(STAMP) .cache/machinery_val.npz .cache/machinery_test.npz ## the four configurations on the machinery data over one mixed trace
	@$(BIN)/rqdkm deploy examples/machinery/model.tflite --config baseline --out build/morphing/baseline
	@$(BIN)/rqdkm deploy examples/machinery/model.tflite --config rq --plan examples/machinery/searched/plan.json \
	  --out build/morphing/rq
	@$(BIN)/rqdkm deploy $(MORPH)/plain.tflite --config baseline --out build/morphing/retrained
	@$(BIN)/rqdkm deploy $(MORPH)/model.tflite --config dkm --ram 46K --out build/morphing/dkm
	@$(BIN)/rqdkm deploy $(MORPH)/model.tflite --config rq-dkm --plan $(MORPH)/rq/plan.json --ram 42K --out build/morphing/rq-dkm
	@$(BIN)/rqdkm experiment morphing baseline=build/morphing/baseline retrained=build/morphing/retrained \
	  rq=build/morphing/rq dkm=build/morphing/dkm rq-dkm=build/morphing/rq-dkm \
	  --learn .cache/machinery_val.npz --data .cache/machinery_test.npz --penalty 60 --out build/morphing \
	  --title "Machinery CNN: the four configurations over one trace" --markdown docs/morph-machinery.md

.cache/mnist_%.npz: examples/mnist/dataset.py
	@$(BIN)/python examples/mnist/dataset.py --only $* --out $@

.cache/mobilenet_%.npz: examples/mobilenet/dataset.py examples/mnist/dataset.py
	@$(BIN)/python examples/mobilenet/dataset.py --only $* --out $@

.cache/mobilenet144_%.npz: examples/mobilenet/dataset.py examples/mnist/dataset.py
	@$(BIN)/python examples/mobilenet/dataset.py --size 144 --only $* --out $@

.cache/machinery_%.npz: examples/machinery/dataset.py examples/machinery/simulate.py
	@$(BIN)/python examples/machinery/dataset.py --only $* --out $@

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
