# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretrains the networks of a small FILA on generated documents, where no CLIP, ConvNeXt and Llama are to be had.

    python benchmarks/fineprint/pretrain.py recipes/fineprint/small.yaml --model_name_or_path start --output_dir pretrained
    python benchmarks/fineprint/pretrain.py recipes/fineprint/small.yaml --model_name_or_path start --output_dir aligned \\
        --align pretrained/decoder/cells.safetensors

ViT and ConvNeXt learn, each for itself, which characters stand in each cell of a visual token: a hundred labels for
a page, where a question about it has a few. The pages are drawn as training goes, and in a training none comes twice. Most
of them are full of text, so that there is more to learn from each.

The decoder learns to answer questions about pages and to repeat them, from those same labels in place of visual tokens: what
a perfect encoder would show it. First it copies scribbles, short and without sense.

With `--align`, fusion and projector learn, between frozen networks, to give the decoder for each cell what it has learnt to
read: for every strategy the same, before the stages of the article.

The recipe is that of compare.py; `pretraining` in it has `vision`, `vit` if the ViT is to go on alone, as it learns slower
than the ConvNeXt, and `decoder`. Like `alignment` they are options of TrainingArguments and the `batch_size`, in pages.
Started again, it goes on where it was.
"""

import argparse
import json
import math
import os
import random
import shutil
import string
import tempfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import yaml
from fineprint_documents import Run
from fineprint_sources import FONTS, Values, capital_height, load_font, measure, split_of
from make_fineprint import (
    GRIDS,
    READ,
    Options,
    Page,
    Placement,
    draw_image_size,
    image_processor,
    lay_out,
    make_messages,
    render,
)
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info
from transformers import AutoProcessor, Trainer, TrainingArguments
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fila import FilaDataCollator, FilaForConditionalGeneration
from fila.train import find_checkpoint

# Index 0 is for no character.
CHARACTERS = {c: n for n, c in enumerate(string.digits + string.ascii_letters + string.punctuation + "€£", start=1)}
SLOTS = 4  # characters that a cell may hold; what is more is not learnt
EMPTY_SHARE = 0.1  # of the slots without a character, which are most, so many are learnt
IGNORED = -100
CELLS = "cells.safetensors"  # beside the pretrained decoder: the CellEmbedding it was trained with
TEXT_KINDS = (
    "price", "number", "code", "phone", "date", "time", "person", "city", "street", "job", "email", "shop", "goods", "place",
    "words",
)  # fmt: skip
TEXT_SCALE = (0.7, 1.1)  # of the smallest and largest capitals of documents: those of text in pretraining
EMPTY_STD = 0.1  # of the vector of an empty cell in the beginning
MAX_NOISE = 0.7  # of cells, as a share of their root mean square
MAX_LINES = 6  # of scribbles
LOW_RES_SHARE = 0.25  # of the batches of the decoder, which see the global view alone, as in stage 1
TEXT_PAGES = 4  # of so many pages in pretraining, all but one are full of text
STATISTICS_BATCH = 1_000_002  # of four tiles, and beyond those that are trained on
FIRST_PAGE = 10_000_000  # pages are numbered from here, so that none is one of the dataset, which begins with 0


def lay_out_text(options, split, grid, number):
    """Lays out a page that is full of text, line after line in sizes and fonts of its own: several times the characters of a
    document, so that a network sees more of them in the same time.

    Args:
        options ([`~make_fineprint.Options`]): of the documents.
        split (`str`): whose fonts and values are used.
        grid (`tuple[int, int]`): rows and columns of its canvas.
        number (`int`): of the page.

    Returns:
        [`~make_fineprint.Page`]: without questions.
    """
    rng = random.Random(f"text/{options.seed}/{split}/{number}")
    size = draw_image_size(rng, grid, options.tile_size, options.max_image_scale)
    is_turned = rng.random() < 0.4
    angle, shear = (rng.uniform(-3, 3), rng.uniform(-0.04, 0.04)) if is_turned else (0.0, 0.0)
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
            break
        x = placement.margin + capital * rng.uniform(0, 2)
        num_misses = 0
        while num_misses < 3:
            text = draw_words(values)
            left, top, right, bottom = measure(font, font_size, text)
            if x + right > size[1] - placement.margin:
                num_misses += 1
                continue
            runs.append(Run(x, y, text, font, font_size, (x + left, y + top, x + right, y + bottom)))
            x += right + capital * rng.uniform(0.5, 1.2)
    return Page(split, "text", "lines", "", "", placement, runs, [], rng.getrandbits(32), 0)


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
    """Where the characters of a run are on the page.

    Args:
        run ([`~fineprint_documents.Run`]): a run of text.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the middle of each character, of shape (characters, 2), and the corners of its box, of shape
        (characters, 4, 2). The box is as wide as its advance and as high as capitals.
    """
    edges = run.x + run.size * np.cumsum([0.0, *(_advance(run.font, character) for character in run.text)])
    top, bottom = np.full(len(run.text), run.y - run.capital_height), np.full(len(run.text), run.y)
    corners = [np.stack([x, y], axis=1) for x in (edges[:-1], edges[1:]) for y in (top, bottom)]
    corners = np.stack(corners, axis=1)
    return corners.mean(axis=1), corners


def label_cells(page, cell_size, view="canvas"):
    """The characters in each cell of a view, by their middle.

    Args:
        page ([`~make_fineprint.Page`]): a page.
        cell_size (`int`): side of a cell in pixels of the ViT's view.
        view (`str`, *optional*): "canvas", all tiles laid together, or "global", the whole image on one tile.

    Returns:
        `np.ndarray` of shape (rows of cells, columns of cells, SLOTS): indices of `CHARACTERS` in reading order, then 0; all
        `IGNORED` where there are more, or one that is not among them.
    """
    placement = page.placement
    height, width = placement.image_size
    grid = placement.grid if view == "canvas" else (1, 1)
    rows, columns = (side * placement.tile_size // cell_size for side in grid)
    labels = np.zeros((rows, columns, SLOTS), dtype=np.int64)
    count = np.zeros((rows, columns), dtype=int)
    for run in page.runs:
        points = placement.to_image(locate_characters(run)[0])
        if view == "canvas":
            points = placement.to_canvas(points)
        else:
            points = points * (placement.tile_size / width, placement.tile_size / height)
        for character, (x, y) in zip(run.text, points // cell_size):
            row, column = int(y), int(x)
            if character == " " or not (0 <= row < rows and 0 <= column < columns):
                continue
            index = CHARACTERS.get(character)
            if index is None or count[row, column] == SLOTS or labels[row, column, 0] == IGNORED:
                labels[row, column] = IGNORED
            else:
                labels[row, column, count[row, column]] = index
                count[row, column] += 1
    return labels


class Batches(IterableDataset):
    """Endless batches of new pages, all pages of a batch on the same canvas, canvases in turn; a class of its own says what
    [`make_batch`] makes of them.

    Args:
        options ([`~make_fineprint.Options`]): of the documents.
        split (`str`): whose fonts, templates and values are used.
        batch_size (`int`): pages.
        first (`int`, *optional*): number of the first batch.
        count (`int`, *optional*): batches until the end, if there is one.
    """

    def __init__(self, options, split, batch_size, first=0, count=None):
        self.options, self.split, self.batch_size, self.first, self.count = options, split, batch_size, first, count

    def __iter__(self):
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.first + start
        while self.count is None or number < self.first + self.count:
            yield self.make_batch(number)
            number += step

    def lay_out(self, number, place):
        """[`~make_fineprint.Page`]: a document for a place of a batch; all kinds take turns."""
        # Sample i has the kind i % kinds and the grid i // kinds % 5, so a batch has one grid.
        num_kinds = len(self.options.kinds)
        turn, kind = divmod(number // len(GRIDS) * self.batch_size + place, num_kinds)
        turn = (FIRST_PAGE // num_kinds // len(GRIDS) + turn) * len(GRIDS) + number % len(GRIDS)
        return lay_out(self.options, self.split, turn * num_kinds + kind)


class PageBatches(Batches):
    """Pictures of pages, and what is in their cells.

    Args:
        options, split, batch_size, first, count: see [`Batches`].
        do_high_res (`bool`, *optional*): whether there are pictures for a ConvNeXt.
    """

    def __init__(self, *arguments, do_high_res=True, **others):
        super().__init__(*arguments, **others)
        self.do_high_res = do_high_res

    def lay_out_batch(self, number):
        """`list[`[`~make_fineprint.Page`]`]`: the pages of a batch."""
        return [
            lay_out_text(self.options, self.split, GRIDS[number % len(GRIDS)], number * self.batch_size + place)
            if place % TEXT_PAGES
            else self.lay_out(number, place)
            for place in range(self.batch_size)
        ]

    def make_batch(self, number):
        """
        Returns:
            `dict` of tensors: the inputs of the vision tower, `labels` of shape (pages, rows, columns, SLOTS) for the cells of
            the canvas, `fine_labels` with twice the rows and columns, and `global_labels` for the cells of the global view.
        """
        pages = self.lay_out_batch(number)
        processor = image_processor(self.options.tile_size)
        processor.do_high_res = self.do_high_res
        inputs = processor([render(page) for page in pages], return_tensors="pt")
        for name, *where in (
            ("labels", processor.patch_size, "canvas"),
            ("fine_labels", processor.patch_size // 2, "canvas"),
            ("global_labels", processor.patch_size, "global"),
        ):
            inputs[name] = torch.from_numpy(np.stack([label_cells(page, *where) for page in pages]))
        return dict(inputs)


class CharacterPretraining(nn.Module):
    """ViT and ConvNeXt of a FILA side by side, each with a linear head that names the characters of each cell. The third
    stage of the ConvNeXt, whose cells are half as large, has a head of its own.

    Args:
        model ([`FilaForConditionalGeneration`]): its vision tower is trained; nothing of it is copied.
        with_convnext (`bool`, *optional*): whether the ConvNeXt is trained, too.
    """

    def __init__(self, model, with_convnext=True):
        super().__init__()
        self.vit, self.convnext = model.model.vision_tower.vit, None
        widths = [self.vit.config.hidden_size]
        if with_convnext:
            self.convnext = model.model.vision_tower.convnext
            widths += [stage["num_chs"] for stage in self.convnext.feature_info[:-3:-1]]
        num_classes = SLOTS * (1 + len(CHARACTERS))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes)) for width in widths
        )

    def forward(self, pixel_values, image_grids, labels, fine_labels, high_res_pixel_values=None, **others):
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(N, 1 + R*C, 3, S, S)`), image_grids (`torch.Tensor` of shape `(N, 2)`): of
                images on the same canvas.
            labels (`torch.Tensor` of shape `(N, rows, columns, SLOTS)`): from [`label_cells`].
            fine_labels (`torch.Tensor` of shape `(N, 2*rows, 2*columns, SLOTS)`): the same for cells half as large.
            high_res_pixel_values (`torch.Tensor` of shape `(N, R*C, 3, s, s)`, *optional*): for the ConvNeXt.

        Returns:
            `dict`: `loss`, and `accuracies` of shape (1,) or (3,): the share of characters that the ViT, the ConvNeXt and its
            third stage name.
        """
        rows, columns = image_grids[0].tolist()
        hidden_states = self.vit.pre_layernorm(self.vit.embeddings(pixel_values[:, 1:].flatten(0, 1)))
        for layer in self.vit.layers:
            hidden_states = layer(hidden_states, None)
        side = labels.shape[1] // rows
        # (N * R * C, tokens, width) -> page, row, column, y, x, width -> page, row y, column x, width
        patches = hidden_states[:, 1:].unflatten(0, (-1, rows, columns)).unflatten(3, (side, side))
        patches = patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        seen = [patches]
        if self.convnext is not None:
            # page, row, column, channel, y, x -> page, channel, row y, column x
            canvas = high_res_pixel_values.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
            canvas = canvas.flatten(4, 5).flatten(2, 3).contiguous(memory_format=torch.channels_last)
            *_, fine, coarse = self.convnext.forward_intermediates(canvas, intermediates_only=True)
            seen += [stage.permute(0, 2, 3, 1) for stage in (coarse, fine)]
        loss, accuracies = 0.0, []
        targets = (labels, labels, fine_labels)
        for head, features, labels in zip(self.heads, seen, targets):
            is_character = labels > 0
            is_learnt = is_character | ((labels == 0) & (torch.rand(labels.shape, device=labels.device) < EMPTY_SHARE))
            logits = head(features).unflatten(-1, (SLOTS, -1))
            loss = loss + nn.functional.cross_entropy(logits[is_learnt].float(), labels[is_learnt])
            accuracies.append((logits[is_character].argmax(-1) == labels[is_character]).float().mean())
        return {"loss": loss, "accuracies": torch.stack(accuracies)}


