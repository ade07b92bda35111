# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tvF
from transformers import LlavaNextImageProcessor
from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

from fila import FilaImageProcessor
from fila.common.layout import image_grid_pinpoints
from fila.configuration_fila import get_content_box
from helpers import GRIDS, MORE_GRIDS, make_pinpoints, random_image, tiny_image_processor, tiny_model

SIDES = st.integers(20, 4000)


def tied_canvases(height, width, pinpoints):
    """The canvases with the largest effective resolution and, among those, the least waste."""

    def criteria(canvas):
        scale = min(canvas[1] / width, canvas[0] / height)
        effective = min(int(width * scale) * int(height * scale), height * width)
        return effective, effective - canvas[0] * canvas[1]

    best = max(map(criteria, pinpoints))
    return [canvas for canvas in pinpoints if criteria(canvas) == best]


def plain_tiles(image, canvas_size, tile_size, mean, std):
    """The obvious way: resize, pad, cut, then rescale and normalise with transformers' own methods."""
    processor = LlavaNextImageProcessor()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    height, width = get_patch_output_size(pixels, canvas_size, "channels_first")
    pixels = tvF.resize(pixels, [height, width], interpolation=tvF.InterpolationMode.BICUBIC, antialias=True)
    top, left = (canvas_size[0] - height) // 2, (canvas_size[1] - width) // 2
    pixels = tvF.pad(pixels, [left, top, canvas_size[1] - width - left, canvas_size[0] - height - top])
    rows, columns = canvas_size[0] // tile_size, canvas_size[1] // tile_size
    tiles = (
        pixels.view(3, rows, tile_size, columns, tile_size).permute(1, 3, 0, 2, 4).reshape(-1, 3, tile_size, tile_size)
    )
    return processor.rescale_and_normalize(tiles, True, 1 / 255, True, tuple(mean), tuple(std))


@settings(max_examples=20, deadline=None)
@given(height=SIDES, width=SIDES)
def test_views_equal_llava_next_where_no_canvases_tie(height, width):
    assume(len(tied_canvases(height, width, image_grid_pinpoints(336))) == 1)
    image = random_image(height, width)
    peer = LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    expected = peer(image, return_tensors="pt")
    actual = FilaImageProcessor(do_high_res=False)(image, return_tensors="pt")
    assert "high_res_pixel_values" not in actual
    assert actual["image_sizes"].tolist() == expected["image_sizes"].tolist() == [[height, width]]
    torch.testing.assert_close(actual["pixel_values"], expected["pixel_values"])


LISTS = st.lists(st.sampled_from(MORE_GRIDS), min_size=1, unique=True)


@given(height=st.integers(1, 6000), width=st.integers(1, 6000), grids=st.one_of(st.just(GRIDS), LISTS))
@example(5000, 1, GRIDS)
@example(100, 4, GRIDS)
@example(4, 100, GRIDS)
@example(300, 200, GRIDS)
@example(2339, 1654, MORE_GRIDS)
def test_the_canvas_is_the_tightest_and_among_those_the_nearest_in_shape(height, width, grids):
    pinpoints = make_pinpoints(grids, 336)
    tied = tied_canvases(height, width, pinpoints)
    rows, columns = FilaImageProcessor(image_grid_pinpoints=pinpoints).get_image_grid(height, width)
    assert [336 * rows, 336 * columns] in tied
    if len(tied) == 1:
        assert tuple(tied[0]) == select_best_resolution((height, width), pinpoints)
    elif grids == GRIDS and height != width:
        assert (rows > columns) == (height > width)
    distances = {canvas[0] / canvas[1]: abs(np.log(canvas[0] / canvas[1] * width / height)) for canvas in tied}
    assert distances[rows / columns] == pytest.approx(min(distances.values()))


