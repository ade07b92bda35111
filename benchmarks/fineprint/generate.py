# Copyright 2026 The FILA authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Makes the fine-print benchmark: documents with small text, and questions about values that must be read.

    python benchmarks/fineprint/generate.py --output_dir build/fineprint --num_train 20000 --num_proc 16
    python benchmarks/fineprint/generate.py --output_dir build/signs --kinds sign receipt --num_train 1000
    python benchmarks/fineprint/generate.py --output_dir build/fineprint-112 --tile_size 112

The folder can be given to `datasets.load_dataset`: splits train, validation and test in chat format, of which train has
one to four questions for each image, the others one. Train, validation and test share no font, no template and no value.

Each question says where its answer lies on the canvas that FilaImageProcessor picks: "inside" one tile of the ViT, or
"across" a cut. Answers that a cut merely touches are not asked about. Sample i depends on the seed, the split and i alone:
shards, processes and the numbers of samples change nothing. Other versions of Pillow, NumPy or Faker may.
"""

import io
import math
import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import PIL.Image
from datasets import Features, Image, List, Value
from documents import KINDS, TEMPLATES, DoesNotFit, Panel, Style
from PIL import ImageChops, ImageDraw, ImageFilter, ImageOps
from sources import FONTS, PHOTOS, Values, load_font, load_photo

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
# Documents are drawn in one channel, from paper to ink, and coloured last.
SHADES = {"paper": 0, "shade": 38, "bar": 204, "ink": 255}
MARGIN = 6.0  # between text and the edge of the image, in pixels of the canvas

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
        default=None, metadata={"help": "Largest ordinary capitals; a twelfth of the tile size if not given."}
    )
    max_image_scale: float = field(
        default=2.0, metadata={"help": "The largest images have so many times the canvas's pixels in each direction."}
    )
    num_proc: int = field(default=1, metadata={"help": "Processes that draw."})
    shard_size: int = field(default=1000, metadata={"help": "Images in each file."})
    gallery: int = field(default=12, metadata={"help": "Test samples in the picture gallery.png; 0: no picture."})

    def __post_init__(self):
        for name in ("num_train", "num_validation", "num_test", "gallery"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 0 or more.")
        for name in ("num_proc", "shard_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 1 or more.")
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown or not self.kinds:
            raise ValueError(f"kinds={self.kinds} is not possible: choose one or more of {', '.join(KINDS)}.")
        if self.tile_size < 56 or self.tile_size % 14:
            raise ValueError(f"tile_size={self.tile_size} is not possible: it must be a multiple of 14, at least 56.")
        if self.max_text_height is None:
            self.max_text_height = max(self.min_text_height * 1.5, self.tile_size / 12)
        if not 4 <= self.min_text_height <= self.max_text_height <= self.tile_size / 6:
            raise ValueError(
                f"Text of {self.min_text_height} to {self.max_text_height} pixels does not go with tile_size="
                f"{self.tile_size}: the bounds must grow, from 4 up to a sixth of the tile size, {self.tile_size / 6:.0f}."
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

    def locate(self, ink, shift):
        """Where a run with this ink lies when its block is put at `shift`; see [`locate`]."""
        quad = self.to_canvas(self.to_image(corners(ink) + shift))
        return locate(quad, self.tile_size, self.grid)

    def holds(self, marks, shift):
        """Whether all marks are in the image, with a margin, when their block is put at `shift`."""
        points = self.to_image(np.concatenate([corners(mark.box) for mark in marks]) + shift)
        margin = MARGIN / 2 * self.unit
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
    start = MARGIN * placement.unit
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
        if placement.locate(run.ink, shift) == position and placement.holds(block.marks, shift):
            return shift
    return None


@dataclass
class Page:
    """A finished layout: what is drawn, and its questions."""

    placement: Placement
    marks: list
    style: Style
    asked: list  # runs that answer questions
    kind: str
    template: str
    font: str
    position: str


def lay_out(options, split, index):
    """Lays out a sample.

    Args:
        options ([`Options`])
        split (`str`): one of `SPLITS`.
        index (`int`): number of the sample.

    Returns:
        `tuple[Page, random.Random]`: the page, and the chance that is left for its looks.

    Raises:
        ValueError: no layout fits: the text is too large for the tiles.
    """
    rng = random.Random(f"{options.seed}/{split}/{index}")
    # Kinds, grids and positions take turns, so that all are about equally frequent.
    kind = options.kinds[index % len(options.kinds)]
    turn = index // len(options.kinds)
    grid = GRIDS[turn % len(GRIDS)]
    position = POSITIONS[turn // len(GRIDS) % 2]
    template = rng.choice(list(TEMPLATES[kind][split]))
    family = rng.choice(list(FONTS[split]))
    low, high = options.min_text_height, options.max_text_height
    text_height = low * (high / low) ** rng.random()
    for attempt in range(MAX_ATTEMPTS):
        if attempt >= NUM_ATTEMPTS_AT_SIZE:
            text_height = max(low, text_height * 0.93)
        size = draw_image_size(rng, grid, options.tile_size, options.max_image_scale)
        angle = shear = 0.0
        if rng.random() < 0.6:
            limit = 8 if kind == "sign" else 3
            angle, shear = rng.uniform(-limit, limit), rng.uniform(-0.04, 0.04)
        placement = Placement(size, grid, options.tile_size, angle, shear)
        style = Style(FONTS[split][family], text_height * placement.unit, rng)
        inner = [size[1] - 2 * MARGIN * placement.unit, size[0] - 2 * MARGIN * placement.unit]
        try:
            block = KINDS[kind](style, Values(split, rng), *inner, TEMPLATES[kind][split][template])
        except DoesNotFit:
            continue
        runs = [mark for mark in block.marks if not isinstance(mark, Panel)]
        asked = [run for run in runs if run.question and not _is_repeated(run, runs)]
        if not asked:
            continue
        first = rng.choice(asked)
        room = [max(0.0, inner[0] - block.width), max(0.0, inner[1] - block.height)]
        shift = _find_shift(rng, placement, block, first, position, room)
        if shift is None:
            continue
        for mark in block.marks:
            mark.shift(*shift)
        others = [run for run in asked if run is not first]
        more = rng.sample(others, min(len(others), rng.randint(0, 3))) if split == "train" else []
        return Page(placement, block.marks, style, [first, *more], kind, template, family, position), rng
    raise ValueError(
        f"Found no {kind} with text of {low:g} to {high:g} pixels for a canvas of {grid[0]}x{grid[1]} tiles of "
        f"{options.tile_size} pixels (sample {index} of {split}). Lower min_text_height, or leave this kind out."
    )


def _is_repeated(run, runs):
    """Whether the answer can also be read elsewhere."""
    text = run.text.casefold()
    return any(text in other.text.casefold() for other in runs if other is not run)


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


def _draw_paper(page, rng):
    height, width = page.placement.image_size
    image = PIL.Image.new("L", (width, height))
    _draw_marks(image, page.marks)
    if page.placement.is_turned:
        image = image.transform(image.size, AFFINE, page.placement.inverse(), BICUBIC)
    image = _blur(image, page, rng)
    paper, bar, ink = _draw_colors(rng)
    return ImageOps.colorize(image, paper, ink, bar, midpoint=SHADES["bar"])


def _draw_sign(page, split, rng):
    height, width = page.placement.image_size
    image = _draw_photo(rng, split, (height, width))
    layer = PIL.Image.new("RGBA", (width, height))
    _draw_marks(layer, page.marks)
    # Only the part that the signs take is turned.
    boxes = [page.placement.to_image(corners(mark.box)) for mark in page.marks]
    low = np.floor(np.min(boxes, axis=(0, 1))).astype(int) - 1
    high = np.ceil(np.max(boxes, axis=(0, 1))).astype(int) + 1
    if page.placement.is_turned:
        layer = layer.transform(tuple(high - low), AFFINE, page.placement.inverse(low), BICUBIC)
    else:
        layer = layer.crop((*low, *high))
    image.paste(layer, tuple(low), mask=layer)
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


def render(page, split, rng):
    """Draws a page, and lets it suffer: turned, blurred, unevenly lit, noisy.

    Args:
        page ([`Page`]): from [`lay_out`].
        split (`str`): the split whose photos may be used.
        rng (`random.Random`): chance.

    Returns:
        `PIL.Image.Image` in RGB.
    """
    height, width = page.placement.image_size
    image = _draw_sign(page, split, rng) if page.kind == "sign" else _draw_paper(page, rng)
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
    page, rng = lay_out(options, split, index)
    image = render(page, split, rng)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(50, 95))
    messages = []
    for run in page.asked:
        content = [{"type": "text", "text": run.question}]
        if not messages:
            content.insert(0, {"type": "image", "text": None})
        messages.append({"role": "user", "content": content})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": run.text}]})
    first = page.asked[0]
    return {
        "images": [{"bytes": buffer.getvalue(), "path": None}],
        "messages": messages,
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
