# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The kinds of blocks. Each function draws one into a width and a height, or raises `DoesNotFit`."""

import textwrap
from string import ascii_lowercase, ascii_uppercase

from fila.fineprint.marks import Block, mix
from fila.fineprint.texts import LABELS, TABLES, DoesNotFit

_KINDS = TABLES["blocks"]
_NUMERIC = ("number", "price", "percent", "unit", "decimal")


def draw_count(rng, low, high, height, pitch):
    """Draws a number of rows for which there is room; raises `DoesNotFit` if there is none for `low`."""
    high = min(high, int(height / pitch))
    if high < low:
        raise DoesNotFit
    return rng.randint(low, high)


def _around(x, y, radius):
    return [x - radius, y - radius, x + radius, y + radius]


def entries(page, style, width, height):
    """Keys and values, or goods and prices: the value beside, below, above, or far from its key."""
    rng, for_sale = page.rng, page.rng.random() < 0.45
    block = Block("price list" if for_sale else "list of details")
    look = rng.choice(["after", "columns", "right", "leader", *([] if for_sale else ["above", "below"])])
    colon, stacked = "" if for_sale else rng.choice([":", ":", "", " :"]), look in ("above", "below")
    pitch, rows, step = style.pitch, [], 0  # between the line of the key and that of the value
    if stacked:
        colon, pitch, step = "", style.pitch * 2.3, style.pitch * (0.52 if look == "above" else -0.52)
    key_face, color = (style.body, style.ink) if for_sale else (style.strong, rng.choice([style.ink, style.accent]))
    for _ in range(draw_count(rng, 2 if for_sale else 1, 10, height, pitch)):
        kind = "price" if for_sale else rng.choice(list(LABELS))
        room = width - style.pad * 2 if stacked else width * (0.55 if for_sale else 0.4)
        key = page.draw("item" if for_sale else kind, style, room, key_face, is_label=not for_sale)
        rows.append((key, page.draw(kind, style, width if stacked else width * 0.9 - room, style.body)))
    column = max(style.width(key + colon, key_face) for key, _ in rows) + style.pad
    for number, (key, value) in enumerate(rows):
        y = (number + 0.5) * pitch
        label = block.write(style, key + colon, 0, y - step, key_face, color)
        if stacked:
            text = block.write(style, value, 0, y + step, style.body)
            block.lines[-2:] = sorted(block.lines[-2:], key=lambda line: line[0].y)
        else:
            end, align = label.end + style.pad / 2, look in ("right", "leader")
            x = 0 if align else column if look == "columns" else end
            text = block.write(style, value, x, y, style.body, align=align, room=width, new_line=False)
            if text.end > width or text.x < end - 1:
                raise DoesNotFit
            dot = max(1, style.capital / 8)
            while look == "leader" and end + style.pad < text.x:
                block.bar(end, label.y - dot, end + dot, label.y, style.line)
                end += style.capital * 0.7
        whats = ("price", "cost", "price tag") if for_sale else ("value", "entry", "text")
        block.ask("value", [text], key=key, what=rng.choice(whats))
        block.ask("key", [label], key, value=value)
    block.width, block.height = width, len(rows) * pitch
    if for_sale:
        labels = [fact.marks[0] for fact in block.facts[1::2]]
        amounts = [int("".join(filter(str.isdigit, value))) for _, value in rows]
        block.ask_extremes(amounts, labels, "cheapest item", "most expensive item")
        block.ask_places(labels, "items")
    return block


def _draw_columns(page, style, width, count):
    """Columns of a table of so many rows, as (kind, width, texts), as many as there is room for; and how much is left."""
    rng, columns, left = page.rng, [], width
    same = rng.choice(_KINDS["column"]) if rng.random() < 0.4 else None
    for number in range(rng.randint(2, 7)):
        kind = same or rng.choice(_KINDS["column"]) if number else rng.choice(_KINDS["row"])
        room = min(left - 2 * style.pad, width * (0.3 if number else 0.5))
        try:
            cells = [page.draw(kind, style, room, style.strong, is_label=True)]
            cells += [page.draw(kind, style, room, style.body) for _ in range(count - 1)]
        except DoesNotFit:
            break
        widest = max(style.width(text, style.body if row else style.strong) for row, text in enumerate(cells))
        columns.append((kind, widest + 2 * style.pad, cells))
        left -= widest + 2 * style.pad
    if len(columns) < 2:
        raise DoesNotFit
    return columns, left


