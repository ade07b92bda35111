# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What serving engines do with a model of transformers, without an engine: they process prompt by prompt, cut the result
into images, batch images of many prompts, encode them, and load the weights into the model without its head."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel

from helpers import GRIDS, MORE_GRIDS, ROOT, make_pinpoints, random_image, tiny_model, tiny_processor

# Images of five grids, in prompts of one and of two, and the canvases that they are chosen from.
PROMPTS = [[(56, 112), (112, 56)], [(110, 100)], [(170, 50), (50, 170)]]
LARGE_PROMPTS = [[(30, 30), (220, 160)], [(224, 224)], [(168, 224), (50, 170)]]
CANVASES = {"five": (PROMPTS, GRIDS), "up to 4x4": (LARGE_PROMPTS, MORE_GRIDS)}


@pytest.fixture(scope="module")
def model():
    return tiny_model().model


def cut_into_images(processor, images):
    """The fields of each image of one prompt, with the number of tokens that replace its placeholder."""
    inputs = processor(images, "<image>" * len(images), return_tensors="pt", return_text_replacement_offsets=True)
    counts = processor._get_num_multimodal_tokens(image_sizes=[(image.height, image.width) for image in images])
    replacements = [offset["replacement"] for offset in inputs.pop("text_replacement_offsets")[0]]
    assert [text.count("<image>") for text in replacements] == counts.num_image_tokens
    fields = {key: inputs[key] for key in processor.image_processor.model_input_names}
    for field in fields.values():
        assert len(field) == sum(counts.num_image_patches)
    parts = {key: field.split(counts.num_image_patches) for key, field in fields.items()}
    return [{key: part[index] for key, part in parts.items()} for index in range(len(images))], counts.num_image_tokens


def pad(fields):
    """Fields of one row each, batched: where their shapes differ, the largest, filled with zeros."""
    batch = fields[0].new_zeros(len(fields), *map(max, zip(*(field.shape[1:] for field in fields))))
    for row, field in zip(batch, fields):
        row[tuple(slice(size) for size in field.shape[1:])] = field[0]
    return batch


def listed(fields):
    return [field[0] for field in fields]


def nested(fields):
    return list(fields)


@pytest.mark.parametrize("canvases", CANVASES)
@pytest.mark.parametrize("batch_views", [pad, listed, nested])
def test_images_of_different_prompts_share_a_batch_and_keep_their_features(model, batch_views, canvases):
    prompts, grids = CANVASES[canvases]
    processor = tiny_processor(image_grid_pinpoints=make_pinpoints(grids))
    images = [[random_image(*size, seed) for seed, size in enumerate(sizes)] for sizes in prompts]
    items, num_tokens = [], []
    for prompt in images:
        prompt_items, prompt_tokens = cut_into_images(processor, prompt)
        items += prompt_items
        num_tokens += prompt_tokens
    assert len({tuple(item["image_grids"][0].tolist()) for item in items}) == 5
    batch = {
        key: batch_views([item[key] for item in items])
        if key.endswith("pixel_values")
        else torch.cat([item[key] for item in items])
        for key in items[0]
    }
    with torch.no_grad():
        features = model.get_image_features(**batch, return_dict=True).pooler_output
        alone = [
            model.get_image_features(**processor.image_processor(image, return_tensors="pt")).pooler_output[0]
            for prompt in images
            for image in prompt
        ]
    assert [len(image) for image in features] == num_tokens
    for actual, expected in zip(features, alone):
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("grids", [GRIDS, MORE_GRIDS], ids=CANVASES)
def test_no_image_takes_more_tokens_than_the_square_that_vllm_plans_for(grids):
    processor = tiny_processor(image_grid_pinpoints=make_pinpoints(grids))
    largest = max((rows, columns) for rows, columns in grids if rows * columns == max(r * c for r, c in grids))
    counts = processor._get_num_multimodal_tokens(image_sizes=[(10_000, 10_000)])
    assert counts.num_image_tokens == [(1 + largest[0] * largest[1]) * 16]


def test_vllm_builds_the_model_without_its_head_and_loads_every_weight(overrides, monkeypatch):
    monkeypatch.setattr(
        AutoModel._model_mapping, "_extra_content", {}
    )  # what the Auto classes learn is forgotten again
    config = AutoConfig.from_pretrained(ROOT, trust_remote_code=True)
    assert config.auto_map["AutoModel"].endswith("FilaForConditionalGeneration")
    for key, value in overrides.items():
        setattr(config, key, value)
    with torch.device("meta"):
        model = AutoModel.from_config(config, trust_remote_code=True)
    assert type(model).__name__ == "FilaModel" and type(model)._can_set_attn_implementation()
    # vLLM names the weights of this model model.*, as checkpoints of a FILA do; the head is its own.
    assert model.base_model_prefix == "model"
    with safe_open(ROOT / "model.safetensors", "pt") as tensors:
        names = set(tensors.keys())
    assert names - {"lm_head.weight"} == {f"model.{name}" for name in model.state_dict()}
