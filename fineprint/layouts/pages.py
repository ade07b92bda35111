# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages: blocks in a random arrangement, drawn, turned or photographed, and the questions about them."""

import io
import math
import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

import numpy as np
import PIL.Image
from PIL import ImageChops, ImageDraw, ImageFilter

from fila import FilaImageProcessor
from fila.common.arguments import UserError
from fila.common.layout import image_grid_pinpoints
from fila.configuration_fila import get_content_box
from fila.fineprint.layouts import blocks
from fila.fineprint.layouts.fonts import SPLITS, drawable, is_monospaced, load_font, split_families
from fila.fineprint.layouts.marks import Fact, Style, draw_color, luminance, mix
from fila.fineprint.layouts.texts import DoesNotFit, Texts
from fila.fineprint.layouts.wordings import word_question

MAX_ANSWER = 300  # characters of a block that is to be transcribed


@dataclass
class PageOptions:
    """What pages are made."""

    split: str = field(default="train", metadata={"help": f"Whose fonts and texts are used: {', '.join(SPLITS)}."})
    tile_size: int = field(default=336, metadata={"help": "Side of the ViT's tiles in pixels; sizes of pages follow from it."})
    min_text_height: float = field(default=8.0, metadata={"help": "Smallest capitals, in pixels on the ViT's canvas."})
    max_questions: int = field(default=6, metadata={"help": "Most questions about a page."})
    transcribe: bool = field(default=False, metadata={"help": "Ask for all text of the page, as the last question."})
    photographed: float = field(default=0.25, metadata={"help": "Share of pages that look photographed."})
    assets: str | None = field(
        default=None, metadata={"help": "Folder that --pack wrote, to take fonts and texts from; by default what is installed."}
    )

    def __post_init__(self):
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r} is not possible: choose one of {', '.join(SPLITS)}.")
        if self.tile_size < 56 or self.tile_size % 14:
            raise ValueError(f"tile_size={self.tile_size} is not possible: it must be a multiple of 14, at least 56.")
        if not 4 <= self.min_text_height <= self.tile_size / 7:
            raise ValueError(
                f"min_text_height={self.min_text_height} is not possible: it must be from 4 to a seventh of tile_size, "
                f"{self.tile_size / 7:.0f}."
            )
        if self.max_questions < 1:
            raise ValueError(f"max_questions={self.max_questions} is not possible: it must be 1 or more.")


class Sample(NamedTuple):
    """A question about a page. `box` is where the answer is read: a (4, 2) array of corners (x, y) in pixels of the image,
    clockwise from the text's left top. `text_height` is that of capitals, in pixels of the image."""

    question: str
    answer: str
    kind: str
    box: np.ndarray
    text_height: float


class Run(NamedTuple):
    """A text on a page, its corners as those of [`Sample`], and the block and line of the page that it is in."""

    text: str
    box: np.ndarray
    block: int
    line: int


class Page(NamedTuple):
    """A page and what is known about it. `text` is all its text, block by block."""

    image: PIL.Image.Image
    samples: list[Sample]
    draft: "Draft"

    @property
    def runs(self):
        """`list[Run]`: the texts on the page in reading order."""
        return self.draft.list_runs()


@cache
def _image_processor(tile_size):
    return FilaImageProcessor(size=tile_size, image_grid_pinpoints=image_grid_pinpoints(tile_size))


def get_canvas(image_size, tile_size):
    """How the image processor tiles an image of (height, width).

    Returns:
        `tuple`: the grid as (rows, columns), and the image's box on the canvas as (top, left, height, width).
    """
    grid = _image_processor(tile_size).get_image_grid(*image_size)
    return grid, get_content_box(image_size, (grid[0] * tile_size, grid[1] * tile_size))


