# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What blocks are made of: texts and shapes in a style, and what can be asked about them."""

import math
from dataclasses import dataclass, field

from fila.fineprint.fonts import capital_share, place_glyphs, text_width


def mix(color, other, share):
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other))


def luminance(color):
    return 0.3 * color[0] + 0.59 * color[1] + 0.11 * color[2]


def draw_color(rng, background, contrast, saturation=25):
    """A color that differs from the background by at least `contrast` of 255 in luminance, or black or white."""
    light = luminance(background)
    for _ in range(50):
        level = rng.uniform(0, light - contrast) if light > 127 else rng.uniform(light + contrast, 255)
        color = tuple(min(255, max(0, round(level + rng.uniform(-saturation, saturation)))) for _ in range(3))
        if abs(luminance(color) - light) >= contrast:
            return color
    return (0, 0, 0) if light > 127 else (255, 255, 255)


@dataclass
class Text:
    """A text on one line: `x` and `y` is where its baseline begins, `size` is in pixels per em."""

    text: str
    x: int
    y: int
    face: object
    size: int
    color: tuple

    @property
    def capital(self):
        """Height of its capitals in pixels."""
        return self.size * capital_share(self.face)

    @property
    def end(self):
        return self.x + text_width(self.face, self.size, self.text)

    @property
    def box(self):
        """(left, top, right, bottom) of its ink."""
        glyphs = place_glyphs(self.face, self.size, self.text)
        boxes = [(left, top, left + mask.width, top + mask.height) for mask, left, top in glyphs if mask.width]
        lefts, tops, rights, bottoms = zip(*boxes)
        return self.x + min(lefts), self.y + min(tops), self.x + max(rights), self.y + max(bottoms)


@dataclass
class Shape:
    """What `method` of `PIL.ImageDraw.ImageDraw` draws; `points` are x and y by turns."""

    method: str
    points: list
    settings: dict

    @property
    def box(self):
        return min(self.points[::2]), min(self.points[1::2]), max(self.points[::2]), max(self.points[1::2])


@dataclass
class Fact:
    """What can be asked about marks. `slots` fill the wording of the question; `plain` are patterns that need no quotes."""

    kind: str
    answer: str
    marks: list
    slots: dict
    plain: tuple = ()


class Style:
    """How a block looks, drawn freely: in the faces of a family, with capitals of at least `capital` pixels, on a background
    of the color `paper`, with text in `ink`; what stands out is in `accent`."""

    def __init__(self, rng, faces, capital, paper, ink, accent):
        self.rng, self.faces, self.paper, self.ink, self.accent = rng, faces, paper, ink, accent
        size, step = capital / min(map(capital_share, faces.values())), 1 if capital < 16 else 2 if capital < 32 else 6
        self.size = math.ceil(size / step) * step  # few sizes, so that their glyphs are drawn once
        self.capital = self.size * capital_share(faces["regular"])
        self.pitch = self.capital * rng.uniform(1.75, 2.6)
        self.pad = self.capital * rng.uniform(0.5, 1.3)
        self.rule = max(1, round(self.capital * rng.uniform(0.04, 0.18)))
        self.line = mix(paper, ink, rng.uniform(0.3, 1))
        self.shade = mix(paper, accent, rng.uniform(0.06, 0.2))
        self.case = str.upper if rng.random() < 0.08 else str
        self.body = rng.choice(["regular"] * 5 + ["bold", "italic"])
        self.strong = rng.choice(["regular", "bold", "bold", "italic"])

    def scaled(self, factor):
        """The style of a larger text."""
        return Style(self.rng, self.faces, self.capital * factor, self.paper, self.ink, self.accent)

    def face(self, kind):
        return self.faces.get(kind, self.faces["regular"])

    def width(self, text, kind="regular"):
        return text_width(self.face(kind), self.size, text)


@dataclass
class Block:
    """A part of a page. Its left top corner is at (0, 0) until it is moved. `noun` says what it is in questions; `lines` are
    its texts in reading order; if `in_order` one may ask what comes after a line; `title` is the [`Text`] of its heading."""

    noun: str
    width: float = 0
    height: float = 0
    in_order: bool = False
    title: Text | None = None
    texts: list = field(default_factory=list)
    shapes: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    facts: list = field(default_factory=list)

    def write(self, style, text, x, middle, kind="regular", color=None, align=0, room=0, new_line=True):
        """Adds a text whose capitals are centred at the height `middle`, from `x` on, or aligned within `room` from there."""
        x += (room - style.width(text, kind)) * align if align else 0
        y, face = round(middle + style.capital / 2), style.face(kind)
        self.texts.append(Text(text, round(x), y, face, style.size, color or style.ink))
        if new_line or not self.lines:
            self.lines.append([])
        self.lines[-1].append(self.texts[-1])
        return self.texts[-1]

    def shape(self, method, points, **settings):
        self.shapes.append(Shape(method, [round(value) for value in points], settings))
        return self.shapes[-1]

    def bar(self, left, top, right, bottom, color):
        """Fills a rectangle, without the pixels at `right` and `bottom`."""
        self.shape("rectangle", [left, top, max(left, right - 1), max(top, bottom - 1)], fill=color)

    def ask(self, kind, marks, answer=None, **slots):
        """Adds a fact, whose answer is the text of the first mark if none is given. `block=None` stands for the name that
        the block has on its page."""
        self.facts.append(Fact(kind, marks[0].text if answer is None else answer, marks, slots))

    def ask_count(self, count, things):
        self.ask("count", self.texts, str(count), things=things, block=None)

    def ask_places(self, items, things):
        """Adds what can be asked about a sequence of texts: its length, and what is at a place."""
        self.ask_count(len(items), things)
        for place, item in [*zip(("first", "second", "third", "fourth", "fifth"), items), ("last", items[-1])]:
            self.ask("item", [item], place=place, thing=things[:-1], block=None)

    def ask_extremes(self, amounts, labels, low, high):
        for amount, most in ((min(amounts), low), (max(amounts), high)):
            if amounts.count(amount) == 1:
                self.ask("extreme", [labels[amounts.index(amount)]], most=most, block=None)

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