def table(page, style, width, height):
    """Rows and columns, with or without rules, stripes, a colored head."""
    rng, block, pitch = page.rng, Block("table"), style.pitch * page.rng.uniform(1, 1.3)
    count = draw_count(rng, 3, 12, height - style.rule, pitch)
    columns, left = _draw_columns(page, style, width, count)
    slack = left / len(columns) * rng.choice([0, 0.3, 1])
    block.width, block.height = width - left + slack * len(columns), pitch * count + style.rule
    look, is_filled = rng.choice(["frame", "rules", "head", "stripes", "none"]), rng.random() < 0.3
    head_paper = mix(style.paper, style.accent, rng.uniform(0.15, 0.9)) if is_filled else style.paper
    head_ink = page.ink_on(head_paper) if is_filled else rng.choice([style.ink, style.accent])
    numbers, others = rng.choice([(1, 0), (0, 0), (0.5, 0.5), (1, 0.5)])  # how cells are aligned
    for row in range(count):  # below all rules
        paper = head_paper if not row else style.shade if look == "stripes" and row % 2 else style.paper
        block.bar(0, row * pitch, block.width, (row + 1) * pitch, paper)
    for row in range(count):
        x, y = 0, row * pitch
        for number, (kind, column, cells) in enumerate(columns):
            align = (numbers if kind in _NUMERIC else others) if number else 0
            face, color = (style.body, style.ink) if row else (style.strong, head_ink)
            room = column + slack - 2 * style.pad
            block.write(style, cells[row], x + style.pad, y + pitch / 2, face, color, align, room, new_line=not number)
            x += column + slack
            if look == "frame":
                block.bar(x - style.rule, y, x, y + pitch, style.line)
        if look in ("frame", "rules") or look == "head" and row == 0:
            block.bar(0, y + pitch, block.width, y + pitch + style.rule, style.line)
    if look == "frame":
        block.bar(0, 0, block.width, style.rule, style.line)
        block.bar(0, 0, style.rule, block.height, style.line)
    head, *rows = block.lines
    for kind in ("cell", "row") * 4:
        row, column = rng.choice(rows), rng.randrange(1, len(head))
        value, name = row[column], head[column].text
        if kind == "cell":
            block.ask("cell", [value], row=row[0].text, column=name)
        else:
            block.ask("row", [row[0]], value=value.text, column=name, row=head[0].text)
    block.ask_count(count - 1, "rows below the head")
    block.ask_count(len(head), "columns")
    return block


def _break_lines(page, style, room, count):
    """So many lines of running text, as lists of words."""
    lines = [[]]
    for _ in range(count * 20):  # ends, whatever the words are
        for word in style.case(page.rng.choice(page.texts.pools["sentence"])).split():
            if style.width(word, style.body) > room:
                continue
            if style.width(" ".join([*lines[-1], word]), style.body) > room:
                lines.append([])
            lines[-1].append(word)
        if len(lines) > count:
            return lines[:count]
    raise DoesNotFit


def paragraph(page, style, width, height):
    """Running text in one to three columns, with any alignment."""
    rng, block, gutter = page.rng, Block("paragraph", in_order=True), style.capital * 2.5
    across = min(rng.choice([1, 1, 1, 2, 3]), max(1, int(width / style.capital / 14)))
    room = (width - gutter * (across - 1)) / across
    count, align = draw_count(rng, 1, 16, height, style.pitch), rng.choice([0, 0, 0, 0.5, 1, "justified"])
    for number, words in enumerate(_break_lines(page, style, room, count * across)):
        x, middle = number // count * (room + gutter), (number % count + 0.5) * style.pitch
        if align != "justified":
            block.write(style, " ".join(words), x, middle, style.body, align=align, room=room)
            continue
        gap = (room - sum(style.width(word, style.body) for word in words)) / max(1, len(words) - 1)
        for position, word in enumerate(words):
            x = block.write(style, word, x, middle, style.body, new_line=not position).end + gap
    block.width, block.height = width, count * style.pitch
    block.ask_count(len(block.lines), "lines")
    return block


def sequence(page, style, width, height):
    """A list with dots, rings, signs or numbers."""
    rng, block, items = page.rng, Block("list", in_order=True), []
    look = rng.choice(["dot", "ring", "-", "–", "1.", "1)", "(1)", "a)", "A.", "*", ""])
    kind = rng.choice(_KINDS["list"])
    indent, is_sign = style.width("(10)  ", style.body) if look else 0, look not in ("dot", "ring", "")
    for number in range(draw_count(rng, 2, 10, height, style.pitch)):
        middle, radius = (number + 0.5) * style.pitch, style.capital * 0.22
        if is_sign:
            signs = {"1": str(number + 1), "a": ascii_lowercase[number], "A": ascii_uppercase[number]}
            sign = look.translate(str.maketrans(signs))
            block.write(style, sign, style.capital * 0.3, middle, style.body, style.accent)
        elif look:
            fill = style.accent if look == "dot" else None
            block.shape("ellipse", _around(style.capital, middle, radius), fill=fill, outline=style.accent)
        text = page.draw(kind, style, width - indent - 1, style.body)
        items.append(block.write(style, text, indent, middle, style.body, new_line=not is_sign))
    block.width, block.height = width, len(items) * style.pitch
    block.ask_places(items, "items")
    return block


