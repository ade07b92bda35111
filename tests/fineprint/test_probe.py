# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/probe.py: what is torn, what a probe names, and the way from trained models to a table."""

import json

import numpy as np
import pytest

from fila.common.arguments import UserError, parse_arguments
from fila.common.layout import CANVASES
from fila.fineprint.blocks import Run
from fila.fineprint.experiments import compare, probe
from fila.fineprint.experiments.cells import SLOTS, label_cells, lay_out_text, locate_characters
from fila.fineprint.experiments.compare import ComparisonArguments
from fila.fineprint.pages import Options, Page, Placement
from fila.fineprint.sources import FONTS, measure
from helpers import FUSION_TYPES, ROOT

RECIPE = ROOT / "fineprint" / "recipes" / "small.yaml"


def test_torn_cells_are_those_whose_text_a_cut_goes_through():
    options = Options(output_dir="", tile_size=112)
    num_torn = 0
    for number in range(10):
        page = lay_out_text(options, "train", CANVASES[number % 5], number)
        is_torn, labels = probe.find_torn_cells(page, 14), label_cells(page, 14)
        assert is_torn.shape == labels.shape[:2]
        assert (labels[is_torn, 0] != 0).all()
        # A character is less than a cell high and two wide, so it is torn near a cut alone.
        rows, columns = np.nonzero(is_torn)
        near = [
            (np.abs(index[:, None] - np.arange(8, 8 * tiles, 8)).min(axis=1, initial=99) <= 1)
            | (np.abs(index[:, None] + 1 - np.arange(8, 8 * tiles, 8)).min(axis=1, initial=99) <= 1)
            for index, tiles in zip((rows, columns), page.placement.grid)
        ]
        assert (near[0] | near[1]).all()
        num_torn += len(rows)
    assert num_torn > 50


def test_torn_is_a_character_on_two_tiles():
    placement = Placement((224, 224), (2, 2), 112)
    font = next(iter(FONTS["train"].values()))[0]
    for x, y, is_torn in ((105, 60, True), (20, 117, True), (60, 60, False)):
        left, top, right, bottom = measure(font, 16, "M")
        run = Run(x, y, "M", font, 16, (x + left, y + top, x + right, y + bottom))
        (corners,) = locate_characters(run)
        middle = corners.mean(axis=0)
        assert corners[:, 0].min() == x
        assert corners[:, 1].max() == y
        page = Page("train", "text", "lines", "", "", placement, [run], [], 0, 0)
        cell = [int(value // 14) for value in middle[::-1]]
        assert np.argwhere(probe.find_torn_cells(page, 14)).tolist() == [cell] * is_torn


def make_tokens(rng, num_tokens, names_torn):
    """Features that are the characters themselves; of torn ones, noise unless `names_torn`."""
    labels = np.zeros((num_tokens, SLOTS), dtype=int)
    labels[:, 0] = rng.integers(1, 6, num_tokens)
    labels[::2, 1] = rng.integers(1, 6, len(labels[::2]))
    is_torn = rng.random(num_tokens) < 0.3
    features = np.concatenate([np.eye(6)[labels[:, 0]], np.eye(6)[labels[:, 1]]], axis=1)
    if not names_torn:
        features[is_torn] = rng.normal(size=(is_torn.sum(), 12))
    return {"features": features, "cells": labels, "is_torn": is_torn, "page": np.arange(num_tokens) * 20 // num_tokens}


@pytest.mark.parametrize("names_torn", [True, False])
def test_probe_names_what_the_tokens_hold(names_torn):
    rng = np.random.default_rng(0)
    known, asked = (make_tokens(rng, 1000, names_torn) for _ in range(2))
    is_character, is_right = probe.name_characters(known, asked)
    assert is_character.sum() == 1500
    assert not (is_right & ~is_character).any()
    found = probe.summarize_characters(asked, is_character, is_right)
    assert found["pages"] == 20
    assert found["characters"] == 1500
    assert found["whole"][0] > 99
    if names_torn:
        assert found["torn"][0] > 99
    else:
        assert found["torn"][0] < 40  # of five characters, chance names 20 %
        assert found["drop"][1] > 50
    assert found["drop"][0] == pytest.approx(found["whole"][0] - found["torn"][0])
    with pytest.raises(UserError, match="both whole and torn"):
        probe.summarize_characters({**asked, "is_torn": np.zeros_like(asked["is_torn"])}, is_character, is_right)


@pytest.mark.slow
def test_models_are_probed_and_compared(tmp_path):
    (recipe,) = parse_arguments(ComparisonArguments, "", [RECIPE, "--output_dir", tmp_path])
    arguments = [str(RECIPE), "--output_dir", str(tmp_path), "--num_batches", "3"]
    with pytest.raises(UserError, match="no trained model"):
        probe.main(arguments)
    with pytest.raises(UserError, match="num_batches is 0"):
        probe.main([*arguments[:-1], "0"])
    assert not list(tmp_path.iterdir())
    for fusion_type in FUSION_TYPES:
        start = compare.make_random(recipe.documents["stage1"], recipe.model, 0)
        compare.make_start(*start, fusion_type, 0, tmp_path / f"{fusion_type}-seed0" / "stage2")
    probe.main(arguments)
    results = json.loads((tmp_path / "probe.json").read_text())["results"]
    table = (tmp_path / "probe.md").read_text()
    assert list(results) == recipe.fusion_types
    for fusion_type, values in results.items():
        assert values["characters"] == results["none"]["characters"] > 50
        assert 0 < values["whole"][0] < 50
        assert f"| {compare.NAMES[fusion_type]} | {values['whole'][0]:.1f} [" in table
    assert (tmp_path / "probe.png").stat().st_size > 5_000
