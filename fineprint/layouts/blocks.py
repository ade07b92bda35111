# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The kinds of blocks. Each function draws one into a width and a height, or raises `DoesNotFit`."""

import math
import textwrap

from fila.fineprint.layouts.marks import Block, draw_color, fitting_rows, mix
from fila.fineprint.layouts.texts import LABELS, DoesNotFit

_COLUMN_KINDS = ("number", "price", "time", "date", "percent", "code", "unit", "decimal", "noun")
_ROW_KINDS = ("item", "item", "person", "city", "company", "date", "code", "time")
_NUMERIC = ("number", "price", "percent", "unit", "decimal")
_PLACES = ("first", "second", "third", "fourth", "fifth")
_LEVELS = ("INFO", "DEBUG", "WARNING", "ERROR", "info", "[ok]", "[fail]", "notice:")


def _leader(block, style, left, right, middle):
    """Dots from a text to the one on the right."""
    step = style.capital * 0.7
    size = max(1, round(style.capital / 8))
    y = style.baseline(middle)
    for number in range(int((right - left) / step)):
        x = left + number * step
        block.shape("rectangle", [x, y - size, x + size - 1, y - 1], fill=style.line)


def pairs(page, style, width, height):
    """Keys and values: beside, below or far from each other."""
    rng, block = page.rng, Block("list of details")
    look = rng.choice(["after", "columns", "right", "leader", "above", "below", "boxed"])
    stacked, colon = look in ("above", "below"), rng.choice([":", ":", "", " :"])
    pitch = style.pitch * (2.3 if stacked else 1.35 if look == "boxed" else 1)
    across = rng.randint(1, max(1, min(3, int(width / style.capital / 14)))) if stacked else 1
    count = fitting_rows(rng, 1, 9, height, pitch) * across
    room = width / across - style.pad
    kinds = rng.choices(list(LABELS), k=count)
    share = 1 if stacked else 0.48
    rows = [
        (page.label(kind, style, room * share - style.pad, style.strong), page.draw(kind, style, room * share, style.body))
        for kind in kinds
    ]
    keys = [key if stacked else key + colon for key, _ in rows]
    left = max(style.width(key, style.strong) for key in keys) + style.pad
    key_color, y = rng.choice([style.ink, style.accent]), 0
    for number, (key, (name, value)) in enumerate(zip(keys, rows)):
        x, y = number % across * (width / across), number // across * pitch
        middle = y + style.pitch / 2
        first, second = middle, middle + style.pitch * 1.05 if stacked else middle
        if look == "below":
            first, second = second, first
            text = block.write(style, value, x, second, style.body)
        label = block.write(style, key, x, first, style.strong, key_color)
        end = x + style.width(key, style.strong)
        if look in ("right", "leader"):
            text = block.write(style, value, x, second, style.body, align=1, room=width, new_line=False)
        elif look == "boxed":
            text = block.write(style, value, left + style.pad / 2, second, style.body, new_line=False)
            block.shape("rectangle", [left, y + 2, width - 1, y + pitch - 3], outline=style.line, width=style.rule)
            label.y = text.y = style.baseline(y + pitch / 2)
        elif look != "below":
            start = x if stacked else left if look == "columns" else end + style.pad / 2
            text = block.write(style, value, start, second, style.body, new_line=stacked)
        if look == "leader":
            _leader(block, style, end + style.pad / 2, text.x - style.pad / 2, middle)
        block.ask("value", [text], key=name)
        block.ask("key", [label], name, value=value)
    block.width, block.height = width, y + pitch
    return block


