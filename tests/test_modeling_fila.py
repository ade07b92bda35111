# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPVisionModel, LlamaForCausalLM, Trainer, TrainingArguments

from fila import FilaConfig, FilaDataCollator, FilaForConditionalGeneration
from fila.modeling_fila import FilaStageAlign
from helpers import (
    FUSION_TYPES,
    GRIDS,
    ROOT,
    chat,
    chat_inputs,
    random_image,
    tiny_config,
    tiny_image_processor,
    tiny_model,
    tiny_processor,
)

FUSED = [fusion_type for fusion_type in FUSION_TYPES if fusion_type != "none"]


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


@pytest.fixture(scope="module")
def batch(processor):
    """Three prompts: an image, two images on other canvases, none."""
    images = [random_image(56, 112, 1), random_image(150, 60, 2), random_image(110, 100, 3)]
    conversations = [chat(images[0], "one"), chat("two", images[1], "and", images[2]), chat("three, without an image")]
    return chat_inputs(processor, conversations)


@pytest.fixture(scope="module")
def training_batch(processor):
    examples = [
        {"messages": chat(random_image(56, 112, 1), "Read.", answer="12.50 EUR in all")},
        {"messages": chat("No image here.", answer="None at all.")},
        {"messages": chat(random_image(112, 112, 2), "and", random_image(100, 90, 3), answer="A, then B.")},
    ]
    return FilaDataCollator(processor)(examples)


def image_inputs(inputs):
    return {key: inputs[key] for key in ("pixel_values", "high_res_pixel_values", "image_sizes", "image_grids")}


def image_features(model, *images, **kwargs):
    inputs = tiny_image_processor(**kwargs)(list(images), return_tensors="pt")
    with torch.no_grad():
        return model.get_image_features(**inputs).pooler_output


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def cache_of(outputs):
    """The decoder's cache, under the name that the version of transformers in use gives it."""
    return outputs["cache" if "cache" in outputs else "past_key_values"]


def modes_and_flags(model):
    """For each module whether it trains and whether it checkpoints, by transformers' flag and by timm's."""
    flags = ("training", "gradient_checkpointing", "grad_checkpointing")
    return {name: [getattr(module, flag, None) for flag in flags] for name, module in model.named_modules()}


class CountDeviceReads(TorchFunctionMode):
    """Counts the calls that hand the values of a tensor to Python, for which the CPU waits on a GPU."""

    NAMES = {"tolist", "item", "cpu", "numpy", "nonzero", "argwhere", "equal", "allclose", "is_nonzero"}
    NAMES |= {"__bool__", "__int__", "__float__", "__index__", "__array__", "unique", "masked_select"}

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in self.NAMES:
            self.calls.append(function.__name__)
        return function(*args, **(kwargs or {}))


@contextmanager
def count_saved_tensors(module, method):
    """Counts the tensors that autograd saves while `module.method` runs."""
    saved, original = [], getattr(module, method)

    def counting(*args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda x: x):
            return original(*args, **kwargs)

    setattr(module, method, counting)
    try:
        yield saved
    finally:
        setattr(module, method, original)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_fresh_model_with_clip_weights_gives_clips_hidden_states_exactly(fusion_type):
    model = tiny_model(fusion_type, trained=False)
    clip = CLIPVisionModel(model.config.vision_config).eval()
    names = {"pre_layrnorm.": "pre_layernorm.", "encoder.layers.": "layers."}
    state = {}
    for name, tensor in clip.state_dict().items():
        name = name.removeprefix("vision_model.")
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = tensor
    missing, _ = model.model.vision_tower.vit.load_state_dict(state, strict=False)
    assert not missing
    inputs = tiny_image_processor()([random_image(100, 90), random_image(50, 150)], return_tensors="pt")
    with torch.no_grad():
        actual = model.get_image_features(**inputs, output_hidden_states=True).hidden_states
        views = torch.cat([inputs["pixel_values"][0], inputs["pixel_values"][1, :4]])
        expected = clip(views, output_hidden_states=True).hidden_states
    assert len(actual) == model.config.num_vision_layers + 1 == 6
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected))


