# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""training/rows.py: rows of both formats, and what is wrong with others."""

import io

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainings import llava

from fila import FilaDataCollator, FilaImageProcessor
from fila.processing_fila import SequenceTooLongError
from fila.training.data import check_row
from fila.training.rows import EXIF_ORIENTATION, decode_image, read_row
from helpers import chat, random_image


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
