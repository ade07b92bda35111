# Everything below needs Python 3.11 or newer and PyPI, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The oldest transformers FILA supports, beside the same torch: `make test` runs the suite on both ends.
FLOOR := build/floor
FLOOR_PACKAGES := "transformers==5.16.1" "huggingface_hub<2"
IMAGE ?= assets/coffee.jpg
PROMPT ?= What is in this image?
PYTEST ?= -n auto

.PHONY: setup demo test lint

setup: $(VENV)/.installed

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[test]"
	touch $@

$(FLOOR)/.installed: $(VENV)/.installed
	rm -rf $(FLOOR)
	$(BIN)/python -m pip install --quiet --no-warn-conflicts --target $(FLOOR) $(FLOOR_PACKAGES)
	touch $@

demo: setup
	$(BIN)/python demo.py "$(IMAGE)" --prompt "$(PROMPT)"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

test: lint $(FLOOR)/.installed
	$(BIN)/python -m pytest $(PYTEST)
	PYTHONPATH=$(FLOOR) $(BIN)/python -m pytest $(PYTEST)
