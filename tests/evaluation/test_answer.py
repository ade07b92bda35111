# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluation/answer.py: what loading a model does, and does not, bring along."""

import subprocess
import sys

import pytest
import torch

from fila.common import devices
from fila.evaluation.answer import load_model, prepare_inputs
from helpers import chat, random_image

# The modules of lmms-eval that lmms_eval_fila.py imports, where lmms-eval is not installed.
STUBS = """
import sys
from unittest.mock import MagicMock
for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model", "lmms_eval.models", "lmms_eval.models.registry_v2",
             "lmms_eval.protocol", "lmms_eval.utils"):
    sys.modules[name] = MagicMock()
sys.modules["lmms_eval.api.model"].lmms = object
"""


def test_answering_lmms_eval_and_reading_data_import_no_training_and_no_tables():
    # An older transformers brings pandas itself.
    code = STUBS + "from transformers import AutoModelForImageTextToText, AutoProcessor\nbefore = set(sys.modules)\n"
    code += "import fila.evaluation.answer, fila.evaluation.lmms_eval_fila\nprint(*set(sys.modules) - before)\n"
    code += "import fila.training.data\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    answering, reading = map(str.split, done.stdout.splitlines())
    assert "fila.evaluation.lmms_eval_fila" in answering
    heavy = {"transformers.trainer", "fila.training.data", "datasets", "pandas", "matplotlib"}
    assert not heavy & set(answering)
    assert "fila.training.data" in reading
    assert not {"transformers.trainer", "fila.modeling_fila", "matplotlib"} & set(reading)


@pytest.mark.parametrize(("is_fast", "expected"), [(False, torch.float32), (True, torch.bfloat16)])
def test_auto_is_float32_on_a_cpu_without_bfloat16(is_fast, expected, model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": is_fast}, raising=False)
    model, processor = load_model(model_folder, dtype="bfloat16", device="cpu")
    assert model.dtype == torch.bfloat16  # what is asked for
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    model, processor = load_model(tmp_path, device="cpu")
    assert model.dtype == expected
    inputs = prepare_inputs(processor, [chat(random_image(50, 90), "Read.")])
    assert inputs["pixel_values"].dtype == torch.uint8  # the model normalises


def test_only_cpus_are_asked_for_bfloat16_instructions(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    assert devices.resolve_dtype("auto", "cuda") == "auto"
    assert devices.resolve_dtype("auto", torch.device("cpu")) == "float32"
    assert devices.resolve_dtype("float16", "cpu") == "float16"
