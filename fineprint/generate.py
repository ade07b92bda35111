# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the fine-print benchmark: documents with small text, and questions about values that must be read.

    python benchmarks/fineprint/make_fineprint.py --output_dir build/fineprint --num_train 20000 --num_proc 16
    python benchmarks/fineprint/make_fineprint.py --output_dir build/signs --kinds sign receipt --num_train 1000
    python benchmarks/fineprint/make_fineprint.py --output_dir build/fineprint-112 --tile_size 112

The folder can be given to `datasets.load_dataset`: splits train, validation and test in chat format, of which train has
one to `max_questions` questions for each image (with `--transcribe` and all text of the page last), the others one. Train, validation and test share no font, no template and no value.

Each question says where its answer lies on the canvas that FilaImageProcessor picks: "inside" one tile of the ViT, or
"across" a cut. Answers that a cut merely touches are not asked about. Sample i depends on the seed, the split and i alone:
shards, processes and the numbers of samples change nothing. Other versions of Pillow, NumPy or Faker may.
"""

import io
import math
import os
import random
import shutil
import sys
import tempfile
import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image, List, Value, disable_progress_bars
from fila.fineprint.documents import KINDS, TEMPLATES, DoesNotFit, Panel, Run, Style, mix_template
from fila.fineprint.sources import FONTS, PHOTOS, SPLITS, Values, load_font, load_photo
from PIL import ImageChops, ImageDraw, ImageFilter, ImageOps
from tqdm import tqdm
from transformers import HfArgumentParser

from fila import FilaImageProcessor
from fila.configuration_fila import get_content_box

AFFINE, BICUBIC = PIL.Image.Transform.AFFINE, PIL.Image.Resampling.BICUBIC
# The article's canvases, in tiles.
GRIDS = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
POSITIONS = ("inside", "across")
# An answer is "across" when no tile holds more of its box than this share.
MAX_SHARE_ACROSS = 0.85
# An answer is "inside" when it is at least so many pixels of the canvas away from the next tile.
MIN_DISTANCE_INSIDE = 1.0
MAX_ATTEMPTS = 200
NUM_ATTEMPTS_AT_SIZE = 4
NUM_ATTEMPTS_UNTIL_TIGHT = 10
# Documents are drawn in one channel, from paper to ink, and coloured last.
SHADES = {"paper": 0, "shade": 38, "bar": 204, "ink": 255}
READ = "Read the page."  # what asks for all text
MARGIN = 1 / 56  # between text and the edge of the image, in tiles

# Bounds of the classes that the card counts.
TEXT_HEIGHTS = (8, 10, 12, 16, 20, 28, 40, math.inf)

CARD = """---
task_categories:
- image-text-to-text
---

# Fine print

Generated documents with small text, and questions about values that must be read: receipts, forms, letters, tables,
charts, and signs on photos. Made for tiles of {tile_size} pixels by `benchmarks/fineprint/make_fineprint.py` of FILA.
{gallery}
| column | holds |
|---|---|
| `images` | one JPEG |
| `messages` | the chat: one question and answer; up to {max_questions} in train |
| `question`, `answer` | the first question and its answer, which is once on the page and in no other split |
| `kind`, `template`, `font` | what the page is, how it is laid out, its font; no template and no font is in two splits |
| `position` | of the first answer on the tiled canvas: "inside" one tile, or "across" a cut |
| `text_height` | height of its capitals in pixels of the canvas of the ViT |
| `box` | its corners, x and y, in pixels of the image, clockwise from the left top of the text |
| `grid` | rows and columns of tiles |

{table}

Made with {versions}, other versions of which may draw otherwise, and these settings:

{settings}
"""

FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        "question": Value("string"),
        "answer": Value("string"),
        "kind": Value("string"),
        "template": Value("string"),
        "font": Value("string"),
        "position": Value("string"),
        "text_height": Value("float32"),
        "box": List(Value("float32"), length=8),
        "grid": List(Value("int32"), length=2),
    }
)


@dataclass
class Options:
    """What is made, and where it is written."""

    output_dir: str = field(metadata={"help": "Folder to make; it must not exist, or be empty."})
    num_train: int = field(default=20000, metadata={"help": "Images for training."})
    num_validation: int = field(default=500, metadata={"help": "Images, and questions, for validation."})
    num_test: int = field(default=2000, metadata={"help": "Images, and questions, for the test."})
    seed: int = field(default=0, metadata={"help": "Where all chance comes from."})
    tile_size: int = field(
        default=336, metadata={"help": "Side of the ViT's tiles in pixels; canvases follow from it."}
    )
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": f"Among {', '.join(KINDS)}."})
    min_text_height: float = field(default=8.0, metadata={"help": "Smallest capitals, in pixels on the ViT's canvas."})
    max_text_height: float | None = field(
        default=None,
        metadata={"help": "Largest ordinary capitals; by default a twelfth of the tile size, or 1.5 x the smallest."},
    )
    max_image_scale: float = field(
        default=2.0, metadata={"help": "The largest images have so many times the canvas's pixels in each direction."}
    )
    max_questions: int = field(
        default=4, metadata={"help": "Most questions about one training image; more make one longer conversation."}
    )
    transcribe: bool = field(
        default=False,
        metadata={"help": "End each training conversation with a turn that repeats all text of the page."},
    )
    mix_templates: bool = field(
        default=False,
        metadata={"help": "Draw the settings of each training page's template one by one: far more layouts."},
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that draw."})
    shard_size: int = field(default=1000, metadata={"help": "Images in each file."})
    gallery: int = field(default=12, metadata={"help": "Test samples in the picture gallery.png; 0: no picture."})

    def __post_init__(self):
        for name in ("num_train", "num_validation", "num_test", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 0 or more.")
        for name in ("max_questions", "num_proc", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 1 or more.")
        if not (self.num_train or self.num_validation or self.num_test):
            raise ValueError("num_train, num_validation and num_test are all 0: there is nothing to make.")
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds={self.kinds} is not possible: choose one or more of {', '.join(KINDS)}.")
        if self.tile_size < 56 or self.tile_size % 14:
            raise ValueError(f"tile_size={self.tile_size} is not possible: it must be a multiple of 14, at least 56.")
        if self.max_text_height is None:
            largest = max(self.min_text_height * 1.5, self.tile_size / 12)
            self.max_text_height = max(self.min_text_height, min(largest, self.tile_size / 6))
        if not 4 <= self.min_text_height <= self.max_text_height <= self.tile_size / 6:
            raise ValueError(
                f"Text of {self.min_text_height} to {self.max_text_height} pixels does not go with tile_size="
                f"{self.tile_size}: the bounds must grow, from 4 up to a sixth of the tile size, {self.tile_size / 6:.1f}."
            )
        if not 1 <= self.max_image_scale <= 8:
            raise ValueError(f"max_image_scale={self.max_image_scale} is not possible: it must be between 1 and 8.")


@cache
def image_processor(tile_size):
    """The image processor whose canvases the benchmark is made for."""
    pinpoints = [[rows * tile_size, columns * tile_size] for rows, columns in GRIDS]
    return FilaImageProcessor(size=tile_size, image_grid_pinpoints=pinpoints)


def draw_image_size(rng, grid, tile_size, max_scale):
    """Draws (height, width) of an image for which the image processor picks a canvas of this grid.

    Large images get canvases of two tiles only when they are exactly twice as long as wide (a third tile or a second row
    holds all others better), small ones also otherwise: half of the former canvases get small images.
    """
    while True:
        height, width = grid[0] * tile_size, grid[1] * tile_size
        if grid[0] * grid[1] == 2 and rng.random() < 0.5:
            short = round(tile_size * rng.uniform(1, max_scale))
            size = (short * grid[0], short * grid[1])
        else:
            scale = rng.uniform(0.85, 1) if grid[0] * grid[1] == 2 else rng.uniform(1, max_scale)
            free = rng.uniform(0.75, 1)
            if rng.random() < 0.5:
                height *= free
            else:
                width *= free
            size = (round(height * scale), round(width * scale))
        if image_processor(tile_size).get_image_grid(*size) == grid:
            return size


def corners(rectangle):
    """(left, top, right, bottom) as a (4, 2) array of (x, y), clockwise from the left top corner."""
    left, top, right, bottom = rectangle
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _area_until(polygon, axis, bound):
    """The part of a convex polygon, an (N, 2) array, whose coordinate on the axis is at most `bound`."""
    kept = []
    for point, following in zip(polygon, np.roll(polygon, -1, axis=0)):
        here, there = point[axis] <= bound, following[axis] <= bound
        if here:
            kept.append(point)
        if here != there:
            kept.append(point + (following - point) * (bound - point[axis]) / (following[axis] - point[axis]))
    return np.array(kept).reshape(-1, 2)


def _area(polygon):
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def locate(quad, tile_size, grid):
    """Where a text lies on the canvas.

    Args:
        quad (`np.ndarray` of shape (4, 2)): the corners (x, y) of its box, in pixels of the canvas.
        tile_size (`int`): side of a tile in pixels.
        grid (`tuple[int, int]`): rows and columns of tiles.

    Returns:
        `str` or `None`: "inside" a tile, "across" a cut, or neither: a cut touches it.
    """
    low, high = quad.min(axis=0) - MIN_DISTANCE_INSIDE, quad.max(axis=0) + MIN_DISTANCE_INSIDE
    cuts = [[tile_size * step for step in range(1, count)] for count in (grid[1], grid[0])]
    cuts = [[cut for cut in cuts[axis] if low[axis] < cut < high[axis]] for axis in (0, 1)]
    if not any(cuts):
        return "inside"

    def slices(polygon, axis):
        """Areas' polygons between the cuts of an axis."""
        for cut in [*cuts[axis], math.inf]:
            below = _area_until(polygon, axis, cut) if cut < math.inf else polygon
            yield below
            if cut < math.inf:
                polygon = -_area_until(-polygon, axis, -cut)

    areas = [_area(cell) for column in slices(quad, 0) if len(column) for cell in slices(column, 1) if len(cell)]
    return "across" if max(areas) <= MAX_SHARE_ACROSS * sum(areas) else None