def form(page, style, width, height):
    """Boxes of which some are checked, before or after what they stand for."""
    rng, block, num_checked = page.rng, Block("form", in_order=True), 0
    method, is_cross, is_after = rng.choice(["rectangle", "ellipse"]), rng.random() < 0.6, rng.random() < 0.25
    radius, thick = style.capital * rng.uniform(0.55, 0.75), max(1, round(style.capital / 7))
    for number in range(draw_count(rng, 2, 10, height, style.pitch)):
        x, y = width - radius - style.pad if is_after else style.capital, (number + 0.5) * style.pitch
        text = page.draw("item", style, width - style.capital * 3.5, style.body)
        label = block.write(style, text, 0 if is_after else style.capital * 2.5, y, style.body)
        box = block.shape(method, _around(x, y, radius), outline=style.ink, width=thick)
        is_checked, (left, top, right, bottom) = rng.random() < 0.5, _around(x, y, radius * 0.6)
        if is_checked and is_cross:
            block.shape("line", [left, top, right, bottom], fill=style.ink, width=thick)
            block.shape("line", [left, bottom, right, top], fill=style.ink, width=thick)
        elif is_checked:
            block.shape(method, [left, top, right, bottom], fill=style.ink)
        block.ask("checked", [label, box], "yes" if is_checked else "no", key=text)
        num_checked += is_checked
    block.width, block.height = width, len(block.lines) * style.pitch
    block.ask_count(num_checked, "checked boxes")
    return block


def chart(page, style, width, height):
    """Upright or lying bars, or a line, with labels and values."""
    rng, block, look = page.rng, Block("chart", width), page.rng.choice(["bars", "line", "lying"])
    page.texts.forms["amount"] = [rng.choice(TABLES["amounts"])]
    if look == "lying":
        count, kind, rooms = draw_count(rng, 3, 8, height, style.pitch), "item", (width * 0.35, width * 0.2)
        block.height = count * style.pitch
    else:
        block.height = min(height, style.pitch * rng.uniform(7, 14), width)
        count, kind = draw_count(rng, 3, 8, width, style.capital * 5), rng.choice(_KINDS["bar"])
        rooms = [width / count * 0.92] * 2
        if block.height < style.pitch * 5:
            raise DoesNotFit
    rows = [(page.draw(kind, style, rooms[0]), page.draw("amount", style, rooms[1])) for _ in range(count)]
    amounts = [float(value.rstrip("%")) for _, value in rows]
    shares = [amount / max(amounts) for amount in amounts]
    if look == "lying":
        left = max(style.width(label) for label, _ in rows) + style.pad
        room, thick = width * 0.78 - left - style.pad, style.pitch * rng.uniform(0.2, 0.38)
        for number, ((label, value), share) in enumerate(zip(rows, shares)):
            middle, end = (number + 0.5) * style.pitch, left + max(1, room * share)
            block.bar(left, middle - thick, end, middle + thick, style.accent)
            block.write(style, label, 0, middle, align=1, room=left - style.pad)
            block.write(style, value, end + style.pad / 2, middle, new_line=False)
    else:
        slot, floor, r = width / count, block.height - style.pitch, style.capital / 3
        points = [((n + 0.5) * slot, floor - share * (floor - style.pitch * 1.1)) for n, share in enumerate(shares)]
        if look == "line":
            block.shape("line", sum(points, ()), fill=style.accent, width=max(1, round(style.capital / 5)))
        half, several = slot * rng.uniform(0.15, 0.4), rng.random() < 0.3
        for (label, value), (x, top) in zip(rows, points):
            if look == "bars":
                block.bar(x - half, top, x + half, floor, page.fill_on(style) if several else style.accent)
            else:
                room, y = style.width(value) / 2 + 2, top - style.pitch / 2
                block.shape("ellipse", _around(x, top, r), fill=style.accent)
                block.bar(x - room, y - r * 2, x + room, y + r * 2, style.paper)  # under the value
            block.write(style, label, x - slot / 2, block.height - style.pitch * 0.4, align=0.5, room=slot)
            block.write(style, value, x - slot / 2, top - style.pitch / 2, align=0.5, room=slot, new_line=False)
        block.bar(0, floor, width, floor + style.rule, style.line)
    for label, value in block.lines:
        block.ask("value", [value], key=label.text, what="value in the chart")
    block.ask_extremes(amounts, [label for label, _ in block.lines], "lowest value", "highest value")
    block.ask_count(count, "values")
    return block