@torch.no_grad()
def measure_accuracies(network, batches):
    """`dict`: the share of the characters of `batches` that each trained network names, batches weighing the same."""
    network.eval()
    device = next(network.parameters()).device
    found = [network(**{key: value.to(device) for key, value in batch.items()})["accuracies"] for batch in batches]
    return dict(zip(("vit", "convnext", "convnext_stage3"), torch.stack(found).nanmean(dim=0).tolist()))


def pretrain_vision(
    recipe, model, processor, output, batch_size=16, num_eval_batches=10, with_convnext=True, **training
):
    """Trains ViT and ConvNeXt of `model`, in place.

    Args:
        recipe (`dict`): of compare.py; its `data` says what the pages are.
        model ([`FilaForConditionalGeneration`]), processor ([`FilaProcessor`]): the model.
        output (`Path`): folder of checkpoints and of the log, a JSON file of the folder's name.
        batch_size (`int`, *optional*): pages of a step.
        num_eval_batches (`int`, *optional*): batches of pages of the validation split that the result is measured on.
        with_convnext (`bool`, *optional*): whether the ConvNeXt is trained, too, or the ViT alone.
        training: options of TrainingArguments; `max_steps` is needed.
    """
    options = Options(output_dir="", **recipe["data"])
    network = CharacterPretraining(model, with_convnext)
    pages = partial(PageBatches, options, batch_size=batch_size, do_high_res=with_convnext)
    log = train(network, pages(split="train"), output, **training)
    accuracies = measure_accuracies(network, pages(split="validation", count=num_eval_batches))
    print("characters named:", ", ".join(f"{name} {share:.1%}" for name, share in accuracies.items()))
    (output / f"{output.name}.json").write_text(json.dumps({"accuracies": accuracies, "log": log}, indent=2) + "\n")


