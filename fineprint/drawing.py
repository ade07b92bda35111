# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Draws pages of the fine-print benchmark, and makes samples of them: image, conversation, labels."""

import io
import random
from functools import cache

import numpy as np
import PIL.Image
from datasets import Features, Image, List, Value
from PIL import ImageDraw, ImageFilter, ImageOps

from fila.fineprint.blocks import Panel
from fila.fineprint.layouts.camera import light_unevenly
from fila.fineprint.pages import corners, lay_out
from fila.fineprint.sources import PHOTOS, load_font, load_photo

AFFINE, BICUBIC = PIL.Image.Transform.AFFINE, PIL.Image.Resampling.BICUBIC
# Documents are drawn in one channel, from paper to ink, and coloured last.
SHADES = {"paper": 0, "shade": 38, "bar": 204, "ink": 255}
READ = "Read the page."  # what asks for all text
FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        **dict.fromkeys(("question", "answer", "kind", "template", "font", "position"), Value("string")),
        "text_height": Value("float32"),
        "box": List(Value("float32"), length=8),
        "grid": List(Value("int32"), length=2),
    }
)


def _draw_colors(rng):
    """(paper, bar, ink): now and then the print is pale, or light on dark."""
    is_dark = rng.random() < 0.15
    level = rng.uniform(15, 60) if is_dark else rng.uniform(195, 255)
    contrast = rng.uniform(110, 190) if rng.random() < 0.7 else rng.uniform(65, 110)
    paper = tuple(min(255, max(0, round(level + rng.uniform(-10, 10)))) for _ in range(3))
    sign = 1 if is_dark else -1
    ink = tuple(min(255, max(0, round(channel + sign * (contrast + rng.uniform(-12, 12))))) for channel in paper)
    bar = [round(a + (b - a) * SHADES["bar"] / 255) for a, b in zip(paper, ink)]
    bar = tuple(round(channel + (rng.randrange(256) - channel) * 0.15) for channel in bar)
    return paper, bar, ink


def _draw_marks(image, marks):
    draw = ImageDraw.Draw(image)
    for mark in marks:
        color = SHADES[mark.color] if isinstance(mark.color, str) else mark.color
        if not isinstance(mark, Panel):
            draw.text((mark.x, mark.y), mark.text, fill=color, font=load_font(mark.font, mark.size), anchor="ls")
            continue
        left, top, right, bottom = map(round, mark.box)
        box = (left, top, max(left, right - 1), max(top, bottom - 1))
        look = {"outline": color, "width": max(1, round(mark.outline))} if mark.outline else {"fill": color}
        draw.rectangle(box, **look)


def _draw_layer(page, mode):
    """The marks as they lie in the image: the part of it that they take, and where its left top corner is."""
    layer = PIL.Image.new(mode, page.placement.image_size[::-1])
    _draw_marks(layer, page.marks)
    boxes = page.placement.to_image(np.array([corners(mark.box) for mark in page.marks]))
    low = np.floor(boxes.min(axis=(0, 1))).astype(int) - 1
    high = np.ceil(boxes.max(axis=(0, 1))).astype(int) + 1
    return layer.transform(tuple(high - low), AFFINE, page.placement.inverse(low), BICUBIC), tuple(low)


def _draw_photo(split, width, height, rng):
    """A part of a photo."""
    photo = load_photo(rng.choice(PHOTOS[split]))
    scale = rng.uniform(0.5, 1) * min(photo.width / width, photo.height / height)
    left, top = rng.uniform(0, photo.width - width * scale), rng.uniform(0, photo.height - height * scale)
    return photo.resize((width, height), BICUBIC, box=(left, top, left + width * scale, top + height * scale))


@cache
def _grain():
    """A large piece of noise of unit variance, from which the noise of all images is cut."""
    return np.random.default_rng(0).standard_normal((1024, 1024), dtype=np.float32)


def render(page):
    """Draws a [`Page`], and lets it suffer: turned, blurred, unevenly lit, noisy. The same page gives the same
    `PIL.Image.Image`, in RGB."""
    rng = random.Random(page.looks)
    height, width = page.placement.image_size
    is_sign = page.kind == "sign"
    image = _draw_photo(page.split, width, height, rng) if is_sign else PIL.Image.new("L", (width, height))
    layer, place = _draw_layer(page, "RGBA" if is_sign else "L")
    image.paste(layer, place, mask=layer if is_sign else None)
    if rng.random() < 0.25:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.5) * page.placement.unit))
    if not is_sign:
        paper, bar, ink = _draw_colors(rng)
        image = ImageOps.colorize(image, paper, ink, bar, midpoint=SHADES["bar"])
    if rng.random() < 0.3:
        image = light_unevenly(rng, image, 185)
    if rng.random() < 0.4:
        top, left = rng.randrange(1024), rng.randrange(1024)
        rows, columns = np.arange(top, top + height) % 1024, np.arange(left, left + width) % 1024
        noise = (_grain()[rows[:, None], columns] * rng.uniform(2, 10)).astype(np.int16)
        pixels = np.asarray(image, dtype=np.int16) + noise[..., None]
        image = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image


def make_messages(page, transcribe=False):
    """`list[dict]`: the conversation about a page: its image, then question and answer by turns; with `transcribe`, all of
    its text in the last turn."""
    turns = [(run.question, run.text) for run in page.asked]
    if transcribe:
        turns.append((READ, page.text))
    messages = []
    for question, answer in turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    return messages


def make_sample(options, split, index):
    """`dict`: a row with the columns of `FEATURES`, which fineprint/README.md explains. It depends on the seed, the split
    and the index, not on other samples."""
    page = lay_out(options, split, index)
    buffer = io.BytesIO()
    render(page).save(buffer, "JPEG", quality=page.quality)
    first = page.asked[0]
    return {
        "images": [{"bytes": buffer.getvalue(), "path": None}],
        "messages": make_messages(page, options.transcribe and split == "train"),
        "question": first.question,
        "answer": first.text,
        "kind": page.kind,
        "template": page.template,
        "font": page.font,
        "position": page.position,
        "text_height": first.capital_height / page.placement.unit,
        "box": page.placement.to_image(corners(first.ink)).flatten().tolist(),
        "grid": list(page.placement.grid),
    }
