# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages with the characters in the cell of each visual token: what the pretraining learns from, the probe is measured on.

A cell is the square of the ViT's view that one visual token stands for. Its label has [`SLOTS`] indices of [`CHARACTERS`]
in reading order, filled up with 0; all of it is [`IGNORED`] where there are more characters, or unknown ones.
"""

import math
import random
import string
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from fila import FilaDataCollator
from fila.common.layout import CANVASES
from fila.fineprint.blocks import Run
from fila.fineprint.drawing import READ, make_messages, render
from fila.fineprint.pages import Page, Placement, draw_image_size, image_processor, lay_out
from fila.fineprint.sources import FONTS, Values, capital_height, load_font, measure, split_of

# Index 0 is for no character.
CHARACTERS = {c: n for n, c in enumerate(string.digits + string.ascii_letters + string.punctuation + "€£", start=1)}
SLOTS = 4
IGNORED = -100
TEXT_KINDS = ("price", "number", "code", "phone", "date", "time", "person", "city", "street", "job", "email", "shop")
TEXT_KINDS += ("goods", "place", "words")
TEXT_SCALE = (0.7, 1.1)  # of the smallest and the largest capitals of documents: the capitals of pages full of text
TEXT_PAGES = 4  # of so many pages with pictures, all but one are full of text
MAX_LINES = 6  # of scribbles
LOW_RES_SHARE = 0.25  # of the decoder's batches, which have the global view alone, as in stage 1
FIRST_PAGE = 10_000_000  # pages are numbered from here, so that none is one of the dataset, which begins with 0


def lay_out_text(options, split, grid, number):
    """[`~fila.fineprint.pages.Page`] `number` of a split, full of text, on a canvas of `grid` tiles, without questions. Each
    line has a size and a font of its own. It has several times the characters of a document."""
    rng = random.Random(f"text/{options.seed}/{split}/{number}")
    size = draw_image_size(rng, grid, options.tile_size, options.max_image_scale)
    angle, shear = (rng.uniform(-3, 3), rng.uniform(-0.04, 0.04)) if rng.random() < 0.4 else (0.0, 0.0)
    placement = Placement(size, grid, options.tile_size, angle, shear)
    low, high = TEXT_SCALE[0] * options.min_text_height, TEXT_SCALE[1] * options.max_text_height
    values = Values(split, rng)
    runs, y = [], placement.margin
    while True:
        font = rng.choice(FONTS[split][rng.choice(list(FONTS[split]))])
        capital = placement.unit * low * (high / low) ** rng.random()
        font_size = math.ceil(capital / capital_height(font) * 4) / 4
        y += capital * rng.uniform(1.35, 1.8)
        if y > size[0] - placement.margin:
            return Page(split, "text", "lines", "", "", placement, runs, [], rng.getrandbits(32), 0)
        x, num_misses = placement.margin + capital * rng.uniform(0, 2), 0
        while num_misses < 3:
            text = draw_words(values)
            left, top, right, bottom = measure(font, font_size, text)
            if x + right > size[1] - placement.margin:
                num_misses += 1
                continue
            runs.append(Run(x, y, text, font, font_size, (x + left, y + top, x + right, y + bottom)))
            x += right + capital * rng.uniform(0.5, 1.2)


def draw_words(values):
    """`str`: a value of any kind, one of its words or a few random characters, in its own case or in capitals."""
    rng = values.rng
    while True:
        text = getattr(values, rng.choice(TEXT_KINDS))()
        if rng.random() < 0.5:
            text = rng.choice(text.split())
        if rng.random() < 0.15:
            text = "".join(rng.choices(list(CHARACTERS), k=rng.randint(1, 8)))
        if rng.random() < 0.15:
            text = text.upper()
        if split_of(text) == values.split:
            return text


@cache
def _advance(font, character):
    return load_font(font, 1000).getlength(character) / 1000


def locate_characters(run):
    """`np.ndarray` of shape (characters, 4, 2): the corners of the characters of a [`~fila.fineprint.blocks.Run`] on its
    page. Their boxes are as wide as their advances and as high as capitals."""
    edges = run.x + run.size * np.cumsum([0.0, *(_advance(run.font, character) for character in run.text)])
    ys = (run.y - run.capital_height, run.y)
    return np.array([[(x, y) for x in sides for y in ys] for sides in pairwise(edges)])


def label_cells(page, cell_size, view="canvas"):
    """`np.ndarray` of shape (rows, columns, SLOTS): labels of the cells of a page, `cell_size` pixels wide on the ViT's
    view, which is "canvas", all tiles laid together, or "global", the whole image on one tile. A character is in the
    cell of its middle."""
    placement = page.placement
    rows, columns = (
        side * placement.tile_size // cell_size for side in (placement.grid if view == "canvas" else (1, 1))
    )
    labels = np.zeros((rows, columns, SLOTS), dtype=np.int64)
    for run in page.runs:
        points = placement.to_image(locate_characters(run).mean(axis=1))
        on_tile = points * (placement.tile_size / np.array(placement.image_size[::-1]))
        points = placement.to_canvas(points) if view == "canvas" else on_tile
        for character, (column, row) in zip(run.text, (points // cell_size).astype(int)):
            if character != " " and 0 <= row < rows and 0 <= column < columns:
                cell, index = labels[row, column], CHARACTERS.get(character)
                if index is None or cell.all():  # full, or ignored already
                    cell[:] = IGNORED
                else:
                    cell[cell.argmin()] = index
    return labels


def tile_cells(cells, side):
    """Cells of canvases, a tensor of shape (N, rows, columns, ...), by tile: (N, tiles, side, side, ...)."""
    return cells.unflatten(1, (-1, side)).unflatten(3, (-1, side)).transpose(2, 3).flatten(1, 2)


def label_tokens(page, patch_size, is_tiled, rng):
    """`torch.Tensor` of shape (visual tokens, SLOTS): labels of all visual tokens of a page, in their order, 0 where they
    would be `IGNORED`. Where there are tiles, half of the global views are left empty, so that the tiles are read."""
    cells = torch.from_numpy(label_cells(page, patch_size, "global"))
    views = [cells.flatten(0, 1)]
    if is_tiled:
        if rng.random() < 0.5:
            views[0].zero_()
        canvas = torch.from_numpy(label_cells(page, patch_size))
        views.append(tile_cells(canvas.unsqueeze(0), len(cells)).flatten(0, 3))
    return torch.cat(views).clamp(min=0)


def scribble(rng, side, num_lines):
    """`tuple[torch.Tensor, str]`: at most `num_lines` lines of random characters on one view of `side` x `side` cells:
    labels of shape (side * side, SLOTS), and the text."""
    cells, lines = np.zeros((side, side, SLOTS), dtype=np.int64), []
    row = rng.randrange(max(1, side + 1 - num_lines))
    while row < side and len(lines) < num_lines:
        advance, x, words = rng.uniform(0.45, 0.85), rng.uniform(0, 3), []
        while x + (length := rng.randint(2, 6)) * advance <= side:
            words.append("".join(rng.choices(list(CHARACTERS), k=length)))
            for character in words[-1]:
                cell = cells[row, int(x + advance / 2)]
                cell[cell.argmin()] = CHARACTERS[character]
                x += advance
            x += advance * rng.uniform(0.8, 2)
        lines.append(" ".join(words))
        row += rng.randint(1, 2)
    return torch.from_numpy(cells.reshape(-1, SLOTS)), "\n".join(lines)


def lay_out_document(options, split, batch_size, number, place):
    """[`~fila.fineprint.pages.Page`]: the document for a place in a batch; all kinds take turns."""
    # Sample i has the kind i % kinds and the grid i // kinds % 5, so a batch has one grid.
    num_kinds = len(options.kinds)
    turn, kind = divmod(number // len(CANVASES) * batch_size + place, num_kinds)
    turn = (FIRST_PAGE // num_kinds // len(CANVASES) + turn) * len(CANVASES) + number % len(CANVASES)
    return lay_out(options, split, turn * num_kinds + kind)


def lay_out_batch(options, split, batch_size, number):
    """`list[`[`~fila.fineprint.pages.Page`]`]`: the pages of batch `number`, most of them full of text. All are on the same
    canvas; canvases take turns."""
    grid, first = CANVASES[number % len(CANVASES)], number * batch_size
    return [
        lay_out_text(options, split, grid, first + place)
        if place % TEXT_PAGES
        else lay_out_document(options, split, batch_size, number, place)
        for place in range(batch_size)
    ]


def make_page_batch(options, split, batch_size, number):
    """`dict` of tensors for the pages of [`lay_out_batch`]: the inputs of the vision tower, `labels` of shape (pages, rows,
    columns, SLOTS) for the cells of the canvas, `fine_labels` with twice the rows and columns, and `global_labels` for
    the cells of the global view."""
    pages, processor = lay_out_batch(options, split, batch_size, number), image_processor(options.tile_size)
    inputs = processor([render(page) for page in pages], return_tensors="pt")
    side = processor.patch_size
    views = {"labels": (side, "canvas"), "fine_labels": (side // 2, "canvas"), "global_labels": (side, "global")}
    labels = {name: np.stack([label_cells(page, *view) for page in pages]) for name, view in views.items()}
    return {**inputs, **{name: torch.from_numpy(value) for name, value in labels.items()}}


def make_cell_batch(options, split, batch_size, number, processor, num_scribbles=0):
    """`dict` of tensors for conversations about documents: `input_ids`, `attention_mask` and `labels` of shape (pages,
    length), `cells` of shape (visual tokens of the batch, SLOTS) in place of pictures, and whether it `is_scribbled`.
    `processor` is that of the model; whether it tiles is set anew for each batch.

    The first `num_scribbles` batches are scribbles, with more and more lines, twice as many as there are pages in a
    batch. In these there is nothing to guess: they teach, in short sequences, to look where the next character is.
    """
    rng = random.Random(f"cells/{options.seed}/{split}/{number}")
    collator, patch_size = FilaDataCollator(processor), processor.image_processor.patch_size
    is_scribbled = number < num_scribbles
    is_tiled = processor.image_processor.do_dynamic_tiling = not is_scribbled and rng.random() >= LOW_RES_SHARE
    sequences, cells = [], []
    for place in range(2 * batch_size if is_scribbled else batch_size):
        if is_scribbled:
            labels, text = scribble(rng, options.tile_size // patch_size, 1 + number * MAX_LINES // num_scribbles)
            messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": READ}]}]
            messages.append({"role": "assistant", "content": text})
            image_size = (options.tile_size, options.tile_size)
        else:
            page = lay_out_document(options, split, batch_size, number, place)
            labels, messages = label_tokens(page, patch_size, is_tiled, rng), make_messages(page, True)
            image_size = page.placement.image_size
        cells.append(labels)
        sequences.append({key: torch.tensor(ids) for key, ids in collator.encode(messages, [image_size]).items()})
    paddings = {"input_ids": processor.tokenizer.pad_token_id, "labels": IGNORED}
    batch = {key: pad_sequence([row[key] for row in sequences], True, value) for key, value in paddings.items()}
    batch["attention_mask"] = pad_sequence([torch.ones_like(row["labels"]) for row in sequences], True)
    return {**batch, "cells": torch.cat(cells), "is_scribbled": torch.tensor(is_scribbled)}
