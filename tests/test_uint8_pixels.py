# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Images that travel to the model as uint8 give what those normalised by the image processor give."""

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from fila import FilaDataCollator, FilaForConditionalGeneration, FilaProcessor
from helpers import FUSION_TYPES, ROOT, chat, chat_inputs, default_processor, random_image, tiny_model, tiny_processor

PIXELS = ("pixel_values", "high_res_pixel_values")
NORMALIZATION = {"image_mean": [0.1, 0.5, 0.9], "image_std": 0.3, "rescale_factor": 1 / 200}
NORMALIZATION |= {"high_res_image_mean": [0.4, 0.3, 0.2], "high_res_image_std": [0.2, 0.3, 0.4]}
SIZES = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def model():
    return tiny_model(**NORMALIZATION)


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(**NORMALIZATION)


def process_both(processor, config, images, dtype=torch.float32, **kwargs):
    """Inputs with floats, and with bytes."""
    floats, raw = (
        kind.image_processor(images, return_tensors="pt", **kwargs).to(dtype=dtype)
        for kind in (processor, processor.for_model(config))
    )
    for key in set(PIXELS) & set(floats):
        assert floats[key].dtype == dtype and raw[key].dtype == torch.uint8
        assert raw[key].shape == floats[key].shape
    return floats, raw


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=10, deadline=None)
@given(sizes=SIZES, tiling=st.booleans())
def test_features_of_bytes_are_those_of_floats_at_any_size_and_dtype(dtype, sizes, tiling, model, processor):
    images = [random_image(*size, seed) for seed, size in enumerate(sizes)]
    floats, raw = process_both(processor, model.config, images, dtype, do_dynamic_tiling=tiling)
    model = copy.deepcopy(model).to(dtype)
    with torch.no_grad():
        expected, actual = (model.get_image_features(**inputs).pooler_output for inputs in (floats, raw))
    for image, other in zip(expected, actual, strict=True):
        assert image.dtype == dtype
        torch.testing.assert_close(other, image)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_every_way_in_takes_bytes(fusion_type):
    """Training, engines that batch lists, and the pictures of what the model sees."""
    has_canvas, normalization = fusion_type != "none", NORMALIZATION | {"rescale_factor": 1 / 255}  # as pictures have
    processor = tiny_processor(do_high_res=has_canvas, **normalization)
    model = tiny_model(fusion_type, **normalization).train()
    images = [random_image(100, 90), random_image(50, 300, 1)]
    losses, gradients = [], []
    for kind in (processor, processor.for_model(model.config)):
        batch = FilaDataCollator(kind)([{"messages": chat(*images, "Read", answer="x")}])
        model.zero_grad()
        losses.append(model(**batch).loss)
        losses[-1].backward()
        gradients.append(model.model.vision_tower.vit.embeddings.patch_embedding.weight.grad.clone())
    assert batch["pixel_values"].dtype == torch.uint8 and ("high_res_pixel_values" in batch) == has_canvas
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*gradients)

    floats, raw = process_both(processor, model.config, images)
    lists = processor.for_model(model.config).image_processor(images, do_pad=False)
    with torch.no_grad():
        expected = torch.cat(model.get_image_features(**floats).pooler_output)
        torch.testing.assert_close(torch.cat(model.get_image_features(**lists).pooler_output), expected)
    if fusion_type in ("cvfm", "cross_attention"):
        torch.testing.assert_close(model.get_fusion_maps(**raw), model.get_fusion_maps(**floats))
    for drawing in (processor, processor.for_model(model.config)):
        pictures = [np.asarray(drawing.draw_view(inputs, index=1)).astype(int) for inputs in (floats, raw)]
        assert abs(pictures[0] - pictures[1]).max() <= 1


def test_answers_are_the_same(processor, model):
    conversation = chat(random_image(60, 100), "Read.")
    answers = []
    for kind in (processor, processor.for_model(model.config)):
        inputs = chat_inputs(kind, [conversation])
        answers.append(model.generate(**inputs, max_new_tokens=5, do_sample=False, num_beams=2))
    assert inputs["pixel_values"].dtype == torch.uint8
    assert torch.equal(*answers)


@pytest.mark.parametrize("field", [*NORMALIZATION, None])
def test_images_are_floats_unless_the_model_normalises_in_the_same_way(field, model, processor):
    """`None`: the model was made before it had these fields."""
    config = SimpleNamespace(**{name: getattr(model.config, name) for name in NORMALIZATION} if field else {})
    if field:
        setattr(config, field, 0.25)
    image = random_image(60, 100)
    expected = processor.image_processor(image, return_tensors="pt")
    actual = processor.for_model(config).image_processor(image, return_tensors="pt")
    assert all(torch.equal(actual[key], expected[key]) for key in PIXELS)
    if field in (None, "rescale_factor", "image_mean", "image_std"):
        return
    actual = processor.for_model(config).image_processor(image, do_high_res=False, return_tensors="pt")
    assert actual["pixel_values"].dtype == torch.uint8  # the rest does not matter then


@pytest.mark.parametrize(
    "kwargs", [{"image_mean": 0.5}, {"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 255}]
)
def test_arguments_of_one_call_count_beside_the_model(kwargs, model, processor):
    image = random_image(60, 100)
    expected = processor.image_processor(image, return_tensors="pt", **kwargs)
    actual = processor.for_model(model.config).image_processor(image, return_tensors="pt", **kwargs)
    assert all(torch.equal(actual[key], expected[key]) for key in PIXELS)


def test_arrays_of_floats_are_normalised_by_the_processor(model, processor):
    images = [np.array(random_image(60, 100)), np.array(random_image(60, 100), np.float32)]
    for batch in (images, images[1]):
        expected = processor.image_processor(batch, return_tensors="pt")
        actual = processor.for_model(model.config).image_processor(batch, return_tensors="pt")
        assert all(torch.equal(actual[key], expected[key]) for key in PIXELS)


def test_processor_for_a_model_saves_what_the_processor_saves(model, processor, tmp_path):
    raw, image = processor.for_model(model.config), random_image(60, 100)
    assert raw.to_dict() == processor.to_dict()
    raw.save_pretrained(tmp_path)
    loaded = FilaProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    for kind in (processor, loaded):
        assert kind.image_processor(image, return_tensors="pt")["pixel_values"].dtype == torch.float32
    sent = pickle.loads(pickle.dumps(raw))
    assert sent.image_processor(image, return_tensors="pt")["pixel_values"].dtype == torch.uint8


def test_workers_send_bytes(model, processor):
    examples = [{"messages": chat(random_image(50, 90, seed), answer="x")} for seed in range(4)]
    collator = FilaDataCollator(processor.for_model(model.config))
    for batch in DataLoader(examples, 2, collate_fn=collator, num_workers=1, pin_memory=torch.cuda.is_available()):
        assert {batch[key].dtype for key in PIXELS} == {torch.uint8}


def test_default_checkpoint_takes_bytes():
    config = FilaForConditionalGeneration.config_class.from_pretrained(ROOT)
    process_both(default_processor(), config, [PIL.Image.new("RGB", (30, 50), "red")])