class Placement:
    """How a page lies in its image, and the image on its canvas.

    Args:
        image_size (`tuple[int, int]`): height and width of the image.
        grid (`tuple[int, int]`): rows and columns of the canvas.
        tile_size (`int`): side of a tile.
        angle (`float`): degrees by which the page is turned, counter-clockwise, around the middle of the image.
        shear (`float`): how far verticals lean.
    """

    def __init__(self, image_size, grid, tile_size, angle=0.0, shear=0.0):
        self.image_size, self.grid, self.tile_size = image_size, grid, tile_size
        height, width = image_size
        canvas = (grid[0] * tile_size, grid[1] * tile_size)
        self.top, self.left, self.content_height, self.content_width = get_content_box(image_size, canvas)
        self.canvas_scale = np.array([self.content_width / width, self.content_height / height])
        # Image pixels in one pixel of the canvas.
        self.unit = height / self.content_height
        self.margin = MARGIN * tile_size * self.unit
        turn = math.radians(angle)
        turned = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
        self.matrix = turned @ np.array([[1, shear], [0, 1]])
        self.center = np.array([width / 2, height / 2])

    def to_image(self, points):
        """Points of the page, (..., 2) as (x, y), in the image."""
        return (points - self.center) @ self.matrix.T + self.center

    def to_canvas(self, points):
        """Points of the image on the canvas."""
        return points * self.canvas_scale + (self.left, self.top)

    def locate(self, run, shift):
        """Where a run lies when its block is put at `shift`; see [`locate`]. A cut below the baseline tears nothing."""
        ink, band = (
            locate(self.to_canvas(self.to_image(corners(box) + shift)), self.tile_size, self.grid)
            for box in (run.ink, run.band)
        )
        return ink if ink == band else None

    def holds(self, marks, shift):
        """Whether all marks are in the image, with a margin, when their block is put at `shift`."""
        points = self.to_image(np.concatenate([corners(mark.box) for mark in marks]) + shift)
        margin = self.margin / 2
        limit = np.array(self.image_size[::-1]) - margin
        return bool((points >= margin).all() and (points <= limit).all())

    @property
    def is_turned(self):
        return not np.array_equal(self.matrix, np.eye(2))

    def inverse(self, origin=(0, 0)):
        """The six numbers that `PIL.Image.transform` wants: from the image, from this point on, to the page."""
        inverse = np.linalg.inv(self.matrix)
        offset = self.center + inverse @ (origin - self.center)
        return (*inverse[0], offset[0], *inverse[1], offset[1])


