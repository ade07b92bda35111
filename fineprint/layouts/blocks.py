# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The kinds of blocks. Each function draws one into a width and a height, or raises `DoesNotFit`."""

from fila.fineprint.layouts.marks import Block, fitting_rows, mix
from fila.fineprint.layouts.texts import LABELS, DoesNotFit

_COLUMN_KINDS = ("number", "price", "time", "date", "percent", "code", "unit", "decimal", "noun")
_ROW_KINDS = ("item", "item", "person", "city", "company", "date", "code", "time")
_NUMERIC = ("number", "price", "percent", "unit", "decimal")
_LEVELS = ("INFO", "DEBUG", "WARNING", "ERROR", "info", "[ok]", "[fail]", "notice:")
_LEVEL_FORMS = ("9.#", "9#", "9#%", "9.#%", "9##", "9###", "9.##")


def entries(page, style, width, height):
    """Keys and values, or goods and prices: the value beside, below, above, or far from its key."""
    rng, for_sale = page.rng, page.rng.random() < 0.45
    block = Block("price list" if for_sale else "list of details")
    look = rng.choice(["after", "columns", "right", "leader", *([] if for_sale else ["above", "below", "boxed"])])
    stacked, colon = look in ("above", "below"), "" if for_sale else rng.choice([":", ":", "", " :"])
    pitch = style.pitch * (2.3 if stacked else 1.35 if look == "boxed" else 1)
    across = rng.randint(1, max(1, min(3, int(width / style.capital / 14)))) if stacked else 1
    room, share, rows = width / across - style.pad, 1 if stacked else 0.5, []
    for _ in range(fitting_rows(rng, 2 if for_sale else 1, 10, height, pitch) * across):
        kind = "price" if for_sale else rng.choice(list(LABELS))
        key = page.draw("item", style, room * 0.6, style.body) if for_sale else None
        key = key or page.label(kind, style, room * share - style.pad * 2, style.strong)
        rows.append((key, page.draw(kind, style, room * (0.35 if for_sale else share), style.body)))
    key_face, key_color = (style.body, style.ink) if for_sale else (style.strong, rng.choice([style.ink, style.accent]))
    left, y = max(style.width(key + colon, key_face) for key, _ in rows) + style.pad, 0
    for number, (key, value) in enumerate(rows):
        x, y = number % across * (width / across), number // across * pitch
        first = y + pitch / 2 - stacked * style.pitch * 0.55
        second = first + stacked * style.pitch * 1.05
        if look == "below":
            text = block.write(style, value, x, first, style.body)
        label = block.write(
            style, key + ("" if stacked else colon), x, second if look == "below" else first, key_face, key_color
        )
        end = x + style.width(label.text, key_face) + style.pad / 2
        if look in ("right", "leader"):
            text = block.write(style, value, x, first, style.body, align=1, room=width, new_line=False)
        elif look != "below":
            start = x if stacked else end if look == "after" else left + style.pad / 2
            text = block.write(style, value, start, second, style.body, new_line=stacked)
        if text.end > width or (not stacked and text.x < end - 1):
            raise DoesNotFit
        if look == "boxed":
            block.shape("rectangle", [left, y + 2, width - 1, y + pitch - 3], outline=style.line, width=style.rule)
        for dot in range(int((text.x - style.pad / 2 - end) / style.capital / 0.7) if look == "leader" else 0):
            x, size = end + dot * style.capital * 0.7, max(1, round(style.capital / 8))
            block.shape("rectangle", [x, label.y - size, x + size - 1, label.y - 1], fill=style.line)
        block.ask("price" if for_sale else "value", [text], key=key)
        block.ask("key", [label], key, value=value)
    block.width, block.height = width, y + pitch
    if for_sale:
        labels = [fact.marks[0] for fact in block.facts[1::2]]
        amounts = [int("".join(filter(str.isdigit, value))) for _, value in rows]
        _ask_extremes(block, amounts, labels, "cheapest item", "most expensive item")
        _ask_places(rng, block, labels, "items")
    return block