def _table_columns(page, style, width, count):
    """Columns of texts, each with its head first, as many as there is room for, and the kind of each."""
    rng, columns, used = page.rng, [], 0
    same = rng.choice(_COLUMN_KINDS) if rng.random() < 0.4 else None
    for number in range(rng.randint(2, 7)):
        kind = same or rng.choice(_COLUMN_KINDS) if number else rng.choice(_ROW_KINDS)
        room = width - used - 2 * style.pad
        try:
            cells = [page.label(kind, style, min(room, width / 3), style.strong)]
            cells += [page.draw(kind, style, min(room, width * (0.3 if number else 0.5)), style.body) for _ in range(count)]
        except DoesNotFit:
            break
        widest = max(style.width(cell, style.body if row else style.strong) for row, cell in enumerate(cells))
        columns.append((kind, widest + 2 * style.pad, cells))
        used += widest + 2 * style.pad
    if len(columns) < 2:
        raise DoesNotFit
    return columns, used


def table(page, style, width, height):
    """Rows and columns, with or without rules, stripes, a colored head."""
    rng, block = page.rng, Block("table")
    pitch = style.pitch * rng.uniform(1, 1.3)
    count = fitting_rows(rng, 3, 11, height - style.rule, pitch) - 1
    columns, used = _table_columns(page, style, width, count)
    slack = (width - used) / len(columns) * rng.choice([0, 0.3, 1])
    total = used + slack * len(columns)
    look, is_filled, right = rng.choice(["frame", "rules", "head", "stripes", "none", "columns"]), rng.random() < 0.3, rng.random()
    head_paper = mix(style.paper, style.accent, rng.uniform(0.15, 0.9)) if is_filled else style.paper
    head_ink = page.ink_on(head_paper) if is_filled else rng.choice([style.ink, style.accent])
    block.width, block.height = total, pitch * (count + 1) + style.rule
    if is_filled:
        block.shape("rectangle", [0, 0, total - 1, pitch], fill=head_paper)
    for row in range(count + 1):
        y, x = row * pitch, 0
        if look == "stripes" and row and row % 2 == 0:
            block.shape("rectangle", [0, y, total - 1, y + pitch], fill=style.shade)
        if look in ("frame", "rules") or (look == "head" and not row):
            block.shape("rectangle", [0, y + pitch, total - 1, y + pitch + style.rule - 1], fill=style.line)
        for number, (kind, column, cells) in enumerate(columns):
            align = 1 if number and kind in _NUMERIC and right < 0.5 else 0.5 if number and right > 0.8 else 0
            face, color = (style.body, style.ink) if row else (style.strong, head_ink)
            room = column + slack - 2 * style.pad
            block.write(style, cells[row], x + style.pad, y + pitch / 2, face, color, align, room, new_line=not number)
            x += column + slack
    if look in ("frame", "columns"):
        edges = [sum(column + slack for _, column, _ in columns[:number]) for number in range(len(columns) + 1)]
        for x in edges if look == "frame" else edges[1:-1]:
            x = min(x, total - style.rule)
            block.shape("rectangle", [x, 0, x + style.rule - 1, block.height - 1], fill=style.line)
    if look == "frame":
        block.shape("rectangle", [0, 0, total - 1, style.rule - 1], fill=style.line)
    _ask_table(rng, block, count, len(columns))
    return block


def _ask_table(rng, block, count, num_columns):
    head, rows = block.lines[0], block.lines[1:]
    for _ in range(4):
        row, column = rng.choice(rows), rng.randrange(1, num_columns)
        block.ask("cell", [row[column]], row=row[0].text, column=head[column].text)
        row, column = rng.choice(rows), rng.randrange(1, num_columns)
        block.ask("row", [row[0]], value=row[column].text, column=head[column].text, row=head[0].text)
    block.ask("count", block.texts, str(count), things="rows below the head", block=None)
    block.ask("count", block.texts, str(num_columns), things="columns", block=None)