def _find_shift(rng, placement, block, run, position, room):
    """A place for the block at which its run has the position, or `None`."""
    quad_center = np.array([(run.ink[0] + run.ink[2]) / 2, (run.ink[1] + run.ink[3]) / 2])
    tile = placement.tile_size
    cuts = [(0, tile * step) for step in range(1, placement.grid[1])]
    cuts += [(1, tile * step) for step in range(1, placement.grid[0])]
    start = placement.margin
    for _ in range(12):
        shift = np.array([start + rng.random() * room[0], start + rng.random() * room[1]])
        if position == "across":
            # Aims a random point of the text at a random cut. Turning moves it by little; what misses is not taken.
            axis, cut = rng.choice(cuts)
            canvas = placement.to_canvas(placement.to_image(quad_center + shift))
            size = (run.ink[2 + axis] - run.ink[axis]) * rng.uniform(-0.35, 0.35)
            shift[axis] += (cut - canvas[axis]) / placement.canvas_scale[axis] + size
            if not start <= shift[axis] <= start + room[axis]:
                continue
        if placement.locate(run, shift) == position and placement.holds(block.marks, shift):
            return shift
    return None


@dataclass
class Page:
    """A finished layout: what is drawn, and its questions.

    Boxes of marks, such as a run's `ink`, lie on the page before it is turned: `placement.to_image(corners(ink))` are
    pixels of the image, `placement.to_canvas` takes those to the ViT's canvas.
    """

    split: str
    kind: str
    template: str
    font: str
    position: str  # where the answer of the first question lies
    placement: Placement
    marks: list  # runs and panels, in the order in which they are drawn
    asked: list  # runs that answer the questions
    looks: int  # the seed of colours, blur, light and noise
    quality: int  # of the JPEG

    @property
    def runs(self):
        """`list[Run]`: all text on the page."""
        return [mark for mark in self.marks if isinstance(mark, Run)]

    @property
    def text(self):
        """`str`: all text on the page, line by line."""
        lines = []
        for run in sorted(self.runs, key=lambda run: run.y):
            if not lines or run.y - lines[-1][0].y > run.capital_height / 2:
                lines.append([])
            lines[-1].append(run)
        return "\n".join(" ".join(run.text for run in sorted(line, key=lambda run: run.x)) for line in lines)


def _draw_template(options, rng, kind, split):
    """Name and settings of a template."""
    if split == "train" and options.mix_templates:
        return "mixed", mix_template(kind, rng)
    name = rng.choice(list(TEMPLATES[kind][split]))
    return name, TEMPLATES[kind][split][name]