@settings(max_examples=50, deadline=None)
@given(grid=st.sampled_from(GRIDS), side=st.integers(1, 12), data=st.data())
def test_global_view_averages_the_content_of_the_canvas_and_keeps_linear_ramps(grid, side, data):
    align = FilaStageAlign(channels=1, stage_cells=1, cells=1, fusion_align="interpolate").double()
    size = torch.tensor(grid) * side
    start = [data.draw(st.floats(0, int(cells) - 0.5)) for cells in size]
    length = [data.draw(st.floats(0.25, int(cells) - edge)) for cells, edge in zip(size, start)]
    middles = [torch.arange(int(cells), dtype=torch.float64) + 0.5 for cells in size]
    ramp_y, ramp_x = (ramp.contiguous() for ramp in torch.meshgrid(*middles, indexing="ij"))
    stage_maps = torch.stack([torch.ones_like(ramp_y), ramp_y, ramp_x])[:, None]
    global_view = align(stage_maps, grid, [(*start, *length)] * 3)[:, 0, :, 0, 0].view(3, side, side)
    torch.testing.assert_close(global_view[0], torch.ones(side, side, dtype=torch.float64))
    for axis, averaged in enumerate((global_view[1], global_view[2].T)):
        centres = start[axis] + length[axis] * (torch.arange(side) + 0.5) / side
        assert (averaged - centres[:, None]).abs().max() <= 0.5
    one_cell = torch.zeros_like(stage_maps[:1])
    one_cell[0, 0, int(size[0]) // 2, int(size[1]) // 2] = 1
    assert (align(one_cell, grid, [(*start, *length)]) >= 0).all()


@pytest.mark.parametrize("fusion_align", ["conv", "interpolate"])
@pytest.mark.parametrize("fusion_type", FUSED)
@pytest.mark.parametrize("grid", [(0, 0), *GRIDS])
def test_dot_changes_most_the_token_that_covers_it(fusion_type, fusion_align, grid):
    tile_size, grid_size = 112, 8
    convnext = {"architecture": "convnext_atto", "model_args": {"dims": [8, 12, 16, 20]}}
    model = tiny_model(
        fusion_type, tile_size=tile_size, fusion_align=fusion_align, trained=False, convnext_config=convnext
    )
    for module in model.model.vision_tower.fusion:
        for parameter in module.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.05)
    rows, columns = grid
    # Not quite the aspect ratio of the canvas, so that there is padding on one side.
    height, width = max(rows, 1) * 112 - 40 * (rows > columns), max(columns, 1) * 112 - 40 * (rows <= columns)
    processor = tiny_image_processor(tile_size, do_dynamic_tiling=grid != (0, 0))
    blank = torch.full((3, height, width), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    for y, x in torch.rand(4, 2, generator=generator).tolist():
        y, x = int(y * (height - 8)), int(x * (width - 8))
        dotted = blank.clone()
        dotted[:, y : y + 8, x : x + 8] = 255
        inputs = processor([blank, dotted], return_tensors="pt")
        assert inputs["image_grids"].tolist() == [list(grid)] * 2
        # The ViT sees the blank image both times: what differs has come through the ConvNeXt.
        inputs["pixel_values"][1] = inputs["pixel_values"][0]
        with torch.no_grad():
            tokens = model.get_image_features(**inputs).last_hidden_state[:, 1:].unflatten(0, (2, -1))
        change = (tokens[1] - tokens[0]).norm(dim=-1).view(-1, grid_size, grid_size)

        row, column = divmod(int(change[0].argmax()), grid_size)
        centre = (y + 4) / height * grid_size, (x + 4) / width * grid_size
        assert max(abs(row + 0.5 - centre[0]), abs(column + 0.5 - centre[1])) <= 1.5
        if grid == (0, 0):
            continue
        # tile row, tile column, token row, token column -> row and column on the canvas
        canvas = change[1:].view(rows, columns, grid_size, grid_size).transpose(1, 2).flatten(2, 3).flatten(0, 1)
        row, column = divmod(int(canvas.argmax()), canvas.shape[1])
        scale = min(canvas.shape[0] / height, canvas.shape[1] / width)
        top, left = (canvas.shape[0] - height * scale) / 2, (canvas.shape[1] - width * scale) / 2
        centre = top + (y + 4) * scale, left + (x + 4) * scale
        assert max(abs(row + 0.5 - centre[0]), abs(column + 0.5 - centre[1])) <= 1.5


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_features_do_not_depend_on_the_batch(fusion_type):
    model = tiny_model(fusion_type)
    images = [random_image(100, 90, 1), random_image(50, 150, 2), random_image(99, 98, 3), random_image(300, 40, 4)]
    together = image_features(model, *images)
    for image, features in zip(images, together):
        torch.testing.assert_close(features, image_features(model, image)[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fusion_type", FUSED)
def test_convnext_changes_the_features(fusion_type):
    model = tiny_model(fusion_type)
    inputs = tiny_image_processor()(random_image(100, 90), return_tensors="pt")
    with torch.no_grad():
        before = model.get_image_features(**inputs).pooler_output[0]
        inputs["high_res_pixel_values"] = torch.randn_like(inputs["high_res_pixel_values"])
        after = model.get_image_features(**inputs).pooler_output[0]
    assert (before - after).norm() > 0.01 * before.norm()


@pytest.mark.parametrize("fusion_type", FUSED)
def test_scale_of_the_convnext_does_not_matter(fusion_type):
    tower = tiny_model(fusion_type).model.vision_tower
    widths = [stage["num_chs"] for stage in tower.convnext.feature_info]
    torch.manual_seed(0)
    hidden_states, num_cells = torch.randn(2, 17, 32), tower.fusion[0].aligns[0].cells ** 2
    stages, others = ([torch.randn(2, 16, num_cells, width) for width in widths] for _ in range(2))
    scaled = [100 * stage for stage in stages]
    for number, fusion in enumerate(tower.fusion):
        inputs = (stages, scaled, others)
        if fusion_type == "cvfm":  # it has a module for each stage; the others take all
            inputs = [features[number] for features in inputs]
        with torch.no_grad():
            fused, after_scale, after_others = (fusion(hidden_states, features) for features in inputs)
        torch.testing.assert_close(after_scale, fused, atol=1e-4, rtol=1e-4)
        assert not torch.equal(after_others, fused)


def test_padding_side_does_not_change_answers(processor, batch):
    model = tiny_model()
    left_prompts = batch["input_ids"], batch["attention_mask"].bool()
    rows = [ids[mask] for ids, mask in zip(*left_prompts)]
    right = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    right_mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        on_left = model(**batch).logits
        on_right = model(**{**batch, "input_ids": right, "attention_mask": right_mask}).logits
    for index, row in enumerate(rows):
        torch.testing.assert_close(on_left[index, -len(row) :], on_right[index, : len(row)], atol=1e-4, rtol=1e-4)


def test_batched_generation_equals_one_by_one(processor):
    model = tiny_model()
    images = [random_image(56, 112, 1), random_image(150, 60, 2)]
    conversations = [chat(images[0], "one"), chat("two", images[1], images[0])]
    together = model.generate(
        **chat_inputs(processor, conversations), max_new_tokens=6, do_sample=False, eos_token_id=-1
    )
    for conversation, ids in zip(conversations, together):
        alone = model.generate(
            **chat_inputs(processor, [conversation]), max_new_tokens=6, do_sample=False, eos_token_id=-1
        )
        assert torch.equal(alone[0, -6:], ids[-6:])


def test_beams_with_two_images_per_prompt_equal_the_search_without_images_inputs(processor):
    """Beam search over prompts with their images already embedded needs no expansion of images at all."""
    model = tiny_model()
    images = [random_image(56, 112, seed) for seed in range(4)]
    inputs = chat_inputs(processor, [chat(images[0], images[1]), chat(images[2], "and", images[3])])
    with torch.no_grad():
        features = model.get_image_features(**image_inputs(inputs)).pooler_output
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == 3] = torch.cat(features)
    kwargs = {"attention_mask": inputs["attention_mask"], "num_beams": 3, "max_new_tokens": 5, "eos_token_id": -1}
    expected = model.generate(inputs_embeds=embeds, num_return_sequences=3, **kwargs)
    actual = model.generate(**{**inputs, **kwargs}, num_return_sequences=3)
    assert torch.equal(actual[:, inputs["input_ids"].shape[1] :], expected)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    actual = model.generate(inputs_embeds=embeds, **image_inputs(inputs), **kwargs, num_return_sequences=3)
    assert torch.equal(actual, expected)


def test_images_are_encoded_once_in_generation(batch):
    model, calls = tiny_model(), []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    for kwargs in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        calls.clear()
        model.generate(**batch, max_new_tokens=4, eos_token_id=-1, **kwargs)
        assert len(calls) == 1


def test_generation_returns_the_decoders_hidden_states_and_attentions(batch):
    model = tiny_model()
    model.set_attn_implementation("eager")
    flags = {"return_dict_in_generate": True, "output_hidden_states": True, "output_attentions": True}
    output = model.generate(**batch, max_new_tokens=2, eos_token_id=-1, **flags)
    assert [len(step) for step in output.hidden_states] == [3, 3]
    assert [len(step) for step in output.attentions] == [2, 2]


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_text_only_prompt_gives_the_decoders_own_logits(processor, fusion_type):
    model = tiny_model(fusion_type)
    llama = LlamaForCausalLM(model.config.text_config).eval()
    llama.model.load_state_dict(model.model.language_model.state_dict())
    llama.lm_head.load_state_dict(model.lm_head.state_dict())
    inputs = processor(text=["Short.", "A longer one, in the same batch."], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, llama(**inputs).logits)


def test_sdpa_equals_eager(batch):
    model = tiny_model()
    logits = {}
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.model.vision_tower.vit.config._attn_implementation == implementation
        with torch.no_grad():
            logits[implementation] = model(**batch).logits[batch["attention_mask"].bool()]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-4, rtol=1e-4)


def test_attention_implementation_can_be_chosen_for_each_sub_model():
    config = tiny_config()
    model = FilaForConditionalGeneration._from_config(
        config, attn_implementation={"vision_config": "eager", "text_config": "sdpa"}
    )
    assert model.model.vision_tower.vit.config._attn_implementation == "eager"
    assert model.model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
@pytest.mark.parametrize("stage", [1, 2])
def test_gradient_checkpointing_changes_no_gradient_and_saves_less(training_batch, fusion_type, stage):
    results = []
    for checkpointing in (False, True):
        model = tiny_model(fusion_type).train()
        model.set_training_stage(stage)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with count_saved_tensors(model, "forward") as saved:
            model(**training_batch).loss.backward()
        results.append((gradients(model), len(saved)))
    (expected, num_saved), (actual, num_saved_checkpointed) = results
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)
    assert num_saved_checkpointed < 0.6 * num_saved


