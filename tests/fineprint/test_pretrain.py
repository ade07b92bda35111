# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/pretrain.py and cells.py: labels, batches, and what the networks learn from them."""

from unittest import mock

import numpy as np
import pytest
import torch

from fila.common.arguments import UserError, parse_arguments
from fila.common.layout import CANVASES
from fila.fineprint.experiments import compare, pretrain
from fila.fineprint.experiments.cells import (
    CHARACTERS,
    IGNORED,
    MAX_LINES,
    SLOTS,
    label_cells,
    label_tokens,
    lay_out_document,
    lay_out_text,
    make_cell_batch,
    make_page_batch,
)
from fila.fineprint.pages import Options, corners, lay_out
from fila.fineprint.sources import FONTS, split_of
from helpers import FUSION_TYPES, ROOT


@pytest.fixture(scope="module")
def recipe():
    arguments = [ROOT / "fineprint" / "recipes" / "small.yaml", "--output_dir", "unused"]
    return parse_arguments(compare.ComparisonArguments, "", arguments)[0]


def make_default(recipe=None):
    """Random networks of the default checkpoint's config, or with the changes of a recipe."""
    data = Options(tile_size=112) if recipe is None else recipe.documents["stage1"]
    return compare.make_random(data, {} if recipe is None else recipe.model, seed=0)


@pytest.mark.parametrize("kind", ["form", "table", "sign"])
def test_cells_hold_the_characters_that_are_drawn_in_them(kind):
    options = Options(tile_size=112, kinds=[kind], seed=3)
    letters = "".join(sorted(CHARACTERS, key=CHARACTERS.get))
    num_found = 0
    for index in range(6):
        page = lay_out(options, "train", index)
        labels = label_cells(page, 14)
        assert labels.shape == (page.placement.grid[0] * 8, page.placement.grid[1] * 8, SLOTS)
        found = sorted(letters[label - 1] for label in labels[labels > 0])
        drawn = sorted("".join(run.text for run in page.runs).replace(" ", ""))
        if (labels == IGNORED).any():
            assert len(found) < len(drawn)
        else:
            assert found == drawn
        for run in page.asked:
            # The cells under a run's ink spell it, as far as nothing is left out.
            quad = page.placement.to_canvas(page.placement.to_image(corners(run.ink)))
            low, high = quad.min(axis=0) // 14, quad.max(axis=0) // 14
            cells = labels[int(low[1]) : int(high[1]) + 1, int(low[0]) : int(high[0]) + 1]
            characters = [letters[label - 1] for label in cells.flatten() if label > 0]
            if not (cells == IGNORED).any():
                assert not set(run.text.replace(" ", "")) - set(characters)
                num_found += 1
    assert num_found > 3


def test_global_view_holds_what_the_canvas_holds():
    options = Options(tile_size=112, kinds=["sign"], min_text_height=14, seed=3)
    page = lay_out(options, "train", 2)
    cells = label_cells(page, 7, "global")
    assert cells.shape == (16, 16, SLOTS)
    assert (cells >= 0).all()
    assert sorted(cells[cells > 0]) == sorted(CHARACTERS[c] for run in page.runs for c in run.text if c != " ")
    # The sides of the content box on the canvas are those of the whole global view.
    (row, column), placement = np.argwhere(cells[..., 0] > 0)[0], page.placement
    box = (placement.content_height, placement.content_width)
    place = [
        (index + 0.5) / 16 * side + offset
        for index, side, offset in zip((row, column), box, (placement.top, placement.left))
    ]
    canvas = label_cells(page, 7)
    rows, columns = (slice(max(0, int(value / 7) - 2), int(value / 7) + 3) for value in place)
    assert cells[row, column, 0] in canvas[rows, columns]


def test_text_pages_hold_more_characters_of_their_split_alone():
    options = Options(tile_size=112)
    numbers = {"text": 0, "documents": 0}
    for number in range(15):
        grid = CANVASES[number % 5]
        page = lay_out_text(options, "validation", grid, number)
        assert page.placement.grid == grid
        for run in page.runs:
            assert split_of(run.text) == "validation"
            assert run.font in {font for fonts in FONTS["validation"].values() for font in fonts}
            assert run.ink[2] <= page.placement.image_size[1]
        numbers["text"] += sum(len(run.text) for run in page.runs)
        document = lay_out(options, "validation", number)
        numbers["documents"] += sum(len(run.text) for run in document.runs)
    assert numbers["text"] > 1.5 * numbers["documents"]


