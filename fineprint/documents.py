# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The six kinds of documents, made of blocks, and their templates: how they are laid out, framed and named."""

from functools import partial

from fila.fineprint.blocks import Block, Panel, beside, count_lines, flow, grid, ledger, pairs, paragraph, stack
from fila.fineprint.sources import DATA, DoesNotFit

TEMPLATES, MORE_SETTINGS = DATA["templates"], DATA["more_settings"]
GRID_LOOKS = ("frame", "rules", "head", "stripes", "plain")


def _prices_and_total(values, count):
    """Prices, and their sum, which is a value of the same split and looks like none of them."""
    prices = [values.one("price") for _ in range(count - 1)]

    def total(last):
        cents = sum(round(float(price.lstrip("$€£")) * 100) for price in (*prices, last))
        return f"{values.currency}{cents / 100:.2f}"

    last = values.draw(values.price, lambda price: values.admits(total(price)) and price not in total(price))
    return [*prices, last], values.take(total(last))


def receipt(style, values, width, height, template):
    """The head of a shop, items with prices, and a total."""
    rng, text = style.rng, style.text
    num_lines = count_lines(style, width, height)
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
        rows = []
        for name, price in zip(goods, prices):
            shown = name.upper() if template["upper"] else name
            rows.append([text(shown, f"Which item costs {price}?"), text(price, f"How much is the item {name}?")])
        if template["items"] in GRID_LOOKS:
            return ledger(style, ("Item", "Price"), rows, template["items"], column)
        block = pairs(style, rows, template["items"], column)
        if not template["rule"]:
            return block
        rules = [style.rule(block.width, template["rule"] == "dashed") for _ in range(2)]
        return stack([rules[0], block, rules[1]])

    def foot(column):
        look = {"bold": True, "scale": template["total_scale"]}
        label = style.text_at_most(style.widest, template["total"], **look)
        value = style.text_at_most(style.widest, total, "What is the total?", **look)
        return pairs(style, [(label, value)], template["foot"], column)

    parts = {"head": head, "meta": meta, "items": items, "foot": foot}
    return flow(style, [parts[name] for name in template["order"].split()], width, height)


def form(style, values, width, height, template):
    """Labels and values."""
    rng, text = style.rng, style.text
    per_line = 1 if template["fields"] in ("inline", "justified", "leader", "value_first") else 2.4
    count = rng.randint(2, max(2, min(len(DATA["form_fields"]), int(count_lines(style, width, height) / per_line) - 2)))
    fields = rng.sample(DATA["form_fields"], count)
    fields = [(rng.choice(labels), values.one(kind), f"What is the {noun}?") for labels, noun, kind in fields]
    title = rng.choice(template["titles"])

    def head(column):
        return stack([style.title(title, template["title_scale"])], align=template["align"], width=column)

    def section(label, value, question, column):
        row = text(label + template["colon"], bold=template["bold_label"]), text(value, question)
        return pairs(style, [row], template["fields"], column)

    return flow(style, [head, *(partial(section, *item) for item in fields)], width, height)


def letter(style, values, width, height, template):
    """A letter with a few facts between sentences, or an invoice."""
    rng, text = style.rng, style.text
    num_lines = count_lines(style, width, height)
    kinds = ("person", "person", "street", "city", "date", "code")
    sender, reader, street, city, date, code = map(values.one, kinds)
    facts = [(lead, values.one(kind), question) for lead, kind, question in DATA["letter_facts"]]
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

    def fact(filler, lead, value, question, column):
        return paragraph(style, [filler, lead, text(value, question, bold=template["bold_fact"])], column)

    def sign(column):
        return stack([text(template["closing"]), text(sender, "Who signed the letter?")], style.pitch * 0.4)

    facts = [partial(fact, filler, *item) for filler, item in zip(fillers, facts)]
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


