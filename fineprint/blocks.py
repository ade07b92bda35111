# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Blocks of text and shapes, which are stacked, put side by side and flowed into pages. All lengths are pixels."""

import math
from dataclasses import dataclass, field

from fila.fineprint.sources import DoesNotFit, capital_height, mean_advance, measure

ONE_LINE = ("justified", "leader", "value_first", "inline")  # the ways to put a label and a value beside each other
GAP = 1.2  # between words that belong to different blocks, in capital heights


@dataclass
class Run:
    """A piece of text on one line: where its baseline begins, and the (left, top, right, bottom) of its ink."""

    x: float
    y: float
    text: str
    font: str
    size: float
    ink: tuple
    color: tuple | str = "ink"
    question: str | None = None  # the question that this text answers

    def shift(self, dx, dy):
        self.x, self.y = self.x + dx, self.y + dy
        left, top, right, bottom = self.ink
        self.ink = (left + dx, top + dy, right + dx, bottom + dy)

    @property
    def box(self):
        return self.ink

    @property
    def band(self):
        """The ink between the baseline and the top of the capitals: without it, nothing can be read."""
        left, top, right, bottom = self.ink
        return left, max(top, self.y - self.capital_height), right, min(bottom, self.y)

    @property
    def capital_height(self):
        return self.size * capital_height(self.font)


@dataclass
class Panel:
    """A filled or outlined rectangle. Its colour is RGB, or a name: ink, paper, shade or bar."""

    x: float
    y: float
    width: float
    height: float
    color: tuple | str = "ink"
    outline: float = 0.0  # width of the outline; 0: filled

    @property
    def box(self):
        return self.x, self.y, self.x + self.width, self.y + self.height

    def shift(self, dx, dy):
        self.x, self.y = self.x + dx, self.y + dy


@dataclass
class Block:
    """Marks (runs and panels) in a rectangle whose top left corner is the origin."""

    width: float
    height: float
    marks: list = field(default_factory=list)

    def add(self, block, x, y):
        """Puts another block's marks at a place; they must not be used again."""
        for mark in block.marks:
            mark.shift(x, y)
        self.marks += block.marks
        return self


class Style:
    """How one document looks, and makers of its smallest blocks: regular and bold font (`fonts`, see `sources.FONTS`), the
    height of its capitals, the width of the page, and its tightness, from 0, all that looks well, to 1, as little space
    and text as possible. All chance comes from `rng`, a `random.Random`."""

    def __init__(self, fonts, capital, width, tightness, rng):
        self.fonts, self.capital, self.tightness, self.rng = fonts, capital, tightness, rng
        self.widest = width  # of what is laid out now: the page or one of its columns
        self.pitch = capital * self.tighten(rng.uniform(1.7, 2.4), 1.55)
        self.rule_width = max(1.0, capital * rng.uniform(0.08, 0.14))

    @property
    def character(self):
        """Mean width of a character, in pixels."""
        return self.capital / capital_height(self.fonts[0]) * mean_advance(self.fonts[0])

    def tighten(self, value, tightest):
        """A value between itself and its tightest form."""
        return value + (tightest - value) * self.tightness

    def text(self, text, question=None, bold=False, scale=1.0, color="ink"):
        """A block of one run, as high as a line; with a question, the run is its answer."""
        source = self.fonts[bold]
        size = math.ceil(self.capital * scale / capital_height(source) * 4) / 4
        left, top, right, bottom = measure(source, size, text)
        y = (self.pitch * scale + self.capital * scale) / 2
        run = Run(0, y, text, source, size, (left, y + top, right, y + bottom), color, question)
        return Block(right, self.pitch * scale, [run])

    def rule(self, width, dashed=False):
        """A horizontal line."""
        dash = self.capital * 0.7 if dashed else width
        xs = [step * 2 * dash for step in range(int(width / dash / 2))] if dashed else [0]
        marks = [Panel(x, self.pitch * 0.3, dash, self.rule_width) for x in xs]
        return Block(width, self.pitch * 0.6, marks)

    def text_at_most(self, width, text, question=None, bold=False, scale=1.0):
        """The same, but of ordinary size where it would be wider than this."""
        block = self.text(text, question, bold, scale)
        return block if block.width <= width or scale <= 1 else self.text(text, question, bold)

    def title(self, text, scale):
        """A title, which is broken into lines where the page or column is too narrow."""
        block = self.text(text, bold=True, scale=scale)
        if block.width <= self.widest:
            return block
        return paragraph(self, [self.text(word, bold=True) for word in text.split()], self.widest)

    def labelled(self, label, value):
        """A label and its value on one line, or, where it is too short, the value alone."""
        label, gap = self.text(label), self.capital * 0.9
        return beside([label, value], gap) if label.width + gap + value.width <= self.widest else value


