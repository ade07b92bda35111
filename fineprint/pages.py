# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages of the fine-print benchmark before they are drawn: their options, canvas, layout, and where each answer lies on the
tiles that FilaImageProcessor cuts."""

import math
import random
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Bbox
from transformers.hf_argparser import HfArg

from fila import FilaImageProcessor
from fila.common.arguments import UserError
from fila.common.layout import CANVASES, image_grid_pinpoints
from fila.configuration_fila import get_content_box
from fila.fineprint.blocks import Run, Style
from fila.fineprint.documents import KINDS, TEMPLATES, mix_template
from fila.fineprint.sources import FONTS, DoesNotFit, Values

POSITIONS = ("inside", "across")
MAX_SHARE_ACROSS = 0.85  # of an answer's box that one tile may hold, if it is "across"
MIN_DISTANCE_INSIDE = 1.0  # from the next tile, in pixels of the canvas, if it is "inside"
MAX_ATTEMPTS = 200
NUM_ATTEMPTS_AT_SIZE = 4
NUM_ATTEMPTS_UNTIL_TIGHT = 10
MARGIN = 1 / 56  # between text and the edge of the image, in tiles
# The least values of options that are whole numbers.
LEAST = {"num_train": 0, "num_validation": 0, "num_test": 0, "gallery": 0, "max_questions": 1, "num_proc": 1}


@dataclass
class Options:
    """What is made, and where it is written. Raises a `UserError` for values that are not possible."""

    output_dir: str = HfArg(default="build/fineprint", help="Folder to make.")
    num_train: int = HfArg(default=20000, help="Images for training.")
    num_validation: int = HfArg(default=500, help="Images, and questions, for validation.")
    num_test: int = HfArg(default=2000, help="Images, and questions, for the test.")
    seed: int = HfArg(default=0, help="Where all chance comes from.")
    tile_size: int = HfArg(default=336, help="Side of the ViT's tiles in pixels; canvases follow from it.")
    kinds: list[str] = HfArg(default_factory=lambda: list(KINDS), help=f"Among {', '.join(KINDS)}.")
    min_text_height: float = HfArg(default=8.0, help="Smallest capitals, in pixels on the ViT's canvas.")
    max_text_height: float | None = HfArg(default=None, help="Largest; by default a twelfth of the tile size.")
    max_image_scale: float = HfArg(default=2.0, help="Largest images: so many times the canvas in each direction.")
    max_questions: int = HfArg(default=4, help="Most questions about a training image, in one conversation.")
    transcribe: bool = HfArg(default=False, help="Training conversations end with all text of the page.")
    mix_templates: bool = HfArg(default=False, help="Draw the settings of training pages one by one: more layouts.")
    num_proc: int = HfArg(default=1, help="Processes that draw.")
    gallery: int = HfArg(default=12, help="Test samples in the picture gallery.png; 0: no picture.")

    def __post_init__(self):
        for name, least in LEAST.items():
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)!r} is not possible: it must be {least} or more.")
        if not (self.num_train or self.num_validation or self.num_test):
            raise UserError("num_train, num_validation and num_test are all 0: there is nothing to make.")
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise UserError(f"kinds={self.kinds} is not possible: choose one or more of {', '.join(KINDS)}.")
        if self.tile_size < 56 or self.tile_size % 14:
            raise UserError(f"tile_size={self.tile_size} is not possible: it must be a multiple of 14, at least 56.")
        if self.max_text_height is None:
            largest = max(self.min_text_height * 1.5, self.tile_size / 12)
            self.max_text_height = max(self.min_text_height, min(largest, self.tile_size / 6))
        if not 4 <= self.min_text_height <= self.max_text_height <= self.tile_size / 6:
            raise UserError(
                f"Text of {self.min_text_height} to {self.max_text_height} pixels does not go with tile_size="
                f"{self.tile_size}: the bounds must grow, from 4 up to a sixth of the tile size, {self.tile_size / 6:.1f}."
            )
        if not 1 <= self.max_image_scale <= 8:
            raise UserError(f"max_image_scale={self.max_image_scale} is not possible: it must be between 1 and 8.")


@cache
def image_processor(tile_size):
    """The image processor whose canvases the benchmark is made for."""
    return FilaImageProcessor(size=tile_size, image_grid_pinpoints=image_grid_pinpoints(tile_size))


def draw_image_size(rng, grid, tile_size, max_scale):
    """Draws (height, width) of an image for which the image processor picks a canvas of this grid. Large images get canvases
    of two tiles only when they are exactly twice as long as wide (a third tile or a second row holds all others better),
    small ones also otherwise: half of these canvases get small images."""
    is_small = grid[0] * grid[1] == 2
    while True:
        if is_small and rng.random() < 0.5:
            short = round(tile_size * rng.uniform(1, max_scale))
            size = (short * grid[0], short * grid[1])
        else:
            scale = rng.uniform(0.85, 1) if is_small else rng.uniform(1, max_scale)
            sides, free = [side * tile_size for side in grid], rng.uniform(0.75, 1)
            sides[rng.random() >= 0.5] *= free
            size = tuple(round(side * scale) for side in sides)
        if image_processor(tile_size).get_image_grid(*size) == grid:
            return size


def corners(rectangle):
    """(left, top, right, bottom) as a (4, 2) array of (x, y), clockwise from the left top corner."""
    left, top, right, bottom = rectangle
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def locate(quad, tile_size, grid):
    """Where a text lies on a canvas of `grid` tiles (rows, columns): "inside" a tile, "across" a cut, or, where a cut
    touches it, neither: `None`. `quad` has the corners (x, y) of its box in pixels of the canvas, shape (4, 2)."""
    low, high = quad.min(axis=0) - MIN_DISTANCE_INSIDE, quad.max(axis=0) + MIN_DISTANCE_INSIDE
    cuts = [[tile_size * step for step in range(1, count)] for count in (grid[1], grid[0])]
    xs, ys = ([low[axis], *(cut for cut in cuts[axis] if low[axis] < cut < high[axis]), high[axis]] for axis in (0, 1))
    if len(xs) == len(ys) == 2:
        return "inside"
    areas = []
    for (left, right), (top, bottom) in product(pairwise(xs), pairwise(ys)):
        x, y = Path(quad, closed=True).clip_to_bbox(Bbox.from_extents(left, top, right, bottom)).vertices.T
        areas.append(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
    return "across" if max(areas) <= MAX_SHARE_ACROSS * sum(areas) else None


class Placement:
    """How a page lies in its image of `image_size` (height, width), and the image on its canvas of `grid` tiles. The page is
    turned around its middle by `angle` degrees, counter-clockwise; `shear` is how far verticals lean."""

    def __init__(self, image_size, grid, tile_size, angle=0.0, shear=0.0):
        self.image_size, self.grid, self.tile_size = image_size, grid, tile_size
        height, width = image_size
        canvas = (grid[0] * tile_size, grid[1] * tile_size)
        self.top, self.left, self.content_height, self.content_width = get_content_box(image_size, canvas)
        self.canvas_scale = np.array([self.content_width / width, self.content_height / height])
        self.unit = height / self.content_height  # image pixels in one pixel of the canvas
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
        low, high = self.margin / 2, np.array(self.image_size[::-1]) - self.margin / 2
        return bool((points >= low).all() and (points <= high).all())

    def inverse(self, origin):
        """The six numbers that `PIL.Image.transform` wants: from the image, from this point on, to the page."""
        inverse = np.linalg.inv(self.matrix)
        offset = self.center + inverse @ (origin - self.center)
        return (*inverse[0], offset[0], *inverse[1], offset[1])


def _find_shift(rng, placement, block, run, position, room):
    """A place for the block at which its run has the position, or `None`."""
    quad_center = np.array([(run.ink[0] + run.ink[2]) / 2, (run.ink[1] + run.ink[3]) / 2])
    counts = enumerate(placement.grid[::-1])
    cuts = [(axis, placement.tile_size * step) for axis, count in counts for step in range(1, count)]
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
    """A finished layout: what is drawn, and its questions. Boxes of marks, such as a run's `ink`, lie on the page before it
    is turned: `placement.to_image(corners(ink))` are pixels of the image, `placement.to_canvas` takes those to the ViT's
    canvas."""

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


def _draw_placement(options, rng, grid, tightness, max_angle):
    """A canvas with an image of any size that belongs on it, sometimes turned by up to `max_angle` degrees."""
    size = draw_image_size(rng, grid, options.tile_size, options.max_image_scale)
    angle = shear = 0.0
    if rng.random() < 0.6 * (1 - tightness):
        limit = max_angle * (1 - tightness)
        angle, shear = rng.uniform(-limit, limit), rng.uniform(-0.04, 0.04) * (1 - tightness)
    return Placement(size, grid, options.tile_size, angle, shear)


def lay_out(options, split, index):
    """Lays out sample `index` of a split, a [`Page`]. Raises a `UserError` if the text is too large for the tiles."""
    rng = random.Random(f"{options.seed}/{split}/{index}")
    # Kinds, grids and positions take turns, so that all are about equally frequent.
    kind, turn = options.kinds[index % len(options.kinds)], index // len(options.kinds)
    grid = CANVASES[turn % len(CANVASES)]
    position = POSITIONS[turn // len(CANVASES) % 2]
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
        placement = _draw_placement(options, rng, grid, tightness, 8 if kind == "sign" else 3)
        height, width = placement.image_size
        inner = [width - 2 * placement.margin, height - 2 * placement.margin]
        style = Style(FONTS[split][family], text_height * placement.unit, inner[0], tightness, rng)
        values = Values(split, rng, int(inner[0] / style.character))
        try:
            block = KINDS[kind](style, values, *inner, settings)
        except DoesNotFit:
            continue
        runs = [mark for mark in block.marks if isinstance(mark, Run)]
        # Answers that cannot be read elsewhere.
        texts = [run.text.casefold() for run in runs]
        asked = [run for run in runs if run.question and sum(run.text.casefold() in text for text in texts) == 1]
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
        count = rng.randint(1, options.max_questions) if split == "train" else 1
        asked = _choose_questions(rng, first, asked, count)
        return Page(split, kind, template, family, position, placement, block.marks, asked, looks, quality)
    raise UserError(
        f"Found no {kind} with text of {low:g} to {high:g} pixels for a canvas of {grid[0]}x{grid[1]} tiles of "
        f"{options.tile_size} pixels (sample {index} of {split}). Lower min_text_height, or leave this kind out."
    )


def _choose_questions(rng, first, runs, count):
    """The first run and up to `count - 1` others, none of which can be copied from a question before it."""
    chosen = [first]
    for run in rng.sample(runs, len(runs)):
        is_given = any(run.text.casefold() in other.question.casefold() for other in chosen)
        if len(chosen) < count and run is not first and not is_given:
            chosen.append(run)
    return chosen
