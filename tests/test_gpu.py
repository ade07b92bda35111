# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What depends on the device: dtypes, attention kernels, compiled decoding. `pytest -m gpu` runs these tests alone; on a
machine without a GPU they run on the CPU."""

import importlib.util

import pytest
import torch

from helpers import chat, chat_inputs, random_image, tiny_model, tiny_processor

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")


@pytest.fixture(scope="module")
def inputs():
    processor = tiny_processor()
    conversations = [chat(random_image(100, 200), "Read it."), chat(random_image(90, 80, seed=1), "And this, please.")]
    return chat_inputs(processor, conversations).to(DEVICE)


def logits_of(inputs, **kwargs):
    model = tiny_model(**kwargs).to(DEVICE)
    with torch.no_grad():
        logits = model(**inputs).logits
    return logits[inputs["attention_mask"].bool()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fusion_type", ["none", "cross_attention", "channel_concat", "cvfm"])
def test_half_precision_stays_near_float32(inputs, fusion_type, dtype):
    expected = logits_of(inputs, fusion_type=fusion_type)
    model = tiny_model(fusion_type).to(DEVICE, dtype)
    with torch.no_grad():
        actual = model(**inputs.to(dtype=dtype)).logits.float()[inputs["attention_mask"].bool()]
    assert (actual - expected).norm() < 0.05 * expected.norm()


def test_sdpa_equals_eager_attention(inputs):
    eager, sdpa = (tiny_model(attn_implementation=name).to(DEVICE) for name in ("eager", "sdpa"))
    mask = inputs["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(eager(**inputs).logits[mask], sdpa(**inputs).logits[mask], rtol=1e-4, atol=1e-4)


@needs_cuda
@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="needs flash-attn")
def test_flash_attention_stays_near_sdpa(inputs):
    flash, sdpa = (
        tiny_model(attn_implementation=name).to(DEVICE, torch.bfloat16) for name in ("flash_attention_2", "sdpa")
    )
    mask, halves = inputs["attention_mask"].bool(), inputs.to(dtype=torch.bfloat16)
    with torch.no_grad():
        actual, expected = (model(**halves).logits[mask].float() for model in (flash, sdpa))
    assert (actual - expected).norm() < 0.05 * expected.norm()


def test_static_cache_answers_as_the_dynamic_one(inputs):
    model = tiny_model().to(DEVICE)
    options = {"max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)


@needs_cuda
def test_compiled_decoding_answers_as_eager_decoding(inputs):
    model = tiny_model().to(DEVICE)
    options = {"max_new_tokens": 8, "do_sample": False, "cache_implementation": "static"}
    expected = model.generate(**inputs, **options, disable_compile=True)
    assert torch.equal(model.generate(**inputs, **options), expected)  # a static cache on a GPU compiles decoding
    model.forward = torch.compile(model.forward, mode="reduce-overhead")
    assert torch.equal(model.generate(**inputs, **options, disable_compile=True), expected)


@needs_cuda
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_eight_bit_optimizer_lowers_the_loss(inputs):
    import bitsandbytes

    model = tiny_model().to(DEVICE).train()
    optimizer = bitsandbytes.optim.AdamW8bit(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