def paragraph(page, style, width, height):
    """Running text in one to three columns, with any alignment."""
    rng, block = page.rng, Block("paragraph", in_order=True)
    across = rng.choice([1, 1, 1, 2, 3])
    gutter = style.capital * 2.5
    room = (width - gutter * (across - 1)) / across
    if room < style.capital * 12:
        across, room = 1, width
    num_lines = fitting_rows(rng, 1, 14, height, style.pitch) * across
    align = rng.choice([0, 0, 0, 0.5, 1, None])
    space, lines, words = style.width(" ", style.body), [[]], []
    while len(lines) <= num_lines:
        words = words or page.sentence(style).split()
        word = words.pop(0)
        if style.width(word, style.body) > room:
            continue
        if style.width(" ".join([*lines[-1], word]), style.body) > room:
            lines.append([])
        lines[-1].append(word)
    for number, words in enumerate(lines[:num_lines]):
        per_column = num_lines // across
        x, middle = number // per_column * (room + gutter), (number % per_column + 0.5) * style.pitch
        if align is None and len(words) > 1 and number < num_lines - 1:
            gap = (room - sum(style.width(word, style.body) for word in words)) / (len(words) - 1)
            for index, word in enumerate(words):
                block.write(style, word, x, middle, style.body, new_line=not index)
                x += style.width(word, style.body) + max(gap, space)
        else:
            block.write(style, " ".join(words), x, middle, style.body, align=align or 0, room=room)
    block.width, block.height = width, num_lines // across * style.pitch
    block.ask("count", block.texts, str(num_lines), things="lines", block=None)
    return block


def bullets(page, style, width, height):
    """A list with dots, dashes, numbers or letters."""
    rng, block = page.rng, Block("list", in_order=True)
    count = fitting_rows(rng, 2, 10, height, style.pitch)
    marker = rng.choice(["dot", "square", "ring", "-", "–", "1.", "1)", "(1)", "a)", "A.", "*"])
    kind = rng.choice(["item", "item", "phrase", "person", "city", "job", "path", "url", "company"])
    indent = style.capital * rng.uniform(2.5, 3.5)
    items = []
    for number in range(count):
        middle, radius = (number + 0.5) * style.pitch, style.capital * 0.22
        text = page.draw(kind, style, width - indent, style.body)
        if marker in ("dot", "ring", "square"):
            x, method = style.capital, "rectangle" if marker == "square" else "ellipse"
            fill = None if marker == "ring" else style.accent
            points = [x - radius, middle - radius, x + radius, middle + radius]
            block.shape(method, points, fill=fill, outline=style.accent)
        else:
            sign = marker.replace("1", str(number + 1)).replace("a", "abcdefghij"[number]).replace("A", "ABCDEFGHIJ"[number])
            block.write(style, page.texts.clean(sign), style.capital * 0.3, middle, style.body, style.accent)
        is_new = marker in ("dot", "ring", "square")
        items.append(block.write(style, text, indent, middle, style.body, new_line=is_new))
    block.width, block.height = width, count * style.pitch
    ask_places(rng, block, items, "items")
    return block


def ask_places(rng, block, items, things):
    """Adds what can be asked about a sequence: its length, and what is at a place."""
    block.ask("count", items, str(len(items)), things=things, block=None)
    places = dict(zip(_PLACES, items)) | {"last": items[-1]}
    for place in rng.sample(sorted(places), 2):
        block.ask("item", [places[place]], place=place, thing=things[:-1], block=None)


