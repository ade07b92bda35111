# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages with the characters in the cell of each visual token, which is what the networks are pretrained on.

A cell is the square of a ViT's view that one visual token stands for. Its label has [`SLOTS`] indices of [`CHARACTERS`] in
reading order, filled up with 0; all of it is [`IGNORED`] where there are more characters, or illegible ones.
"""

import random
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from fila import FilaDataCollator
from fila.fineprint import fonts
from fila.fineprint.pages import PageOptions, make_messages, make_page
from fila.fineprint.tiles import Canvas

# Index 0 is for no character.
CHARACTERS = {character: index for index, character in enumerate(sorted(fonts.CHARACTERS - {" "}), start=1)}
NUM_ASCII = sum(map(str.isascii, CHARACTERS))  # they come first
SLOTS = 4
IGNORED = -100
MIN_HEIGHT = 5.5  # of legible capitals, in pixels of a view
MAX_NOISE = 0.7  # of cells that are shown to a decoder, as a share of their standard deviation
EMPTY_SHARE = 0.05  # of the empty cells, so many are shown to a decoder
CROP_SCALE = (0.75, 1.3)  # of the sides of a part of a page, in tiles
MAX_LINES = 8  # of a scribble


class Characters(NamedTuple):
    """The characters of an image, spaces left out: indices of [`CHARACTERS`], their middles (x, y) and their sizes (width,
    height of capitals), both of shape (n, 2) and in pixels, and the numbers of the words they belong to."""

    indices: list
    points: np.ndarray
    sizes: np.ndarray
    words: list


def locate_characters(page):
    """[`Characters`]: where the characters of a page are seen."""
    indices, points, sizes, words, word = [], [], [], [], 0
    for text in (text for block in page.draft.blocks for text in block.texts):
        x, capital, word = text.x, text.capital, word + 1
        for character in text.text:
            advance = fonts.text_width(text.face, text.size, character)
            if character == " ":
                word += 1
            else:
                indices.append(CHARACTERS.get(character, IGNORED))
                points.append((x + advance / 2, text.y - capital / 2))
                sizes.append((advance, capital))
                words.append(word)
            x += advance
    points, camera = np.array(points).reshape(-1, 2), page.draft.camera
    seen = camera.to_image(points)
    scales = [np.hypot(*(camera.to_image(points + step) - seen).T) for step in ((1, 0), (0, 1))]
    return Characters(indices, seen, np.array(sizes).reshape(-1, 2) * np.stack(scales, axis=1), words)


def place_characters(characters, scale, offset, cell_size, shape):
    """Labels the cells of a view or canvas, on which the image is scaled by (x, y) and moved by (x, y). A character is in the
    cell of its middle.

    Returns:
        `tuple[np.ndarray, list]`: labels of shape (rows, columns, SLOTS), and for each character its row, column and slot,
        `None` if it has none.
    """
    labels, places = np.zeros((*shape, SLOTS), dtype=np.int64), []
    cells = np.floor((characters.points * scale + offset) / cell_size).astype(int).tolist()
    is_legible = (characters.sizes[:, 1] * scale[1] >= MIN_HEIGHT).tolist()
    for index, (column, row), legible in zip(characters.indices, cells, is_legible):
        places.append(None)
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            cell = labels[row, column]
            if index == IGNORED or not legible or cell[-1]:  # full, or ignored already
                cell[:] = IGNORED
            else:
                slot = int(cell.argmin())
                cell[slot], places[-1] = index, (row, column, slot)
    return labels, places


def label_image(image_size, characters, image_processor, cell_size=None):
    """`torch.Tensor` of shape (visual tokens, SLOTS): the labels of all visual tokens of an image of (width, height), in their
    order. Smaller cells than a token's may be asked for."""
    size, side = np.array(image_size), image_processor.size["height"]
    cell_size = cell_size or image_processor.patch_size
    num_cells = side // cell_size
    views = [place_characters(characters, side / size, 0, cell_size, (num_cells, num_cells))[0].reshape(-1, SLOTS)]
    if image_processor.do_dynamic_tiling:
        canvas = Canvas(image_size[::-1], side, image_processor)
        rows, columns = canvas.grid
        shape = rows * num_cells, columns * num_cells
        labels, _ = place_characters(characters, canvas.scale, canvas.offset, cell_size, shape)
        labels = labels.reshape(rows, num_cells, columns, num_cells, SLOTS).swapaxes(1, 2)
        views.append(labels.reshape(-1, SLOTS))
    return torch.from_numpy(np.concatenate(views))


