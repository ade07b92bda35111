# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the visual tokens of the compared models hold of characters that are whole or torn by a cut: a linear probe.

    python fineprint/experiments/probe.py fineprint/recipes/comparison.yaml --output_dir build/comparison

A logistic regression names the characters of a cell from its visual token alone. It learns on new pages of the fonts
and values of training, and is measured on others. A page has hundreds of characters where it has one or two questions,
and the decoder has no part in it: this shows more sharply than the answers what a cut between tiles takes away.

Torn are the characters of a cell with one whose box, as wide as its advance and as high as capitals, lies on two tiles.
The folder is that of a finished comparison; `probe.json`, `probe.md` (the table) and `probe.png` are added to it.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from fila.common.arguments import UserError, run_command
from fila.common.files import new_files
from fila.fineprint.experiments.cells import IGNORED, SLOTS, PageBatches, locate_characters, tile_cells
from fila.fineprint.experiments.compare import NAMES, draw_bars, list_stages, make_table, read_recipe, to_percent
from fila.fineprint.experiments.pretrain import encode_pages, load_fila
from fila.fineprint.pages import Options

PLACES = ("whole", "torn")
FIRST_BATCH = 2_000_000  # of the pages of the probe: beyond those that are trained on
BATCH_SIZE = 8  # pages


