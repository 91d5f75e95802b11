# Every target may be run again at any time: what is done is not done twice.
# The environment is made anew when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
NEWEST := .venv-newest
LMMS := .venv-lmms
BIN := $(VENV)/bin
PIP = -m pip --disable-pip-version-check install --quiet
DEMO := src/vlm_fo1/assets/demo
NOT_HERE := not weights and not network and not browser$(if $(shell command -v nvidia-smi),, and not gpu)
# What pyproject.toml asks for at least: the version that test-oldest tests.
FLOOR := $(shell sed -n 's/.*"transformers>=\([0-9.]*\).*/\1/p' pyproject.toml)
EVERY_VERSION := tests/unit tests/parity tests/contract

.DEFAULT_GOAL := help
.PHONY: help demo app test test-all test-page test-oldest test-newest test-lmms bench bench-gpu docs
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## detection, counting and a referring question on the bundled image
	@mkdir -p outputs
	$(BIN)/fo1 detect $(DEMO)/photo.jpg orange apple --out outputs/demo.jpg --unchosen --save outputs/demo.jsonl --fresh
	$(BIN)/fo1 count $(DEMO)/photo.jpg orange --out outputs/demo-count.jpg --save outputs/demo-count.jsonl --fresh
	$(BIN)/fo1 refer $(DEMO)/photo.jpg "the largest orange" --out outputs/demo-refer.jpg --save outputs/demo-refer.jsonl --fresh
	@echo "The images are outputs/demo*.jpg, the answers as JSON are outputs/demo*.jsonl."

app: $(VENV)/.app ## show the page with the bundled model (http://127.0.0.1:7860)
	$(BIN)/fo1 app

test: $(VENV)/.dev ## format, lint, types, imports and tests: all that CI checks
	scripts/check.sh

test-all: $(VENV)/.dev ## all that this machine can run: slow tests too, the oldest and the newest transformers
	scripts/check.sh -m '$(NOT_HERE)'
	$(MAKE) test-oldest test-newest
	@if command -v chromium >/dev/null; then $(MAKE) test-page; \
	  else echo "The page was not driven: there is no chromium (make test-page installs it)"; fi

test-page: $(VENV)/.browser ## drive the page in Debian's Chromium; screenshots in outputs/page
	@command -v chromium >/dev/null || { \
	  echo "Installing Chromium"; apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  chromium fonts-dejavu-core >/dev/null; }
	$(BIN)/python -m pytest tests/browser -m browser

test-oldest: $(OLDEST)/.dev ## unit, parity and contract tests on the oldest transformers that we ask for
	VENV=$(OLDEST) scripts/test.sh $(EVERY_VERSION)

test-newest: $(NEWEST)/.dev ## the same on the newest transformers 5; says when it may be called tested
	@$(NEWEST)/bin/python $(PIP) -c $(NEWEST)/constraints.txt --upgrade 'transformers<6'
	VENV=$(NEWEST) scripts/test.sh $(EVERY_VERSION)
	@$(NEWEST)/bin/python -c 'from vlm_fo1._extras import untested_transformers as newer; print( \
	  newer() and "All passed: name this version in NEWEST_TRANSFORMERS of src/vlm_fo1/_extras.py, and it and " \
	  "the tokenizers, huggingface-hub, hf-xet and safetensors that came with it in constraints.txt.\n" + newer())'

bench: $(VENV)/.core ## measure every figure of docs/benchmarks.md that needs no GPU
	@set -e; for file in $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$file"; $(BIN)/python -m "benchmarks.$$(basename "$$file" .py)"; done

bench-gpu: $(VENV)/.core ## measure the table of the GPU: random weights at released sizes, 8 minutes on one GPU
	$(BIN)/python -m benchmarks.gpu
test-lmms: $(LMMS)/.dev ## what lmms-eval asks of us, with lmms-eval installed (heavy; its own environment)
	$(LMMS)/bin/python -m pytest tests/unit/eval/general -p no:cacheprovider

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/mkdocs build --strict

# --- environments; a stamp file says which parts are installed -------------------------------------

define new_venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@test -x $(1)/bin/python || { echo "Making $(1) with $$($(PYTHON) -V)"; $(PYTHON) -m venv $(1); }
endef

# torch goes first and alone: see the head of constraints.txt
# $(1) is an environment, $(2) the versions that it gets, $(3) more options of pip.
define torch_first
	@$(1)/bin/python $(PIP) -c $(2) pip
	@$(1)/bin/python $(PIP) $(3) -c $(2) torch
endef

# ocr, photo, onnx and scikit-image are about 220 MB of wheels, so that the tests find real text and things;
# app is so that every call of docs/app.md is made. Of 17 000 modules that come with them the tests
# import a sixth, which compiles them: pip would take a minute and a half for all.
NO_COMPILE := --no-compile
FOR_TESTS := $(NO_COMPILE) -e '.[supervision,train,detectors,ocr,photo,video,onnx,app,eval]' --group dev

$(VENV)/.core: pyproject.toml constraints.txt
	$(call new_venv,$(VENV))
	@echo "Installing vlm_fo1 into $(VENV): the first time takes a few minutes"
	$(call torch_first,$(VENV),constraints.txt)
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[supervision]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt
	$(call new_venv,$(VENV))
	@echo "Installing vlm_fo1 and the tools for tests into $(VENV): the first time takes a few minutes"
	$(call torch_first,$(VENV),constraints.txt,$(NO_COMPILE))
	@$(BIN)/python $(PIP) -c constraints.txt $(FOR_TESTS)
	@touch $(VENV)/.core $@

$(OLDEST)/.dev: TRANSFORMERS := transformers==$(FLOOR)
$(NEWEST)/.dev: TRANSFORMERS := transformers<6
$(OLDEST)/.dev $(NEWEST)/.dev: pyproject.toml constraints.txt
	$(call new_venv,$(@D))
	@echo "Installing vlm_fo1 with $(TRANSFORMERS) into $(@D)"
	@grep -vE '^(transformers|tokenizers|huggingface-hub|hf-xet|safetensors)==' constraints.txt > $(@D)/constraints.txt
	$(call torch_first,$(@D),$(@D)/constraints.txt)
	@$(@D)/bin/python $(PIP) -c $(@D)/constraints.txt $(FOR_TESTS) '$(TRANSFORMERS)'
	@touch $@

$(LMMS)/.dev: pyproject.toml constraints.txt
	$(call new_venv,$(@D))
	@grep -E '^(pip|torch)==' constraints.txt > $(@D)/constraints.txt
	$(call torch_first,$(@D),$(@D)/constraints.txt)
	@echo "Installing vlm_fo1 beside lmms-eval into $(@D): it is large"
	@$(@D)/bin/python $(PIP) -c $(@D)/constraints.txt -e '.[lmms]' --group dev
	@# One that was built for another torch (CUDA's, beside a CPU's) keeps transformers from loading.
	@$(@D)/bin/python -c 'import torchvision' 2>/dev/null || $(@D)/bin/python -m pip uninstall -y -q torchvision
	@touch $@

$(VENV)/.app: $(VENV)/.core
	@echo "Installing Gradio into $(VENV)"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[app,video]'
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	@echo "Installing the driver of Chromium into $(VENV)"
	@$(BIN)/python $(PIP) -c constraints.txt --group browser
	@touch $@

$(VENV)/.docs: $(VENV)/.core
	@echo "Installing the tools for the documentation into $(VENV)"
	@$(BIN)/python $(PIP) -c constraints.txt --group docs
	@touch $@