def _ask_places(rng, block, items, things):
    """Adds what can be asked about a sequence: its length, and what is at a place."""
    block.ask("count", items, str(len(items)), things=things, block=None)
    places = dict(zip(("first", "second", "third", "fourth", "fifth"), items)) | {"last": items[-1]}
    for place in rng.sample(sorted(places), 2):
        block.ask("item", [places[place]], place=place, thing=things[:-1], block=None)


def _ask_extremes(block, amounts, labels, low, high):
    for amount, most in ((min(amounts), low), (max(amounts), high)):
        if amounts.count(amount) == 1:
            block.ask("extreme", [labels[amounts.index(amount)]], most=most, block=None)


def table(page, style, width, height):
    """Rows and columns, with or without rules, stripes, a colored head."""
    rng, block, columns, used = page.rng, Block("table"), [], 0
    pitch, same = style.pitch * rng.uniform(1, 1.3), rng.choice(_COLUMN_KINDS) if rng.random() < 0.4 else None
    count = fitting_rows(rng, 3, 12, height - style.rule, pitch)
    for number in range(rng.randint(2, 7)):
        kind, room = (
            same or rng.choice(_COLUMN_KINDS) if number else rng.choice(_ROW_KINDS),
            width - used - 2 * style.pad,
        )
        try:
            cells = [page.label(kind, style, min(room, width / 3), style.strong)]
            room = min(room, width * (0.3 if number else 0.5))
            cells += [page.draw(kind, style, room, style.body) for _ in range(count - 1)]
        except DoesNotFit:
            break
        widest = max(style.width(cell, style.body if row else style.strong) for row, cell in enumerate(cells))
        columns.append((kind, widest + 2 * style.pad, cells))
        used += columns[-1][1]
    if len(columns) < 2:
        raise DoesNotFit
    slack = (width - used) / len(columns) * rng.choice([0, 0.3, 1])
    block.width, block.height = used + slack * len(columns), pitch * count + style.rule
    head_paper, right = mix(style.paper, style.accent, rng.uniform(0.15, 0.9)), rng.random()
    look, is_filled = rng.choice(["frame", "rules", "head", "stripes", "none", "columns"]), rng.random() < 0.3
    head_ink = page.ink_on(head_paper) if is_filled else rng.choice([style.ink, style.accent])

    def bar(x, y, end, bottom, color):
        block.shape("rectangle", [x, y, end - 1, bottom - 1], fill=color)

    for row in range(count):
        y, x = row * pitch, 0
        if (is_filled and not row) or (look == "stripes" and row and row % 2 == 0):
            bar(0, y, block.width, y + pitch, style.shade if row else head_paper)
        if look in ("frame", "rules") or (look == "head" and not row):
            bar(0, y + pitch, block.width, y + pitch + style.rule, style.line)
        for number, (kind, column, cells) in enumerate(columns):
            align = 1 if number and kind in _NUMERIC and right < 0.5 else 0.5 if number and right > 0.8 else 0
            face, color = (style.body, style.ink) if row else (style.strong, head_ink)
            room = column + slack - 2 * style.pad
            block.write(style, cells[row], x + style.pad, y + pitch / 2, face, color, align, room, new_line=not number)
            if look == "frame" or (look == "columns" and number):
                bar(x, y, x + style.rule, y + pitch, style.line)
            x += column + slack
    if look == "frame":
        bar(0, 0, block.width, style.rule, style.line)
        bar(block.width - style.rule, 0, block.width, block.height, style.line)
    head, *rows = block.lines
    for _ in range(4):
        row, column = rng.choice(rows), rng.randrange(1, len(head))
        block.ask("cell", [row[column]], row=row[0].text, column=head[column].text)
        row, column = rng.choice(rows), rng.randrange(1, len(head))
        block.ask("row", [row[0]], value=row[column].text, column=head[column].text, row=head[0].text)
    block.ask("count", block.texts, str(count - 1), things="rows below the head", block=None)
    block.ask("count", block.texts, str(len(head)), things="columns", block=None)
    return block


