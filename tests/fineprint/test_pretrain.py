# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/cells.py and pretrain.py: labels, batches, and what the networks learn from them."""

import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fila.common.arguments import UserError, parse_arguments
from fila.fineprint.experiments import pretrain
from fila.fineprint.experiments.cells import (
    CHARACTERS,
    IGNORED,
    MAX_LINES,
    SLOTS,
    Pages,
    label_image,
    locate_characters,
)
from fila.fineprint.experiments.train_checkpoint import CheckpointArguments, make_model
from fila.fineprint.pages import PageOptions, make_page
from helpers import ROOT

LETTERS = "".join(CHARACTERS)
VIEW = {"size": 112, "is_tiled": False, "batch_size": 2}
TILED = {"size": 112, "batch_size": 2}
CROPPED = {**VIEW, "num_crops": 3}


def make_small(**changes):
    recipe = ROOT / "fineprint" / "recipes" / "small.yaml"
    (options,) = parse_arguments(CheckpointArguments, "", [recipe, "--output_dir", "unused"])
    options.model |= changes
    return make_model(options)


@pytest.fixture(scope="module", params=[[1], [1, 2, 3]], ids=["paper's canvases", "larger canvases"])
def processor(request):
    return make_model(CheckpointArguments("unused", tile_size=112, canvas_scales=request.param))[1]


def random_embedding(model):
    return pretrain.CellEmbedding.random(model.config.text_config.hidden_size, 0.05)


def spell(cells):
    return "".join(LETTERS[label - 1] for label in cells.flatten() if label > 0)


@pytest.mark.parametrize("row", range(6))
def test_characters_are_where_the_ink_is(row):
    page = make_page(1, row, PageOptions(photographed=0.5))
    characters, pixels = locate_characters(page), np.asarray(page.image.convert("L"), dtype=float)
    num_inked = 0
    for (x, y), (width, height) in zip(characters.points, characters.sizes):
        low, high = np.maximum((x - width / 2, y - height / 2), 0).astype(int), np.ceil((x + width / 2, y + height / 2))
        box = pixels[low[1] : int(high[1]) + 1, low[0] : int(high[0]) + 1]
        num_inked += box.size > 0 and np.ptp(box) > 40
    assert num_inked > 0.9 * len(characters.points)


def test_cells_of_canvas_and_global_view_hold_the_characters_of_the_page(processor):
    num_whole = 0
    for row in range(12):
        page = make_page(2, row, PageOptions(tile_size=112, min_text_height=12, photographed=0))
        drawn = sorted("".join(text.text for block in page.draft.blocks for text in block.texts).replace(" ", ""))
        labels = label_image(page.image.size, locate_characters(page), processor.image_processor)
        num_tokens = processor.image_processor.get_number_of_image_tokens(*page.image.size[::-1])
        assert labels.shape == (num_tokens, SLOTS)
        tiles = labels[64:]
        assert not set(spell(tiles)) - set(drawn)
        if not (tiles == IGNORED).any():
            num_whole += 1
            assert sorted(spell(tiles)) == drawn
    assert num_whole > 3


@pytest.mark.parametrize("kind", [VIEW, TILED, CROPPED], ids=["view", "tiled", "cropped"])
def test_batches_are_the_same_whenever_they_are_made_and_no_page_comes_twice(processor, kind):
    pages = Pages(0, processor, [kind])
    for make in (pages.make_images, pages.make_conversations, pages.make_cells):
        batches = [make(number) for number in range(3)]
        again = make(1)
        assert batches[1].keys() == again.keys()
        assert all(torch.equal(batches[1][name], again[name]) for name in again)
        name = "pixel_values" if "pixel_values" in again else "input_ids"
        assert len({batch[name].numpy().tobytes() for batch in batches}) == 3
    images = pages.make_images(0)
    num_views = (1 + images["image_grids"].prod(dim=1)).sum()
    assert len(images["labels"]) == 64 * num_views
    assert ("fine_labels" in images) == (kind is not TILED)


def test_cells_of_the_decoder_are_those_of_its_visual_tokens_in_their_places(processor):
    pages, num_kept = Pages(3, processor, [TILED], max_text=100_000), 0
    for number in range(4):
        batch, drawn = pages.make_cells(number), list(pages.draw(number)[0])
        is_image, cells = batch["input_ids"] == processor.image_token_id, iter(batch["cells"])
        for page, row, positions in zip(drawn, is_image, batch["position_ids"]):
            labels = label_image(page.image.size, locate_characters(page), processor.image_processor)
            places = positions[row]
            for place in places.tolist():
                # The prompt before the image is as long for all pages.
                num_kept += 1
                assert torch.equal(next(cells), labels[place - PREFIX])
        answers = [batch["labels"][0][batch["labels"][0] != IGNORED]]
        text = processor.tokenizer.decode(answers[0], skip_special_tokens=True)
        assert text == "".join(sample.answer for sample in drawn[0].samples)
    assert num_kept > 100


PREFIX = len("<|im_start|>user\n") - len("<|im_start|>") + 1  # tokens: one, and a byte each