def lay_out(options, split, index):
    """Lays out a sample.

    Args:
        options ([`Options`])
        split (`str`): one of `SPLITS`.
        index (`int`): number of the sample.

    Returns:
        [`Page`]

    Raises:
        ValueError: no layout fits: the text is too large for the tiles.
    """
    rng = random.Random(f"{options.seed}/{split}/{index}")
    # Kinds, grids and positions take turns, so that all are about equally frequent.
    kind = options.kinds[index % len(options.kinds)]
    turn = index // len(options.kinds)
    grid = GRIDS[turn % len(GRIDS)]
    position = POSITIONS[turn // len(GRIDS) % 2]
    template, settings = _draw_template(options, rng, kind, split)
    family = rng.choice(list(FONTS[split]))
    low, high = options.min_text_height, options.max_text_height
    text_height = low * (high / low) ** rng.random()
    for attempt in range(MAX_ATTEMPTS):
        tightness = min(1.0, attempt / NUM_ATTEMPTS_UNTIL_TIGHT)
        if attempt >= NUM_ATTEMPTS_AT_SIZE:
            text_height = max(low, text_height * 0.93)
            template, settings = _draw_template(options, rng, kind, split)
            family = rng.choice(list(FONTS[split]))
        size = draw_image_size(rng, grid, options.tile_size, options.max_image_scale)
        angle = shear = 0.0
        if rng.random() < 0.6 * (1 - tightness):
            limit = (8 if kind == "sign" else 3) * (1 - tightness)
            angle, shear = rng.uniform(-limit, limit), rng.uniform(-0.04, 0.04) * (1 - tightness)
        placement = Placement(size, grid, options.tile_size, angle, shear)
        inner = [size[1] - 2 * placement.margin, size[0] - 2 * placement.margin]
        style = Style(FONTS[split][family], text_height * placement.unit, inner[0], tightness, rng)
        values = Values(split, rng, int(inner[0] / style.character))
        try:
            block = KINDS[kind](style, values, *inner, settings)
        except DoesNotFit:
            continue
        runs = [mark for mark in block.marks if isinstance(mark, Run)]
        asked = [run for run in runs if run.question and not _is_repeated(run, runs)]
        if not asked:
            continue
        room = [max(0.0, inner[0] - block.width), max(0.0, inner[1] - block.height)]
        # Any run will do only where it is hard to find one: those that are easily found are the longer ones.
        firsts = rng.sample(asked, 1 if attempt < NUM_ATTEMPTS_AT_SIZE else min(len(asked), 6))
        found = ((first, _find_shift(rng, placement, block, first, position, room)) for first in firsts)
        first, shift = next(((first, shift) for first, shift in found if shift is not None), (None, None))
        if shift is None:
            continue
        for mark in block.marks:
            mark.shift(*shift.tolist())
        looks, quality = rng.getrandbits(32), rng.randint(50, 95)
        if split == "train":
            asked = _choose_questions(rng, first, asked, rng.randint(1, options.max_questions))
        else:
            asked = [first]
        return Page(split, kind, template, family, position, placement, block.marks, asked, looks, quality)
    raise ValueError(
        f"Found no {kind} with text of {low:g} to {high:g} pixels for a canvas of {grid[0]}x{grid[1]} tiles of "
        f"{options.tile_size} pixels (sample {index} of {split}). Lower min_text_height, or leave this kind out."
    )


def _is_repeated(run, runs):
    """Whether the answer can also be read elsewhere."""
    text = run.text.casefold()
    return any(text in other.text.casefold() for other in runs if other is not run)


def _choose_questions(rng, first, runs, count):
    """The first run and up to `count - 1` others, none of which can be copied from a question before it."""
    chosen = [first]
    for run in rng.sample(runs, len(runs)):
        if len(chosen) == count:
            break
        if run is not first and not any(run.text.casefold() in other.question.casefold() for other in chosen):
            chosen.append(run)
    return chosen


def _mix(color, other, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other))


def _draw_colors(rng):
    """(paper, bar, ink): now and then the print is pale, or light on dark."""
    is_dark = rng.random() < 0.15
    level = rng.uniform(15, 60) if is_dark else rng.uniform(195, 255)
    contrast = rng.uniform(110, 190) if rng.random() < 0.7 else rng.uniform(65, 110)
    paper = tuple(min(255, max(0, round(level + rng.uniform(-10, 10)))) for _ in range(3))
    sign = 1 if is_dark else -1
    ink = tuple(min(255, max(0, round(channel + sign * (contrast + rng.uniform(-12, 12))))) for channel in paper)
    tint = tuple(rng.randrange(256) for _ in range(3))
    return paper, _mix(_mix(paper, ink, SHADES["bar"] / 255), tint, 0.15), ink


