# The Python that the environment is made from, and the environment.
PYTHON ?= python3
VENV ?= .venv
# Installed before everything else, so that it is the build you choose: any 2.6 or newer, for CPU or GPU.
TORCH ?= torch==2.13.0
# More for the command, as in: make train-qat-int4 ARGS="--output_dir out --bf16"
ARGS ?=
RECIPE ?= whisper-large-v3-distil-fr-int8

BIN := $(VENV)/bin
JS := tests/clients/node_modules
# Python compiles a module when it is first imported; most of what is installed never is.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile

# What the benchmarks take: Common Voice as LANGUAGE/manifest.jsonl, and the runs whose models are timed.
COMMON_VOICE ?= common_voice
RUN_INT4 ?= bench-quality-int4
RUN_INT8 ?= bench-quality-int8

.PHONY: help demo demo-full test test-clients check train-qat-int8 train-qat-int4 evaluate-qat bench-quality bench-speed

help:
	@echo "make demo             int4 QAT of Whisper base on French speech, from nothing to a table and a card"
	@echo "make demo-full        the same, trained and tested long enough to show the gain"
	@echo "make test             all tests"
	@echo "make test-clients     what others load the exported files with: Optimum, transformers.js in Node and in Chromium"
	@echo "make check            ruff and mypy"
	@echo "make train-qat-int8   train recipes/whisper-large-v3-distil-fr-int8.json, on all GPUs"
	@echo "make train-qat-int4   the same for recipes/whisper-large-v3-distil-fr-int4.json"
	@echo "make bench-quality    every arm on three corpora: COMMON_VOICE=FOLDER of LANGUAGE/manifest.jsonl"
	@echo "make bench-speed      beside transformers and faster-whisper, the models of RUN_INT4 and RUN_INT8"
	@echo "make evaluate-qat     export and measure RECIPE=$(RECIPE), as in ARGS=\"--corpora mtedx\""

# A stamp says that an environment is complete; one whose making was interrupted is finished by the next call.
$(VENV)/.base: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) --editable .
	@touch $@

$(VENV)/.%: $(VENV)/.base
	$(PIP) --editable '.[$*]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/qat-plugin demo

demo-full: $(VENV)/.demo
	$(BIN)/qat-plugin demo --full

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(ARGS)

# The versions are pinned in package.json. Without scripts: theirs fetch GPU builds from elsewhere.
$(JS)/.installed: tests/clients/package.json
	npm install --prefix tests/clients --no-package-lock --no-audit --no-fund --ignore-scripts
	@touch $@

# Optimum needs an older transformers, and so an environment of its own.
test-clients: $(VENV)/.dev $(JS)/.installed
	$(BIN)/python -m pytest tests/clients $(ARGS)
	$(MAKE) VENV=$(VENV)-optimum $(VENV)-optimum/.dev,optimum
	$(VENV)-optimum/bin/python -m pytest tests/runtime/test_optimum.py tests/clients/test_python_blocks.py $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train-qat-int8: $(VENV)/.base
	$(BIN)/accelerate launch -m qat_plugin.train whisper-large-v3-distil-fr-int8 $(ARGS)

train-qat-int4: $(VENV)/.base
	$(BIN)/accelerate launch -m qat_plugin.train whisper-large-v3-distil-fr-int4 $(ARGS)

evaluate-qat: $(VENV)/.base
	$(BIN)/qat-plugin export $(RECIPE) $(ARGS)
	$(BIN)/qat-plugin evaluate $(RECIPE) $(ARGS)

bench-quality: $(VENV)/.dev
	$(BIN)/python benchmarks/quality.py --common_voice $(COMMON_VOICE) --target int4 $(ARGS)
	$(BIN)/python benchmarks/quality.py --common_voice $(COMMON_VOICE) --target int8 $(ARGS)

bench-speed: $(VENV)/.bench
	for threads in 1 2; do \
		$(BIN)/python benchmarks/speed.py --fp $(RUN_INT4)/onnx/fp --int4 $(RUN_INT4)/onnx/qat \
			--int8 $(RUN_INT8)/onnx/qat --threads $$threads $(ARGS) || exit 1; \
	done