def paragraph(page, style, width, height):
    """Running text in one to three columns, with any alignment."""
    rng, block, across, gutter = (
        page.rng,
        Block("paragraph", in_order=True),
        page.rng.choice([1, 1, 1, 2, 3]),
        style.capital * 2.5,
    )
    room = (width - gutter * (across - 1)) / across
    if room < style.capital * 12:
        across, room = 1, width
    per_column, align = fitting_rows(rng, 1, 16, height, style.pitch), rng.choice([0, 0, 0, 0.5, 1, None])
    lines, words = [[]], []
    while len(lines) <= per_column * across:
        words = words or page.sentence(style).split()
        word = words.pop(0)
        if style.width(word, style.body) > room:
            continue
        if style.width(" ".join([*lines[-1], word]), style.body) > room:
            lines.append([])
        lines[-1].append(word)
    for number, words in enumerate(lines[:-1]):
        x, middle = number // per_column * (room + gutter), (number % per_column + 0.5) * style.pitch
        if align is None and len(words) > 1:  # justified
            gap = (room - sum(style.width(word, style.body) for word in words)) / (len(words) - 1)
            for index, word in enumerate(words):
                block.write(style, word, x, middle, style.body, new_line=not index)
                x += style.width(word, style.body) + gap
        else:
            block.write(style, " ".join(words), x, middle, style.body, align=align or 0, room=room)
    block.width, block.height = width, per_column * style.pitch
    block.ask("count", block.texts, str(len(block.lines)), things="lines", block=None)
    return block