def _draw_marks(image, marks):
    draw = ImageDraw.Draw(image)
    for mark in marks:
        color = SHADES[mark.color] if isinstance(mark.color, str) else mark.color
        if not isinstance(mark, Panel):
            draw.text((mark.x, mark.y), mark.text, fill=color, font=load_font(mark.font, mark.size), anchor="ls")
            continue
        box = [round(mark.x), round(mark.y), round(mark.x + mark.width) - 1, round(mark.y + mark.height) - 1]
        box[2:] = max(box[0], box[2]), max(box[1], box[3])
        if mark.outline:
            draw.rectangle(box, outline=color, width=max(1, round(mark.outline)))
        else:
            draw.rectangle(box, fill=color)


def _draw_layer(page, mode):
    """The marks as they lie in the image: the part of it that they take, and where its left top corner is."""
    height, width = page.placement.image_size
    layer = PIL.Image.new(mode, (width, height))
    _draw_marks(layer, page.marks)
    boxes = page.placement.to_image(np.array([corners(mark.box) for mark in page.marks]))
    low = np.floor(boxes.min(axis=(0, 1))).astype(int) - 1
    high = np.ceil(boxes.max(axis=(0, 1))).astype(int) + 1
    if page.placement.is_turned:
        layer = layer.transform(tuple(high - low), AFFINE, page.placement.inverse(low), BICUBIC)
    else:
        layer = layer.crop((*low, *high))
    return layer, tuple(low)


def _draw_paper(page, rng):
    height, width = page.placement.image_size
    image = PIL.Image.new("L", (width, height))
    image.paste(*_draw_layer(page, "L"))
    image = _blur(image, page, rng)
    paper, bar, ink = _draw_colors(rng)
    return ImageOps.colorize(image, paper, ink, bar, midpoint=SHADES["bar"])


def _draw_sign(page, rng):
    height, width = page.placement.image_size
    image = _draw_photo(rng, page.split, (height, width))
    layer, place = _draw_layer(page, "RGBA")
    image.paste(layer, place, mask=layer)
    return _blur(image, page, rng)


def _blur(image, page, rng):
    if rng.random() < 0.25:
        return image.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.5) * page.placement.unit))
    return image


@cache
def _grain(seed):
    """A large piece of noise of unit variance, from which the noise of all images is cut."""
    return np.random.default_rng(seed).standard_normal((1024, 1024), dtype=np.float32)


def _draw_photo(rng, split, size):
    """A part of a photo, as large as the image."""
    height, width = size
    photo = load_photo(rng.choice(PHOTOS[split]))
    scale = rng.uniform(0.5, 1) * min(photo.width / width, photo.height / height)
    part_width, part_height = width * scale, height * scale
    left = rng.uniform(0, photo.width - part_width)
    top = rng.uniform(0, photo.height - part_height)
    box = (left, top, left + part_width, top + part_height)
    return photo.resize((width, height), BICUBIC, box=box)


def render(page):
    """Draws a page, and lets it suffer: turned, blurred, unevenly lit, noisy.

    Args:
        page ([`Page`]): from [`lay_out`].

    Returns:
        `PIL.Image.Image` in RGB; the same page gives the same picture.
    """
    rng = random.Random(page.looks)
    height, width = page.placement.image_size
    image = _draw_sign(page, rng) if page.kind == "sign" else _draw_paper(page, rng)
    if rng.random() < 0.3:
        light = PIL.Image.new("L", (3, 3))
        light.putdata([rng.randrange(185, 256) for _ in range(9)])
        light = light.resize((width, height), PIL.Image.Resampling.BILINEAR)
        image = ImageChops.multiply(image, PIL.Image.merge("RGB", [light] * 3))
    if rng.random() < 0.4:
        grain = _grain(0)
        top, left = rng.randrange(1024), rng.randrange(1024)
        rows, columns = np.arange(top, top + height) % 1024, np.arange(left, left + width) % 1024
        noise = (grain[rows[:, None], columns] * rng.uniform(2, 10)).astype(np.int16)
        pixels = np.asarray(image, dtype=np.int16) + noise[..., None]
        image = PIL.Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return image


