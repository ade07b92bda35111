# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""training/rows.py: rows of both formats, and what is wrong with others."""

import io
import math

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import llava

from fila import FilaDataCollator, FilaImageProcessor
from fila.common.images import EXIF_ORIENTATION, decode_image
from fila.processing_fila import SequenceTooLongError
from fila.training.data import check_row
from fila.training.rows import read_row
from helpers import ROOT, chat, random_image


def test_llava_rows():
    example = read_row(llava("<image>\nWhat?", "A cup.", "And <image>?", "Two.", image=["a.png", "b.png"]), "/data")
    assert example["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And "},
                {"type": "image", "text": None},
                {"type": "text", "text": "?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
    ]
    assert example["images"] == [{"bytes": None, "path": "/data/a.png"}, {"bytes": None, "path": "/data/b.png"}]


def test_chat_rows():
    image, answer = {"bytes": b"png", "path": None}, {"role": "assistant", "content": "A cup."}
    items = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    for content in (items, "<image>What?", "What?"):  # items, the placeholder, and TRL's way: images come first
        example = read_row({"messages": [{"role": "user", "content": content}, answer], "images": [image]})
        assert example["messages"][0]["content"] == items
        assert example["images"] == [image]
    inline = [{"type": "image", "path": "/a.png"}, {"type": "text", "text": "What?"}]
    example = read_row({"messages": [{"role": "user", "content": inline}, answer]})
    assert example["messages"][0]["content"] == items
    assert example["images"] == [{"bytes": None, "path": "/a.png"}]


def test_a_literal_placeholder_in_a_chat_without_images_is_text():
    row = {"messages": [{"role": "user", "content": "What is <image>?"}, {"role": "assistant", "content": "A tag."}]}
    assert read_row(row)["messages"][0]["content"] == [{"type": "text", "text": "What is <image>?"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "answer": "b"}, r"neither 'messages' nor 'conversations', only .*'answer', 'prompt'"),
        (llava("Hi", "Ho", "Hi"), "has the roles user, assistant, user; .* take turns"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "has the roles assistant"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "turn of 'bot'; allowed are human"),
        ({"conversations": []}, "has the roles none"),
        (llava("<image>\nHi", "Ho"), "has 1 places for images .* but 0 images"),
        (llava("Hi", "Ho", image="a.png"), "has 0 places for images .* but 1 images"),
        (llava("Hi", " \n"), "has an empty answer"),
        (llava("<image>Hi", "Ho", image=7), "has an image of int"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "item of type 'video'"),
    ],
)
def test_broken_rows_say_what_is_wrong(row, message):
    with pytest.raises(ValueError, match=message):
        read_row(row)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(20, 300), width=st.integers(20, 300), orientation=st.sampled_from([1, 3, 6, 8]), text=st.text()
)
def test_checked_length_is_the_length_of_the_batch(height, width, orientation, text, processor):
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file = io.BytesIO()
    random_image(height, width).save(file, "JPEG", exif=exif)
    row = {"messages": chat(text, answer="x" + text), "images": [{"bytes": file.getvalue(), "path": None}]}
    row["messages"][0]["content"].append({"type": "image"})
    collator = FilaDataCollator(processor)
    found = check_row(row, collator)
    example = read_row(row)
    images = [decode_image(image) for image in example["images"]]
    batch = collator([{"messages": example["messages"], "images": images}])
    assert found == {"length": batch["input_ids"].shape[1], "problem": ""}
    assert batch["image_sizes"].tolist() == [[width, height] if orientation > 4 else [height, width]]


@settings(max_examples=40, deadline=None)
@given(max_length=st.integers(20, 400), words=st.integers(0, 60), answer=st.integers(1, 200), late=st.booleans())
def test_text_is_cut_and_images_are_not(max_length, words, answer, late, processor):
    image = random_image(56, 112)
    messages = chat(*([image] if not late else []), "word " * words, *([image] if late else []), answer="so " * answer)
    whole = FilaDataCollator(processor)([{"messages": messages}])
    ids, labels = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
    num_image_tokens = ids.count(processor.image_token_id)
    collator = FilaDataCollator(processor, max_length=max_length)
    try:
        cut = collator([{"messages": messages}])
    except SequenceTooLongError as error:
        is_image = [token == processor.image_token_id for token in ids]
        first_answer = next(position for position, label in enumerate(labels) if label != -100)
        images_after = sum(is_image[first_answer:])
        assert num_image_tokens > max_length or first_answer + 1 + images_after > max_length
        assert f"max_length={max_length}" in str(error)
        return
    cut_ids = cut["input_ids"][0].tolist()
    assert len(cut_ids) == min(len(ids), max_length)
    assert cut_ids.count(processor.image_token_id) == num_image_tokens
    text = [token for token in ids if token != processor.image_token_id]
    cut_text = [token for token in cut_ids if token != processor.image_token_id]
    assert cut_text == text[: len(cut_text)]
    # Every label stands under its own token still.
    for token, label in zip(cut_ids, cut["labels"][0].tolist()):
        assert label in (-100, token)
    assert (cut["labels"] != -100).any()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "1", "I;16", "CMYK"])