@pytest.mark.parametrize("fusion_type", FUSED)
def test_gradient_checkpointing_reaches_the_convnext(training_batch, fusion_type):
    saved_counts = []
    for checkpointing in (False, True):
        model = tiny_model(fusion_type).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with count_saved_tensors(model.model.vision_tower.convnext, "forward_intermediates") as saved:
            model(**training_batch).loss.backward()
        saved_counts.append(len(saved))
    assert saved_counts[1] < 0.7 * saved_counts[0]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("part", ["model", "model.vision_tower.vit", "model.language_model"])
def test_gradient_checkpointing_can_be_switched_on_and_off_in_a_sub_model(training_batch, part, stage):
    model = tiny_model()
    model.set_training_stage(stage)
    runs = []  # of a module in each layer that a gradient passes: a layer that checkpoints runs again in the backward pass
    layers = [*model.model.vision_tower.vit.layers[1:], *model.model.language_model.layers]
    for layer in layers:
        layer.mlp.register_forward_pre_hook(lambda module, *_: runs.append(module))
    in_part = set(model.get_submodule(part).modules())
    for is_on in (True, False):
        switch = "gradient_checkpointing_enable" if is_on else "gradient_checkpointing_disable"
        getattr(model.get_submodule(part), switch)()
        model.train()
        runs.clear()
        model(**training_batch).loss.backward()
        assert [runs.count(layer.mlp) for layer in layers] == [
            2 if is_on and layer in in_part else 1 for layer in layers
        ]