def _draw_rows(style, values, width, num_cells, count):
    """What the rows are, what may be counted of them, and their names, short enough for a part of the width."""
    length = int(width / num_cells / style.character)
    noun = style.rng.choice(list(DATA["rows"])) if length > 15 else "person"
    kind, measures = DATA["rows"][noun]
    names = [values.draw(getattr(values, kind), lambda name: len(name) <= max(6, length)) for _ in range(count)]
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
    low, is_flat = rng.choice([100, 1000]), template["flat"]
    slot = style.pitch * 1.3 if is_flat else style.capital * style.tighten(7, 6)
    room = (height - 3 * style.pitch if is_flat else width) / slot
    count = rng.randint(2, max(2, min(8, int(room))))
    numbers = [values.draw(lambda: str(rng.randrange(low, 10 * low))) for _ in range(count)]
    # The longest and the shortest bar can be told from the next ones.
    ordered = sorted(map(int, numbers))
    if min(ordered[-1] - ordered[-2], ordered[1] - ordered[0]) < low / 2:
        raise DoesNotFit
    noun, measures, names = _draw_rows(style, values, width, 2 if is_flat else count, count)
    words = ("longest bar", "shortest bar") if is_flat else ("highest bar", "lowest bar")
    extremes = dict(zip((ordered[-1], ordered[0]), words))
    labels, amounts = [], []
    for name, number in zip(names, numbers):
        which = extremes.get(int(number), f"value {number}")
        labels.append(text(name, f"Which {noun} has the {which}?"))
        amounts.append(text(number, f"What is the value of {name}?"))
    title = style.title(f"{rng.choice(measures)} by {noun}", template["title_scale"])
    draw = _flat_bars if is_flat else _upright_bars
    bars = draw(style, labels, amounts, [int(number) / ordered[-1] for number in numbers], width, height, template)
    blocks = [bars, title] if template["title_below"] else [title, bars]
    return _within(stack(blocks, style.pitch * 0.3, template["align"]), width, height)


def _upright_bars(style, labels, amounts, shares, width, height, template):
    gap = style.capital
    slot = max(max(label.width, amount.width) for label, amount in zip(labels, amounts)) + gap
    slot = max(slot, min(slot * 1.6, width * style.rng.uniform(0.35, 0.95) / len(labels)))
    top, tallest = style.pitch, height * style.rng.uniform(0.35, 0.6)
    out = Block(slot * len(labels), top + tallest + style.pitch)
    for step in range(1, 5) if template["grid_lines"] else ():
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
    gap, pitch = style.capital * 0.8, style.pitch * style.rng.uniform(1.1, 1.6)
    thick = max(pitch * template["bar"], style.capital * 1.5)
    first = max(label.width for label in labels) + gap
    last = 0 if template["amount"] == "inside" else max(amount.width for amount in amounts) + gap
    longest = (width - first - last) * style.tighten(style.rng.uniform(0.15, 0.95), 0.95)
    if longest < 2 * style.capital:
        raise DoesNotFit
    out = Block(first + longest + last, pitch * len(labels))
    for index, (label, amount, share) in enumerate(zip(labels, amounts, shares)):
        y, length = pitch * index, longest * share
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


def sign(style, values, width, height, template):
    """One to three signs, which are pasted on a photo."""
    rng, colors, signs = style.rng, DATA["sign_colors"], []
    count = rng.choice([1, 1, 2, 3])
    for name in rng.sample(list(colors), count):
        which = f"{name} sign" if count > 1 else "sign"
        back, front = (tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in color) for color in colors[name])
        kinds = [(rng.choice(["words", "place", "street", "shop"]), f"What does the {which} say?")]
        if template["lines"] == 2:
            kinds = [
                (rng.choice(["shop", "surname", "city", "words"]), f"What is the first line of the {which}?"),
                (rng.choice(["phone", "code", "price", "number"]), f"What is the second line of the {which}?"),
            ]
        shown = [(values.one(kind), question) for kind, question in kinds]
        shown = [(value.upper() if template["upper"] else value, question) for value, question in shown]
        content = stack([style.text(*line, template["bold"], color=front) for line in shown], align=template["align"])
        pad = style.capital * rng.uniform(0.5, 1.2)
        panel = Block(content.width + 2 * pad, content.height + 2 * pad)
        panel.marks.append(Panel(0, 0, panel.width, panel.height, back))
        if template["frame"] == "outline":
            inset, size = pad * 0.25, (panel.width - 2 * (pad * 0.25), panel.height - 2 * (pad * 0.25))
            panel.marks.append(Panel(inset, inset, *size, front, style.rule_width * 1.5))
        elif template["frame"] == "bars":
            panel.marks += [Panel(0, y, panel.width, pad * 0.4, front) for y in (0, panel.height - pad * 0.4)]
        elif template["frame"] == "edge":
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


KINDS = {"receipt": receipt, "form": form, "letter": letter, "table": table, "chart": chart, "sign": sign}


def mix_template(kind, rng):
    """A template of a training page: its settings are drawn one by one, from those of all training templates and a few
    more, and its parts are in any order that no template of another split has."""
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