class Camera:
    """How a page comes into its image: as it is, turned, or seen from an angle. Both have the same size."""

    def __init__(self, rng, width, height, is_photo):
        self.size, self.margin = np.array([width, height]), min(width, height) * rng.uniform(0.02, 0.07)
        self.matrix, self.is_photo = np.eye(3), is_photo
        if not is_photo and rng.random() < 0.8:
            return
        corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (self.size / 2)
        turn = math.radians(rng.uniform(-3, 3))
        seen = corners @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        if is_photo:
            seen = seen + np.array([[rng.uniform(-0.05, 0.05) for _ in "xy"] for _ in corners]) * self.size
        # Shrunk until everything inside the margin is in the image.
        seen *= min(1, ((self.size / 2) / (np.abs(seen).max(axis=0) - self.margin * 0.8)).min())
        start, end = corners + self.size / 2, seen + self.size / 2
        rows = [[x, y, 1, 0, 0, 0, -x * u, -y * u] for (x, y), (u, v) in zip(start, end)]
        rows += [[0, 0, 0, x, y, 1, -x * v, -y * v] for (x, y), (u, v) in zip(start, end)]
        self.matrix = np.append(np.linalg.solve(np.array(rows), np.concatenate([end[:, 0], end[:, 1]])), 1).reshape(3, 3)

    def to_image(self, points):
        """Points (..., 2) of the page as (x, y) in the image."""
        x, y, z = np.moveaxis(np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2], -1, 0)
        return np.stack([x / z, y / z], axis=-1)

    def scale(self, point):
        """Height in the image of one pixel of the page."""
        low, high = self.to_image([point, (point[0], point[1] + 1)])
        return float(np.hypot(*(high - low)))

    def corners(self, marks):
        """The corners in the image of the box around marks; (4, 2)."""
        boxes = np.array([mark.box for mark in marks])
        (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        return self.to_image([(left, top), (right, top), (right, bottom), (left, bottom)])

    def take(self, rng, image, desk):
        """The image of a drawn page."""
        if not np.array_equal(self.matrix, np.eye(3)):
            inverse = np.linalg.inv(self.matrix)
            inverse = (inverse / inverse[2, 2]).flatten()[:8].tolist()
            image = image.transform(
                image.size, PIL.Image.Transform.PERSPECTIVE, inverse, PIL.Image.Resampling.BILINEAR, fillcolor=desk
            )
        return _photograph(rng, image) if self.is_photo else image


@cache
def _grain(strength):
    """A piece of noise around 128, from which the noise of all images is cut."""
    noise = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32) * strength + 128
    return PIL.Image.fromarray(noise.clip(0, 255).astype(np.uint8))


def _photograph(rng, image):
    """Light, blur, noise and compression of a camera."""
    width, height = image.size
    if rng.random() < 0.8:
        light = PIL.Image.new("L", (3, 3))
        light.putdata([rng.randrange(150, 256) for _ in range(9)])
        light = light.resize((width, height), PIL.Image.Resampling.BILINEAR)
        image = ImageChops.multiply(image, PIL.Image.merge("RGB", [light] * 3))
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.6)))
    if rng.random() < 0.6:
        left, top = rng.randrange(max(1, 2048 - width)), rng.randrange(max(1, 2048 - height))
        grain = _grain(rng.choice([3, 6, 10])).crop((left, top, left + width, top + height))
        image = ImageChops.add(image, PIL.Image.merge("RGB", [grain] * 3), offset=-128)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=rng.randint(45, 92))
    return PIL.Image.open(file).convert("RGB")