def find_torn_cells(page, cell_size):
    """`np.ndarray` of bools, of shape (rows of cells, columns of cells): which cells of a canvas hold a character that
    a cut between tiles goes through."""
    placement = page.placement
    is_torn = np.zeros([side * placement.tile_size // cell_size for side in placement.grid], dtype=bool)
    for run in page.runs:
        middles, corners = (placement.to_canvas(placement.to_image(points)) for points in locate_characters(run))
        tiles = corners // placement.tile_size
        middles = middles[(tiles != tiles[:, :1]).any(axis=(1, 2))]
        columns, rows = (middles // cell_size).astype(int).T
        is_seen = (rows >= 0) & (rows < is_torn.shape[0]) & (columns >= 0) & (columns < is_torn.shape[1])
        is_torn[rows[is_seen], columns[is_seen]] = True
    return is_torn


class TornPageBatches(PageBatches):
    """[`PageBatches`] that know what is torn."""

    def make_batch(self, number):
        """`dict` of tensors: that of [`PageBatches`], and `is_torn` of shape (pages, rows, columns), of bools."""
        batch = super().make_batch(number)
        cell_size = self.options.tile_size // batch["global_labels"].shape[1]
        is_torn = np.stack([find_torn_cells(page, cell_size) for page in self.lay_out_batch(number)])
        return {**batch, "is_torn": torch.from_numpy(is_torn)}


@torch.inference_mode()
def read_tokens(model, batches):
    """What a model makes of the cells with characters on the tiles of [`TornPageBatches`].

    Returns:
        `dict` of arrays: `features` of shape (tokens, width), `cells` of shape (tokens, SLOTS), `is_torn` and `page`,
        both of shape (tokens,).
    """
    parts = []
    for number, batch in enumerate(tqdm(batches, unit="batch", leave=False)):
        num_pages, side = batch["global_labels"].shape[:2]
        cells = tile_cells(batch["labels"], side).flatten(1, 3)
        features = encode_pages(model, batch).unflatten(0, (num_pages, -1))[:, side * side :]  # without the global view
        values = {
            "features": features.float(),
            "cells": cells,
            "is_torn": tile_cells(batch["is_torn"], side).flatten(1, 3),
            "page": (number * num_pages + torch.arange(num_pages)).unsqueeze(1).expand(cells.shape[:2]),
        }
        is_read = (cells > 0).any(dim=-1) & (cells != IGNORED).all(dim=-1)
        parts.append({name: value[is_read].numpy() for name, value in values.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def name_characters(known, asked):
    """Names characters by a logistic regression for each place in a cell.

    Args:
        known, asked (`dict`): from [`read_tokens`], to learn from and to be measured on.

    Returns:
        `tuple[np.ndarray, np.ndarray]`, both of shape (tokens of `asked`, SLOTS): which places hold a character, and
        which of these are named right.
    """
    is_character = asked["cells"] > 0
    is_right = np.zeros_like(is_character)
    for slot in range(SLOTS):
        rows, asked_rows = known["cells"][:, slot] > 0, is_character[:, slot]
        labels = known["cells"][rows, slot]
        if len(np.unique(labels)) < 2 or not asked_rows.any():
            continue
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=60))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits are not needed
            classifier.fit(known["features"][rows], labels)
        found = classifier.predict(asked["features"][asked_rows])
        is_right[asked_rows, slot] = found == asked["cells"][asked_rows, slot]
    return is_character, is_right


def summarize_characters(tokens, is_character, is_right):
    """Shares of the characters that were named, averaged over the pages that have both torn and whole ones.

    Args:
        tokens (`dict`): from [`read_tokens`].
        is_character, is_right (`np.ndarray`): from [`name_characters`].

    Returns:
        `dict`: `whole`, `torn` and `drop`, their difference, each in percent with both bounds of an interval of 95 %
        from a bootstrap over the pages; `pages` and `characters`, how many there were.

    Raises:
        UserError: no page has both.
    """
    counts = pd.DataFrame({"right": is_right.sum(axis=1), "all": is_character.sum(axis=1)})
    counts = counts.groupby([tokens["page"], tokens["is_torn"]]).sum()
    shares = (counts["right"] / counts["all"]).unstack().reindex(columns=[False, True]).dropna()  # by page and place
    shares.columns = PLACES
    if shares.empty:
        raise UserError("No page has both whole and torn characters. Choose a larger --num_batches.")
    found = {**shares, "drop": shares["whole"] - shares["torn"]}
    found = {name: to_percent(values) for name, values in found.items()}
    return {**found, "pages": len(shares), "characters": int(is_character.sum())}


def probe(recipe, output, num_batches):
    """Probes all strategies of a comparison in the folder `output`, with the first of its seeds. Learns from
    `num_batches` batches of pages, and is measured on as many.

    Raises:
        UserError: a strategy has not been trained, or there are too few pages.
    """
    if num_batches < 1:
        raise UserError(f"--num_batches is {num_batches}; it must be at least 1.")
    trained = f"seed{recipe['seeds'][0]}/{list_stages(recipe)[-1][0]}"
    folders = {fusion_type: output / f"{fusion_type}-{trained}" for fusion_type in recipe["fusion_types"]}
    for folder in folders.values():
        if not (folder / "config.json").exists():
            raise UserError(f"There is no trained model in {folder}. Run compare.py first.")
    options, results = Options(output_dir="", **recipe["data"]), {}
    for fusion_type, folder in folders.items():
        model = load_fila(folder)[0].eval()
        known, asked = (
            read_tokens(model, TornPageBatches(options, split, BATCH_SIZE, num_batches, FIRST_BATCH))
            for split in ("train", "validation")
        )
        results[fusion_type] = summarize_characters(asked, *name_characters(known, asked))
    write_probe(recipe, results, output)


def write_probe(recipe, results, output):
    """Writes probe.json, probe.md (the table) and probe.png (the plot)."""
    rows = [(NAMES[name], *(values[key] for key in (*PLACES, "drop"))) for name, values in results.items()]
    table = make_table(("strategy", "whole", "torn by a cut", "drop, in points"), rows)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.add_subplot(ylabel="characters named, %", title="what a linear probe reads in the visual tokens")
    draw_bars(axis, results, PLACES, ("whole", "torn by a cut"))
    with new_files(output, last="probe.json") as folder:
        figure.savefig(folder / "probe.png", dpi=110)
        (folder / "probe.md").write_text(
            "# What a cut takes from the visual tokens\n\nCharacters of unseen fonts that a linear probe names from the "
            f"visual tokens, in percent, with 95 % intervals from a bootstrap over the pages.\n\n{table}"
        )
        (folder / "probe.json").write_text(json.dumps({"recipe": recipe, "results": results}, indent=2) + "\n")
    print(table)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file of the comparison")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the comparison")
    parser.add_argument(
        "--num_batches", type=int, default=60, help=f"of {BATCH_SIZE} pages, to learn from, and to measure on"
    )
    options = parser.parse_args(arguments)
    probe(read_recipe(options.recipe), options.output_dir, options.num_batches)


if __name__ == "__main__":
    run_command(main)