def test_batches_have_one_canvas_and_no_page_twice():
    options = Options(tile_size=112, kinds=["sign", "chart"])
    batches = [make_page_batch(options, "train", 4, number) for number in range(10)]
    grids = [batch["image_grids"] for batch in batches]
    assert all((grid == grid[0]).all() for grid in grids)
    assert len({tuple(grid[0].tolist()) for grid in grids}) == 5
    pages = torch.cat([batch["pixel_values"][:, 0].flatten(1) for batch in batches])
    assert len({page.numpy().tobytes() for page in pages}) == 40
    for batch in batches:
        (rows, columns), labels, fine_labels = batch["image_grids"][0].tolist(), batch["labels"], batch["fine_labels"]
        assert labels.shape[:3] == (4, rows * 8, columns * 8)
        assert fine_labels.shape[:3] == (4, rows * 16, columns * 16)
        if not (labels == IGNORED).any():
            assert labels[labels > 0].bincount().tolist() == fine_labels[fine_labels > 0].bincount().tolist()
    assert torch.equal(make_page_batch(options, "train", 4, 7)["pixel_values"], batches[7]["pixel_values"])


def test_cells_of_the_decoder_are_those_of_its_visual_tokens():
    options = Options(tile_size=112, kinds=["form", "sign"])
    processor = make_default()[1]
    num_low_res = num_empty = 0
    for number in range(20):
        batch = make_cell_batch(options, "train", 3, number, processor)
        pages = [lay_out_document(options, "train", 3, number, place) for place in range(3)]
        (rows, columns), is_image = pages[0].placement.grid, batch["input_ids"] == processor.image_token_id
        num_tokens = int(is_image[0].sum())
        assert (is_image.sum(dim=1) == num_tokens).all()
        views = batch["cells"].view(3, -1, 8, 8, SLOTS)
        assert views.shape[1] * 64 == num_tokens
        answers = batch["labels"][0][batch["labels"][0] != IGNORED]
        text = processor.tokenizer.decode(answers, skip_special_tokens=True)
        assert text == "".join(run.text for run in pages[0].asked) + pages[0].text
        expected = torch.from_numpy(label_cells(pages[0], 14, "global")).clamp(min=0)
        if num_tokens == 64:
            num_low_res += 1
            assert torch.equal(views[0, 0], expected)
            continue
        num_empty += int((views[:, 0] == 0).all())
        tiles = torch.from_numpy(label_cells(pages[0], 14)).clamp(min=0)
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            assert torch.equal(views[0, 1 + index], tiles[8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
    assert 0 < num_low_res < 15
    assert num_empty < 15


def test_decoder_learns_to_repeat_what_the_cells_hold(recipe):
    torch.manual_seed(0)
    options = recipe.documents["stage1"]
    model, processor = make_default(recipe)
    batch = make_cell_batch(options, "train", 2, 0, processor)
    network = pretrain.CellReading(model, pretrain.CellEmbedding(processor.tokenizer, 32)).train()
    assert not any("vision" in name for name, _ in network.named_parameters())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(100):
        loss = network(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 4
    assert losses[-1] < 0.5


@pytest.mark.slow
def test_vision_learns_the_characters_of_a_page(recipe):
    torch.manual_seed(0)
    options = recipe.documents["stage1"]
    batch = make_page_batch(options, "train", 2, 2)
    network = pretrain.CharacterPretraining(make_default(recipe)[0]).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(150):
        loss = network(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] > 10  # of three heads that guess among a hundred characters
    assert losses[-1] < 1


def test_scribbles_are_what_their_cells_hold():
    options = Options(tile_size=112)
    processor = make_default()[1]
    letters = "".join(sorted(CHARACTERS, key=CHARACTERS.get))
    num_lines = []
    for number in (0, 11):
        batch = make_cell_batch(options, "train", 4, number, processor, num_scribbles=12)
        assert batch["is_scribbled"]
        assert len(batch["input_ids"]) == 8
        for labels, cells in zip(batch["labels"], batch["cells"].view(8, -1)):
            text = processor.tokenizer.decode(labels[labels != IGNORED], skip_special_tokens=True)
            assert "".join(text.split()) == "".join(letters[label - 1] for label in cells[cells > 0])
            num_lines.append(text.count("\n") + 1)
    assert max(num_lines[:8]) == 1 < max(num_lines[8:]) <= MAX_LINES
    assert not make_cell_batch(options, "train", 4, 12, processor, num_scribbles=12)["is_scribbled"]


def test_alignment_asks_of_visual_tokens_what_the_decoder_has_read():
    """A vision that gives just what the decoder's pretraining gives, in the order of its tokens, has no error."""
    options = Options(tile_size=112, kinds=["sign"])
    model, processor = make_default()
    cell_embedding = pretrain.CellEmbedding(processor.tokenizer, 192)
    batch = make_page_batch(options, "train", 1, 2)  # 2 x 2 tiles
    rng = mock.Mock(random=lambda: 1.0)
    cells = label_tokens(lay_out_document(options, "train", 1, 2, 0), 14, True, rng)
    features = cell_embedding(cells, model.get_input_embeddings())
    network = pretrain.CellAlignment(model, cell_embedding)
    with mock.patch.object(model, "get_image_features") as get_image_features:
        for change, error in ((features, 0), (0 * features, 1), (features.flip(0), 2)):
            get_image_features.return_value.pooler_output = (change,)
            assert network(**batch)["loss"].item() == pytest.approx(error, abs=1e-4 + 1.9 * (error == 2))
    trained = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert trained == {"vision_tower", "multi_modal_projector"}


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_projector_is_standardized_for_what_the_vision_gives(recipe, fusion_type, tmp_path):
    compare.make_start(*make_default(recipe), fusion_type, 0, tmp_path / "start")
    model = pretrain.load_fila(tmp_path / "start")[0]
    model.model.vision_tower.vit.layers[-1].mlp.fc2.bias.data += 30  # as in a ViT that was pretrained in a short time
    options = recipe.documents["stage1"]
    batch = make_page_batch(options, "train", 2, 2)
    outputs = []
    model.model.multi_modal_projector.linear_1.register_forward_hook(lambda *args: outputs.append(args[2]))
    pretrain.standardize_projector(model, batch)
    images = {name: batch[name] for name in ("pixel_values", "high_res_pixel_values", "image_sizes", "image_grids")}
    if fusion_type == "none":
        images.pop("high_res_pixel_values")
    with torch.no_grad():
        model.get_image_features(**images)
    assert outputs[-1].flatten(0, -2).mean(0).abs().max() < 1e-2
    assert 0.5 < outputs[-1].std() < 2


def test_interrupted_training_goes_on_with_the_batches_that_it_has_not_seen(tmp_path):
    class Regression(torch.nn.Linear):
        def forward(self, x):
            return {"loss": super().forward(x).square().mean()}

    def make_batch(number):
        if number == interrupted:
            raise KeyboardInterrupt
        drawn.append(number)
        return {"x": torch.tensor([[float(number), 1.0]])}

    settings = {"max_steps": 8, "save_steps": 2, "logging_steps": 1, "use_cpu": True}
    results = {}
    for name, interruptions in {"whole": [None], "interrupted": [5, None]}.items():
        for interrupted in interruptions:
            torch.manual_seed(0)
            network, drawn = Regression(2, 1), []
            try:
                log = pretrain.train_network(network, make_batch, tmp_path / name, settings)
            except KeyboardInterrupt:
                assert interrupted == 5
        results[name] = network.weight, [entry["loss"] for entry in log if "loss" in entry]
    assert drawn == [4, 5, 6, 7]
    assert torch.equal(results["whole"][0], results["interrupted"][0])
    assert results["whole"][1] == results["interrupted"][1]
    with pytest.raises(UserError, match="options of whole do not fit: .*max_stepz"):
        pretrain.train_network(network, make_batch, tmp_path / "whole", {"max_stepz": 8})