@given(height=st.integers(1, 6000), width=st.integers(1, 6000), more=st.sets(st.sampled_from(MORE_GRIDS)))
@example(336, 337, set(MORE_GRIDS))
@example(100, 100, set(MORE_GRIDS))
def test_more_canvases_never_blow_up_what_fits_one_of_the_five(height, width, more):
    few, many = (make_pinpoints(grids, 336) for grids in (GRIDS, sorted({*GRIDS, *more})))
    scales, counts, kept = [], [], []
    for pinpoints in (few, many):
        rows, columns = FilaImageProcessor(image_grid_pinpoints=pinpoints).get_image_grid(height, width)
        scales.append(min(336 * rows / height, 336 * columns / width))
        counts.append(rows * columns)
        kept.append(min(scales[-1], 1))
    assume(min(height, width) * kept[0] >= 1)  # of what becomes thinner than a pixel, transformers keeps nothing anyway
    assert kept[1] >= kept[0] * 0.999  # sizes are rounded to whole pixels
    if scales[0] >= 1:
        assert scales[1] <= scales[0] and counts[1] <= counts[0]
    if len(many) == len(MORE_GRIDS):  # all up to 4x4: no tile more than the pixels of the image fill
        filled = (min(-(-side // 336), 4) for side in (height, width))
        assert counts[1] <= np.prod(list(filled))


def test_a_page_of_a4_gets_a_canvas_of_its_shape():
    processor = FilaImageProcessor(image_grid_pinpoints=make_pinpoints(MORE_GRIDS, 336))
    for height, width in ((2339, 1654), (3508, 2480), (1344, 950)):  # 200 and 300 dpi
        assert processor.get_image_grid(height, width) == (4, 3)
        assert processor.get_image_grid(width, height) == (3, 4)
        assert processor.get_number_of_image_tokens(height, width) == 13 * 576


@pytest.mark.parametrize("grids", [GRIDS, MORE_GRIDS], ids=["five", "up to 4x4"])
@pytest.mark.parametrize("size", [(480, 640), (1, 1), (1, 700), (700, 1), (333, 100), (90, 400), (768, 768)])
def test_both_canvases_equal_the_plain_way_bit_by_bit_also_as_bytes(size, grids):
    image = random_image(*size)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    statistics = {"image_mean": mean, "image_std": std, "high_res_image_mean": mean, "high_res_image_std": std}
    processor = tiny_image_processor(image_grid_pinpoints=make_pinpoints(grids), **statistics)
    inputs = processor(image, return_tensors="pt")
    raw = processor(image, return_tensors="pt", do_rescale=False, do_normalize=False)
    rows, columns = inputs["image_grids"][0].tolist()
    for key, side in {"pixel_values": 56, "high_res_pixel_values": 56 // 14 * 32}.items():
        expected = plain_tiles(image, (rows * side, columns * side), side, mean, std)
        normalized = processor.rescale_and_normalize(raw[key], True, 1 / 255, True, mean, std)
        for views in (inputs[key], normalized):
            assert torch.equal(views[0, -len(expected) :], expected)


@given(height=st.integers(1, 6000), width=st.integers(1, 6000), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_content_box_equals_transformers_output_size_and_is_centred(height, width, rows, columns):
    canvas = (rows * 336, columns * 336)
    top, left, box_height, box_width = get_content_box((height, width), canvas)
    meta = torch.empty(3, height, width, device="meta")
    assert (box_height, box_width) == get_patch_output_size(meta, canvas, "channels_first")
    assert 0 <= canvas[0] - box_height - 2 * top <= 1 and 0 <= canvas[1] - box_width - 2 * left <= 1


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=4),
    grids=st.one_of(st.just(GRIDS), LISTS),
)
def test_counting_methods_agree_with_the_tensors(sizes, grids):
    processor = tiny_image_processor(image_grid_pinpoints=make_pinpoints(grids))
    inputs = processor([random_image(*size) for size in sizes], return_tensors="pt")
    grids = [processor.get_image_grid(*size) for size in sizes]
    num_tiles = [rows * columns for rows, columns in grids]
    assert inputs["image_grids"].tolist() == [list(grid) for grid in grids]
    assert inputs["pixel_values"].shape == (len(sizes), 1 + max(num_tiles), 3, 56, 56)
    assert inputs["high_res_pixel_values"].shape == (len(sizes), max(num_tiles), 3, 128, 128)
    for index, (size, count) in enumerate(zip(sizes, num_tiles)):
        assert processor.get_number_of_image_patches(*size) == 1 + count
        assert processor.get_number_of_image_tokens(*size) == (1 + count) * 16
        assert not inputs["pixel_values"][index, 1 + count :].any()
        assert not inputs["high_res_pixel_values"][index, count:].any()


def test_default_canvases_are_those_of_the_paper():
    canvases = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    assert FilaImageProcessor().image_grid_pinpoints == canvases == image_grid_pinpoints(336)


def test_every_canvas_of_the_paper_is_chosen_for_an_image_that_fits_it():
    processor = FilaImageProcessor()
    assert [processor.get_image_grid(336 * rows, 336 * columns) for rows, columns in GRIDS] == GRIDS


def test_images_do_not_depend_on_their_batch():
    processor = tiny_image_processor()
    images = [random_image(100, 40, 1), random_image(50, 300, 2), random_image(99, 98, 3)]
    batch = processor(images, return_tensors="pt")
    for index, image in enumerate(images):
        alone = processor(image, return_tensors="pt")
        for key in ("pixel_values", "high_res_pixel_values"):
            num_views = alone[key].shape[1]
            assert torch.equal(batch[key][index, :num_views], alone[key][0])


def test_low_resolution_mode_stretches_the_whole_image():
    image = random_image(90, 200)
    inputs = tiny_image_processor(do_dynamic_tiling=False)(image, return_tensors="pt")
    assert inputs["image_grids"].tolist() == [[0, 0]]
    assert inputs["pixel_values"].shape == (1, 1, 3, 56, 56)
    assert inputs["high_res_pixel_values"].shape == (1, 1, 3, 128, 128)
    tiled = tiny_image_processor()(image, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"][0, 0], tiled["pixel_values"][0, 0])


def test_arrays_tensors_and_grayscale_give_what_the_pil_image_gives():
    processor = tiny_image_processor()
    image = random_image(100, 120)
    expected = processor(image, return_tensors="pt")["high_res_pixel_values"]
    array = np.array(image)
    for same in (array, array.transpose(2, 0, 1), torch.from_numpy(array).permute(2, 0, 1)):
        assert torch.equal(processor(same, return_tensors="pt")["high_res_pixel_values"], expected)
    gray = image.convert("L")
    expected = processor(gray.convert("RGB"), return_tensors="pt")["pixel_values"]
    for same in (gray, np.array(gray), np.array(gray)[None], np.array(gray)[..., None]):
        torch.testing.assert_close(processor(same, return_tensors="pt")["pixel_values"], expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_pil_modes_give_what_llava_next_gives(mode):
    image = random_image(60, 80).convert(mode)
    pinpoints = image_grid_pinpoints(56)
    peer = LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints
    )
    expected = peer(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(tiny_image_processor()(image, return_tensors="pt")["pixel_values"], expected)


def test_float_images_in_unit_range_equal_uint8_images():
    array = np.array(random_image(56, 112))
    processor = tiny_image_processor()
    expected = processor(array, return_tensors="pt")["pixel_values"]
    actual = processor(array.astype(np.float32) / 255, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(actual, expected, atol=0.05, rtol=0)  # uint8 resizing rounds


def test_nested_lists_and_image_batches_are_flattened_in_order():
    processor = tiny_image_processor()
    first, second, third = (random_image(64, 80, seed) for seed in range(3))
    flat = processor([first, second, third], return_tensors="pt")["pixel_values"]
    assert torch.equal(processor([[first], [second, third]], return_tensors="pt")["pixel_values"], flat)
    stacked = np.stack([np.array(image) for image in (first, second, third)])
    assert torch.equal(processor(stacked, return_tensors="pt")["pixel_values"], flat)


def test_extreme_aspect_ratios_are_encoded():
    inputs = FilaImageProcessor()(
        [random_image(1, 1), random_image(1, 5000), random_image(5000, 1)], return_tensors="pt"
    )
    assert torch.isfinite(inputs["pixel_values"]).all()
    assert torch.isfinite(inputs["high_res_pixel_values"]).all()
    images = [random_image(1, 1), random_image(1, 5000), random_image(5000, 1)]
    with torch.no_grad():
        features = tiny_model().get_image_features(**tiny_image_processor()(images, return_tensors="pt")).pooler_output
    assert all(torch.isfinite(image).all() and len(image) > 16 for image in features)


def test_switches_for_rescaling_and_normalising():
    image = PIL.Image.new("RGB", (112, 56), (10, 20, 250))
    processor = tiny_image_processor()
    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert raw[0, 1, :, 5, 5].tolist() == [10, 20, 250]
    scaled = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(scaled, raw / 255)
    centred = processor(
        image, do_rescale=False, image_mean=[10.0, 20.0, 250.0], image_std=[1.0, 1.0, 1.0], return_tensors="pt"
    )
    assert not centred["pixel_values"][0, 1].any()


def test_padding_off_returns_lists_without_absent_views():
    inputs = tiny_image_processor()([random_image(56, 112), random_image(112, 112)], do_pad=False)
    assert [views.shape[0] for views in inputs["pixel_values"]] == [3, 5]
    assert [views.shape[0] for views in inputs["high_res_pixel_values"]] == [2, 4]


def test_geometry_follows_size_and_patch_size():
    processor = FilaImageProcessor(size=224, image_grid_pinpoints=[[224, 448], [448, 448]])
    inputs = processor(random_image(300, 310), return_tensors="pt")
    assert inputs["pixel_values"].shape[-1] == 224
    assert inputs["high_res_pixel_values"].shape[-1] == 512
    assert processor.get_number_of_image_tokens(300, 310) == 5 * 16 * 16


def test_arguments_of_one_call_override_the_attributes():
    processor = tiny_image_processor()
    inputs = processor(random_image(100, 100), size=28, image_grid_pinpoints=[[28, 84]], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 4, 3, 28, 28)
    assert processor.get_image_grid(100, 100, {"do_dynamic_tiling": False}) == (0, 0)
    assert tiny_image_processor()(random_image(9, 9), resample=2, return_tensors="np")["image_grids"].dtype.kind == "i"


def test_processor_survives_a_save_load_round_trip(tmp_path):
    processor = tiny_image_processor(high_res_image_mean=[0.5, 0.5, 0.5], do_dynamic_tiling=False)
    processor.save_pretrained(tmp_path)
    loaded = FilaImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict()
    image = random_image(70, 90)
    first, second = (p(image, return_tensors="pt")["high_res_pixel_values"] for p in (processor, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "Image 1 of the batch is a NoneType"),
        (3, "Image 1 of the batch is a int"),
        (np.zeros((0, 5, 3), np.uint8), r"Image 1 of the batch has shape \(0, 5, 3\): it has no pixels"),
        (PIL.Image.new("RGB", (0, 5)), "Image 1 of the batch has shape.*no pixels"),
        (np.zeros((2,), np.uint8), "Image 1 of the batch has shape"),
        ("missing.png", "Image 1 of the batch, 'missing.png', could not be read"),
        (np.zeros((2, 9, 9), np.uint8), r"Image 1 of the batch has shape \(2, 9, 9\).*channels"),
    ],
)
def test_bad_image_error_names_its_place_in_the_batch(bad, message):
    with pytest.raises(ValueError, match=message):
        tiny_image_processor()([random_image(9, 9), bad], return_tensors="pt")


@pytest.mark.parametrize("images", [[], [[]], np.zeros((0, 9, 9, 3), np.uint8)])
def test_no_image_at_all_is_an_error(images):
    with pytest.raises(ValueError, match="list of images is empty"):
        tiny_image_processor()(images)


def test_flipped_arrays_and_tensors_with_gradients_are_images_too():
    processor = tiny_image_processor()
    array = np.array(random_image(60, 80))
    expected = processor(np.ascontiguousarray(array[..., ::-1]), return_tensors="pt")["pixel_values"]
    assert torch.equal(processor(array[..., ::-1], return_tensors="pt")["pixel_values"], expected)
    tensor = torch.rand(3, 60, 80, requires_grad=True)
    assert not processor(tensor, do_rescale=False, return_tensors="pt")["pixel_values"].requires_grad


def test_device_argument_places_the_tensors():
    inputs = tiny_image_processor()(random_image(60, 80), device="cpu", return_tensors="pt")
    assert inputs["pixel_values"].device.type == "cpu"


def test_truncated_file_error_names_its_place_in_the_batch(tmp_path):
    random_image(64, 64).save(tmp_path / "whole.png")
    content = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "half.png").write_bytes(content[: len(content) // 2])
    for image in (PIL.Image.open(tmp_path / "half.png"), str(tmp_path / "half.png")):
        with pytest.raises(ValueError, match="Image 1 of the batch"):
            tiny_image_processor()([random_image(9, 9), image])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"do_resize": False}, "do_resize=False"),
        ({"do_center_crop": True, "crop_size": 56}, "do_center_crop=True"),
        ({"size": {"height": 56, "width": 112}}, "square tiles"),
        ({"size": 57}, "multiple of patch_size"),
        ({"image_grid_pinpoints": [[56, 100]]}, r"\[\[56, 100\]\].*multiples of the tile size 56"),
        ({"image_grid_pinpoints": []}, "image_grid_pinpoints"),
        ({"high_res_image_mean": [0.5, 0.5]}, r"\[0.5, 0.5\].*one number or 3"),
    ],
)
def test_arguments_that_contradict_the_geometry_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_image_processor()(random_image(60, 60), **arguments)
