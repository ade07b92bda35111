# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the visual tokens of the compared models hold of characters that are whole or torn by a cut: a linear probe.

    python fineprint/experiments/probe.py fineprint/recipes/comparison.yaml --output_dir build/comparison

A logistic regression names the characters of a cell from its visual token alone. It learns on new pages of the fonts
and values of training, and is measured on others. Torn are the characters of a cell with one that lies on two tiles.
`probe.json`, `probe.md` (the table) and `probe.png` are added to the folder of a finished comparison.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.fineprint.experiments.cells import IGNORED, lay_out_batch, locate_characters, make_page_batch, tile_cells
from fila.fineprint.experiments.compare import NAMES, ComparisonArguments, make_table, to_percent, write_results
from fila.fineprint.experiments.pretrain import encode_pages, load_fila

FIRST_BATCH = 2_000_000  # of the pages of the probe: beyond those that are trained on
BATCH_SIZE = 8  # pages


@dataclass
class ProbeArguments(ComparisonArguments):
    """The comparison whose models are probed, and on how much."""

    num_batches: int = HfArg(default=60, help=f"Of {BATCH_SIZE} pages, to learn from, and to measure on.")

    def __post_init__(self):
        super().__post_init__()
        if self.num_batches < 1:
            raise UserError(f"--num_batches is {self.num_batches}; it must be at least 1.")


def find_torn_cells(page, cell_size):
    """`np.ndarray` of bools, of shape (rows of cells, columns of cells): which cells of a canvas hold a character that
    a cut between tiles goes through."""
    placement = page.placement
    is_torn = np.zeros([side * placement.tile_size // cell_size for side in placement.grid], dtype=bool)
    for run in page.runs:
        corners = placement.to_canvas(placement.to_image(locate_characters(run)))
        tiles = corners // placement.tile_size
        middles = corners.mean(axis=1)[(tiles != tiles[:, :1]).any(axis=(1, 2))]
        for column, row in (middles // cell_size).astype(int):
            if 0 <= row < is_torn.shape[0] and 0 <= column < is_torn.shape[1]:
                is_torn[row, column] = True
    return is_torn


@torch.inference_mode()
def read_tokens(model, options, split, num_batches):
    """What a model makes of the cells with characters on the tiles of new pages: arrays of `features` of shape (tokens,
    width), `cells` of shape (tokens, SLOTS), `is_torn` and `page`, both of shape (tokens,)."""
    parts = []
    for number in tqdm(range(FIRST_BATCH, FIRST_BATCH + num_batches), unit="batch", leave=False):
        batch, pages = (make(options, split, BATCH_SIZE, number) for make in (make_page_batch, lay_out_batch))
        side = batch["global_labels"].shape[1]
        is_torn = np.stack([find_torn_cells(page, options.tile_size // side) for page in pages])
        cells = tile_cells(batch["labels"], side).flatten(1, 3)
        features = encode_pages(model, batch).unflatten(0, (BATCH_SIZE, -1))[
            :, side * side :
        ]  # without the global view
        values = {
            "features": features.float(),
            "cells": cells,
            "is_torn": tile_cells(torch.from_numpy(is_torn), side).flatten(1, 3),
            "page": (number * BATCH_SIZE + torch.arange(BATCH_SIZE)).unsqueeze(1).expand(cells.shape[:2]),
        }
        is_read = (cells > 0).any(dim=-1) & (cells != IGNORED).all(dim=-1)
        parts.append({name: value[is_read].numpy() for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def name_characters(known, asked):
    """Names characters by a logistic regression for each place in a cell. It learns from `known`, and is measured on
    `asked`, both from [`read_tokens`]. Returns two arrays of shape (tokens of `asked`, SLOTS): which places hold a
    character, and which of these are named right."""
    is_character = asked["cells"] > 0
    is_right = np.zeros_like(is_character)
    for slot in range(is_character.shape[1]):
        rows, asked_rows = known["cells"][:, slot] > 0, is_character[:, slot]
        labels = known["cells"][rows, slot]
        if len(np.unique(labels)) > 1 and asked_rows.any():
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=60))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits are not needed
                classifier.fit(known["features"][rows], labels)
            found = classifier.predict(asked["features"][asked_rows])
            is_right[asked_rows, slot] = found == asked["cells"][asked_rows, slot]
    return is_character, is_right


def summarize_characters(tokens, is_character, is_right):
    """Shares of the characters that were named, from [`read_tokens`] and [`name_characters`], averaged over the pages that
    have both torn and whole ones. Raises a `UserError` if there are none.

    Returns:
        `dict`: `whole`, `torn` and `drop`, their difference, see [`to_percent`]; `pages` and `characters`, how many
        there were.
    """
    counts = pd.DataFrame({"right": is_right.sum(axis=1), "all": is_character.sum(axis=1)})
    counts = counts.groupby([tokens["page"], tokens["is_torn"]]).sum()
    shares = (counts["right"] / counts["all"]).unstack().reindex(columns=[False, True]).dropna()  # by page and place
    if shares.empty:
        raise UserError("No page has both whole and torn characters. Choose a larger --num_batches.")
    found = {"whole": shares[False], "torn": shares[True], "drop": shares[False] - shares[True]}
    found = {name: to_percent(values) for name, values in found.items()}
    return {**found, "pages": len(shares), "characters": int(is_character.sum())}


def probe(options):
    """Probes all strategies of a comparison, with the first of its seeds."""
    results, trained = {}, f"seed{options.seeds[0]}/{options.stages[-1][0]}"
    folders = {name: Path(options.output_dir) / f"{name}-{trained}" for name in options.fusion_types}
    for folder in folders.values():
        if not (folder / "config.json").exists():
            raise UserError(f"There is no trained model in {folder}. Run compare.py first.")
    for name, folder in folders.items():
        model, data = load_fila(folder)[0].eval(), options.documents["stage1"]
        known, asked = (read_tokens(model, data, split, options.num_batches) for split in ("train", "validation"))
        results[name] = summarize_characters(asked, *name_characters(known, asked))
    rows = [(NAMES[name], values["whole"], values["torn"], values["drop"]) for name, values in results.items()]
    table = make_table(("strategy", "whole", "torn by a cut", "drop, in points"), rows)
    text = "Characters of unseen fonts that a linear probe names from visual tokens, in percent, with 95 % intervals."
    labels = {"whole": "whole", "torn": "torn by a cut"}
    write_results(options, "probe", "What a cut takes from the visual tokens", text, table, results, labels)


def main(arguments=None):
    (options,) = parse_arguments(ProbeArguments, __doc__, arguments)
    probe(options)


if __name__ == "__main__":
    run_command(main)
