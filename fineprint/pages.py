# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages: blocks in a random arrangement, drawn and taken by a camera, with samples of questions about them."""

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageDraw

from fila.common.arguments import UserError
from fila.fineprint import blocks
from fila.fineprint.camera import Camera
from fila.fineprint.fonts import SPLITS, is_monospaced, place_glyphs, split_families
from fila.fineprint.marks import Block, Style, Text, draw_color, luminance, mix
from fila.fineprint.questions import choose_facts, word_question
from fila.fineprint.texts import DoesNotFit, Texts
from fila.fineprint.tiles import Canvas


@dataclass
class PageOptions:
    """What pages are made."""

    split: str = field(default="train", metadata={"help": f"Whose fonts and texts are used: {', '.join(SPLITS)}."})
    tile_size: int = field(default=336, metadata={"help": "Side of the ViT's tiles in pixels; sizes of pages follow."})
    min_text_height: float = field(default=8.0, metadata={"help": "Smallest capitals, in pixels on the ViT's canvas."})
    max_questions: int = field(default=6, metadata={"help": "Most questions about a page."})
    transcribe: bool = field(default=False, metadata={"help": "Ask for all text of the page, as the last question."})
    photographed: float = field(default=0.2, metadata={"help": "Share of pages that look photographed."})
    assets: str | None = field(default=None, metadata={"help": "Folder from --pack; without it, what is installed."})

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is not possible: choose one of {', '.join(SPLITS)}.")
        limits = {"tile_size": (56, 1344), "min_text_height": (4, self.tile_size / 7)}
        for name, (low, high) in {**limits, "max_questions": (1, 100), "photographed": (0, 1)}.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be from {low} to {high:g}.")
        if self.assets is not None and not Path(self.assets, "fonts").is_dir():
            raise UserError(f"assets={self.assets!r} is not possible: it must be a folder that --pack has written.")


class Sample(NamedTuple):
    """A question about a page. `box` is where the answer is read: a (4, 2) array of corners (x, y) in pixels of the image,
    clockwise from the text's left top. `text_height` is that of its capitals in pixels of the image."""

    question: str
    answer: str
    kind: str
    box: np.ndarray
    text_height: float


class Page(NamedTuple):
    """An image in RGB, the [`Sample`]s about it, and the [`Draft`] it was drawn from."""

    image: PIL.Image.Image
    samples: list[Sample]
    draft: "Draft"