def stack(blocks, gap=0.0, align=0.0, width=0.0):
    """Blocks under each other, the top one first; `align` 0 is left, 1 is right."""
    width = max([width] + [block.width for block in blocks])
    out, y = Block(width, 0), 0
    for block in blocks:
        out.add(block, (width - block.width) * align, y)
        y += block.height + gap
    out.height = y - gap if blocks else 0
    return out


def beside(blocks, gap):
    """Blocks beside each other, the left one first."""
    out, x = Block(0, max(block.height for block in blocks)), 0
    for block in blocks:
        out.add(block, x, (out.height - block.height) / 2)
        x += block.width + gap
    out.width = x - gap
    return out


def pairs(style, rows, how, width):
    """Rows of (label, value), two blocks each: "justified", "leader" (dots between), "value_first", "inline", "stacked"
    (value below), "boxed" (in a frame below) or "underlined" (on a line below). Where a line is too short for both, the
    value is below the label, at the right or indented, or above it if it comes first."""
    gap = style.capital * GAP
    if how in ("justified", "leader"):
        naturals = [label.width + gap + value.width for label, value in rows]
        width = max(width, *(natural for natural in naturals if natural <= style.widest), 0)
    lines = []
    for label, value in rows:
        if how in ONE_LINE and label.width + gap + value.width > style.widest:
            first, second = (value, label) if how == "value_first" else (label, value)
            line = Block(max(width, first.width, second.width), first.height + second.height)
            indent = min(gap, style.widest - second.width) if how in ("inline", "value_first") else math.inf
            line.add(first, 0, 0).add(second, max(0, min(indent, line.width - second.width)), first.height)
            lines.append(line)
        elif how in ("justified", "leader", "value_first"):
            left, right = (value, label) if how == "value_first" else (label, value)
            natural = left.width + gap + right.width
            line = Block(max(width, natural), max(left.height, right.height))
            dots = int((line.width - natural - gap) / style.text(". ").width) if how == "leader" else 0
            if dots > 0:
                dotted = style.text(". " * dots)
                line.add(dotted, line.width - right.width - gap / 2 - dotted.width, line.height - dotted.height)
            line.add(left, 0, line.height - left.height)
            x = max(left.width + gap, width * 0.35) if how == "value_first" else line.width - right.width
            line.width = max(line.width, x + right.width)
            lines.append(line.add(right, x, line.height - right.height))
        elif how == "inline":
            lines.append(beside([label, value], gap * 0.8))
        else:
            pad = style.capital * (0.6 if how == "boxed" else 0.2)
            frame = Block(max(width, value.width + 2 * pad), value.height + pad)
            if how == "boxed":
                frame.marks.append(Panel(0, 0, frame.width, frame.height, outline=style.rule_width))
            elif how == "underlined":
                frame.marks.append(Panel(0, frame.height - style.rule_width, frame.width, style.rule_width))
            frame.add(value, pad, pad / 2)
            lines.append(stack([label, frame], style.capital * 0.2))
    return stack(lines, style.capital * (0.6 if how in ("stacked", "boxed", "underlined") else 0.0))


def _measure_columns(style, rows):
    """Space beside the cells of a grid, and the least widths of its columns."""
    pad = style.capital * style.tighten(0.8, 0.35)
    return pad, [max(row[index].width for row in rows) + 2 * pad for index in range(len(rows[0]))]