def make_page(options, split, index):
    """Makes the picture of one sample, with all that is known about it; for labels of one's own.

    Args:
        options ([`Options`])
        split (`str`): one of `SPLITS`.
        index (`int`): number of the sample.

    Returns:
        `tuple[PIL.Image.Image, Page]`: the picture as it is before it becomes a JPEG, and its page. Of each run in
        `page.runs`, `page.placement.to_image(corners(run.ink))` is a (4, 2) array of its corners (x, y) in pixels of the
        image, and `page.placement.to_canvas` takes them to pixels of the ViT's canvas.
    """
    page = lay_out(options, split, index)
    return render(page), page


def make_messages(page, transcribe=False):
    """The conversation about a page: its image, then question and answer by turns.

    Args:
        page ([`Page`])
        transcribe (`bool`, *optional*): whether the last turn repeats all text.

    Returns:
        `list[dict]`: messages whose content is a list.
    """
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
    """Makes one row of the dataset; depends on the seed, the split and the index, not on other samples.

    Args:
        options ([`Options`])
        split (`str`): one of `SPLITS`.
        index (`int`): number of the sample.

    Returns:
        `dict`: a row with the columns of `FEATURES`. Its labels are those of the first question. `text_height` is the
        height of a capital in pixels of the ViT's canvas, `box` the four corners (x, y) of the answer in pixels of the
        image, clockwise from where the text's left top is.
    """
    image, page = make_page(options, split, index)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=page.quality)
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


def _write_split(options, split, folder, samples):
    """Writes the shards of a split, and returns what its card counts: `Counter` of (column, value)."""
    count = num_samples(options, split)
    num_shards = math.ceil(count / options.shard_size)
    counts = Counter()
    for shard in range(num_shards):
        rows = list(islice(samples, options.shard_size))
        path = folder / f"{split}-{shard:05}-of-{num_shards:05}.parquet"
        Dataset.from_list(rows, features=FEATURES).to_parquet(path)
        for row in rows:
            counts["questions"] += len(row["messages"]) // 2
            counts["kind", row["kind"]] += 1
            counts["position", row["position"]] += 1
            counts["grid", "{}x{}".format(*row["grid"])] += 1
            counts["height", next(bound for bound in TEXT_HEIGHTS if row["text_height"] < bound)] += 1
    return counts


def num_samples(options, split):
    """`int`: images that are made for a split."""
    return getattr(options, f"num_{split}")


def write(options):
    """Makes the benchmark in a folder beside the output, which it becomes when all is written.

    Args:
        options ([`Options`])

    Raises:
        FileExistsError: there is something in the output already.
        ValueError: a layout does not fit; see [`lay_out`].
        ModuleNotFoundError: a package with fonts or photos is missing.
    """
    output = Path(options.output_dir)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is there already. Remove it, or choose another --output_dir.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        folder = temporary / "fineprint"  # with ordinary permissions, which the temporary folder has not
        (folder / "data").mkdir(parents=True)
        counts = {}
        with _parallel_map(options) as parallel_map:
            for split in SPLITS:
                if count := num_samples(options, split):
                    samples = parallel_map(partial(make_sample, options, split), range(count))
                    samples = iter(tqdm(samples, split, count, unit=" images"))
                    counts[split] = _write_split(options, split, folder / "data", samples)
        (folder / "README.md").write_text(make_card(options, counts), encoding="utf-8")
        if options.gallery and options.num_test:
            draw_gallery(options, folder / "gallery.png")
        if output.exists():
            output.rmdir()
        os.replace(folder, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _parallel_map(options):
    """What `map` is, in as many processes as are asked for."""
    if options.num_proc == 1:
        yield map
        return
    executor = ProcessPoolExecutor(options.num_proc)
    try:
        yield partial(executor.map, chunksize=8)
    finally:
        executor.shutdown(cancel_futures=True)


def make_card(options, counts):
    """The dataset card: what is in the folder, and how it was made.

    Args:
        options ([`Options`])
        counts (`dict[str, Counter]`): by split, from writing it.

    Returns:
        `str`: Markdown with a YAML head.
    """
    splits = list(counts)
    rows = [("images", [num_samples(options, split) for split in splits])]
    rows.append(("questions", [counts[split]["questions"] for split in splits]))
    for column in ("kind", "position", "grid", "height"):
        keys = {key[1] for split in splits for key in counts[split] if key[0] == column}
        for key in sorted(keys):
            below = max((bound for bound in (0, *TEXT_HEIGHTS) if bound < key), default=0) if column == "height" else 0
            name = f"capitals of {below:g} to {key:g} pixels" if column == "height" else f"{column} {key}"
            rows.append((name, [counts[split][column, key] for split in splits]))
    table = [f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    table += [f"| {name} | {' | '.join(str(number) for number in numbers)} |" for name, numbers in rows]
    settings = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "num_proc")}
    versions = ", ".join(f"{name} {version(name)}" for name in ("pillow", "numpy", "faker"))
    gallery = "\n![Samples of the test split](gallery.png)\n" if options.gallery and options.num_test else ""
    return CARD.format(
        tile_size=options.tile_size,
        max_questions=options.max_questions,
        table="\n".join(table),
        settings="\n".join(f"- `{name}`: {value}" for name, value in settings.items()),
        versions=versions,
        gallery=gallery,
    )


