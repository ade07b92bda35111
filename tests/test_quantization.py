# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Quantizers of transformers quantize the decoder, and the vision branch only if they are asked to."""

from importlib.util import find_spec

import PIL.Image
import pytest
import torch
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from fila import FilaForConditionalGeneration
from helpers import QUESTION, RECEIPT, ROOT, chat, chat_inputs, default_processor

VISION = ("model.vision_tower.", "model.multi_modal_projector.")


def make_config(method, skip=None):
    """The quantization configuration of a method, with the names of modules to skip."""
    package = "torchao" if method == "torchao" else "bitsandbytes"
    if find_spec(package) is None:
        pytest.skip(f"needs {package}; `make test` has it in build/optional")
    if method == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=skip)
    return BitsAndBytesConfig(**{f"load_in_{method}": True}, llm_int8_skip_modules=skip)


def quantized_layers(model):
    return {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and ("bitsandbytes" in type(module).__module__ or type(module.weight.data) is not torch.Tensor)
    }


def load(folder, **kwargs):
    return FilaForConditionalGeneration.from_pretrained(folder, device_map="cpu", **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "dtype"),
    [("8bit", torch.float16), ("4bit", torch.bfloat16), ("4bit", torch.float16), ("torchao", torch.bfloat16)],
)
def test_quantized_model_answers_and_keeps_its_vision_after_a_round_trip(tmp_path, method, dtype):
    model = load(ROOT, quantization_config=make_config(method), dtype=dtype)
    layers = quantized_layers(model)
    assert layers == {name for name, module in model.named_modules() if isinstance(module, nn.Linear)} - {
        name for name, _ in model.named_modules() if name.startswith((*VISION, "lm_head"))
    }
    original = load(ROOT)
    for name, parameter in original.named_parameters():
        if name.startswith(VISION):
            assert torch.equal(model.get_parameter(name).to(dtype), parameter.to(dtype)), name
    inputs = chat_inputs(default_processor(), [chat(PIL.Image.open(RECEIPT), QUESTION)])
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, dtype=dtype)
    assert quantized_layers(loaded) == layers
    assert loaded.generate(**inputs, max_new_tokens=5, do_sample=False).shape[1] > inputs["input_ids"].shape[1]
    with torch.no_grad():
        before, after, full = (kind(**inputs).logits.float() for kind in (model, loaded, original))
    # On CPUs, bitsandbytes packs its 4-bit weights anew when they are first used.
    assert (after - before).norm() < 0.02 * before.norm()
    assert (before - full).norm() < (0.3 if method == "4bit" else 0.05) * full.norm()


@pytest.mark.slow
@pytest.mark.parametrize("skip", [["vision_tower"], ["model.vision_tower"], ["multi_modal_projector", "lm_head"]])
@pytest.mark.parametrize("method", ["8bit", "torchao"])
def test_either_name_of_a_vision_part_spares_all_of_them(method, skip):
    layers = quantized_layers(load(ROOT, quantization_config=make_config(method, skip)))
    assert any("language_model" in name for name in layers)
    assert not any(name.startswith(VISION) for name in layers)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["8bit", "torchao"])
def test_list_of_modules_to_skip_without_vision_quantizes_it(method):
    layers = quantized_layers(load(ROOT, quantization_config=make_config(method, ["lm_head"])))
    assert {name.split(".")[1] for name in layers} == {"vision_tower", "multi_modal_projector", "language_model"}