def scribble(rng, side, num_lines):
    """Lines of random characters on one view.

    Args:
        rng (`random.Random`): where all chance comes from.
        side (`int`): rows and columns of cells.
        num_lines (`int`): most lines.

    Returns:
        `tuple[np.ndarray, str]`: characters of the cells, as from [`label_cells`], of shape (side, side, SLOTS), and the text.
    """
    cells, lines = np.zeros((side, side, SLOTS), dtype=np.int64), []
    row = rng.randrange(max(1, side + 1 - num_lines))
    while row < side and len(lines) < num_lines:
        advance, x, words = rng.uniform(0.45, 0.85), rng.uniform(0, 3), []
        while x + (length := rng.randint(2, 6)) * advance <= side:
            words.append("".join(rng.choices(list(CHARACTERS), k=length)))
            for character in words[-1]:
                cell = cells[row, int(x + advance / 2)]
                cell[np.argmin(cell)] = CHARACTERS[character]
                x += advance
            x += advance * rng.uniform(0.8, 2)
        lines.append(" ".join(words))
        row += rng.randint(1, 2)
    return cells, "\n".join(lines)


class CellBatches(Batches):
    """Conversations about pages, and what is in the cells of their visual tokens, without pictures.

    Before the pages come scribbles, line by line more of them. In those there is nothing to guess: they teach, in short
    sequences, to look where the next character is.

    Args:
        options, split, batch_size, first, count: see [`Batches`].
        processor ([`FilaProcessor`]): of the model.
        num_scribbles (`int`, *optional*): batches of them, of twice as many as there are pages in a batch.
    """

    def __init__(self, *arguments, processor, num_scribbles=0, **others):
        super().__init__(*arguments, **others)
        self.collator, self.num_scribbles = FilaDataCollator(processor), num_scribbles

    def make_batch(self, number):
        """
        Returns:
            `dict` of tensors: `input_ids`, `attention_mask` and `labels` of shape (pages, length), and `cells` of shape (visual
            tokens of the batch, SLOTS).
        """
        rng = random.Random(f"cells/{self.options.seed}/{self.split}/{number}")
        image_processor, tokenizer = self.collator.processor.image_processor, self.collator.processor.tokenizer
        patch_size, tile_size = image_processor.patch_size, self.options.tile_size
        is_scribbled = number < self.num_scribbles
        image_processor.do_dynamic_tiling = is_tiled = not is_scribbled and rng.random() >= LOW_RES_SHARE
        sequences, cells = [], []
        if is_scribbled:
            num_lines = 1 + number * MAX_LINES // self.num_scribbles
            for _ in range(2 * self.batch_size):
                scribbled, text = scribble(rng, tile_size // patch_size, num_lines)
                cells.append(scribbled.reshape(-1, SLOTS))
                messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": READ}]}]
                messages.append({"role": "assistant", "content": text})
                sequences.append(self.collator.encode(messages, [(tile_size, tile_size)]))
        else:
            for place in range(self.batch_size):
                page = self.lay_out(number, place)
                cells.append(label_tokens(page, patch_size, is_tiled, rng))
                sequences.append(self.collator.encode(make_messages(page, True), [page.placement.image_size]))
        length = max(len(sequence["input_ids"]) for sequence in sequences)
        inputs = {"cells": torch.from_numpy(np.concatenate(cells)), "is_scribbled": torch.tensor(is_scribbled)}
        for name, filler in (("input_ids", tokenizer.pad_token_id), ("labels", IGNORED)):
            rows = [sequence[name] + [filler] * (length - len(sequence[name])) for sequence in sequences]
            inputs[name] = torch.tensor(rows)
        lengths = torch.tensor([len(sequence["input_ids"]) for sequence in sequences])
        return {**inputs, "attention_mask": (torch.arange(length) < lengths[:, None]).long()}


def label_tokens(page, patch_size, is_tiled, rng):
    """The characters in the cells of all visual tokens of a page, in their order.

    Args:
        page ([`~make_fineprint.Page`]): a page.
        patch_size (`int`): side of a cell in pixels of the ViT's views.
        is_tiled (`bool`): whether there are tiles beside the global view.
        rng (`random.Random`): where there are tiles, half of the global views are left empty, so that the tiles are read.

    Returns:
        `np.ndarray` of shape (visual tokens, SLOTS): see [`label_cells`]; empty where those are `IGNORED`.
    """
    views = [label_cells(page, patch_size, "global").reshape(-1, SLOTS)]
    if is_tiled:
        if rng.random() < 0.5:
            views[0][:] = 0
        rows, columns = page.placement.grid
        cells = label_cells(page, patch_size)
        tiles = cells.reshape(rows, cells.shape[0] // rows, columns, -1, SLOTS).swapaxes(1, 2)
        views.append(tiles.reshape(-1, SLOTS))
    return np.concatenate(views).clip(min=0)


class CellEmbedding(nn.Module):
    """What the decoder sees of a cell in pretraining: the sum of the embeddings of its characters, each turned as its place in
    the cell says; for an empty cell, a vector.

    Args:
        tokenizer (`PreTrainedTokenizerFast`): of the model; the last token of a character stands for it.
        width (`int`): of the decoder.
    """

    def __init__(self, tokenizer, width):
        super().__init__()
        token_ids = [0, *(tokenizer.encode(character)[-1] for character in CHARACTERS)]
        self.register_buffer("token_ids", torch.tensor(token_ids), persistent=False)
        turns = [torch.eye(width), *(torch.linalg.qr(torch.randn(width, width))[0] for _ in range(SLOTS - 1))]
        self.turns = nn.Parameter(torch.stack(turns))
        self.empty = nn.Parameter(torch.randn(width) * EMPTY_STD)

    def forward(self, cells, embeddings):
        """
        Args:
            cells (`torch.Tensor` of shape `(visual tokens, SLOTS)`): from [`label_tokens`].
            embeddings (`nn.Embedding`): of the decoder's tokens.

        Returns:
            `torch.Tensor` of shape (visual tokens, width).
        """
        characters = embeddings(self.token_ids[cells]) * (cells > 0).unsqueeze(-1)
        is_empty = (cells == 0).all(dim=-1).unsqueeze(-1)
        return torch.einsum("nsd,sde->ne", characters, self.turns) + is_empty * self.empty


class CellReading(nn.Module):
    """The decoder of a FILA, which sees the characters of each cell in place of visual tokens.

    Args:
        model ([`FilaForConditionalGeneration`]): its decoder is trained; nothing of it is copied.
        cell_embedding ([`CellEmbedding`]): trained with it.
    """

    def __init__(self, model, cell_embedding):
        super().__init__()
        self.language_model, self.cell_embedding = model.model.language_model, cell_embedding
        if not model.config.tie_word_embeddings:  # else it is the embedding of the former
            self.lm_head = model.lm_head
        self.model = [model]  # not a part: its vision is not trained

    def forward(self, cells, is_scribbled, num_items_in_batch=None, **inputs):
        """
        Args:
            cells (`torch.Tensor` of shape `(visual tokens, SLOTS)`): from [`label_tokens`].
            is_scribbled (`torch.Tensor`): whether they are of scribbles. Empty cells of those are zero: in the beginning, the
                many of them would drown the others. Those of pages are noisy, as what a vision tower sees will be.
            inputs: `input_ids`, `attention_mask` and `labels`.

        Returns:
            [`FilaCausalLMOutputWithPast`]
        """
        features = self.cell_embedding(cells, self.model[0].get_input_embeddings())
        if is_scribbled:
            features = features * (cells > 0).any(dim=-1, keepdim=True)
        else:
            rms = features.detach().square().mean().sqrt()
            features = features + torch.rand(()) * MAX_NOISE * rms * torch.randn_like(features)
        features = BaseModelOutputWithPooling(pooler_output=(features,))
        return self.model[0](**inputs, mm_encoder_outputs={"image": features}, use_cache=False)


def encode(model, batch):
    """`torch.Tensor` of shape (visual tokens, width): what a FILA of any strategy makes of the images in a batch."""
    names = {"pixel_values", "image_sizes", "image_grids"}
    if model.config.fusion_type != "none":
        names.add("high_res_pixel_values")
    return torch.cat(model.get_image_features(**{name: batch[name] for name in names}).pooler_output)


def tile_cells(cells, side):
    """Cuts what belongs to the cells of canvases into tiles.

    Args:
        cells (`torch.Tensor` of shape `(N, rows, columns, ...)`): of canvases of the same grid.
        side (`int`): rows and columns of cells of a tile.

    Returns:
        `torch.Tensor` of shape (N, tiles, side, side, ...).
    """
    return cells.unflatten(1, (-1, side)).unflatten(3, (-1, side)).transpose(2, 3).flatten(1, 2)


class CellAlignment(nn.Module):
    """Vision tower and projector of a FILA, whose visual tokens become what its decoder has learnt to read.

    Args:
        model ([`FilaForConditionalGeneration`]): what is not frozen is trained, but for its decoder; nothing of it is copied.
        cell_embedding ([`CellEmbedding`]): from the pretraining of its decoder.
    """

    def __init__(self, model, cell_embedding):
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.model.vision_tower, model.model.multi_modal_projector
        self.model, self.cell_embedding = [model], [cell_embedding]  # no parts: they are not trained

    def forward(self, labels, global_labels, fine_labels=None, **images):
        """
        Args:
            labels, global_labels (`torch.Tensor` of shape `(N, rows, columns, SLOTS)`): from [`label_cells`], of images on the
                same canvas.
            images: what the image processor returns for them.

        Returns:
            `dict`: `loss`, the squared error of the visual tokens as a share of the mean square of what they should be.
        """
        side = global_labels.shape[1]
        cells = torch.cat([global_labels.unsqueeze(1), tile_cells(labels, side)], dim=1).flatten(0, 3)
        features = encode(self.model[0], images)
        with torch.no_grad():
            targets = self.cell_embedding[0](cells.clamp(min=0), self.model[0].get_input_embeddings())
        is_known = (cells != IGNORED).all(dim=-1)
        errors = (features.float() - targets)[is_known].square().mean()
        return {"loss": errors / targets[is_known].square().mean()}


def train(network, batches, output, **training):
    """Trains a network on endless batches, from its last checkpoint on.

    Args:
        network (`nn.Module`): it returns its loss.
        batches ([`Batches`]): numbered from 0.
        output (`Path`): folder of checkpoints.
        training: options of TrainingArguments; `max_steps` is needed.

    Returns:
        `list[dict]`: the log.
    """
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1,  # one of `batches`
        remove_unused_columns=False,
        report_to="none",
        save_total_limit=1,
        accelerator_config={"dispatch_batches": False},
        **training,
    )
    checkpoint, unfinished = find_checkpoint(output)
    for folder in unfinished:
        shutil.rmtree(folder)
    if arguments.n_gpu > 1:
        raise SystemExit(
            "error: several GPUs in one process are not supported: show it one, with CUDA_VISIBLE_DEVICES=0."
        )
    done = 0 if checkpoint is None else int(checkpoint.name.split("-")[1])
    # Pages that were seen are not drawn again to be skipped.
    arguments.ignore_data_skip = True
    batches.first = done * arguments.gradient_accumulation_steps
    trainer = Trainer(network, arguments, train_dataset=batches, data_collator=lambda batches: batches[0])
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer.state.log_history


def pretrain_decoder(recipe, model, processor, output, batch_size=16, num_scribbles=0, **training):
    """Trains the decoder of `model`, in place.

    Args:
        recipe (`dict`): of compare.py; its `data` says what the pages are.
        model ([`FilaForConditionalGeneration`]), processor ([`FilaProcessor`]): the model.
        output (`Path`): folder of checkpoints and of `decoder.json`, the log.
        batch_size (`int`, *optional*): pages of a step.
        num_scribbles (`int`, *optional*): steps before there are pages; see [`CellBatches`].
        training: options of TrainingArguments; `max_steps` is needed.
    """
    batches = {"processor": processor, "num_scribbles": num_scribbles}
    batches = CellBatches(Options(output_dir="", **recipe["data"]), "train", batch_size, **batches)
    cell_embedding = CellEmbedding(processor.tokenizer, model.config.text_config.hidden_size)
    log = train(CellReading(model, cell_embedding), batches, output, **training)
    save_file(cell_embedding.state_dict(), output / CELLS)
    (output / "decoder.json").write_text(json.dumps({"log": log}, indent=2) + "\n")


@torch.no_grad()
def standardize_projector(model, batch):
    """Starts the projector of a FILA anew, with a first layer that takes mean and scale out of the ViT's features.

    A ViT that was pretrained in a short time adds nearly the same large vector to all tokens. It would drive the activations
    of a random projector out of the range in which they learn.

    Args:
        model ([`FilaForConditionalGeneration`]): changed in place.
        batch (`dict`): from [`PageBatches`].
    """
    projector, features = model.model.multi_modal_projector, []
    hook = projector.linear_1.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    encode(model, batch)
    hook.remove()
    std, mean = torch.std_mean(features[0].flatten(0, -2), dim=0)
    for layer in (projector.linear_1, projector.linear_2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    projector.linear_1.weight /= std
    projector.linear_1.bias -= projector.linear_1.weight @ mean


def align(recipe, start, cells, output, batch_size=16, **training):
    """Trains fusion and projector of a FILA, until its visual tokens say what the decoder has learnt to read.

    Args:
        recipe (`dict`): of compare.py; its `data` says what the pages are.
        start (`Path`): a FILA with a pretrained decoder.
        cells (`Path`): the file `CELLS` of that pretraining.
        output (`Path`): folder of checkpoints and of `alignment.json`, the log; the FILA is in `model` in it.
        batch_size (`int`, *optional*): pages of a step.
        training: options of TrainingArguments; `max_steps` is needed.
    """
    model = FilaForConditionalGeneration.from_pretrained(start, dtype="float32")
    processor = AutoProcessor.from_pretrained(start, trust_remote_code=True)
    cell_embedding = CellEmbedding(processor.tokenizer, model.config.text_config.hidden_size)
    cell_embedding.load_state_dict(load_file(cells))
    batches = PageBatches(Options(output_dir="", **recipe["data"]), "train", batch_size)
    standardize_projector(model, batches.make_batch(STATISTICS_BATCH))
    model.set_training_stage(1)  # what a fresh projector hands back would undo the pretraining of what lies before
    log = train(CellAlignment(model, cell_embedding), batches, output, **training)
    (output / "alignment.json").write_text(json.dumps({"log": log}, indent=2) + "\n")
    finish(model, start, output)


def finish(model, start, output):
    """Writes a trained model and the processor it started with to the folder `model` in the output, and removes checkpoints."""
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        model.save_pretrained(Path(temporary) / "model")
        AutoProcessor.from_pretrained(start, trust_remote_code=True).save_pretrained(Path(temporary) / "model")
        os.rename(Path(temporary) / "model", output / "model")
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


PRETRAINING = {
    "vision": pretrain_vision,
    "vit": partial(pretrain_vision, with_convnext=False),
    "decoder": pretrain_decoder,
}


def pretrain(recipe, start, output):
    """Does what `recipe["pretraining"]` says, as far as it has not been done.

    Args:
        recipe (`dict`): of compare.py.
        start (`Path`): a FILA with `fusion_type="cvfm"` to start from.
        output (`Path`): a folder; the pretrained FILA is in `decoder/model` in it.
    """
    for step, pretrain_part in PRETRAINING.items():
        folder = output / step
        if step not in recipe["pretraining"]:
            continue
        if not (folder / "model").exists():
            model = FilaForConditionalGeneration.from_pretrained(start, dtype="float32")
            processor = AutoProcessor.from_pretrained(start, trust_remote_code=True)
            pretrain_part(recipe, model, processor, folder, **recipe["pretraining"][step])
            finish(model, start, folder)
        start = folder / "model"


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/fineprint/small.yaml")
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="FILA to start from")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to make, or to go on with")
    parser.add_argument("--align", type=Path, metavar="CELLS", help=f"do `alignment` instead, with this {CELLS}")
    options = parser.parse_args(arguments)
    recipe = yaml.safe_load(options.recipe.read_text())
    torch.manual_seed(0)  # of what is drawn before a Trainer sets its own
    if options.align is None:
        pretrain(recipe, options.model_name_or_path, options.output_dir)
    else:
        align(recipe, options.model_name_or_path, options.align, options.output_dir, **recipe["alignment"])


if __name__ == "__main__":
    main()