@pytest.mark.parametrize("fusion_type", ["none", "cvfm"])
@pytest.mark.parametrize("checkpointing", ["off", "before train()", "after train()"])
@pytest.mark.parametrize("stage", [None, 1, 2])
@pytest.mark.parametrize("mode", [True, False])
def test_forward_changes_no_mode_and_no_flag(training_batch, fusion_type, checkpointing, stage, mode):
    model = tiny_model(fusion_type)
    if stage is not None:
        model.set_training_stage(stage)
    if checkpointing == "before train()":
        model.gradient_checkpointing_enable()
    model.train(mode)
    if checkpointing == "after train()":
        model.gradient_checkpointing_enable()
    before = modes_and_flags(model)
    model(**training_batch).loss.backward()
    assert modes_and_flags(model) == before
    # And they are what they must be: `train()` has nothing left to do.
    model.train(mode)
    assert modes_and_flags(model) == before


def test_forward_reads_from_the_device_equally_often_for_any_number_of_images():
    model, counts = tiny_model(), []
    shapes = [(56, 112), (150, 60)]  # on 1x2 and 3x1 tiles, so that the first has absent views
    for repeats in (1, 5):
        images = [random_image(*shape) for shape in shapes] * repeats
        inputs = tiny_image_processor()(images, return_tensors="pt")
        tokens = int(sum(1 + rows * columns for rows, columns in inputs["image_grids"].tolist())) * 16
        with torch.no_grad(), CountDeviceReads() as reads:
            model(input_ids=torch.full((1, tokens), 3), **inputs, logits_to_keep=1)
        counts.append(reads.calls)
    assert counts[0] == counts[1]
    # The sizes, the grids, the absent views and the number of placeholders.
    assert sorted(counts[0]) == ["__int__", "tolist", "tolist", "tolist"]


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_every_parameter_gets_a_gradient_in_stage_2(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(2)
    model(**training_batch).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_stage_1_trains_only_fusion_and_projector(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(1)
    model(**training_batch).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    prefixes = ("model.vision_tower.fusion.", "model.multi_modal_projector.")
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("fusion_type", FUSED)
def test_stage_1_stores_nothing_for_the_frozen_prefix(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(1)
    tower = model.model.vision_tower
    with (
        count_saved_tensors(tower.convnext, "forward_intermediates") as in_convnext,
        count_saved_tensors(tower.vit.layers[0], "forward") as in_first_layer,
        count_saved_tensors(tower.vit.layers[1], "forward") as in_second_layer,
    ):
        model(**training_batch).loss.backward()
    assert in_convnext == [] and in_first_layer == []
    assert bool(in_second_layer) is (fusion_type == "cvfm")  # fused after the first layer


def test_frozen_parts_are_in_eval_mode_and_stay_there():
    convnext = {"architecture": "convnext_atto", "model_args": {"dims": [8, 12, 16, 20], "drop_path_rate": 0.9}}
    model = tiny_model(convnext_config=convnext)
    model.set_training_stage(1)
    model.train()
    inputs = tiny_image_processor()(random_image(100, 100), return_tensors="pt")
    with torch.no_grad():
        first, second = (model.get_image_features(**inputs).pooler_output[0] for _ in range(2))
    assert torch.equal(first, second)
    active = [
        name for name, module in model.named_modules() if module.training and "drop" in type(module).__name__.lower()
    ]
    assert active == []
    model.set_training_stage(2)
    with torch.no_grad():
        assert not torch.equal(model.get_image_features(**inputs).pooler_output[0], first)


@pytest.mark.parametrize("stage", [1, 2])
def test_generation_after_checkpointed_training_keeps_its_cache(batch, stage):
    model = tiny_model()
    kwargs = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(**batch, **kwargs)
    model.gradient_checkpointing_enable()
    model.set_training_stage(stage)
    model.train().eval()
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.generate(**batch, **kwargs), expected)


def test_frozen_decoder_with_dropout_is_deterministic_in_training(batch):
    text_config = {
        "model_type": "opt",
        "vocab_size": 2048,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dropout": 0.5,
        "tie_word_embeddings": False,
    }
    model = tiny_model(text_config=text_config)
    model.set_training_stage(1)
    model.train()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_stage_1_trains_on_a_batch_without_images(processor):
    batch = FilaDataCollator(processor)([{"messages": chat("Hi", answer="Hello")}])
    model = tiny_model().train()
    model.set_training_stage(1)
    model(**batch).loss.backward()
    assert all(not parameter.grad.any() for parameter in model.model.multi_modal_projector.parameters())


def test_trainer_evaluates_batches_with_and_without_images(processor, tmp_path):
    examples = [
        {"messages": chat(random_image(60, 90), "Read.", answer="x")},
        {"messages": chat("No image.", answer="y")},
        {"messages": chat(random_image(112, 112), "Read.", answer="z")},
    ]
    arguments = TrainingArguments(
        tmp_path,
        per_device_eval_batch_size=1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    shapes = []
    trainer = Trainer(
        tiny_model(),
        arguments,
        data_collator=FilaDataCollator(processor),
        eval_dataset=examples,
        compute_metrics=lambda prediction: shapes.append(prediction.predictions.shape) or {},
    )
    trainer.evaluate()
    assert shapes == [(3, shapes[0][1], 260)]


def test_frozen_tower_passes_gradients_to_its_inputs():
    model = tiny_model().requires_grad_(False)
    inputs = tiny_image_processor()(random_image(100, 90), return_tensors="pt")
    for key in ("pixel_values", "high_res_pixel_values"):
        inputs[key].requires_grad_()
    model.get_image_features(**inputs).pooler_output[0].sum().backward()
    assert inputs["pixel_values"].grad.any() and inputs["high_res_pixel_values"].grad.any()


def test_unknown_training_stage_is_an_error():
    with pytest.raises(ValueError, match="stage=3.*1.*2"):
        tiny_model().set_training_stage(3)


def test_training_loss_equals_the_loss_over_all_logits(training_batch):
    model = tiny_model()
    full = model(**training_batch)
    skipped = model(**training_batch, skip_logits=True)
    assert full.logits.shape[:2] == training_batch["input_ids"].shape and skipped.logits is None
    torch.testing.assert_close(skipped.loss, full.loss)
    full.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.train()
    output = model(**training_batch)
    output.loss.backward()
    assert output.logits is None
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_num_items_in_batch_reaches_the_loss(training_batch):
    model = tiny_model().train()
    num_items = int((training_batch["labels"] != -100).sum())
    loss = model(**training_batch).loss
    torch.testing.assert_close(model(**training_batch, num_items_in_batch=num_items * 4).loss, loss / 4)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_one_step_of_the_stock_trainer_lowers_the_loss(processor, tmp_path, fusion_type, stage):
    processor = tiny_processor(do_dynamic_tiling=stage == 2)
    examples = [
        {"messages": chat(random_image(60, 90, seed), "What is the total?", answer=f"{seed} EUR")} for seed in range(4)
    ]
    model, collator = tiny_model(fusion_type), FilaDataCollator(processor)
    model.set_training_stage(stage)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=examples, eval_dataset=examples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert all(torch.equal(parameter, frozen[name]) for name, parameter in model.named_parameters() if name in frozen)
    assert bool(frozen) is (stage == 1)


def test_static_cache_generates_what_the_default_cache_does(batch):
    model = tiny_model()
    kwargs = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(**batch, **kwargs)
    assert torch.equal(model.generate(**batch, **kwargs, cache_implementation="static"), expected)


def test_generation_without_cache_equals_with_cache(batch):
    model = tiny_model()
    kwargs = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
    assert torch.equal(model.generate(**batch, **kwargs, use_cache=False), model.generate(**batch, **kwargs))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_cache_continues_under_its_old_and_its_new_name(batch, name):
    model = tiny_model()
    token = torch.tensor([[7]] * len(batch["input_ids"]))
    mask = nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    with torch.no_grad():
        cache = cache_of(model(**batch, position_ids=positions[:, :-1], use_cache=True))
        length = cache.get_seq_length()
        step = {"input_ids": token, "attention_mask": mask, "position_ids": positions[:, -1:]}
        logits = model(**step, **{name: cache}).logits
        whole = {**batch, "input_ids": torch.cat([batch["input_ids"], token], dim=1), "attention_mask": mask}
        expected = model(**whole, position_ids=positions).logits[:, -1:]
    assert cache.get_seq_length() == length + 1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_compiled_decoder_gives_the_same_logits(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        model.model.language_model = torch.compile(model.model.language_model, backend="aot_eager")
        actual = model(**batch).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_one_decoding_step_compiles_without_graph_breaks(batch):
    model = tiny_model()
    with torch.no_grad():
        prefill = model(**batch, use_cache=True)
        token = prefill.logits[:, -1:].argmax(dim=-1)
        mask = nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        step = {"input_ids": token, "attention_mask": mask, "position_ids": mask.sum(dim=-1, keepdim=True) - 1}
        compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
        cache, same_cache = (cache_of(output) for output in (prefill, model(**batch, use_cache=True)))
        actual = compiled(**step, past_key_values=cache).logits
        expected = model(**step, past_key_values=same_cache).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_bfloat16_is_close_to_float32(batch, fusion_type):
    model = tiny_model(fusion_type)
    with torch.no_grad():
        expected = model(**batch).logits
        actual = model.to(torch.bfloat16)(**batch).logits
    assert actual.dtype == torch.bfloat16
    similarity = nn.functional.cosine_similarity(actual.float(), expected, dim=-1)
    assert similarity[batch["attention_mask"].bool()].min() > 0.97


def test_saved_model_loads_with_device_map_and_identical_logits(batch, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path, device_map={"": "cpu"})
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
@pytest.mark.parametrize("architecture", ["convnext_atto", "convnextv2_atto", "convnext_atto_rms"])
def test_parameters_missing_from_a_checkpoint_are_initialised(tmp_path, fusion_type, architecture):
    convnext = {"architecture": architecture, "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20]}}
    fresh = tiny_model(fusion_type, trained=False, convnext_config=convnext)
    fresh.save_pretrained(tmp_path, state_dict={"lm_head.weight": fresh.lm_head.weight})
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path)
    for (name, expected), actual in zip(fresh.named_parameters(), loaded.parameters()):
        # Scales and zeros are deterministic, the rest has its standard deviation.
        assert torch.isfinite(actual).all(), name
        if expected.numel() < 500 or expected.std() == 0:
            assert actual.std(correction=0) <= 2 * expected.std(correction=0) + 1e-8, name
        else:
            assert 0.7 < actual.std() / expected.std() < 1.4, name
        if expected.std(correction=0) == 0:
            assert torch.equal(actual, expected), name


def test_resized_embeddings_still_take_images(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        model.resize_token_embeddings(2112)
        actual = model(**batch).logits
    assert actual.shape[-1] == model.config.text_config.vocab_size == 2112
    torch.testing.assert_close(actual[..., :260], expected)


def test_tied_embeddings_are_one_parameter_and_survive_saving(tmp_path):
    config = tiny_config()
    text_config = {**config.text_config.to_dict(), "tie_word_embeddings": True}
    model = tiny_model(text_config=text_config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = FilaForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_lora_on_the_text_model_trains_and_merges(training_batch):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    target = r".*language_model.*\.(q_proj|v_proj)"
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False)).train()
    lora(**training_batch).loss.backward()
    trained = [name for name, parameter in lora.named_parameters() if parameter.grad is not None]
    assert trained and all("language_model" in name and "lora_" in name for name in trained)
    lora.eval()
    inputs = {key: value for key, value in training_batch.items() if key != "labels"}
    with torch.no_grad():
        expected = lora(**inputs).logits
        torch.testing.assert_close(lora.merge_and_unload()(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_logits_to_keep_are_the_last_ones(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, expected[:, -2:])
        torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 5])).logits, expected[:, [0, 5]])


def test_encoded_images_can_be_passed_instead_of_pixels(batch):
    model = tiny_model()
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        encoded = model.get_image_features(**image_inputs(batch))
        assert torch.equal(model(**text, mm_encoder_outputs={"image": encoded}).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="not both"):
        model(**batch, mm_encoder_outputs={"image": encoded})


def test_inputs_embeds_take_images_as_input_ids_do(batch):
    model = tiny_model()
    with torch.no_grad():
        embeds = model.get_input_embeddings()(batch["input_ids"])
        rest = {key: value for key, value in batch.items() if key != "input_ids"}
        assert torch.equal(model(inputs_embeds=embeds, **rest).logits, model(**batch).logits)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**batch, inputs_embeds=embeds)


def test_outputs_carry_image_and_vit_hidden_states(batch):
    model = tiny_model()
    with torch.no_grad():
        outputs = model(**batch, output_hidden_states=True)
        features = model.get_image_features(**image_inputs(batch), output_hidden_states=True)
        as_tuple = model(**batch, return_dict=False)
    assert [len(image) for image in outputs.image_hidden_states] == [48, 64, 80]
    assert len(outputs.hidden_states) == 3
    assert len(features.hidden_states) == 6 and features.last_hidden_state.shape == (3 + 4 + 5, 17, 32)
    assert torch.equal(as_tuple[0], outputs.logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_grids": torch.tensor([[2, 2], [3, 1], [2, 2]])}, "192 image tokens .*, the images give 224 features"),
        ({"image_grids": torch.tensor([[1, 2], [1, 3], [2, 1]])}, r"image_grids\[2\]=\(2, 1\) asks for 3 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [1, 2]])}, r"image_grids\[2\]=\(1, 2\) asks for 3 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [3, 3]])}, r"image_grids\[2\]=\(3, 3\) asks for 10 views"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1], [0, 2]])}, r"image_grids\[2\]=\(0, 2\) is no grid"),
        ({"image_grids": torch.tensor([[1, 2], [3, 1]])}, "holds 3 images, image_grids 2"),
        ({"image_grids": None}, "without image_grids"),
        ({"image_sizes": None}, "without image_sizes"),
        ({"high_res_pixel_values": None}, "high_res_pixel_values is NoneType.*do_high_res=True"),
        ({"high_res_pixel_values": torch.zeros(3, 4, 3, 96, 96)}, r"\(3, 4, 3, 96, 96\).*128, 128"),
        ({"pixel_values": torch.zeros(0, 5, 3, 56, 56)}, "at least one image"),
        ({"image_grids": torch.tensor([1, 2, 3])}, r"\(images, 2\) integers"),
        ({"image_sizes": torch.tensor([[56, 112], [0, 60], [110, 100]])}, r"image_sizes\[1\]=\(0, 60\)"),
        ({"pixel_values": torch.zeros(3, 3, 56, 56)}, r"pixel_values has shape \(3, 3, 56, 56\), expected"),
        ({"pixel_values": torch.zeros(3, 5, 3, 28, 28)}, r"expected \(images, views, 3, 56, 56\)"),
    ],
)
def test_image_inputs_that_disagree_are_refused_before_any_compute(batch, change, message):
    model = tiny_model()

    def never(*_):
        raise AssertionError("computed something")

    model.model.vision_tower.vit.embeddings.register_forward_pre_hook(never)
    model.model.vision_tower.convnext.stem.register_forward_pre_hook(never)
    with pytest.raises(ValueError, match=message):
        model(**{**batch, **change})