class Draft:
    """A page while it is composed; what its blocks draw their style and texts from."""

    def __init__(self, rng, options):
        self.rng, self.options, self.blocks, self.panels = rng, options, [], []
        long = options.tile_size * math.exp(rng.uniform(math.log(0.9), math.log(4.8)))
        short = max(options.tile_size * 0.6, long * rng.uniform(0.35, 1))
        self.width, self.height = sorted((round(long), round(short)), reverse=rng.random() < 0.5)
        self.camera = Camera(rng, self.width, self.height, rng.random() < options.photographed)
        _, (_, _, canvas_height, _) = get_canvas((self.height, self.width), options.tile_size)
        inside = self.camera.margin
        corners = [(x, y) for x in (inside, self.width - inside) for y in (inside, self.height - inside)]
        smallest = options.min_text_height * max(1, self.height / canvas_height) / min(map(self.camera.scale, corners))
        self.capital = smallest * min(1 + rng.expovariate(3.5), self.height / smallest / 10)
        self.capital = max(self.capital, smallest)
        families = split_families(options.split, options.assets)
        self.families = rng.sample(families, rng.choice([1, 1, 2, 3]))
        self.monos = [family for family in families if is_monospaced(family["regular"])] or families
        self.mono_family = rng.choice(self.monos)
        characters = frozenset.intersection(
            *(drawable(face) for family in [*self.families, self.mono_family] for face in family.values())
        )
        self.texts = Texts(rng, options.split, options.assets, characters)
        look = rng.random()
        level = rng.uniform(235, 255) if look < 0.55 else rng.uniform(190, 245) if look < 0.8 else rng.uniform(5, 70)
        self.paper = tuple(min(255, max(0, round(level + rng.uniform(-1, 1) * rng.choice([2, 20])))) for _ in range(3))
        self.contrast = rng.choice([90, 120, 150])
        self.weights = [rng.random() ** 3 + 0.02 for _ in blocks.BLOCKS]

    def ink_on(self, paper):
        """A color of text on this background."""
        return draw_color(self.rng, paper, min(self.contrast, max(luminance(paper), 255 - luminance(paper)) - 5))

    def style(self, paper):
        capital = self.capital * self.rng.choice([1, 1, 1, 1.15, 1.4])
        accent = draw_color(self.rng, paper, 90, 90)
        return Style(self.rng, self.rng.choice(self.families), capital, paper, self.ink_on(paper), accent)

    def mono(self, style):
        """A style for code: in a font whose letters are equally wide."""
        return Style(self.rng, self.mono_family, self.capital, style.paper, style.ink, style.accent)

    def fill_on(self, style):
        """A color for an area in a chart."""
        return mix(draw_color(self.rng, style.paper, 40, 90), style.accent, self.rng.uniform(0, 0.4))

    def draw(self, kind, style, room, face="regular"):
        """A text of a kind that is at most `room` wide in a style; no other on the page is equal."""
        case = str.upper if style.upper else str
        return case(self.texts.one(kind, lambda text: style.width(case(text), face) <= room))

    def label(self, kind, style, room, face="regular"):
        """Text that names a value of a kind."""
        self.texts.label_kind = kind
        return self.draw("label", style, room, face)

    def sentence(self, style):
        text = self.texts.clean(self.rng.choice(self.texts.pools["sentence"]))
        return text.upper() if style.upper else text

    def build(self, width, height, paper, makers=None):
        """A list of blocks that belong together, and their height; empty if nothing fits."""
        for _ in range(10):
            maker = makers or self.rng.choices(blocks.BLOCKS, self.weights)[0]
            style, parts, used = self.style(paper), [], 0
            try:
                if self.rng.random() < 0.35 and maker is not blocks.sign:
                    parts.append(blocks.heading(self, style, width, height))
                    used = parts[0].height + style.pitch * 0.2
                block = maker(self, style, width, height - used)
                if used:
                    block.title = parts[0].texts[0].text
                parts.append(block.move(self.rng.choice([0, 0, 0.5]) * (width - block.width), used))
                used += block.height
                if self.rng.random() < 0.12 and used + style.pitch * 1.3 < height:
                    parts.append(blocks.margin(self, style, width, style.pitch * 1.3, "caption").move(0, used + style.pitch * 0.2))
                    used = parts[-1].height + used + style.pitch * 0.2
            except DoesNotFit:
                continue
            if used <= height and block.width <= width + 1:
                return parts, used
        return [], 0

    def panel(self, x, y, width, height, paper):
        """A background of another color, or a frame; returns its color."""
        fill = mix(paper, draw_color(self.rng, paper, 60, 90), self.rng.uniform(0.05, 0.9)) if self.rng.random() < 0.7 else paper
        outline = draw_color(self.rng, paper, 50, 60) if fill == paper or self.rng.random() < 0.3 else None
        radius = self.capital * self.rng.choice([0, 0, 0.5, 1.5])
        self.panels.append(([x, y, x + width, y + height], radius, fill, outline))
        return fill

    def stack(self, x, y, width, height, paper):
        """Blocks below each other, until the room is used. Whether there are any."""
        rng, bottom, num_blocks = self.rng, y + height, len(self.blocks)
        gap = self.capital * rng.uniform(1.2, 3.5)
        while bottom - y > self.capital * 2 and rng.random() < 0.97:
            pad, inner, mark = 0, paper, len(self.panels)
            if rng.random() < 0.2:
                pad = self.capital * rng.uniform(0.8, 2)
                inner = self.panel(x, y, width, 0, paper)
            parts, used = self.build(width - 2 * pad, bottom - y - 2 * pad, inner)
            if not parts:
                del self.panels[mark:]
                break
            if pad:
                self.panels[-1][0][3] = y + used + 2 * pad
            self.blocks += [part.move(x + pad, y + pad) for part in parts]
            y += used + 2 * pad + gap
        return len(self.blocks) > num_blocks

    def stack_in_panel(self, x, y, width, height, paper):
        pad, mark = self.capital * 1.2, len(self.panels)
        inner = self.panel(x, y, width, height, paper)
        if not self.stack(x + pad, y + pad, width - 2 * pad, height - 2 * pad, inner):
            del self.panels[mark:]

    def arrange(self, x, y, width, height, paper, depth=0):
        """Fills an area with stacks, columns, a sidebar or cards."""
        rng, gutter = self.rng, self.capital * self.rng.uniform(2, 4)
        most = int(width / self.capital / 18)
        look = rng.choice(["stack", "stack", "columns", "sidebar", "cards", "bands"]) if depth < 2 else "stack"
        if look in ("columns", "cards") and most > 1:
            columns = rng.randint(2, min(3, most))
            rows = rng.randint(1, max(1, min(3, int(height / self.capital / 14)))) if look == "cards" else 1
            wide, tall = (width - gutter * (columns - 1)) / columns, (height - gutter * (rows - 1)) / rows
            for row in range(rows):
                for column in range(columns):
                    left, top = x + column * (wide + gutter), y + row * (tall + gutter)
                    (self.stack_in_panel if look == "cards" else self.stack)(left, top, wide, tall, paper)
        elif look == "sidebar" and most > 1:
            side = width * rng.uniform(0.3, 0.42)
            left, main = (x, x + side + gutter) if rng.random() < 0.6 else (x + width - side, x)
            self.stack_in_panel(left, y, side, height, paper)
            self.arrange(main, y, width - side - gutter, height, paper, depth + 1)
        elif look == "bands" and height > self.capital * 30:
            top = height * rng.uniform(0.3, 0.6)
            self.arrange(x, y, width, top, paper, depth + 1)
            self.arrange(x, y + top + gutter, width, height - top - gutter, paper, depth + 1)
        else:
            self.stack(x, y, width, height, paper)

    def compose(self):
        """Fills the page: header and heading, the body, a footer."""
        margin, rng = self.camera.margin, self.rng
        x, y, width, height = margin, margin, self.width - 2 * margin, self.height - 2 * margin
        for noun, share in (("header", 0.25), ("footer", 0.25), ("title", 0.5)):
            style = self.style(self.paper)
            if rng.random() > share or height < self.capital * 20:
                continue
            try:
                if noun == "title":
                    block = blocks.heading(self, style, width, height / 3)
                    block.noun = "page"
                else:
                    block = blocks.margin(self, style, width, height / 5, noun)
            except DoesNotFit:
                continue
            used = block.height + self.capital * 1.2
            self.blocks.append(block.move(x, y + height - block.height if noun == "footer" else y))
            y, height = y + (noun != "footer") * used, height - used
        footer = next((self.blocks.pop(i) for i, block in enumerate(self.blocks) if block.noun == "footer"), None)
        self.arrange(x, y, width, height, self.paper)
        self.blocks += [footer] if footer else []

    def render(self):
        """Draws the page, as it is before the camera takes it."""
        image = PIL.Image.new("RGB", (self.width, self.height), self.paper)
        draw = ImageDraw.Draw(image)
        for (left, top, right, bottom), radius, fill, outline in self.panels:
            box = [round(left), round(top), round(right), round(bottom)]
            draw.rounded_rectangle(box, round(radius), fill, outline, max(1, round(self.capital / 10)))
        for block in self.blocks:
            for shape in block.shapes:
                getattr(draw, shape.method)(shape.points, **shape.settings)
            for text in block.texts:
                draw.text((text.x, text.y), text.text, text.color, load_font(text.face, text.size), "ls")
        return image


    def list_runs(self):
        found = [
            (text, block_number, line_number)
            for block_number, block in enumerate(self.blocks)
            for line_number, line in enumerate(block.lines)
            for text in line
        ]
        boxes = np.array([text.box for text, _, _ in found])[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        quads = self.camera.to_image(boxes)
        return [Run(text.text, quad, block, line) for (text, block, line), quad in zip(found, quads)]


def _find_facts(draft):
    """All that can be asked about a page without ambiguity, as facts whose blocks have names."""
    rng, nouns, facts = draft.rng, Counter(block.noun for block in draft.blocks), []
    counts = Counter(line.casefold() for block in draft.blocks for line in block.read().splitlines())
    for block in draft.blocks:
        name = f"the {block.noun}" if nouns[block.noun] == 1 else None
        if block.title and (name is None or rng.random() < 0.3):
            name = f'the {block.noun} {rng.choice(["under", "with the title", "called"])} "{block.title}"'
        own = [fact for fact in block.facts if "block" not in fact.slots or name]
        lines = block.read().splitlines()
        if block.noun == "page":
            own.append(Fact("heading", lines[0], block.texts, {"block": None}))
        elif name and len(block.read()) <= MAX_ANSWER:
            own.append(Fact("block", block.read(), block.texts, {"block": None}))
        if block.in_order and len(lines) > 1:
            number = rng.randrange(len(lines) - 1)
            if counts[lines[number].casefold()] == 1:
                own.append(Fact("after", lines[number + 1], block.lines[number + 1], {"line": lines[number]}))
            if counts[lines[number + 1].casefold()] == 1:
                own.append(Fact("before", lines[number], block.lines[number], {"line": lines[number + 1]}))
            if name:
                own.append(Fact("line", lines[number], block.lines[number], {"number": str(number + 1), "block": None}))
        if block.title and nouns[block.noun] == 1:
            heading = next(text for other in draft.blocks for text in other.texts if text.text == block.title)
            own.append(Fact("heading", block.title, [heading], {"block": f"the {block.noun}"}))
        for fact in own:
            if "block" in fact.slots:
                fact.slots["block"] = fact.slots["block"] or name
        facts += own
    facts.append(_exists(draft))
    return facts


def _exists(draft):
    """Whether a text is on the page: one that is, or one that is not."""
    rng, texts = draft.rng, [text for block in draft.blocks for text in block.texts]
    shown = "\n".join(block.read() for block in draft.blocks).casefold()
    text = rng.choice(texts)
    if rng.random() < 0.5 and len(text.text) < 60:
        return Fact("exists", "yes", [text], {"text": text.text})
    other = draft.texts.one(rng.choice(["item", "person", "code", "price", "date"]), lambda text: text.casefold() not in shown)
    return Fact("exists", "no", texts, {"text": other})


def _choose_facts(rng, facts, count):
    """Facts of as many different kinds as there are, then any."""
    rng.shuffle(facts)
    seen, first, rest = set(), [], []
    for fact in facts:
        (rest if fact.kind in seen else first).append(fact)
        seen.add(fact.kind)
    chosen = (first + rest)[:count]
    rng.shuffle(chosen)
    return chosen


def make_page(seed, row, options):
    """Makes a page; it depends on the seed, the row, the options, and on what fonts and texts are installed or packed.

    Args:
        seed (`int`): where all chance comes from.
        row (`int`): number of the page.
        options ([`PageOptions`])

    Returns:
        [`Page`]: the image in RGB; up to `options.max_questions` samples, and with `options.transcribe` one that asks for
        all text; and the texts on the page in reading order.
    """
    rng = random.Random(f"{seed}/{options.split}/{row}")
    while True:
        draft = Draft(rng, options)
        draft.compose()
        if any(block.facts for block in draft.blocks):
            break
    camera, samples = draft.camera, {}
    facts = _choose_facts(rng, _find_facts(draft), options.max_questions)
    if options.transcribe:
        texts = [text for block in draft.blocks for text in block.texts]
        facts.append(Fact("page", "\n".join(block.read() for block in draft.blocks), texts, {}))
    for fact in facts:
        question = word_question(rng, fact.kind, fact.slots)
        box, texts = camera.corners(fact.marks), [mark for mark in fact.marks if hasattr(mark, "capital")]
        height = min(text.capital for text in texts) * camera.scale((texts[0].x, texts[0].y))
        samples.setdefault(question, Sample(question, fact.answer, fact.kind, box, height))
    desk = draft.paper if rng.random() < 0.5 else draw_color(rng, draft.paper, 0, 60)
    image = camera.take(rng, draft.render(), desk)
    return Page(image, list(samples.values()), draft)