def code(page, style, width, height):
    """Lines of a program, or what a terminal shows."""
    rng, texts, style = page.rng, page.texts, page.style(style.paper, page.mono_family)
    block = Block(rng.choice(["code", "terminal", "terminal"]), in_order=True)
    count, lines = draw_count(rng, 2, 16, height, style.pitch), []
    if block.noun == "code":
        start = rng.randrange(len(texts.pools["listing"]))
        lines = texts.pools["listing"][start : start + count]
    for _ in range(count if block.noun == "terminal" else 0):
        prompt, is_log = rng.choice(["$ ", "> ", "user@host:~$ "]), rng.random() < 0.6
        start = f"{texts.draw('time')} {rng.choice(TABLES['log_levels'])} " if is_log else prompt
        lines.append(start + texts.draw("phrase" if is_log else "path"))
    lines = [line for line in textwrap.dedent("\n".join(lines)).splitlines() if style.width(line) <= width]
    if len(lines) < 2:
        raise DoesNotFit
    for number, line in enumerate(lines):
        text = line.lstrip()
        block.write(style, text, style.width(" ") * (len(line) - len(text)), (number + 0.5) * style.pitch)
    block.width, block.height = width, len(lines) * style.pitch
    block.ask_count(len(lines), "lines")
    return block


def sign(page, style, width, height):
    """A few large lines in a frame, as on labels and signs; or small ones without, as in an address."""
    rng, is_address = page.rng, page.rng.random() < 0.4
    address = _KINDS["address"][rng.randrange(3) :]
    block = Block("address" if is_address else rng.choice(["sign", "label"]), in_order=True)
    border = 0 if is_address else style.pad * 2
    fill = style.paper if is_address or rng.random() < 0.4 else page.fill_on(style)
    ink, rows, y = page.ink_on(fill), [], border
    for kind in address if is_address else rng.choices(_KINDS["sign"], k=rng.randint(1, 5)):
        larger = style if is_address else style.scaled(rng.choice([1, 1.5, 2, 3, 4]))
        if y + larger.pitch + border > height:
            break
        rows.append((larger, page.draw(kind, larger, width - 2 * border, larger.strong), y + larger.pitch / 2))
        y += larger.pitch
    if not rows:
        raise DoesNotFit
    widest = max(larger.width(text, larger.strong) for larger, text, _ in rows)
    block.width, block.height = min(width, (widest + 2 * border) * rng.uniform(1, 1.4)), y + border
    if not is_address:
        outline, radius = rng.choice([ink, ink, fill]), round(rng.choice([0, style.pad]))
        frame = [0, 0, block.width - 1, block.height - 1]
        block.shape("rounded_rectangle", frame, radius=radius, fill=fill, outline=outline, width=style.rule * 2)
    align = rng.choice([0, 0, 0.5, 1])
    for larger, text, middle in rows:
        block.write(larger, text, border, middle, larger.strong, ink, align, block.width - 2 * border)
    return block


def heading(page, style, width, height, noun="heading"):
    """A larger text, which may stand on a bar or over a rule."""
    rng, larger = page.rng, style.scaled(page.rng.choice([1, 1.2, 1.5, 2, 2.6]))
    block = Block(noun, width, larger.pitch + style.pad / 2)
    paper = rng.choice([style.paper] * 4 + [style.accent, style.shade])
    pad, ink = (style.pad, page.ink_on(paper)) if paper != style.paper else (0, rng.choice([style.ink, style.accent]))
    if pad:
        block.bar(0, 0, width, larger.pitch, paper)
    elif rng.random() < 0.25:
        block.bar(0, larger.pitch, width, larger.pitch + style.rule, style.accent)
    text = page.draw("words", larger, width - 2 * pad, larger.strong)
    align = rng.choice([0, 0, 0, 0.5, 1])
    block.write(larger, text, pad, larger.pitch / 2, larger.strong, ink, align, width - 2 * pad)
    return block


def margin(page, style, width, height, noun):
    """The line at the top or the foot of a page: one to three short texts."""
    rng, block = page.rng, Block(noun, width, style.pitch)
    aligns = rng.choice([[0], [0.5], [1], [0, 1], [0, 0.5, 1]])
    for align in aligns:
        text = page.draw(rng.choice(_KINDS["margin"]), style, width / len(aligns) - style.pad)
        block.write(style, text, 0, style.pitch / 2, align=align, room=width, new_line=not block.lines)
    if rng.random() < 0.4:
        y = style.pitch - 1 if noun == "header" else 0
        block.bar(0, y, width, y + style.rule, style.line)
    return block


BLOCKS = (entries, entries, table, table, paragraph, sequence, form, chart, code, sign)