def test_placeholder_mismatch_error_gives_both_numbers(batch):
    ids = batch["input_ids"].clone()
    ids[0, (ids[0] == 3).nonzero()[0]] = 5
    with pytest.raises(
        ValueError, match="Image features and image tokens do not match.*191 image tokens.*192 features"
    ):
        tiny_model()(**{**batch, "input_ids": ids})


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_nan_and_overflow_stay_in_their_sample(batch, fusion_type):
    model = tiny_model(fusion_type)
    broken = {key: value.clone() for key, value in batch.items()}
    broken["pixel_values"][1] = float("inf")
    broken["pixel_values"][1, 3:] = 0
    broken["high_res_pixel_values"][1] = float("nan")
    with torch.no_grad():
        expected, actual = model(**batch).logits, model(**broken).logits
        half = model.half()(
            **{**batch, "high_res_pixel_values": broken["high_res_pixel_values"].nan_to_num(1e6)}
        ).logits
    assert not torch.isfinite(actual[1]).all()
    for sample in (0, 2):
        mask = batch["attention_mask"][sample].bool()
        torch.testing.assert_close(actual[sample, mask], expected[sample, mask], atol=1e-5, rtol=1e-4)
        assert torch.isfinite(half[sample, mask]).all()


def test_model_args_that_timm_refuses_are_an_error_of_the_config():
    with pytest.raises(ValueError, match="model_args.*dephts"):
        FilaForConditionalGeneration(tiny_config(convnext_config={"model_args": {"dephts": [1, 1, 1, 1]}}))
    with pytest.raises(ValueError, match="stride"):
        FilaForConditionalGeneration(tiny_config(convnext_config={"model_args": {"patch_size": 3}}))
    with pytest.raises(ValueError, match="projector_hidden_act='gelo'"):
        FilaForConditionalGeneration(tiny_config(projector_hidden_act="gelo"))