def test_scribbles_are_what_their_cells_hold(processor):
    pages, num_lines = Pages(0, processor, [VIEW], num_scribbles=12), []
    for number in (0, 11):
        batch = pages.make_cells(number)
        assert batch["noise"] == 0
        cells = batch["cells"].split((batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist())
        for labels, held in zip(batch["labels"], cells):
            text = processor.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True)
            assert "".join(text.split()) == spell(held)
            num_lines.append(text.count("\n") + 1)
    assert max(num_lines[:8]) == 1 < max(num_lines[8:]) <= MAX_LINES


def fit(network, batch, steps, learning_rate):
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=learning_rate), []
    for _ in range(steps):
        loss = network(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_decoder_learns_to_repeat_what_the_cells_hold():
    model, processor = make_small()
    batch = Pages(0, processor, [{"size": 56, "batch_size": 2}], max_text=150).make_cells(0)
    network = pretrain.DecoderPretraining(model, random_embedding(model)).train()
    network.begin_as_cells(processor.tokenizer)
    assert not any("vision" in name for name, _ in network.named_parameters())
    losses = fit(network, {**batch, "noise": torch.tensor(0.0)}, 120, 1e-2)
    assert losses[0] > 3
    assert losses[-1] < 0.5


def test_embedding_of_cells_is_fitted_to_what_a_model_makes_of_them(processor):
    """A model whose visual tokens are vectors of their cells, some further away than others."""
    model, _ = make_small()
    embedding, pages = random_embedding(model), Pages(0, processor, [VIEW, TILED], min_text_height=12)
    spread = torch.linspace(0, 0.02, embedding.table.shape[-1])
    embedding.common += 0.3

    class Model:
        config = model.config

        def get_image_features(self, cells, **images):
            vectors = embedding(cells)
            return SimpleNamespace(pooler_output=(vectors + spread * torch.randn_like(vectors)).split(64))

    def make_batch(number):
        images = pages.make_images(number)
        return {"labels": images["labels"], "cells": images["labels"]}

    fitted, cells = pretrain.CellEmbedding.fit(Model(), map(make_batch, range(60))), make_batch(99)["labels"]
    is_known = (cells != IGNORED).all(dim=-1)
    error = (fitted(cells) - embedding(cells))[is_known].square().mean()
    assert error < 0.05 * embedding(cells)[is_known].var()
    assert torch.corrcoef(torch.stack([fitted.spread, spread]))[0, 1] > 0.8


@pytest.mark.parametrize("fusion_type", ["cvfm", "none"])
def test_encoder_learns_the_characters_of_a_page(fusion_type):
    model, processor = make_small(fusion_type=fusion_type)
    processor.image_processor.do_high_res = fusion_type != "none"
    batch = Pages(0, processor, [{"size": 56, "is_tiled": False, "batch_size": 2}]).make_images(1)
    network = pretrain.EncoderPretraining(model, random_embedding(model)).train()
    assert not any("language_model" in name for name, _ in network.named_parameters())
    losses = fit(network, batch, 60, 5e-3)
    assert losses[-1] < 0.3 * losses[0]
    labels = batch["labels"]
    images = {name: value for name, value in batch.items() if "labels" not in name}
    with torch.no_grad():
        named = network.name(**images)
    assert (named == labels)[labels > 0].float().mean() > 0.5


class Regression(torch.nn.Linear):
    def forward(self, x):
        return {"loss": super().forward(x).square().mean()}


def test_interrupted_training_goes_on_with_the_batches_that_it_has_not_seen(tmp_path):
    def make_batch(number):
        if number == interrupted:
            raise KeyboardInterrupt
        drawn.append(number)
        return {"x": torch.tensor([[float(number), 1.0]])}

    settings, results = {"max_steps": 8, "save_steps": 2, "logging_steps": 1, "use_cpu": True}, {}
    for name, interruptions in {"whole": [None], "interrupted": [5, None]}.items():
        for interrupted in interruptions:
            torch.manual_seed(0)
            network, drawn = Regression(2, 1), []
            try:
                pretrain.train_network(network, make_batch, tmp_path / name, **settings)
            except KeyboardInterrupt:
                assert interrupted == 5
        results[name] = network.weight
    assert drawn == [4, 5, 6, 7]
    assert torch.equal(results["whole"], results["interrupted"])
    with pytest.raises(UserError, match="options of whole do not fit: .*max_stepz"):
        pretrain.train_network(network, make_batch, tmp_path / "whole", max_stepz=8)


def test_training_ends_in_time_with_a_learning_rate_of_nearly_nothing(tmp_path):
    def make_batch(number):
        time.sleep(0.05)
        return {"x": torch.tensor([[float(number), 1.0]])}

    settings = {"max_steps": 10_000, "max_seconds": 2, "logging_steps": 1, "use_cpu": True, "learning_rate": 0.1}
    pretrain.train_network(Regression(2, 1), make_batch, tmp_path / "timed", **settings)
    log = [entry for entry in json.loads((tmp_path / "timed" / pretrain.LOG).read_text()) if "loss" in entry]
    assert 5 < len(log) < 60
    assert max(entry["learning_rate"] for entry in log) > 0.05 > 0.01 > log[-1]["learning_rate"]
    assert log[-1]["waited_for_data"] > 0.5