def test_images_are_decoded_in_training_as_in_inference(tmp_path, mode):
    image = random_image(30, 40)
    if mode == "I;16":
        image = PIL.Image.fromarray(np.arange(0, 60_000, 50, dtype=np.uint16).reshape(30, 40))
    elif mode == "P":
        image = image.quantize(16)
        image.info["transparency"] = 3
    elif mode in ("RGBA", "LA"):
        image.putalpha(image.convert("L"))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    path = str(tmp_path / ("image.tif" if mode == "CMYK" else "image.png"))
    image.save(path)
    decoded = decode_image({"path": path, "bytes": None})
    inputs = [FilaImageProcessor()(item, return_tensors="pt")["pixel_values"] for item in (path, image, decoded)]
    assert inputs[0].equal(inputs[1])
    assert inputs[0].equal(inputs[2])


def to_jpeg(image, orientation=1, **options):
    exif, file = PIL.Image.Exif(), io.BytesIO()
    exif[EXIF_ORIENTATION] = orientation
    image.save(file, "JPEG", quality=90, exif=exif, **options)
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def wall():
    """Pages side by side, 2400x2400 pixels of text at the size at which it was rendered."""
    pages = [PIL.Image.open(path) for path in sorted((ROOT / "fineprint/foreign/pages").glob("*.png"))[::6]]
    image, places = (
        PIL.Image.new("RGB", (2400, 2400)),
        [(x, y) for y in range(0, 2400, 600) for x in range(0, 2400, 600)],
    )
    for page, place in zip(pages, places):
        image.paste(page, place)
    return image


@settings(max_examples=40, deadline=None)
@given(
    sides=st.tuples(*[st.integers(1, 150)] * 2),
    factor=st.sampled_from([1, 2, 4, 8, 16]),
    orientation=st.integers(1, 8),
    options=st.sampled_from([{}, {"progressive": True}, {"subsampling": 0}]),
    do_dynamic_tiling=st.booleans(),
    do_high_res=st.booleans(),
)
def test_a_jpeg_decoded_at_a_part_of_its_size_gives_nearly_the_same_pixels(
    sides, factor, orientation, options, do_dynamic_tiling, do_high_res, wall
):
    processor = FilaImageProcessor(
        size={"height": 56, "width": 56},
        image_grid_pinpoints=[[56, 112], [112, 56], [112, 112], [56, 168], [168, 56]],
        do_dynamic_tiling=do_dynamic_tiling,
        do_high_res=do_high_res,
    )
    jpeg = to_jpeg(wall.crop((0, 0, sides[0] * factor, sides[1] * factor)), orientation, **options)
    whole, reduced = decode_image(jpeg), decode_image(jpeg, processor)
    scale = whole.width // reduced.width
    assert scale in (1, 2, 4, 8)
    assert whole.size == (scale * reduced.width, scale * reduced.height)
    inputs, others = (
        processor(image, return_tensors="pt", do_rescale=False, do_normalize=False) for image in (whole, reduced)
    )
    (grid,) = inputs["image_grids"].tolist()
    assert others["image_grids"].tolist() == [grid]
    if scale > 1:  # it still has every pixel that views and canvas ask for
        side = 128 if do_high_res else 56
        fit = min(side * grid[0] / whole.height, side * grid[1] / whole.width)
        needed = [math.ceil(length * fit - 1e-6) for length in whole.size] if any(grid) else [side, side]
        assert all(length >= max(least, 56) for length, least in zip(reduced.size, needed))
    for key in ("pixel_values", "high_res_pixel_values")[: 1 + do_high_res]:
        difference = (inputs[key].int() - others[key].int()).abs().float()
        assert difference.mean() <= 3  # of 255
        assert difference.max() <= 100  # the edge of a letter that is a pixel wide


def test_only_large_jpegs_are_decoded_at_a_part_of_their_size(wall):
    processor = FilaImageProcessor()  # the paper's canvases: up to 1536x1536 pixels, or 768x2304
    for size, scale in {(2400, 1080): 1, (3072, 3072): 2, (3073, 3072): 1, (6144, 4608): 4, (1536, 1536): 1}.items():
        jpeg = to_jpeg(PIL.Image.new("RGB", size))
        assert decode_image(jpeg, processor).size == (size[0] // scale, size[1] // scale)
    file = io.BytesIO()
    wall.save(file, "PNG", compress_level=0)
    assert decode_image({"bytes": file.getvalue(), "path": None}, processor).size == wall.size