def test_only_layers_up_to_the_feature_layer_are_built():
    assert len(tiny_model().model.vision_tower.vit.layers) == 5
    assert len(tiny_model(vision_feature_layer=4).model.vision_tower.vit.layers) == 4
    assert tiny_model("none").model.vision_tower.convnext is None


def test_convnext_gives_timms_own_features():
    model = tiny_model()
    reference = timm.create_model("convnext_atto", num_classes=0, depths=[1, 1, 1, 1], dims=[8, 12, 16, 20]).eval()
    reference.load_state_dict(model.model.vision_tower.convnext.state_dict(), strict=False)
    canvas = torch.randn(1, 3, 256, 128)
    expected = reference.forward_intermediates(canvas, intermediates_only=True)
    actual = model.model.vision_tower.convnext.forward_intermediates(canvas, intermediates_only=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual, expected))


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_parameter_names_and_shapes_are_those_of_the_golden_file(fusion_type):
    """The paper's model, on the meta device. Names may not change without a converter: checkpoints depend on them."""
    with torch.device("meta"):
        model = FilaForConditionalGeneration(FilaConfig(fusion_type=fusion_type))
    actual = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    golden = json.loads((ROOT / "tests" / "golden" / "parameters.json").read_text())
    shared = golden["shared"] if fusion_type == "none" else {**golden["shared"], **golden["convnext"]}
    assert actual == {**shared, **golden[fusion_type]}


@pytest.mark.slow
def test_text_only_batch_in_distributed_training_touches_every_vision_parameter():
    """Two processes, one with images on two canvases, the other with text only: DDP waits for the gradient of each parameter,
    FSDP for each call of a sharded part."""
    script = Path(__file__).parent / "distributed_step.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", str(script)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("gradients agree") == 2