def form(page, style, width, height):
    """Labels with boxes, some of which are checked."""
    rng, block = page.rng, Block("form")
    side, look = style.capital * rng.uniform(1.1, 1.5), rng.choice(["cross", "check", "dot", "fill"])
    method = rng.choice(["rectangle", "rectangle", "ellipse"])
    across = rng.choice([1, 1, 2]) if width > style.capital * 36 else 1
    rows = fitting_rows(rng, 2, 8, height, style.pitch)
    room, is_after, num_checked, thick = width / across, rng.random() < 0.25, 0, max(1, round(side / 8))
    for number in range(rows * across):
        x, middle = number // rows * room, (number % rows + 0.5) * style.pitch
        text = page.draw(rng.choice(["item", "phrase", "item", "job"]), style, room - side - 3 * style.pad, style.body)
        left, top = (x + room - side - style.pad if is_after else x), middle - side / 2
        box = block.shape(method, [left, top, left + side, top + side], outline=style.ink, width=max(1, thick // 2))
        label = block.write(style, text, x if is_after else x + side + style.pad, middle, style.body)
        checked = rng.random() < 0.5
        num_checked += checked
        if checked:
            inner = [left + side * 0.28, top + side * 0.28, left + side * 0.72, top + side * 0.72]
            a, b, c, d = inner
            if look == "cross":
                block.shape("line", [a, b, c, d], fill=style.ink, width=thick)
                block.shape("line", [a, d, c, b], fill=style.ink, width=thick)
            elif look == "check":
                block.shape("line", [a, middle, (a + c) / 2, d, c + side / 4, b - side / 4], fill=style.ink, width=thick)
            else:
                block.shape("ellipse" if look == "dot" else method, inner, fill=style.ink)
        block.ask("checked", [label, box], "yes" if checked else "no", key=text)
    block.width, block.height = width, rows * style.pitch
    block.ask("count", block.texts, str(num_checked), things="checked boxes", block=None)
    return block


def prices(page, style, width, height):
    """Goods or dishes with prices, and a total below some of them."""
    rng, block = page.rng, Block("price list")
    count = fitting_rows(rng, 2, 9, height, style.pitch)
    look, has_count = rng.choice(["leader", "right", "right", "after"]), rng.random() < 0.25
    kind = rng.choice(["item", "item", "item", "noun", "phrase"])
    items = []
    for number in range(count):
        middle = (number + 0.5) * style.pitch
        name, cost = page.draw(kind, style, width * 0.55, style.body), page.draw("price", style, width * 0.35, style.strong)
        x = style.width("00 x ", style.body) if has_count else 0
        if has_count:
            block.write(style, f"{rng.randint(1, 12)} x", 0, middle, style.body)
        label = block.write(style, name, x, middle, style.body, new_line=not has_count)
        end = x + style.width(name, style.body) + style.pad
        if look == "after":
            price = block.write(style, cost, end, middle, style.strong, style.accent, new_line=False)
        else:
            price = block.write(style, cost, 0, middle, style.strong, align=1, room=width, new_line=False)
        if price.x < end - 1 or price.box[2] > width:
            raise DoesNotFit
        if look == "leader":
            _leader(block, style, end, price.x - style.pad, middle)
        items.append((int("".join(filter(str.isdigit, cost))), label))
        block.ask("price", [price], key=name)
        block.ask("key", [label], value=cost)
    block.width, block.height = width, count * style.pitch
    _ask_extremes(block, items, "cheapest item", "most expensive item")
    ask_places(rng, block, [label for _, label in items], "items")
    return block


def _ask_extremes(block, items, low, high):
    amounts = [amount for amount, _ in items]
    for amount, most in ((min(amounts), low), (max(amounts), high)):
        if amounts.count(amount) == 1:
            block.ask("extreme", [items[amounts.index(amount)][1]], most=most, block=None)


def _level(text):
    return float("".join(c for c in text if c.isdigit() or c == "."))


def chart(page, style, width, height):
    """Bars, lying bars, a line or a pie, with labels and values."""
    look = page.rng.choice(["bars", "lying", "line", "pie"])
    block = Block("chart")
    page.texts.new_scale()
    {"bars": _upright_chart, "line": _upright_chart, "lying": _lying_chart, "pie": _pie_chart}[look](
        page, style, block, width, height, look
    )
    items = [(_level(value.text), label) for label, value in block.lines]
    for label, value in block.lines:
        block.ask("chart", [value], key=label.text)
    _ask_extremes(block, items, "lowest value", "highest value")
    block.ask("count", block.texts, str(len(items)), things="values", block=None)
    return block


def _upright_chart(page, style, block, width, height, look):
    rng = page.rng
    height = min(height, style.pitch * rng.uniform(7, 14), width)
    count = min(rng.randint(3, 8), int(width / style.capital / 5))
    if height < style.pitch * 5 or count < 3:
        raise DoesNotFit
    slot, kind = width / count, rng.choice(["noun", "noun", "city", "time", "number"])
    rows = [(page.draw(kind, style, slot * 0.92), page.draw("level", style, slot * 0.92)) for _ in range(count)]
    highest, floor = max(_level(value) for _, value in rows), height - style.pitch
    tops = [floor - _level(value) / highest * (floor - style.pitch * 1.1) for _, value in rows]
    centers = [(number + 0.5) * slot for number in range(count)]
    if rng.random() < 0.4:
        for step in range(1, 5):
            y = floor - step * (floor - style.pitch) / 4
            block.shape("line", [0, y, width, y], fill=mix(style.paper, style.ink, 0.15))
    if look == "line":
        points = [value for point in zip(centers, tops) for value in point]
        block.shape("line", points, fill=style.accent, width=max(1, round(style.capital / 5)))
    bar, color = slot * rng.uniform(0.15, 0.4), style.accent
    for (label, value), x, top in zip(rows, centers, tops):
        if look == "bars":
            color = page.fill_on(style) if rng.random() < 0.3 else color
            block.shape("rectangle", [x - bar, top, x + bar, floor], fill=color)
        else:
            radius = style.capital / 3
            block.shape("ellipse", [x - radius, top - radius, x + radius, top + radius], fill=style.accent)
            shown, y = style.width(value) / 2 + 2, top - style.pitch / 2
            block.shape("rectangle", [x - shown, y - style.capital * 0.7, x + shown, y + style.capital * 0.7], fill=style.paper)
        block.write(style, label, x - slot / 2, height - style.pitch * 0.4, align=0.5, room=slot)
        block.write(style, value, x - slot / 2, top - style.pitch / 2, align=0.5, room=slot, new_line=False)
    block.shape("rectangle", [0, floor, width - 1, floor + style.rule - 1], fill=style.line)
    block.width, block.height = width, height


def _lying_chart(page, style, block, width, height, look):
    count = fitting_rows(page.rng, 3, 8, height, style.pitch)
    rows = [(page.draw("item", style, width * 0.4), page.draw("level", style, width * 0.2)) for _ in range(count)]
    left = max(style.width(label) for label, _ in rows) + style.pad
    room = width - left - max(style.width(value) for _, value in rows) - style.pad * 1.5
    highest = max(_level(value) for _, value in rows)
    thick = style.pitch * page.rng.uniform(0.2, 0.38)
    for number, (label, value) in enumerate(rows):
        middle, length = (number + 0.5) * style.pitch, max(1, room * _level(value) / highest)
        block.shape("rectangle", [left, middle - thick, left + length, middle + thick], fill=style.accent)
        block.write(style, label, 0, middle, align=1, room=left - style.pad)
        block.write(style, value, left + length + style.pad / 2, middle, new_line=False)
    block.width, block.height = width, count * style.pitch


def _pie_chart(page, style, block, width, height, look):
    count = fitting_rows(page.rng, 3, 7, height, style.pitch)
    side = min(height, width * 0.45, max(count, 4) * style.pitch)
    left = side + 2 * style.pad + style.capital
    rows = [(page.draw("noun", style, (width - left) * 0.6), page.draw("level", style, (width - left) * 0.3)) for _ in range(count)]
    total, angle = sum(_level(value) for _, value in rows), page.rng.uniform(0, 360)
    column = left + max(style.width(label) for label, _ in rows) + style.pad
    for number, (label, value) in enumerate(rows):
        middle, end, color = (number + 0.5) * style.pitch, angle + 360 * _level(value) / total, page.fill_on(style)
        block.shape("pieslice", [0, 0, side, side], start=angle, end=end, fill=color, outline=style.paper)
        swatch = [left - style.capital * 1.3, middle - style.capital / 2, left - style.capital * 0.4, middle + style.capital / 2]
        block.shape("rectangle", swatch, fill=color)
        block.write(style, label, left, middle)
        block.write(style, value, column, middle, new_line=False)
        angle = end
    block.width, block.height = width, max(side, count * style.pitch)


def code(page, style, width, height):
    """Lines of a program, or what a terminal shows."""
    rng, style = page.rng, page.mono(style)
    block = Block(rng.choice(["code", "listing"]), in_order=True)
    count, letters = fitting_rows(rng, 2, 14, height, style.pitch), int(width / style.width("0"))
    if rng.random() < 0.6:
        lines = textwrap.dedent(rng.choice(page.texts.pools["listing"])).splitlines()
        lines = [line for line in lines if len(line) <= letters][:count]
    else:
        block.noun, prompt, lines = "terminal", rng.choice(["$ ", "> ", "# ", "user@host:~$ "]), []
        for _ in range(count):
            words = [page.texts.one("time"), rng.choice(_LEVELS), page.texts.one("phrase")]
            shown = rng.choice([" ".join(words), prompt + page.texts.one("path"), " ".join([words[0], page.texts.one("path")])])
            lines += [shown] if len(shown) <= letters else []
    if len(lines) < 2:
        raise DoesNotFit
    for number, line in enumerate(map(page.texts.clean, lines)):
        text = line.strip()
        block.write(style, text, style.width(" ") * (len(line) - len(line.lstrip())), (number + 0.5) * style.pitch)
    block.width, block.height = max(text.box[2] for text in block.texts), len(lines) * style.pitch
    block.ask("count", block.texts, str(len(lines)), things="lines", block=None)
    return block


def sign(page, style, width, height):
    """A few large lines in a frame, as on labels and signs."""
    rng, block = page.rng, Block(rng_noun := page.rng.choice(["sign", "label"]), in_order=True)
    kinds = ["words", "noun", "number", "code", "price", "city", "company", "time", "phrase", "percent", "unit"]
    border, y = style.pad * 2, style.pad * 2
    fill = draw_color(rng, style.paper, 20, 60) if rng.random() < 0.6 else style.paper
    ink, rows = page.ink_on(fill), []
    for _ in range(rng.randint(1, 5)):
        larger = style.scaled(rng.choice([1, 1.5, 2, 3, 4]))
        if y + larger.pitch + border > height:
            break
        text = page.draw(rng.choice(kinds), larger, width - 2 * border, larger.strong)
        rows.append((larger, text, y + larger.pitch / 2))
        y += larger.pitch
    if not rows:
        raise DoesNotFit
    widest = max(larger.width(text, larger.strong) for larger, text, _ in rows)
    block.width, block.height = min(width, (widest + 2 * border) * rng.uniform(1, 1.4)), y + border
    radius, outline = rng.choice([0, style.pad]), ink if rng_noun == "sign" or rng.random() < 0.5 else None
    points = [0, 0, block.width - 1, block.height - 1]
    block.shape("rounded_rectangle", points, radius=round(radius), fill=fill, outline=outline, width=style.rule * 2)
    align = rng.choice([0.5, 0.5, 0])
    for larger, text, middle in rows:
        block.write(larger, text, border, middle, larger.strong, ink, align, block.width - 2 * border)
    return block


def address(page, style, width, height):
    """A few short lines of mixed values, as in a letter."""
    rng, block = page.rng, Block("address", in_order=True)
    kinds = ["person", "company", "street", "city", "phone", "email", "url", "date"]
    kinds = [kind for kind in kinds if rng.random() < 0.75][: fitting_rows(rng, 3, 8, height, style.pitch)]
    align, color = rng.choice([0, 0, 0, 0.5, 1]), rng.choice([style.ink, style.ink, style.accent])
    for number, kind in enumerate(kinds):
        face = style.strong if number == 0 else style.body
        text = page.draw(kind, style, width, face)
        block.write(style, text, 0, (number + 0.5) * style.pitch, face, color, align, width)
    if len(kinds) < 2:
        raise DoesNotFit
    block.width, block.height = width, len(kinds) * style.pitch
    return block


def buttons(page, style, width, height):
    """Names of links or tabs side by side, with or without boxes."""
    rng, block = page.rng, Block("row of buttons")
    look, x, tall = rng.choice(["box", "fill", "line", "none"]), 0, style.pitch * 1.4
    if tall > height:
        raise DoesNotFit
    fill = mix(style.paper, style.accent, rng.uniform(0.1, 0.9)) if look == "fill" else style.paper
    ink, texts = page.ink_on(fill), []
    for _ in range(rng.randint(3, 6)):
        try:
            text = page.draw("noun", style, width - x - 2 * style.pad, style.strong)
        except DoesNotFit:
            break
        end = x + style.width(text, style.strong) + 2 * style.pad
        if look in ("box", "fill"):
            points, outline = [x, 0, end, tall - 1], style.line if look == "box" else None
            block.shape("rounded_rectangle", points, radius=round(style.pad * 0.8), fill=fill, outline=outline)
        elif look == "line" and not texts:
            block.shape("rectangle", [x, tall - style.rule, end, tall - 1], fill=style.accent)
        texts.append(block.write(style, text, x + style.pad, tall / 2, style.strong, ink, new_line=not texts))
        x = end + style.pad
    if len(texts) < 2:
        raise DoesNotFit
    block.width, block.height = x - style.pad, tall
    ask_places(rng, block, texts, "buttons")
    return block


def heading(page, style, width, height, kind="words"):
    """A larger text, which may stand on a bar or over a rule."""
    rng = page.rng
    larger = style.scaled(rng.choice([1, 1.2, 1.5, 2, 2.6]))
    if larger.pitch + style.pad > height:
        raise DoesNotFit
    block = Block("heading", width, larger.pitch + style.pad / 2)
    look, align = rng.choice(["plain", "plain", "plain", "rule", "bar", "tint"]), rng.choice([0, 0, 0, 0.5, 1])
    paper = style.accent if look == "bar" else style.shade if look == "tint" else style.paper
    if look in ("bar", "tint"):
        block.shape("rectangle", [0, 0, width - 1, larger.pitch], fill=paper)
    if look == "rule":
        block.shape("rectangle", [0, larger.pitch, width - 1, larger.pitch + style.rule - 1], fill=style.accent)
    ink = page.ink_on(paper) if look in ("bar", "tint") else rng.choice([style.ink, style.accent])
    pad = style.pad if look in ("bar", "tint") else 0
    text = page.draw(kind, larger, width - 2 * pad, larger.strong)
    block.write(larger, text, pad, larger.pitch / 2, larger.strong, ink, align, width - 2 * pad)
    return block


def margin(page, style, width, height, noun):
    """The line at the top or the foot of a page, or a caption: one to three short texts."""
    rng, block = page.rng, Block(noun, width, style.pitch)
    if style.pitch > height:
        raise DoesNotFit
    kinds = rng.choices(["page", "date", "company", "url", "code", "phrase", "version", "person"], k=rng.choice([1, 1, 2, 3]))
    places = {1: [rng.choice([0, 0.5, 1])], 2: [0, 1], 3: [0, 0.5, 1]}[len(kinds)]
    for kind, align in zip(kinds, places):
        text = page.draw(kind, style, width / len(kinds) - style.pad)
        block.write(style, text, 0, style.pitch / 2, align=align, room=width, new_line=align == places[0])
    if rng.random() < 0.4:
        y = style.pitch - 1 if noun == "header" else 0
        block.shape("line", [0, y, width - 1, y], fill=style.line, width=style.rule)
    return block


BLOCKS = (pairs, table, paragraph, bullets, form, prices, chart, code, sign, address, buttons)
