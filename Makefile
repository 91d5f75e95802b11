# Every target may be run again at any time: what is done is not done twice.
# The environment is made anew when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
NEWEST := .venv-newest
BIN := $(VENV)/bin
PIP = -m pip --disable-pip-version-check install --quiet
DEMO := src/vlm_fo1/assets/demo
NOT_HERE := not gpu and not weights and not network and not browser

.DEFAULT_GOAL := help
.PHONY: help demo app test test-all test-page test-newest bench docs
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## detection, counting and a referring question on the bundled picture
	@mkdir -p outputs
	$(BIN)/fo1 detect $(DEMO)/photo.jpg orange apple --out outputs/demo.jpg --unchosen --save outputs/demo.jsonl --fresh
	$(BIN)/fo1 count $(DEMO)/photo.jpg orange --out outputs/demo-count.jpg --save outputs/demo-count.jsonl --fresh
	$(BIN)/fo1 refer $(DEMO)/photo.jpg "the largest orange" --out outputs/demo-refer.jpg --save outputs/demo-refer.jsonl --fresh
	@echo "The pictures are outputs/demo*.jpg, the answers as JSON are outputs/demo*.jsonl."

app: $(VENV)/.app ## show the page with the bundled model (http://127.0.0.1:7860)
	$(BIN)/fo1 app

test: $(VENV)/.dev ## format, lint, types, imports and tests: all that CI checks
	scripts/check.sh

test-all: $(VENV)/.dev ## the same with the slow tests
	scripts/check.sh -m '$(NOT_HERE)'

test-page: $(VENV)/.browser ## drive the page in Debian's Chromium; screenshots in outputs/page
	@command -v chromium >/dev/null || { \
	  echo "Installing Chromium"; apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  chromium fonts-dejavu-core >/dev/null; }
	$(BIN)/python -m pytest tests/browser -m browser

test-newest: $(NEWEST)/.dev ## parity with the recorded numbers on the newest transformers 5
	$(NEWEST)/bin/python -c 'import transformers; print("transformers", transformers.__version__)'
	$(NEWEST)/bin/python -m pytest tests/parity -m '$(NOT_HERE)'

bench: $(VENV)/.core ## measure every figure of docs/benchmarks.md that was taken here
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

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
$(VENV)/.core: pyproject.toml constraints.txt
	$(call new_venv,$(VENV))
	@echo "Installing vlm_fo1 into $(VENV): the first time takes a few minutes"
	@$(BIN)/python $(PIP) -c constraints.txt pip
	@$(BIN)/python $(PIP) -c constraints.txt torch
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[supervision]'
	@touch $@

# ocr, photo, onnx and scikit-image are about 220 MB of wheels, so that the tests find real text and things;
# app is so that every call of docs/app.md is made
$(VENV)/.dev: $(VENV)/.core
	@echo "Installing the tools for tests into $(VENV)"
	@$(BIN)/python $(PIP) -c constraints.txt -e '.[supervision,train,detectors,ocr,photo,video,onnx,app,eval]' --group dev
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

$(NEWEST)/.dev: pyproject.toml constraints.txt
	$(call new_venv,$(NEWEST))
	@echo "Installing vlm_fo1 with the newest transformers 5 into $(NEWEST)"
	@$(NEWEST)/bin/python $(PIP) -c constraints.txt pip
	@$(NEWEST)/bin/python $(PIP) -c constraints.txt torch
	@grep -vE '^(transformers|tokenizers|huggingface-hub|hf-xet|safetensors)==' constraints.txt > $(NEWEST)/constraints.txt
	@$(NEWEST)/bin/python $(PIP) -c $(NEWEST)/constraints.txt -e '.[supervision,train,video]' --group dev
	@$(NEWEST)/bin/python $(PIP) -c $(NEWEST)/constraints.txt --upgrade 'transformers<6'
	@touch $@
