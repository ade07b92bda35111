# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The hybrid encoder: what ViT, ConvNeXt and fusion compute."""

import threading
from itertools import product

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPVisionModel

from fila.modeling_fila import FilaStageAlign
from helpers import (
    FUSION_TYPES,
    GRIDS,
    MORE_GRIDS,
    make_pinpoints,
    random_image,
    tiny_image_processor,
    tiny_model,
)

FUSED = [fusion_type for fusion_type in FUSION_TYPES if fusion_type != "none"]


def image_features(model, *images, **kwargs):
    inputs = tiny_image_processor(**kwargs)(list(images), return_tensors="pt")
    with torch.no_grad():
        return model.get_image_features(**inputs).pooler_output


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
@pytest.mark.parametrize(
    ("fusion_type", "grid"), [*product(FUSED, [(0, 0), *GRIDS]), ("cvfm", (3, 4))], ids=lambda value: str(value)
)
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
    pinpoints = make_pinpoints(GRIDS if grid in GRIDS else MORE_GRIDS, tile_size)
    processor = tiny_image_processor(tile_size, do_dynamic_tiling=grid != (0, 0), image_grid_pinpoints=pinpoints)
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


@pytest.mark.parametrize("fusion_type", ["cvfm", "cross_attention"])
def test_fusion_maps_are_the_change_of_each_token(fusion_type):
    images = [random_image(100, 90), random_image(50, 150)]  # 2 x 2 and 1 x 3 tiles of 4 x 4 tokens
    inputs = tiny_image_processor()(images, return_tensors="pt")
    model = tiny_model(fusion_type, trained=False)
    assert all(not values.any() for maps in model.get_fusion_maps(**inputs) for values in maps.values())
    update = torch.linspace(-1, 1, 32)
    modules = model.model.vision_tower.fusion
    for module in modules:
        last = module.linear_2 if fusion_type == "cvfm" else module.out_proj
        last.bias.data.copy_(update)  # the weights are zero, so this is what every token gets
    with torch.no_grad():
        states = model.get_image_features(**inputs, output_hidden_states=True).hidden_states
    layers = model.config.fusion_layers if fusion_type == "cvfm" else [-1]
    expected = torch.stack([update.norm() / (states[layer][:, 1:] - update).norm(dim=-1) for layer in layers], dim=1)
    maps = model.get_fusion_maps(**inputs)
    assert [set(image) for image in maps] == [{"global_view", "canvas"}] * 2
    for image, views, (rows, columns) in zip(maps, expected.split([5, 4]), inputs["image_grids"].tolist()):
        torch.testing.assert_close(image["global_view"].flatten(1), views[0])
        assert image["canvas"].shape == (len(modules), rows * 4, columns * 4)
        for tile, values in enumerate(views[1:]):
            row, column = divmod(tile, columns)
            part = image["canvas"][:, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
            torch.testing.assert_close(part.flatten(1), values)


def test_fusion_maps_of_images_that_are_not_tiled_and_of_other_strategies():
    inputs = tiny_image_processor(do_dynamic_tiling=False)(random_image(100, 90), return_tensors="pt")
    (maps,) = tiny_model().get_fusion_maps(**inputs)
    assert {name: values.shape for name, values in maps.items()} == {"global_view": (4, 4, 4)}
    for fusion_type in ("none", "channel_concat"):
        with pytest.raises(ValueError, match=f"fusion_type='{fusion_type}' adds nothing to the tokens"):
            tiny_model(fusion_type).get_fusion_maps(**inputs)


def test_fusion_maps_are_those_of_their_own_thread():
    """An app serves several people with one model."""
    model, process = tiny_model(), tiny_image_processor()
    inputs, others = (process(random_image(*size), return_tensors="pt") for size in ((100, 90), (50, 150)))
    (expected,) = model.get_fusion_maps(**inputs)
    is_done = threading.Event()

    def run_others():
        with torch.no_grad():
            while not is_done.is_set():
                model.get_image_features(**others)

    thread = threading.Thread(target=run_others)
    thread.start()
    try:
        for _ in range(10):
            (maps,) = model.get_fusion_maps(**inputs)
            assert all(maps[view].equal(expected[view]) for view in expected)
    finally:
        is_done.set()
        thread.join()
