# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The layouts: blocks that are stacked, spread and flowed into pages, and the six kinds of documents made of them.

All lengths are pixels of the image, x to the right and y down.
"""

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
    """A filled or outlined rectangle. A colour is RGB, or a name: ink, paper, shade or bar."""

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
    """How one document looks, and makers of its smallest blocks.

    Args:
        fonts (`tuple[str, str]`): regular and bold font, as in `fila.fineprint.sources.FONTS`.
        capital (`float`): height of capitals of ordinary text, in pixels.
        width (`float`): of the page, in pixels.
        tightness (`float`): from 0, all that looks well, to 1, as little space and text as possible.
        rng (`random.Random`): where all chance comes from.
    """

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
        block = Block(width, self.pitch * 0.6)
        y = self.pitch * 0.3
        dash = self.capital * 0.7
        xs = [step * 2 * dash for step in range(int(width / dash / 2))] if dashed else [0]
        block.marks = [Panel(x, y, dash if dashed else width, self.rule_width) for x in xs]
        return block

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
    """Rows of (label, value), two blocks each.

    Args:
        how (`str`): "justified", "leader" (dots between), "value_first", "inline", "stacked" (value below), "boxed" (value
            in a frame below), "underlined" (value on a line below). Where a line is too short for both, the value is below
            the label, at the right or indented, or above it if it comes first.
    """
    gap = style.capital * GAP
    if how in ("justified", "leader"):
        naturals = [label.width + gap + value.width for label, value in rows]
        width = max([width] + [natural for natural in naturals if natural <= style.widest])
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
            if how == "leader":
                dots = int((line.width - natural - gap) / style.text(". ").width)
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
    """Rows of cells, the first row the head.

    Args:
        look (`str`): "frame" (all lines), "rules" (a line below each row), "head" (one line below the head), "stripes"
            (every other row shaded), "plain".
        right_from (`int`): columns from this one on are aligned on the right.
    """
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
    """Flows sections into as few columns as hold them.

    Args:
        sections (`list[Callable]`): each gets the width it should fill and returns a block, which may be wider, up to
            `style.widest`; a section is called for each column that is tried.

    Raises:
        DoesNotFit: no number of columns does.
    """
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


def _num_lines(style, width, height):
    """Lines of text that a page of this size holds, in columns if it is wide."""
    num_columns = 1 if style.rng.random() < style.tightness else max(1, round(width / height))
    return int(height / style.pitch * style.tighten(1, 0.6)) * num_columns


def _total(values, prices):
    cents = sum(round(float(price.lstrip("$€£")) * 100) for price in prices)
    return f"{values.currency}{cents / 100:.2f}"


def _prices_and_total(values, count):
    """Prices, and their sum, which is a value of the same split and looks like none of them."""
    prices = [values.one("price") for _ in range(count - 1)]
    last = values.draw(
        values.price,
        lambda price: values.admits(_total(values, [*prices, price])) and price not in _total(values, [*prices, price]),
    )
    prices.append(last)
    return prices, values.take(_total(values, prices))


def receipt(style, values, width, height, template):
    """The head of a shop, items with prices, and a total."""
    rng, text = style.rng, style.text
    num_lines = _num_lines(style, width, height)
    count = rng.randint(2, max(2, min(12, num_lines - 6)))
    prices, total = _prices_and_total(values, count)
    goods = [values.one("goods") for _ in range(count)]
    shop, street, phone = values.one("shop"), values.one("street"), values.one("phone")
    facts = [
        (template["date"], values.one("date"), "What is the date on the receipt?"),
        (template["number"], values.one("code"), "What is the receipt number?"),
        (template["time"], values.one("time"), "What is the time on the receipt?"),
    ][: rng.randint(1, 3) if num_lines > 9 else 1]
    name_scale = rng.choice([1.0, 1.2, 1.4])

    def head(column):
        blocks = [style.text_at_most(style.widest, shop, "What is the name of the shop?", True, name_scale)]
        if num_lines > 10:
            blocks.append(text(street, "What is the address of the shop?"))
        if num_lines > 8:
            blocks.append(style.labelled(template["phone"], text(phone, "What is the phone number of the shop?")))
        return stack(blocks, align=template["align"], width=column)

    def meta(column):
        rows = [(text(label), text(value, question)) for label, value, question in facts]
        return pairs(style, rows, template["meta"], column)

    def items(column):
        rows = [
            [
                text(name.upper() if template["upper"] else name, f"Which item costs {price}?"),
                text(price, f"How much is the item {name}?"),
            ]
            for name, price in zip(goods, prices)
        ]
        if template["items"] in GRID_LOOKS:
            return ledger(style, ("Item", "Price"), rows, template["items"], column)
        block = pairs(style, rows, template["items"], column)
        if not template["rule"]:
            return block
        rules = [style.rule(block.width, template["rule"] == "dashed") for _ in range(2)]
        return stack([rules[0], block, rules[1]])

    def foot(column):
        look = {"bold": True, "scale": template["total_scale"]}
        value = style.text_at_most(style.widest, total, "What is the total?", **look)
        row = (style.text_at_most(style.widest, template["total"], **look), value)
        return pairs(style, [row], template["foot"], column)

    order = {"head": head, "meta": meta, "items": items, "foot": foot}
    return flow(style, [order[name] for name in template["order"].split()], width, height)


# Labels of a form, what a question calls the field, and the kind of its value.
FORM_FIELDS = [
    (("Name", "Full name"), "name", "person"),
    (("Date of birth", "Born"), "date of birth", "date"),
    (("Phone", "Phone no."), "phone number", "phone"),
    (("E-mail", "Mail"), "e-mail address", "email"),
    (("Street", "Address"), "street", "street"),
    (("City", "Town"), "city", "city"),
    (("Occupation", "Job"), "occupation", "job"),
    (("Member no.", "Member ID"), "member number", "code"),
    (("Passport", "Passport no."), "passport number", "code"),
    (("Licence plate", "Plate"), "licence plate", "code"),
    (("Fee", "Amount"), "fee", "price"),
    (("Arrival", "Arrives"), "arrival time", "time"),
    (("Contact", "Emergency contact"), "contact person", "person"),
    (("Points", "Score"), "number of points", "number"),
]


def form(style, values, width, height, template):
    """Labels and values."""
    rng, text = style.rng, style.text
    per_line = 1 if template["fields"] in ("inline", "justified", "leader", "value_first") else 2.4
    count = rng.randint(2, max(2, min(len(FORM_FIELDS), int(_num_lines(style, width, height) / per_line) - 2)))
    fields = [
        (rng.choice(labels), values.one(kind), f"What is the {noun}?")
        for labels, noun, kind in rng.sample(FORM_FIELDS, count)
    ]
    title = rng.choice(template["titles"])
    colon = template["colon"]

    def head(column):
        return stack([style.title(title, template["title_scale"])], align=template["align"], width=column)

    def section(label, value, question):
        return lambda column: pairs(
            style,
            [(text(label + colon, bold=template["bold_label"]), text(value, question))],
            template["fields"],
            column,
        )

    return flow(style, [head, *(section(*item) for item in fields)], width, height)


def letter(style, values, width, height, template):
    """A letter with a few facts between sentences, or an invoice."""
    rng, text = style.rng, style.text
    num_lines = _num_lines(style, width, height)
    sender, reader, street, city = (values.one(kind) for kind in ("person", "person", "street", "city"))
    date, code = values.one("date"), values.one("code")
    facts = [
        ("Your customer number is", values.one("code"), "What is the customer number?"),
        ("Please call us at", values.one("phone"), "What is the phone number to call?"),
        ("The meeting takes place in", values.one("place"), "Where does the meeting take place?"),
        ("Your appointment is at", values.one("time"), "At what time is the appointment?"),
        ("Your new adviser is", values.one("person"), "Who is the new adviser?"),
        ("Please answer by", values.one("date"), "By which date is an answer expected?"),
        ("The monthly rate is", values.one("price"), "What is the monthly rate?"),
    ]
    facts = rng.sample(facts, rng.randint(1, max(1, min(4, num_lines // 6))))
    fillers = [values.sentence() if num_lines > 12 and rng.random() < 0.7 else "" for _ in facts]

    def address(column):
        blocks = [text(reader, "Who is the letter addressed to?"), text(street, "What is the street of the addressee?")]
        if num_lines > 9:
            blocks.append(text(city, "What is the city of the addressee?"))
        return stack(blocks, align=template["address_align"], width=column)

    def meta(column):
        rows = [(text(template["date"]), text(date, "What is the date of the letter?"))]
        if num_lines > 7:
            rows.append((text(template["reference"]), text(code, "What is the reference number?")))
        return pairs(style, rows, template["meta"], column)

    def fact(filler, lead, value, question):
        return lambda column: paragraph(
            style, [filler, lead, text(value, question, bold=template["bold_fact"])], column
        )

    def sign(column):
        return stack([text(template["closing"]), text(sender, "Who signed the letter?")], style.pitch * 0.4)

    facts = [fact(filler, *item) for filler, item in zip(fillers, facts)]
    if template["invoice"]:
        count = rng.randint(2, max(2, min(8, num_lines - 7)))
        prices, total = _prices_and_total(values, count)
        goods = [values.one("goods") for _ in range(count)]

        def invoice(column):
            rows = [[text(name), text(price, f"What is the amount for {name}?")] for name, price in zip(goods, prices)]
            rows.append([text("Sum", bold=True), text(total, "What is the sum of the invoice?", bold=True)])
            return ledger(style, ("Position", "Amount"), rows, template["invoice"], column)

        facts = [invoice]
    order = {"address": [address], "meta": [meta], "body": facts, "sign": [sign]}
    return flow(style, [part for name in template["order"].split() for part in order[name]], width, height)


# What the rows of tables and charts are, and what is counted of them.
ROWS = {
    "city": ("city", ["Visitors", "Rainfall", "Hotels", "Schools", "Trains", "Parks"]),
    "person": ("surname", ["Points", "Hours", "Calls", "Sales", "Miles", "Visits"]),
    "item": ("goods", ["Stock", "Orders", "Returns", "Weight", "Price", "Sold"]),
    "shop": ("shop", ["Staff", "Sales", "Orders", "Guests", "Rent", "Area"]),
}


def _draw_rows(style, values, width, num_cells, count):
    """What the rows are, what may be counted of them, and their names, short enough for a part of the width."""
    length = int(width / num_cells / style.character)
    noun = style.rng.choice(list(ROWS)) if length > 15 else "person"
    kind, measures = ROWS[noun]
    make = getattr(values, kind)
    names = [values.draw(make, lambda name: len(name) <= max(6, length)) for _ in range(count)]
    return noun, measures, names


def table(style, values, width, height, template):
    """A grid of numbers, with a title."""
    rng, text = style.rng, style.text
    cell = style.capital * style.tighten(6.5, 5.5)
    num_columns = rng.randint(1, max(1, min(5, int(width / cell) - 2)))
    num_rows = rng.randint(2, max(2, min(12, int(height / style.pitch / 1.25) - 3)))
    if template["across"]:
        num_columns, num_rows = min(6, num_rows), max(2, min(num_columns, 4))
    num_cells = num_rows + 1 if template["across"] else (num_columns + 3) / 2
    noun, measures, names = _draw_rows(style, values, width, num_cells, num_rows)
    columns = rng.sample(measures, num_columns)
    rows = [[text(noun.capitalize(), bold=True), *(text(column, bold=True) for column in columns)]]
    for name in names:
        numbers = [values.one("price" if column in ("Price", "Rent") else "number") for column in columns]
        column = rng.randrange(num_columns)
        row = [text(name, f"Which {noun} has the value {numbers[column]} for {columns[column]}?")]
        for number, column in zip(numbers, columns):
            row.append(text(number, f"What is the value of {column} for {name}?"))
        rows.append(row)
    if template["across"]:
        rows = [list(row) for row in zip(*rows)]
    title = style.title(template["title"].format(noun=noun.capitalize()), template["title_scale"])
    natural = grid(style, rows, template["look"], width * rng.uniform(0.35, 0.95), template["right_from"])
    return _within(stack([title, natural], style.pitch * 0.3, template["align"]), width, height)


def chart(style, values, width, height, template):
    """Bars with their names and values."""
    rng, text = style.rng, style.text
    low = rng.choice([100, 1000])
    is_flat = template["flat"]
    slot = style.pitch * 1.3 if is_flat else style.capital * style.tighten(7, 6)
    room = (height - 3 * style.pitch if is_flat else width) / slot
    count = rng.randint(2, max(2, min(8, int(room))))
    numbers = [values.draw(lambda: str(rng.randrange(low, 10 * low))) for _ in range(count)]
    # The longest and the shortest bar can be told from the next ones.
    ordered = sorted(map(int, numbers))
    step = 5 * low / 10
    if ordered[-1] - ordered[-2] < step or ordered[1] - ordered[0] < step:
        raise DoesNotFit
    noun, measures, names = _draw_rows(style, values, width, 2 if is_flat else count, count)
    words = ("longest", "shortest") if is_flat else ("highest", "lowest")
    labels, amounts = [], []
    for name, number in zip(names, numbers):
        question = f"Which {noun} has the value {number}?"
        if int(number) == ordered[-1]:
            question = f"Which {noun} has the {words[0]} bar?"
        elif int(number) == ordered[0]:
            question = f"Which {noun} has the {words[1]} bar?"
        labels.append(text(name, question))
        amounts.append(text(number, f"What is the value of {name}?"))
    title = style.title(f"{rng.choice(measures)} by {noun}", template["title_scale"])
    draw = _flat_bars if is_flat else _upright_bars
    bars = draw(style, labels, amounts, [int(number) / ordered[-1] for number in numbers], width, height, template)
    blocks = [bars, title] if template["title_below"] else [title, bars]
    return _within(stack(blocks, style.pitch * 0.3, template["align"]), width, height)


def _upright_bars(style, labels, amounts, shares, width, height, template):
    gap = style.capital * 1.0
    slot = max(max(label.width, amount.width) for label, amount in zip(labels, amounts)) + gap
    slot = max(slot, min(slot * 1.6, width * style.rng.uniform(0.35, 0.95) / len(labels)))
    tallest = height * style.rng.uniform(0.35, 0.6)
    top = style.pitch
    out = Block(slot * len(labels), top + tallest + style.pitch)
    if template["grid_lines"]:
        for step in range(1, 5):
            out.marks.append(Panel(0, top + tallest * step / 5, out.width, style.rule_width, "shade"))
    for index, (label, amount, share) in enumerate(zip(labels, amounts, shares)):
        center, bar = slot * (index + 0.5), max(amount.width + gap / 2, slot * template["bar"])
        y = top + tallest * (1 - share)
        out.marks.append(Panel(center - bar / 2, y, bar, tallest * share, "bar"))
        inside = template["amount"] == "inside" and tallest * share >= amount.height
        amount.marks[0].color = "paper" if inside else "ink"
        out.add(amount, center - amount.width / 2, y if inside else y - amount.height)
        out.add(label, center - label.width / 2, top + tallest)
    out.marks.append(Panel(0, top + tallest, out.width, style.rule_width))
    return out


def _flat_bars(style, labels, amounts, shares, width, height, template):
    gap = style.capital * 0.8
    pitch = style.pitch * style.rng.uniform(1.1, 1.6)
    first = max(label.width for label in labels) + gap
    last = 0 if template["amount"] == "inside" else max(amount.width for amount in amounts) + gap
    longest = (width - first - last) * style.tighten(style.rng.uniform(0.15, 0.95), 0.95)
    if longest < 2 * style.capital:
        raise DoesNotFit
    out = Block(first + longest + last, pitch * len(labels))
    for index, (label, amount, share) in enumerate(zip(labels, amounts, shares)):
        y = pitch * index
        length = longest * share
        thick = max(pitch * template["bar"], style.capital * 1.5)
        out.marks.append(Panel(first, y + (pitch - thick) / 2, max(length, 0), thick, "bar"))
        x = first + length + gap / 2
        if template["amount"] == "inside" and length > amount.width + gap:
            x -= amount.width + gap
            amount.marks[0].color = "paper"
        elif template["amount"] == "column":
            x = out.width - amount.width
        out.width = max(out.width, x + amount.width)
        out.add(amount, x, y + (pitch - amount.height) / 2)
        label_x = first - gap - label.width if template["label_right"] else 0
        out.add(label, label_x, y + (pitch - label.height) / 2)
    out.marks.append(Panel(first, 0, style.rule_width, out.height))
    return out


SIGN_COLORS = {
    "red": ((176, 24, 32), (255, 250, 245)),
    "blue": ((24, 60, 150), (245, 248, 255)),
    "green": ((16, 100, 56), (245, 255, 245)),
    "yellow": ((246, 206, 40), (20, 20, 20)),
    "white": ((244, 244, 240), (25, 25, 30)),
    "black": ((22, 22, 24), (240, 240, 235)),
}


def sign(style, values, width, height, template):
    """One to three signs, which are pasted on a photo."""
    rng = style.rng
    count = rng.choice([1, 1, 2, 3])
    signs = []
    for name in rng.sample(list(SIGN_COLORS), count):
        which = f"{name} sign" if count > 1 else "sign"
        back, front = (tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in color) for color in SIGN_COLORS[name])
        kinds = [(rng.choice(["words", "place", "street", "shop"]), f"What does the {which} say?")]
        if template["lines"] == 2:
            kinds = [
                (rng.choice(["shop", "surname", "city", "words"]), f"What is the first line of the {which}?"),
                (rng.choice(["phone", "code", "price", "number"]), f"What is the second line of the {which}?"),
            ]
        lines = []
        for kind, question in kinds:
            value = values.one(kind)
            lines.append(
                style.text(value.upper() if template["upper"] else value, question, template["bold"], color=front)
            )
        content = stack(lines, align=template["align"])
        pad = style.capital * rng.uniform(0.5, 1.2)
        panel = Block(content.width + 2 * pad, content.height + 2 * pad)
        panel.marks.append(Panel(0, 0, panel.width, panel.height, back))
        frame = template["frame"]
        if frame == "outline":
            inset = pad * 0.25
            panel.marks.append(
                Panel(inset, inset, panel.width - 2 * inset, panel.height - 2 * inset, front, style.rule_width * 1.5)
            )
        elif frame == "bars":
            for y in (0, panel.height - pad * 0.4):
                panel.marks.append(Panel(0, y, panel.width, pad * 0.4, front))
        elif frame == "edge":
            panel.marks.append(Panel(0, 0, pad * 0.4, panel.height, front))
        signs.append(panel.add(content, pad, pad))
    gap = style.capital * rng.uniform(0.7, 4)
    if sum(block.width + gap for block in signs) < width and rng.random() < width / (width + height):
        return _within(beside(signs, gap), width, height)
    return _within(stack(signs, gap, rng.random()), width, height)


def _within(block, width, height):
    if block.width > width or block.height > height:
        raise DoesNotFit
    return block


GRID_LOOKS = ("frame", "rules", "head", "stripes", "plain")
KINDS = {"receipt": receipt, "form": form, "letter": letter, "table": table, "chart": chart, "sign": sign}


def _templates(names, **columns):
    """Templates of one kind from columns of settings."""
    return {name: {key: column[index] for key, column in columns.items()} for index, name in enumerate(names)}


# By kind and split: the ways in which the parts of a document are arranged, framed and named.
TEMPLATES = {
    "receipt": {
        "train": _templates(
            ["till", "dotted", "ruled", "compact", "kiosk"],
            order=["head meta items foot", "head items foot meta", "meta head items foot", "head items foot", "items foot head meta"],
            align=[0.5, 0, 0.5, 1, 0],
            items=["justified", "leader", "rules", "justified", "value_first"],
            rule=["dashed", None, None, "solid", "dashed"],
            meta=["justified", "inline", "inline", "justified", "value_first"],
            foot=["justified", "leader", "justified", "inline", "value_first"],
            upper=[True, False, False, True, False],
            total=["TOTAL", "Total", "Amount", "TO PAY", "Total due"],
            total_scale=[1.2, 1.0, 1.3, 1.0, 1.5],
            date=["Date", "Date:", "On", "DATE", "Day"],
            time=["Time", "Time:", "At", "TIME", "Hour"],
            number=["No.", "Receipt:", "Receipt no.", "NO", "Number"],
            phone=["Tel", "Phone:", "Call", "TEL", "Tel."],
        ),
        "validation": _templates(
            ["striped"],
            order=["head meta foot items"], align=[1], items=["stripes"], rule=[None], meta=["leader"], foot=["justified"],
            upper=[False], total=["Grand total"], total_scale=[1.1], date=["Issued"], time=["Clock"], number=["Ref."],
            phone=["T"],
        ),
        "test": _templates(
            ["stacked", "framed", "headline"],
            order=["meta head items foot", "head foot items meta", "foot head meta items"],
            align=[0, 0.5, 1],
            items=["stacked", "frame", "leader"],
            rule=["solid", None, "solid"],
            meta=["stacked", "leader", "justified"],
            foot=["stacked", "inline", "justified"],
            upper=[False, False, True],
            total=["Sum total", "Total:", "TOTAL SUM"],
            total_scale=[1.1, 1.4, 1.2],
            date=["Date of sale", "Sold on", "DATED"],
            time=["Time of sale", "Sold at", "TIMED"],
            number=["Receipt #", "Slip no.", "SLIP"],
            phone=["Ph.", "Telephone", "PHONE"],
        ),
    },
    "form": {
        "train": _templates(
            ["list", "spread", "boxes", "dots"],
            fields=["inline", "justified", "boxed", "leader"],
            colon=[":", "", "", ""],
            bold_label=[False, True, False, False],
            titles=[["Registration", "Application"], ["Member card", "Profile"], ["Sign-up form", "Request"], ["Entry form", "Record"]],
            title_scale=[1.3, 1.2, 1.4, 1.0],
            align=[0, 0.5, 0, 1],
        ),
        "validation": _templates(
            ["reversed"], fields=["value_first"], colon=[""], bold_label=[False], titles=[["Check-in", "Data sheet"]],
            title_scale=[1.2], align=[0.5],
        ),
        "test": _templates(
            ["lines", "bold", "piled"],
            fields=["underlined", "inline", "stacked"],
            colon=["", " -", ":"],
            bold_label=[False, True, True],
            titles=[["Questionnaire", "Visitor form"], ["Fact sheet", "File card"], ["Enrolment", "Booking"]],
            title_scale=[1.2, 1.1, 1.3],
            align=[1, 0.5, 0],
        ),
    },
    "letter": {
        "train": _templates(
            ["formal", "short", "bill", "memo"],
            order=["address meta body sign", "meta body sign", "address meta body", "meta address body sign"],
            address_align=[0, 0, 1, 0],
            meta=["inline", "justified", "inline", "stacked"],
            date=["Date:", "Date", "Date:", "Dated"],
            reference=["Reference:", "Ref.", "No.:", "Our sign"],
            bold_fact=[False, True, False, False],
            closing=["Yours sincerely", "Kind regards", "Respectfully", "Best wishes"],
            invoice=[None, None, "rules", None],
        ),
        "validation": _templates(
            ["note"], order=["body meta sign address"], address_align=[1], meta=["leader"], date=["As of"], reference=["File"],
            bold_fact=[False], closing=["Cheers"], invoice=[None],
        ),
        "test": _templates(
            ["notice", "account", "reply"],
            order=["body sign meta address", "meta address body sign", "address body sign meta"],
            address_align=[0.5, 0, 1],
            meta=["justified", "leader", "underlined"],
            date=["Written on", "Date of issue", "Sent on"],
            reference=["Ref. no.", "Reference no.", "Ref"],
            bold_fact=[False, False, True],
            closing=["Regards", "With thanks", "Yours truly"],
            invoice=[None, "head", None],
        ),
    },
    "table": {
        "train": _templates(
            ["framed", "ruled", "striped", "loose"],
            look=["frame", "rules", "stripes", "plain"],
            across=[False, False, False, False],
            right_from=[1, 9, 1, 1],
            title=["{noun} overview", "Figures by {noun}", "{noun} report", "Numbers"],
            title_scale=[1.2, 1.0, 1.3, 1.1],
            align=[0, 0.5, 0, 1],
        ),
        "validation": _templates(
            ["left"], look=["head"], across=[False], right_from=[9], title=["{noun} data"], title_scale=[1.1], align=[0],
        ),
        "test": _templates(
            ["headed", "turned", "block"],
            look=["head", "rules", "frame"],
            across=[False, True, False],
            right_from=[1, 1, 0],
            title=["{noun} statistics", "{noun} compared", "List"],
            title_scale=[1.2, 1.1, 1.0],
            align=[0.5, 0, 1],
        ),
    },
    "chart": {
        "train": _templates(
            ["upright", "flat", "upright_inside", "flat_column"],
            flat=[False, True, False, True],
            amount=["end", "end", "inside", "column"],
            bar=[0.6, 0.7, 0.8, 0.4],
            grid_lines=[True, False, False, False],
            label_right=[False, True, False, False],
            title_scale=[1.2, 1.1, 1.0, 1.3],
            title_below=[False, False, True, False],
            align=[0.5, 0, 0.5, 0],
        ),
        "validation": _templates(
            ["flat_thick"], flat=[True], amount=["inside"], bar=[0.9], grid_lines=[False], label_right=[False],
            title_scale=[1.0], title_below=[True], align=[1],
        ),
        "test": _templates(
            ["flat_inside", "upright_thin"],
            flat=[True, False],
            amount=["inside", "end"],
            bar=[0.75, 0.3],
            grid_lines=[False, False],
            label_right=[True, False],
            title_scale=[1.2, 1.3],
            title_below=[False, True],
            align=[0.5, 0],
        ),
    },
    "sign": {
        "train": _templates(
            ["plain", "framed", "double", "shout"],
            lines=[1, 1, 2, 2],
            frame=[None, "outline", None, "outline"],
            upper=[False, True, False, True],
            bold=[False, True, False, True],
            align=[0.5, 0.5, 0, 0.5],
        ),
        "validation": _templates(
            ["edge"], lines=[2], frame=["edge"], upper=[False], bold=[True], align=[0],
        ),
        "test": _templates(
            ["bars", "bars_double"],
            lines=[1, 2],
            frame=["bars", "bars"],
            upper=[False, True],
            bold=[True, False],
            align=[0.5, 1],
        ),
    },
}  # fmt: skip

# More of what mixed templates choose from. No other split has these words.
MORE_SETTINGS = {
    "receipt": {
        "total": ["SUM", "Balance", "Pay", "Total amount", "AMOUNT DUE", "Due"],
        "date": ["Bought", "Date/", "Printed", "DAY", "Purchase"],
        "time": ["Hour:", "TIME:", "Printed at", "Time of day"],
        "number": ["Bill", "Order", "TICKET", "Invoice:", "#", "Trans.", "Check no."],
        "phone": ["Fon", "Mobile", "CALL", "Service line", "Hotline:", "Contact"],
    },
    "form": {"colon": [".", " >", " :", " /"]},
    "letter": {
        "date": ["Day", "Posted", "Date of letter", "On the", "DATE:", "Typed on", "Today is"],
        "reference": ["File no.", "Case:", "Your sign", "Code", "REF:", "Process", "Matter no."],
        "closing": ["Sincerely", "Best", "Greetings", "Many thanks", "Cordially", "See you soon", "Take care", "Signed"],
        "address_align": [0.2, 0.5, 0.8],
        "meta": ["value_first"],
    },
    "table": {"title": ["All about {noun}", "Table", "Summary", "{noun} list", "Results by {noun}", "Totals"]},
    "chart": {"bar": [0.5, 0.9], "align": [0.2, 0.8, 1]},
    "sign": {"align": [0.2, 0.8]},
}  # fmt: skip


def mix_template(kind, rng):
    """A template of a training page whose settings are drawn one by one, from those of all training templates and a few
    more, and whose parts are in any order that no template of another split has.

    Args:
        kind (`str`): one of `KINDS`.
        rng (`random.Random`): where all chance comes from.
    """
    templates = TEMPLATES[kind]["train"].values()
    mixed = {}
    for key in next(iter(templates)):
        mixed[key] = rng.choice([*(template[key] for template in templates), *MORE_SETTINGS[kind].get(key, [])])
    if "order" in mixed:
        others = {template["order"] for split in ("validation", "test") for template in TEMPLATES[kind][split].values()}
        parts = mixed["order"].split()
        rng.shuffle(parts)
        while " ".join(parts) in others:
            rng.shuffle(parts)
        mixed["order"] = " ".join(parts)
    return mixed
