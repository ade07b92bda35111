# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows that nobody can train on or evaluate, each wrong in one place, for the tests of the commands that read rows."""

import copy
import io

import PIL.Image

from helpers import random_image

LLAVA = {
    "image": "good.png",
    "conversations": [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cup."}],
}
CHAT = {
    "messages": [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
    ],
    "images": ["good.png"],
}
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PPM", "TGA", "JPEG2000", "PCX", "SGI", "ICO", "DDS")

SCALARS = [None, True, 7, 2.5, "", "text"]
NOT_OBJECTS = [*SCALARS, [], ["x"], [None]]
NOT_TURNS = [*NOT_OBJECTS, {}, {"a": 1}, [[]], [{}]]
NOT_TEXT = [True, "\ud800", float("nan"), float("inf"), {}, {"a": 1}]
NOT_ITEMS = [["x"], [None], [7], [[]], [{}], [{"text": "x"}], [{"type": "video"}]]
NO_ANSWER = [None, "", " \n", [], *NOT_TEXT, *NOT_ITEMS]
NOT_IMAGES = [True, 7, 2.5, "", [], ["x"], [None], {}, {"a": 1}, [[]], [{}], "missing.png", "folder", "a\0b"]
NOT_IMAGES += [["good.png"] * 2, {"bytes": "text"}, {"bytes": [1, 2]}, {"bytes": None}, {"path": 7}, {"path": ""}]

# What a value of a row is replaced with: the path to it, and values of which each makes the row wrong.
LLAVA_FAULTS = [
    (("image",), [None, *NOT_IMAGES]),
    (("conversations",), NOT_TURNS),
    *((("conversations", turn), [*NOT_OBJECTS, {}, {"a": 1}]) for turn in (0, 1)),
    *((("conversations", turn, "from"), [*NOT_TURNS, "Human", ["human"]]) for turn in (0, 1)),
    (("conversations", 0, "value"), [None, 7, 2.5, "", "text", "<image><image>", [], *NOT_TEXT, *NOT_ITEMS]),
    (("conversations", 1, "value"), NO_ANSWER),
]
CHAT_FAULTS = [
    (("images",), [None, *NOT_IMAGES]),
    (("images", 0), [image for image in NOT_IMAGES if image != ["good.png"] * 2]),
    (("messages",), NOT_TURNS),
    *((("messages", turn), [*NOT_OBJECTS, {}, {"a": 1}]) for turn in (0, 1)),
    *((("messages", turn, "role"), [*NOT_TURNS, "User", ["user"]]) for turn in (0, 1)),
    (("messages", 0, "content"), [*NOT_TEXT, *NOT_ITEMS]),
    (("messages", 1, "content"), NO_ANSWER),
    *((("messages", 0, "content", item), [*NOT_OBJECTS, {}, {"a": 1}]) for item in (0, 1)),
    *((("messages", 0, "content", item, "type"), [None, True, 7, "", [], ["text"], {}, "video"]) for item in (0, 1)),
    (("messages", 0, "content", 1, "text"), [*NOT_TEXT, [], ["x"], [None]]),
    (("messages", 1, "content", 0, "text"), [None, "", *NOT_TEXT, [], ["x"], [None]]),
]


def malformed_rows(folder):
    """Rows that are wrong, in the two kinds that are read, and the images they name.

    Args:
        folder (`Path`): where the images are written; relative paths of the rows start there. `good.png` is one that can
            be read.

    Yields:
        what a row of a JSON file may be; objects, for the most part.
    """
    random_image(60, 90).save(folder / "good.png")
    (folder / "folder").mkdir()
    yield from (None, True, 7, "text", [], ["x"], {}, {"prompt": "What?", "answer": "A cup."})
    for base, faults in ((LLAVA, LLAVA_FAULTS), (CHAT, CHAT_FAULTS)):
        for path, values in faults:
            for value in values:
                row = copy.deepcopy(base)
                parent = row
                for key in path[:-1]:
                    parent = parent[key]
                parent[path[-1]] = value
                yield row
    for name, data in broken_images():
        (folder / name).write_bytes(data)
        yield LLAVA | {"image": name}


def broken_images():
    """Yields names and contents of image files that cannot be read, or not to their end."""
    for kind in FORMATS:
        file = io.BytesIO()
        random_image(64, 96).save(file, kind)
        data = file.getvalue()
        yield f"half.{kind.lower()}", data[: len(data) // 2]
        yield f"header.{kind.lower()}", data[:20]
    file = io.BytesIO()
    PIL.Image.new("1", (14000, 14000)).save(file, "PNG")
    yield "bomb.png", file.getvalue()
    file = io.BytesIO()
    random_image(64, 96).save(file, "AVIF")
    data = file.getvalue()
    media = data.index(b"mdat") + 4
    yield "corrupt.avif", data[:media] + bytes(byte ^ 0x5A for byte in data[media:])
    yield "empty.png", b""
    yield "text.png", b"no image"
