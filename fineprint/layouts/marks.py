# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What blocks are made of: texts and shapes in a style, and what can be asked about them."""

import math
from dataclasses import dataclass, field

from fila.fineprint.layouts.fonts import capital_share, text_ink, text_width
from fila.fineprint.layouts.texts import DoesNotFit


def mix(color, other, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other))


def luminance(color):
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def draw_color(rng, background, contrast, saturation=25):
    """A color that differs from the background by at least `contrast` of 255 in luminance."""
    light = luminance(background)
    for _ in range(50):
        level = rng.uniform(0, light - contrast) if light > 127 else rng.uniform(light + contrast, 255)
        color = tuple(min(255, max(0, round(level + rng.uniform(-saturation, saturation)))) for _ in range(3))
        if abs(luminance(color) - light) >= contrast:
            return color
    return (0, 0, 0) if light > 127 else (255, 255, 255)


@dataclass
class Text:
    """A text on one line: `x` and `y` is where its baseline begins, `capital` the height of its capitals in pixels."""

    text: str
    x: float
    y: float
    face: object
    size: int
    color: tuple

    @property
    def capital(self):
        return self.size * capital_share(self.face)

    @property
    def end(self):
        return self.x + text_width(self.face, self.size, self.text)

    @property
    def quick_box(self):
        """Instead of the box of the ink, which is slow to measure: from baseline to capitals."""
        return self.x, self.y - self.capital, self.end, self.y

    @property
    def box(self):
        left, top, right, bottom = text_ink(self.face, self.size, self.text)
        return self.x + left, self.y + top, self.x + right, self.y + bottom


@dataclass
class Shape:
    """What `method` of `PIL.ImageDraw.ImageDraw` draws; `points` are x and y by turns."""

    method: str
    points: list
    settings: dict

    @property
    def box(self):
        return min(self.points[::2]), min(self.points[1::2]), max(self.points[::2]), max(self.points[1::2])

    quick_box = box


@dataclass
class Fact:
    """What can be asked about marks. `slots` fill the wording of the question."""

    kind: str
    answer: str
    marks: list
    slots: dict


class Style:
    """How a block looks, drawn freely.

    Args:
        rng (`random.Random`): where all chance comes from.
        faces (`dict[str, Face]`): of a family.
        capital (`float`): least height of capitals in pixels.
        paper, ink, accent (`tuple[int, int, int]`): colors of the background, of text, and of what stands out.
    """

    def __init__(self, rng, faces, capital, paper, ink, accent):
        self.rng, self.faces, self.paper, self.ink, self.accent = rng, faces, paper, ink, accent
        size, step = capital / min(map(capital_share, faces.values())), 1 if capital < 16 else 2 if capital < 32 else 6
        self.size = math.ceil(size / step) * step  # few sizes, so that their glyphs are measured once
        self.capital = self.size * capital_share(faces["regular"])
        self.pitch = self.capital * rng.uniform(1.75, 2.6)
        self.pad = self.capital * rng.uniform(0.5, 1.3)
        self.rule = max(1, round(self.capital * rng.uniform(0.04, 0.18)))
        self.line = mix(paper, ink, rng.uniform(0.3, 1))
        self.shade = mix(paper, accent, rng.uniform(0.06, 0.2))
        self.upper = rng.random() < 0.08
        self.body = rng.choice(["regular"] * 5 + ["bold", "italic"])
        self.strong = rng.choice(["regular", "bold", "bold", "italic"])

    def scaled(self, factor):
        """The style of a larger text."""
        return Style(self.rng, self.faces, self.capital * factor, self.paper, self.ink, self.accent)

    def face(self, kind):
        return self.faces.get(kind, self.faces["regular"])

    def width(self, text, kind="regular"):
        return text_width(self.face(kind), self.size, text)

    def baseline(self, middle):
        """Where the baseline is of text whose capitals are centred at this height."""
        return round(middle + self.capital / 2)


@dataclass
class Block:
    """A part of a page. Its left top corner is at (0, 0) until it is moved.

    `noun` says what it is in questions; `lines` are its texts in reading order; `in_order` says whether one may ask what
    comes after a line.
    """

    noun: str
    width: float = 0
    height: float = 0
    in_order: bool = False
    title: str | None = None
    texts: list = field(default_factory=list)
    shapes: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    facts: list = field(default_factory=list)

    def write(self, style, text, x, middle, kind="regular", color=None, align=0, room=0, new_line=True):
        """Adds a text whose capitals are centred at the height `middle`, from `x` on, or aligned within `room` from there."""
        if align:
            x += (room - style.width(text, kind)) * align
        mark = Text(text, round(x), style.baseline(middle), style.face(kind), style.size, color or style.ink)
        self.texts.append(mark)
        if new_line or not self.lines:
            self.lines.append([])
        self.lines[-1].append(mark)
        return mark

    def shape(self, method, points, **settings):
        self.shapes.append(Shape(method, [round(value) for value in points], settings))
        return self.shapes[-1]

    def ask(self, kind, marks, answer=None, **slots):
        """Adds a fact, whose answer is the text of the first mark if none is given."""
        self.facts.append(Fact(kind, marks[0].text if answer is None else answer, marks, slots))

    def move(self, x, y):
        x, y = round(x), round(y)
        for text in self.texts:
            text.x, text.y = text.x + x, text.y + y
        for shape in self.shapes:
            shape.points = [value + (y if index % 2 else x) for index, value in enumerate(shape.points)]
        return self

    def read(self):
        """`str`: all its text, line by line."""
        return "\n".join(" ".join(text.text for text in line) for line in self.lines)


def fitting_rows(rng, low, high, height, pitch):
    """Draws a number of rows for which there is room.

    Raises:
        DoesNotFit: there is not even room for `low`.
    """
    high = min(high, int(height / pitch))
    if high < low:
        raise DoesNotFit
    return rng.randint(low, high)