def crop_page(rng, page, characters, side):
    """`tuple`: a part of a page whose canvas is tiled, about as large as a tile, and the characters on it."""
    (width, height), scale = page.image.size, Canvas(page.image.size[::-1], side).scale
    wide, high = (min(most, round(side * rng.uniform(*CROP_SCALE) / s)) for most, s in zip((width, height), scale))
    left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
    characters = characters._replace(points=characters.points - (left, top))
    return page.image.crop((left, top, left + wide, top + high)), characters


@dataclass
class Kind:
    """A kind of batches of pages. With `num_crops`, an encoder sees, instead of each page, so many parts of it, each about as
    large as a view; nothing is asked about them."""

    size: int = 336  # `PageOptions.tile_size`, which the sizes of the pages follow
    is_tiled: bool = True  # by the image processor
    num_crops: int = 0
    batch_size: int = 4  # in pages
    share: float = 1.0  # how often the kind is drawn, relative to others


class Pages:
    """Batches of pages, each the same whenever it is made.

    Args:
        seed (`int`): where all chance comes from.
        processor (`FilaProcessor`): of the model.
        kinds (`list[dict]`): what a [`Kind`] takes, for each of them.
        max_text (`int`): longest conversation, in tokens beside the visual ones.
        num_scribbles (`int`): how many of the first batches of cells are scribbles.
        options: of `PageOptions`.
    """

    def __init__(self, seed, processor, kinds, max_text=600, num_scribbles=0, **options):
        self.seed, self.max_text, self.num_scribbles = seed, max_text, num_scribbles
        self.kinds = [Kind(**kind) for kind in kinds]
        self.options = [PageOptions(tile_size=kind.size, **options) for kind in self.kinds]
        self.processors = {False: copy(processor), True: copy(processor)}
        for is_tiled, own in self.processors.items():
            own.image_processor = copy(processor.image_processor)
            own.image_processor.do_dynamic_tiling = is_tiled

    def draw(self, number):
        """`tuple`: an iterator over the pages of a batch, their [`Kind`], the processor they are for, and a
        `random.Random`."""
        rng = random.Random(f"{self.seed}/{number}")
        kind, options = rng.choices(list(zip(self.kinds, self.options)), [kind.share for kind in self.kinds])[0]
        rows = range(number * 64, number * 64 + kind.batch_size)
        return (make_page(self.seed, row, options) for row in rows), kind, self.processors[kind.is_tiled], rng

    def make_images(self, number):
        """`dict` of tensors: the inputs of the vision tower, the `labels` of its visual tokens, and, if nothing is tiled,
        `fine_labels` of cells of half the size, of shape (pages, rows * columns, SLOTS)."""
        pages, kind, processor, rng = self.draw(number)
        image_processor, parts = processor.image_processor, []
        for page in pages:
            characters, side = locate_characters(page), image_processor.size["height"]
            crops = [crop_page(rng, page, characters, side) for _ in range(kind.num_crops)]
            parts += crops or [(page.image, characters)]
        inputs = image_processor([image for image, _ in parts], return_tensors="pt")
        inputs["labels"] = torch.cat([label_image(image.size, where, image_processor) for image, where in parts])
        if not image_processor.do_dynamic_tiling:
            half = image_processor.patch_size // 2
            labels = [label_image(image.size, where, image_processor, half) for image, where in parts]
            inputs["fine_labels"] = torch.stack(labels)
        return dict(inputs)

    def make_batch(self, number):
        """`dict` of tensors: of a kind with `num_crops`, what [`make_images`] makes, else what [`make_conversations`] does."""
        _, kind, *_ = self.draw(number)
        return self.make_images(number) if kind.num_crops else self.make_conversations(number)

    def make_conversations(self, number):
        """`dict` of tensors: what a [`FilaDataCollator`] makes of pages and the questions about them."""
        pages, _, processor, _ = self.draw(number)
        rows = [{"messages": make_messages(page.samples), "images": [page.image]} for page in pages]
        count_tokens = processor.image_processor.get_number_of_image_tokens
        num_tokens = max(count_tokens(*row["images"][0].size[::-1]) for row in rows)
        return FilaDataCollator(processor, max_length=num_tokens + self.max_text)(rows)

    def make_cells(self, number):
        """`dict` of tensors: conversations about pages whose visual tokens are labels. `input_ids`, `position_ids`,
        `attention_mask` and `labels` are of shape (pages, length), `cells` of shape (visual tokens of the batch, SLOTS),
        and how much `noise` they get. Most empty cells, which are most of a page, are left out; the `position_ids` keep
        their places.

        The first `num_scribbles` batches are scribbles, with more and more lines. In these there is nothing to guess: they
        teach, in short sequences, to look where the next character is.
        """
        processor = self.processors[False]
        side = processor.image_processor.size["height"] // processor.image_processor.patch_size
        if number < self.num_scribbles:
            rng, noise = random.Random(f"{self.seed}/{number}"), 0
            num_lines = 1 + number * MAX_LINES // self.num_scribbles
            scribbles = [scribble(rng, side, num_lines) for _ in range(4 * self.kinds[0].batch_size)]
            parts = [(labels, (side, side), make_messages([("Read.", text)])) for labels, text in scribbles]
        else:
            (pages, _, processor, rng), parts = self.draw(number), []
            noise = rng.uniform(0, MAX_NOISE)
            for page in pages:
                labels = label_image(page.image.size, locate_characters(page), processor.image_processor)
                parts.append((labels, page.image.size[::-1], make_messages(page.samples)))
        collator, rows, cells = FilaDataCollator(processor), [], []
        for labels, image_size, messages in parts:
            row = {key: torch.tensor(ids) for key, ids in collator.encode(messages, [image_size]).items()}
            row["attention_mask"] = torch.ones_like(row["labels"])
            row["position_ids"] = torch.arange(len(row["labels"]))
            is_kept = (labels != 0).any(dim=-1) | torch.tensor([rng.random() < EMPTY_SHARE for _ in labels])
            if len(labels) > side**2 and rng.random() < 0.5:
                is_kept[: side**2] = False  # the global view, so that the tiles are read
            is_shown = row["input_ids"] != processor.image_token_id
            is_shown[~is_shown] = is_kept
            rows.append({key: ids[is_shown][: int(is_kept.sum()) + self.max_text] for key, ids in row.items()})
            cells.append(labels[is_kept])
        paddings = {"input_ids": processor.tokenizer.pad_token_id, "labels": IGNORED}
        batch = {key: pad_sequence([row[key] for row in rows], True, paddings.get(key, 0)) for key in rows[0]}
        return {**batch, "cells": torch.cat(cells), "noise": torch.tensor(noise)}


def scribble(rng, side, num_lines):
    """`tuple[torch.Tensor, str]`: at most `num_lines` lines of random characters on one view of `side` x `side` cells:
    labels of shape (side * side, SLOTS), and the text."""
    cells, lines = np.zeros((side, side, SLOTS), dtype=np.int64), []
    row = rng.randrange(max(1, side + 1 - num_lines))
    while row < side and len(lines) < num_lines:
        advance, x, words = rng.uniform(0.3, 0.85), rng.uniform(0, side * 0.7), []
        while x + (length := rng.randint(2, 6)) * advance <= side and len(words) < 5:
            words.append("".join(rng.choices(list(CHARACTERS)[: None if rng.random() < 0.1 else NUM_ASCII], k=length)))
            for character in words[-1]:
                cell = cells[row, int(x + advance / 2)]
                cell[cell.argmin()] = CHARACTERS[character]
                x += advance
            x += advance * rng.uniform(0.8, 2)
        if words:
            lines.append(" ".join(words))
        row += rng.randint(1, 2)
    return torch.from_numpy(cells.reshape(-1, SLOTS)), "\n".join(lines)