def draw_gallery(options, path):
    """Draws test samples on their canvases, with tile cuts (blue), the answer's box (red), question and answer.

    Args:
        options ([`Options`])
        path (`Path`): the picture to write.
    """
    # A step that is prime to the numbers of kinds and grids shows all of them.
    indices = sorted({37 * number % options.num_test for number in range(options.gallery)})
    cards = [_draw_gallery_card(options, make_sample(options, "test", index)) for index in indices]
    width = max(1400, max(card.width for card in cards))
    placed, left, top, shelf = [], 0, 0, 0
    for card in sorted(cards, key=lambda card: card.height):
        if left + card.width > width:
            left, top, shelf = 0, top + shelf, 0
        placed.append((card, (left, top)))
        left, shelf = left + card.width, max(shelf, card.height)
    sheet = PIL.Image.new("RGB", (width, top + shelf), "white")
    for card, place in placed:
        sheet.paste(card, place)
    sheet.save(path)


def _draw_gallery_card(options, row):
    tile, pad, line = options.tile_size, 12, 18
    scale = max(1, round(336 / tile))
    rows, columns = row["grid"]
    image = PIL.Image.open(io.BytesIO(row["images"][0]["bytes"]))
    placement = Placement(image.size[::-1], (rows, columns), tile)
    canvas = PIL.Image.new("RGB", (columns * tile * scale, rows * tile * scale), "gray")
    size = (placement.content_width * scale, placement.content_height * scale)
    canvas.paste(image.resize(size, BICUBIC), (placement.left * scale, placement.top * scale))
    draw = ImageDraw.Draw(canvas)
    for step in range(1, columns):
        draw.line([(step * tile * scale, 0), (step * tile * scale, canvas.height)], "blue")
    for step in range(1, rows):
        draw.line([(0, step * tile * scale), (canvas.width, step * tile * scale)], "blue")
    quad = placement.to_canvas(np.reshape(row["box"], (4, 2))) * scale
    draw.polygon([tuple(point) for point in quad], outline="red")
    text = f"{row['question']} {row['answer']} ({row['kind']}, {row['position']}, {row['text_height']:.0f} pixels)"
    lines = textwrap.wrap(text, canvas.width // 8)
    card = PIL.Image.new("RGB", (canvas.width + pad, canvas.height + pad + line * len(lines)), "white")
    card.paste(canvas, (0, line * len(lines)))
    font = load_font(FONTS["train"]["DejaVu Sans"][0], 13)
    ImageDraw.Draw(card).text((0, 0), "\n".join(lines), "black", font)
    return card


def main(arguments=None):
    """Reads the command line and makes the benchmark; whatever goes wrong is one sentence."""
    try:
        disable_progress_bars()  # those of datasets, which would show for each shard
        (options,) = HfArgumentParser(Options, description=__doc__).parse_args_into_dataclasses(arguments)
        write(options)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