def grid(style, rows, look, width, right_from=1):
    """Rows of cells, the first row the head: "frame" (all lines), "rules" (a line below each row), "head" (one line below
    the head), "stripes" (every other row shaded) or "plain". Columns from `right_from` on are aligned on the right."""
    pad, columns = _measure_columns(style, rows)
    slack = max(0.0, width - sum(columns)) / len(columns)
    columns = [column + slack for column in columns]
    row_height = style.pitch * (1.25 if look in ("frame", "rules") else 1.1)
    out = Block(sum(columns), row_height * len(rows))
    for number, row in enumerate(rows):
        y, x = number * row_height, 0
        if look == "stripes" and number % 2:
            out.marks.append(Panel(0, y, out.width, row_height, color="shade"))
        for index, (cell, column) in enumerate(zip(row, columns)):
            offset = column - pad - cell.width if index >= right_from else pad
            out.add(cell, x + offset, y + (row_height - cell.height) / 2)
            x += column
        if look in ("frame", "rules") or (look == "head" and number == 0):
            out.marks.append(Panel(0, y + row_height - style.rule_width, out.width, style.rule_width))
    if look == "frame":
        out.marks.append(Panel(0, 0, out.width, style.rule_width))
        for x in [sum(columns[:count]) for count in range(len(columns) + 1)]:
            out.marks.append(Panel(min(x, out.width - style.rule_width), 0, style.rule_width, out.height))
    return out


def ledger(style, head, rows, look, width):
    """A grid of two columns, whose rows become pairs where the page is too narrow."""
    cells = [[style.text(name, bold=True) for name in head], *rows]
    if sum(_measure_columns(style, cells)[1]) <= style.widest:
        return grid(style, cells, look, width)
    return pairs(style, rows, "justified", width)


def paragraph(style, pieces, width):
    """Text that is broken into lines; a piece is a string, or a block that is not broken."""
    words = []
    for piece in pieces:
        words += [style.text(word) for word in piece.split()] if isinstance(piece, str) else [piece]
    space = style.capital * 0.55
    width = style.tighten(width, style.widest)
    lines, line, used = [], [], 0.0
    for word in words:
        if line and used + word.width > width:
            lines.append(beside(line, space))
            line, used = [], 0.0
        line.append(word)
        used += word.width + space
    return stack([*lines, beside(line, space)])


def flow(style, sections, width, height):
    """Flows sections into as few columns as hold them, or raises `DoesNotFit`. A section is called for each column that is
    tried: it gets the width that it should fill and returns a block, which may be wider, up to `style.widest`."""
    gutter = style.capital * style.rng.uniform(2, 4)
    gap = style.pitch * style.tighten(style.rng.uniform(0.3, 0.9), 0.15)
    fill = style.rng.uniform(0.35, 0.97)
    for count in range(1, 5):
        # Not equal, or the middle of a full page would never be crossed by text.
        shares = [style.rng.uniform(1, 1.7) for _ in range(count)]
        widths = [(width - (count - 1) * gutter) * share / sum(shares) for share in shares]
        if columns := _fill_columns(style, sections, widths, height, fill, gap):
            columns = [stack(blocks, gap) for blocks in columns]
            out = Block(0, max(column.height for column in columns))
            for column in columns:
                left = out.width + gutter if out.width else 0
                out.add(column, left, 0)
                out.width = left + column.width
            return out
    raise DoesNotFit


def _fill_columns(style, sections, widths, height, fill, gap):
    """Lists of blocks, one for each column that is needed, or `None`."""
    columns, used = [[]], 0.0
    for section in sections:
        while True:
            style.widest = widths[len(columns) - 1]
            block = section(style.widest * fill)
            if block.width <= style.widest and used + block.height <= height:
                columns[-1].append(block)
                used += block.height + gap
                break
            if not columns[-1] or len(columns) == len(widths):
                return None
            columns.append([])
            used = 0.0
    return columns


def count_lines(style, width, height):
    """Lines of text that a page of this size holds, in columns if it is wide."""
    num_columns = 1 if style.rng.random() < style.tightness else max(1, round(width / height))
    return int(height / style.pitch * style.tighten(1, 0.6)) * num_columns