def sequence(page, style, width, height):
    """A list with dots, signs or numbers, or a form with boxes of which some are checked."""
    rng = page.rng
    look = rng.choice(["dot", "square", "ring", "-", "–", "1.", "1)", "(1)", "a)", "A.", "*", "", *["form"] * 8])
    block = Block("form" if look == "form" else "list", in_order=True)
    kind = rng.choice(["item", "item", "phrase", "person", "city", "job", "path", "url", "company"])
    kind = "item" if look == "form" else kind
    drawn, mark = look in ("dot", "square", "ring", "form", ""), rng.choice(["cross", "check", "dot", "fill"])
    method = rng.choice(["rectangle", "ellipse"]) if look == "form" else "rectangle" if look == "square" else "ellipse"
    indent = bool(look) * max(style.capital * rng.uniform(2.5, 3.5), style.width("(10) ", style.body))
    is_after = look == "form" and rng.random() < 0.25
    radius, thick = (
        style.capital * (rng.uniform(0.55, 0.75) if look == "form" else 0.22),
        max(1, round(style.capital / 7)),
    )
    items, checks = [], []
    for number in range(fitting_rows(rng, 2, 10, height, style.pitch)):
        middle, x = (number + 0.5) * style.pitch, width - radius - style.pad if is_after else style.capital
        text = page.draw(kind, style, width - indent - 1, style.body)
        points = [x - radius, middle - radius, x + radius, middle + radius]
        if drawn and look:
            fill, outline = (
                None if look in ("ring", "form") else style.accent,
                style.ink if look == "form" else style.accent,
            )
            box = block.shape(method, points, fill=fill, outline=outline, width=max(1, thick // 2))
        elif look:
            sign = (
                look.replace("1", str(number + 1)).replace("a", "abcdefghij"[number]).replace("A", "ABCDEFGHIJ"[number])
            )
            block.write(style, page.texts.clean(sign), style.capital * 0.3, middle, style.body, style.accent)
        items.append(block.write(style, text, 0 if is_after else indent, middle, style.body, new_line=drawn))
        if look == "form":
            checks.append(rng.random() < 0.5)
            if checks[-1]:
                _check(block, mark, x, middle, radius * 0.6, method, fill=style.ink, width=thick)
            block.ask("checked", [items[-1], box], "yes" if checks[-1] else "no", key=text)
    block.width, block.height = width, len(items) * style.pitch
    if look == "form":
        block.ask("count", items, str(sum(checks)), things="checked boxes", block=None)
    else:
        _ask_places(rng, block, items, "items")
    return block


def _check(block, mark, x, y, r, method, fill, width):
    if mark == "cross":
        block.shape("line", [x - r, y - r, x + r, y + r], fill=fill, width=width)
        block.shape("line", [x - r, y + r, x + r, y - r], fill=fill, width=width)
    elif mark == "check":
        block.shape("line", [x - r, y, x, y + r, x + r * 1.4, y - r * 1.4], fill=fill, width=width)
    else:
        block.shape("ellipse" if mark == "dot" else method, [x - r, y - r, x + r, y + r], fill=fill)


def chart(page, style, width, height):
    """Upright or lying bars, a line or a pie, with labels and values."""
    rng, block = page.rng, Block("chart")
    look, page.texts.level_form = rng.choice(["bars", "line", "lying", "pie"]), rng.choice(_LEVEL_FORMS)
    if look in ("bars", "line"):
        height, count = (
            min(height, style.pitch * rng.uniform(7, 14), width),
            min(rng.randint(3, 8), int(width / style.capital / 5)),
        )
        if height < style.pitch * 5 or count < 3:
            raise DoesNotFit
        kind, rooms = rng.choice(["noun", "noun", "city", "time", "number"]), [width / count * 0.92] * 2
    else:
        count = fitting_rows(rng, 3, 8, height, style.pitch)
        kind, rooms = "item", [width * 0.32, width * 0.2]
    rows = [(page.draw(kind, style, rooms[0]), page.draw("level", style, rooms[1])) for _ in range(count)]
    amounts = [float(value.rstrip("%")) for _, value in rows]
    draw = {"bars": _upright, "line": _upright, "lying": _lying, "pie": _pie}[look]
    draw(page, style, block, width, height, rows, [amount / max(amounts) for amount in amounts], look)
    for label, value in block.lines:
        block.ask("chart", [value], key=label.text)
    _ask_extremes(block, amounts, [label for label, _ in block.lines], "lowest value", "highest value")
    block.ask("count", block.texts, str(count), things="values", block=None)
    return block


def _upright(page, style, block, width, height, rows, shares, look):
    slot, floor = width / len(rows), height - style.pitch
    tops = [floor - share * (floor - style.pitch * 1.1) for share in shares]
    centers = [(number + 0.5) * slot for number in range(len(rows))]
    if page.rng.random() < 0.4:
        for y in (floor - step * (floor - style.pitch) / 4 for step in range(1, 5)):
            block.shape("line", [0, y, width, y], fill=mix(style.paper, style.ink, 0.15))
    if look == "line":
        points = [value for point in zip(centers, tops) for value in point]
        block.shape("line", points, fill=style.accent, width=max(1, round(style.capital / 5)))
    bar, several = slot * page.rng.uniform(0.15, 0.4), page.rng.random() < 0.3
    for (label, value), x, top in zip(rows, centers, tops):
        if look == "bars":
            block.shape(
                "rectangle", [x - bar, top, x + bar, floor], fill=page.fill_on(style) if several else style.accent
            )
        else:
            half, y, r = style.width(value) / 2 + 2, top - style.pitch / 2, style.capital / 3
            block.shape("ellipse", [x - r, top - r, x + r, top + r], fill=style.accent)
            block.shape("rectangle", [x - half, y - r * 2, x + half, y + r * 2], fill=style.paper)  # under the value
        block.write(style, label, x - slot / 2, height - style.pitch * 0.4, align=0.5, room=slot)
        block.write(style, value, x - slot / 2, top - style.pitch / 2, align=0.5, room=slot, new_line=False)
    block.shape("rectangle", [0, floor, width - 1, floor + style.rule - 1], fill=style.line)
    block.width, block.height = width, height


def _lying(page, style, block, width, height, rows, shares, look):
    left = max(style.width(label) for label, _ in rows) + style.pad
    room = width - left - max(style.width(value) for _, value in rows) - style.pad * 1.5
    thick = style.pitch * page.rng.uniform(0.2, 0.38)
    for number, ((label, value), share) in enumerate(zip(rows, shares)):
        middle, length = (number + 0.5) * style.pitch, max(1, room * share)
        block.shape("rectangle", [left, middle - thick, left + length, middle + thick], fill=style.accent)
        block.write(style, label, 0, middle, align=1, room=left - style.pad)
        block.write(style, value, left + length + style.pad / 2, middle, new_line=False)
    block.width, block.height = width, len(rows) * style.pitch


def _pie(page, style, block, width, height, rows, shares, look):
    side, angle = min(height, width * 0.35, max(len(rows), 4) * style.pitch), page.rng.uniform(0, 360)
    left, half = side + 2 * style.pad + style.capital, style.capital / 2
    column = left + max(style.width(label) for label, _ in rows) + style.pad
    if column + max(style.width(value) for _, value in rows) > width:
        raise DoesNotFit
    for number, ((label, value), share) in enumerate(zip(rows, shares)):
        middle, end, color = (number + 0.5) * style.pitch, angle + 360 * share / sum(shares), page.fill_on(style)
        block.shape("pieslice", [0, 0, side, side], start=angle, end=end, fill=color, outline=style.paper)
        block.shape("rectangle", [left - 2.6 * half, middle - half, left - 0.8 * half, middle + half], fill=color)
        block.write(style, label, left, middle)
        block.write(style, value, column, middle, new_line=False)
        angle = end
    block.width, block.height = width, max(side, len(rows) * style.pitch)


def code(page, style, width, height):
    """Lines of a program, or what a terminal shows."""
    rng, texts, style = page.rng, page.texts, page.mono(style)
    count, letters = fitting_rows(rng, 2, 16, height, style.pitch), int(width / style.width("0"))
    block, prompt = (
        Block(rng.choice(["code", "terminal", "terminal"]), in_order=True),
        rng.choice(["$ ", "> ", "user@host:~$ "]),
    )
    if block.noun == "code":
        lines = rng.choice(texts.pools["listing"]).splitlines()
    else:
        starts = [f"{texts.one('time')} {rng.choice(_LEVELS)} " if rng.random() < 0.6 else prompt for _ in range(count)]
        lines = [start + texts.one("path" if start == prompt else "phrase") for start in starts]
    lines = [line for line in lines if len(line) <= letters][:count]
    if len(lines) < 2:
        raise DoesNotFit
    for number, line in enumerate(map(texts.clean, lines)):
        indent = style.width(" ") * (len(line) - len(line.lstrip()))
        block.write(style, line.strip(), indent, (number + 0.5) * style.pitch)
    block.width, block.height = width, len(lines) * style.pitch
    block.ask("count", block.texts, str(len(lines)), things="lines", block=None)
    return block


def sign(page, style, width, height):
    """A few large lines in a frame, as on labels and signs; or small ones without, as in an address."""
    rng, is_address = page.rng, page.rng.random() < 0.4
    kinds = ["words", "noun", "number", "code", "price", "city", "company", "time", "phrase", "percent", "unit"]
    kinds = ["person", "company", "street", "city", "phone", "email", "url", "date"] if is_address else kinds
    block = Block("address" if is_address else rng.choice(["sign", "label"]), in_order=True)
    border = 0 if is_address else style.pad * 2
    fill = page.fill_on(style) if not is_address and rng.random() < 0.6 else style.paper
    ink, rows, y = page.ink_on(fill), [], border
    for kind in kinds[rng.randrange(3) :] if is_address else rng.choices(kinds, k=rng.randint(1, 5)):
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
        outline = ink if block.noun == "sign" or rng.random() < 0.5 else None
        points, radius = [0, 0, block.width - 1, block.height - 1], round(rng.choice([0, style.pad]))
        block.shape("rounded_rectangle", points, radius=radius, fill=fill, outline=outline, width=style.rule * 2)
    align = rng.choice([0, 0, 0.5, 1]) if is_address else rng.choice([0.5, 0.5, 0])
    for larger, text, middle in rows:
        block.write(larger, text, border, middle, larger.strong, ink, align, block.width - 2 * border)
    return block


def buttons(page, style, width, height):
    """Names of links or tabs side by side, with or without boxes."""
    rng, block, look, tall = (
        page.rng,
        Block("row of buttons"),
        page.rng.choice(["box", "fill", "line", "none"]),
        style.pitch * 1.4,
    )
    fill = mix(style.paper, style.accent, rng.uniform(0.1, 0.9)) if look == "fill" else style.paper
    ink, texts, x = page.ink_on(fill), [], 0
    for _ in range(rng.randint(3, 6)):
        try:
            text = page.draw("noun", style, width - x - 2 * style.pad, style.strong)
        except DoesNotFit:
            break
        end = x + style.width(text, style.strong) + 2 * style.pad
        if look in ("box", "fill"):
            outline = style.line if look == "box" else None
            radius = round(style.pad * 0.8)
            block.shape("rounded_rectangle", [x, 0, end, tall - 1], radius=radius, fill=fill, outline=outline)
        elif look == "line" and not texts:
            block.shape("rectangle", [x, tall - style.rule, end, tall - 1], fill=style.accent)
        texts.append(block.write(style, text, x + style.pad, tall / 2, style.strong, ink, new_line=not texts))
        x = end + style.pad
    if len(texts) < 2:
        raise DoesNotFit
    block.width, block.height = x - style.pad, tall
    _ask_places(rng, block, texts, "buttons")
    return block


def heading(page, style, width, height, noun="heading"):
    """A larger text, which may stand on a bar or over a rule."""
    rng, larger = page.rng, style.scaled(page.rng.choice([1, 1.2, 1.5, 2, 2.6]))
    block = Block(noun, width, larger.pitch + style.pad / 2)
    look, align = rng.choice(["plain", "plain", "plain", "rule", "bar", "tint"]), rng.choice([0, 0, 0, 0.5, 1])
    paper = {"bar": style.accent, "tint": style.shade}.get(look, style.paper)
    pad, top = (style.pad, 0) if paper != style.paper else (0, larger.pitch)
    if look != "plain":
        color, bottom = (paper, larger.pitch) if pad else (style.accent, top + style.rule)
        block.shape("rectangle", [0, top, width - 1, bottom - 1], fill=color)
    ink = page.ink_on(paper) if pad else rng.choice([style.ink, style.accent])
    text = page.draw("words", larger, width - 2 * pad, larger.strong)
    block.write(larger, text, pad, larger.pitch / 2, larger.strong, ink, align, width - 2 * pad)
    return block


def margin(page, style, width, height, noun):
    """The line at the top or the foot of a page, or a caption: one to three short texts."""
    rng, block = page.rng, Block(noun, width, style.pitch)
    kinds = rng.choices(
        ["page", "date", "company", "url", "code", "phrase", "version", "person"], k=rng.choice([1, 1, 2, 3])
    )
    for kind, align in zip(kinds, {1: [rng.choice([0, 0.5, 1])], 2: [0, 1], 3: [0, 0.5, 1]}[len(kinds)]):
        text = page.draw(kind, style, width / len(kinds) - style.pad)
        block.write(style, text, 0, style.pitch / 2, align=align, room=width, new_line=not block.lines)
    if rng.random() < 0.4:
        y = style.pitch - 1 if noun == "header" else 0
        block.shape("line", [0, y, width - 1, y], fill=style.line, width=style.rule)
    return block


BLOCKS = (entries, entries, table, table, paragraph, sequence, sequence, chart, code, sign, buttons)