class Draft:
    """A page while it is composed; what its blocks draw their style and texts from. `blocks` are in reading order; the `box`
    of their texts is in pixels of the page, which `camera.corners([text])` takes to the image."""

    def __init__(self, rng, options):
        self.rng, self.blocks, self.panels = rng, [], Block("panels")
        long = options.tile_size * math.exp(rng.uniform(math.log(0.9), math.log(4.8)))
        short = max(options.tile_size * 0.6, long * rng.uniform(0.35, 1))
        self.width, self.height = sorted((round(long), round(short)), reverse=rng.random() < 0.5)
        self.camera = Camera(rng, self.width, self.height, rng.random() < options.photographed)
        canvas = Canvas((self.height, self.width), options.tile_size)
        smallest = options.min_text_height / min(1, canvas.scale[1]) / self.camera.least_scale
        self.capital = smallest * max(1, min(1 + rng.expovariate(3.5), self.height / smallest / 10))
        families = split_families(options.split, options.assets)
        self.families = rng.sample(families, min(len(families), rng.choice([1, 1, 2, 3])))
        self.mono_family = rng.choice([family for family in families if is_monospaced(family["regular"])] or families)
        self.texts = Texts(rng, options.split, options.assets)
        level = rng.choice([rng.uniform(235, 255), rng.uniform(235, 255), rng.uniform(190, 245), rng.uniform(5, 70)])
        spread = rng.choice([2, 20])
        self.paper = tuple(min(255, max(0, round(level + rng.uniform(-spread, spread)))) for _ in range(3))
        self.contrast = rng.choice([90, 120, 150])
        self.weights = [rng.random() ** 3 + 0.02 for _ in blocks.BLOCKS]

    def ink_on(self, paper):
        """A color of text on this background."""
        return draw_color(self.rng, paper, min(self.contrast, max(luminance(paper), 255 - luminance(paper)) - 5))

    def fill_on(self, style):
        """A color for an area."""
        return mix(draw_color(self.rng, style.paper, 40, 90), style.accent, self.rng.uniform(0, 0.4))

    def style(self, paper, faces=None):
        capital, accent = self.capital * self.rng.choice([1, 1, 1, 1.15, 1.4]), draw_color(self.rng, paper, 90, 90)
        return Style(self.rng, faces or self.rng.choice(self.families), capital, paper, self.ink_on(paper), accent)

    def draw(self, kind, style, room, face="regular", is_label=False):
        """A text of a kind, or a label for one, that is at most `room` wide in a style; no other on the page is equal."""
        draw = self.texts.label if is_label else self.texts.draw
        return style.case(draw(kind, lambda text: style.width(style.case(text), face) <= room))

    def build(self, x, y, width, height, paper):
        """Adds a block, which may have a heading, and returns the height of both: 0 if nothing fits."""
        rng = self.rng
        for _ in range(10):
            maker, style, parts, used = rng.choices(blocks.BLOCKS, self.weights)[0], self.style(paper), [], 0
            try:
                if rng.random() < 0.35 and maker is not blocks.sign:
                    parts.append(blocks.heading(self, style, width, height))
                    used = parts[0].height + style.pitch * 0.2
                block = maker(self, style, width, height - used)
            except DoesNotFit:
                continue
            if used + block.height <= height and block.width <= width + 1:
                block.title = parts[0].texts[0] if parts else None
                parts.append(block.move(rng.choice([0, 0, 0.5]) * (width - block.width), used))
                self.blocks += [part.move(x, y) for part in parts]
                return used + block.height
        return 0

    def panel(self, x, y, width, height, paper):
        """Adds a background of another color, or a frame; returns its color."""
        rng = self.rng
        fill = mix(paper, draw_color(rng, paper, 60, 90), rng.uniform(0.05, 0.9)) if rng.random() < 0.7 else paper
        outline = draw_color(rng, paper, 50, 60) if fill == paper or rng.random() < 0.3 else None
        radius, line = round(self.capital * rng.choice([0, 0, 0.5, 1.5])), max(1, round(self.capital / 10))
        box = [x, y, x + width, y + height]
        self.panels.shape("rounded_rectangle", box, radius=radius, fill=fill, outline=outline, width=line)
        return fill

    def stack(self, x, y, width, height, in_panel):
        """Blocks below each other, until the room is used."""
        rng, bottom, paper, num_blocks = self.rng, y + height, self.paper, len(self.blocks)
        gap, pad = self.capital * rng.uniform(1.2, 3.5), self.capital * rng.uniform(0.8, 2)
        if in_panel:
            paper = self.panel(x, y, width, height, paper)
            x, y, width, bottom = x + pad, y + pad, width - 2 * pad, bottom - pad
        while bottom - y > self.capital * 2 and rng.random() < 0.97:
            used = self.build(x, y, width, bottom - y, paper)
            if not used:
                break
            y += used + gap
        if in_panel and len(self.blocks) == num_blocks:
            self.panels.shapes.pop()

    def arrange(self, x, y, width, height, depth=0, in_panel=False):
        """Fills an area with a stack of blocks, or with two or three areas side by side or above each other."""
        rng, gutter = self.rng, self.capital * self.rng.uniform(2, 4)
        look = rng.choice(["stack", "columns", "columns", "rows"]) if depth < 3 and not in_panel else "stack"
        most = int(width / self.capital / 18 if look == "columns" else height / self.capital / 14)
        if look == "stack" or most < 2:
            return self.stack(x, y, width, height, in_panel)
        shares = [rng.choice([1, 1, 1.7]) for _ in range(rng.randint(2, min(3, most)))]
        all_panels, room = rng.random() < 0.3, (width if look == "columns" else height) - gutter * (len(shares) - 1)
        for share in shares:
            part, is_panel = room * share / sum(shares), all_panels or rng.random() < 0.15
            if look == "columns":
                self.arrange(x, y, part, height, depth + 1, is_panel)
                x += part + gutter
            else:
                self.arrange(x, y, width, part, depth + 1, is_panel)
                y += part + gutter

    def compose(self):
        """Fills the page: header and heading, the body, a footer."""
        rng, x, top, bottom = self.rng, self.camera.margin, self.camera.margin, self.height - self.camera.margin
        width, heads, feet = self.width - 2 * x, [], []
        for noun, share in (("header", 0.25), ("page", 0.5), ("footer", 0.25)):
            try:
                draw = blocks.heading if noun == "page" else blocks.margin
                block = draw(self, self.style(self.paper), width, bottom - top, noun)
            except DoesNotFit:
                continue
            used = block.height + self.capital * 1.2
            if rng.random() >= share or used >= (bottom - top) / 4:
                continue
            if noun == "footer":
                feet.append(block.move(x, bottom - block.height))
                bottom -= used
            else:
                heads.append(block.move(x, top))
                top += used
        self.arrange(x, top, width, bottom - top)
        self.blocks = heads + self.blocks + feet

    def render(self):
        """Draws the page, as it is before the camera takes it."""
        image = PIL.Image.new("RGB", (self.width, self.height), self.paper)
        draw = ImageDraw.Draw(image)
        for block in [self.panels, *self.blocks]:
            for shape in block.shapes:
                getattr(draw, shape.method)(shape.points, **shape.settings)
            for text in block.texts:
                for mask, left, top in place_glyphs(text.face, text.size, text.text):
                    draw.bitmap((text.x + left, text.y + top), mask, text.color)
        return image


def make_page(seed, row, options):
    """[`Page`] number `row`, with up to `options.max_questions` samples, and with `options.transcribe` one more that asks for
    all text. It depends on the seed, the row, the [`PageOptions`], and on which fonts and texts are installed or packed.

    Raises:
        UserError: no fonts are installed for the split, or no page with text of this height was found.
    """
    rng = random.Random(f"{seed}/{options.split}/{row}")
    for _ in range(100):
        draft = Draft(rng, options)
        draft.compose()
        if any(block.facts for block in draft.blocks):
            break
    else:
        raise UserError(f"min_text_height={options.min_text_height} leaves no room for text on a page. Lower it.")
    samples, camera = {}, draft.camera
    for fact in choose_facts(draft, options.max_questions, options.transcribe):
        question = word_question(rng, fact)
        texts = [mark for mark in fact.marks if isinstance(mark, Text)]
        height = min(text.capital for text in texts) * camera.scale((texts[0].x, texts[0].y))
        samples.setdefault(question, Sample(question, fact.answer, fact.kind, camera.corners(fact.marks), height))
    desk = draft.paper if rng.random() < 0.5 else draw_color(rng, draft.paper, 0, 60)
    return Page(camera.take(draft.render(), desk), list(samples.values()), draft)


def make_messages(turns):
    """A conversation about an image in chat format. Each of `turns`, a [`Sample`] or a tuple, begins with a question and
    its answer."""
    messages = []
    for question, answer, *_ in turns:
        messages.append({"role": "user", "content": [{"type": "text", "text": question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    return messages
