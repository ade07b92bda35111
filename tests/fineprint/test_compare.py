# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/fineprint/pretrain.py and compare.py: labels, equal starts, summaries, and the way from end to end."""

import importlib
import itertools
import json
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import TrainingArguments

from fila.train import DataArguments, ModelArguments
from helpers import FUSION_TYPES, ROOT

if (folder := str(ROOT / "benchmarks" / "fineprint")) not in sys.path:
    sys.path.append(folder)
compare, make_fineprint, pretrain = map(importlib.import_module, ("compare", "make_fineprint", "pretrain"))
RECIPE = ROOT / "recipes" / "fineprint" / "small.yaml"


@pytest.fixture(scope="module")
def recipe():
    return compare.read_recipe(RECIPE)


# Pretraining


@pytest.mark.parametrize("kind", ["form", "table", "sign"])
def test_cells_hold_the_characters_that_are_drawn_in_them(kind):
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=[kind], seed=3)
    letters = "".join(sorted(pretrain.CHARACTERS, key=pretrain.CHARACTERS.get))
    num_found = 0
    for index in range(6):
        page = make_fineprint.lay_out(options, "train", index)
        labels = pretrain.label_cells(page, 14)
        assert labels.shape == (page.placement.grid[0] * 8, page.placement.grid[1] * 8, pretrain.SLOTS)
        found = sorted(letters[label - 1] for label in labels[labels > 0])
        drawn = sorted("".join(run.text for run in page.runs).replace(" ", ""))
        if (labels == pretrain.IGNORED).any():
            assert len(found) < len(drawn)
        else:
            assert found == drawn
        for run in page.asked:
            # The cells under a run's ink spell it, as far as nothing is left out.
            quad = page.placement.to_canvas(page.placement.to_image(make_fineprint.corners(run.ink)))
            low, high = quad.min(axis=0) // 14, quad.max(axis=0) // 14
            cells = labels[int(low[1]) : int(high[1]) + 1, int(low[0]) : int(high[0]) + 1]
            characters = [letters[label - 1] for label in cells.flatten() if label > 0]
            if not (cells == pretrain.IGNORED).any():
                assert not set(run.text.replace(" ", "")) - set(characters)
                num_found += 1
    assert num_found > 3


def test_global_view_holds_what_the_canvas_holds():
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=["sign"], min_text_height=14, seed=3)
    page = make_fineprint.lay_out(options, "train", 2)
    cells = pretrain.label_cells(page, 7, "global")
    assert cells.shape == (16, 16, pretrain.SLOTS)
    assert (cells >= 0).all()
    assert sorted(cells[cells > 0]) == sorted(pretrain.CHARACTERS[c] for run in page.runs for c in run.text if c != " ")
    # The sides of the content box on the canvas are those of the whole global view.
    (row, column), placement = np.argwhere(cells[..., 0] > 0)[0], page.placement
    box = (placement.content_height, placement.content_width)
    place = [
        (index + 0.5) / 16 * side + offset
        for index, side, offset in zip((row, column), box, (placement.top, placement.left))
    ]
    canvas = pretrain.label_cells(page, 7)
    rows, columns = (slice(max(0, int(value / 7) - 2), int(value / 7) + 3) for value in place)
    assert cells[row, column, 0] in canvas[rows, columns]


def test_text_pages_hold_more_characters_of_their_split_alone():
    options = make_fineprint.Options(output_dir="", tile_size=112)
    numbers = {"text": 0, "documents": 0}
    for number in range(15):
        grid = make_fineprint.GRIDS[number % 5]
        page = pretrain.lay_out_text(options, "validation", grid, number)
        assert page.placement.grid == grid
        for run in page.runs:
            assert pretrain.split_of(run.text) == "validation"
            assert run.font in {font for fonts in pretrain.FONTS["validation"].values() for font in fonts}
            assert run.ink[2] <= page.placement.image_size[1]
        numbers["text"] += sum(len(run.text) for run in page.runs)
        document = make_fineprint.lay_out(options, "validation", number)
        numbers["documents"] += sum(len(run.text) for run in document.runs)
    assert numbers["text"] > 1.5 * numbers["documents"]


def test_batches_have_one_canvas_and_no_page_twice():
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=["sign", "chart"])
    batches = list(pretrain.PageBatches(options, "train", batch_size=4, count=10))
    grids = [batch["image_grids"] for batch in batches]
    assert all((grid == grid[0]).all() for grid in grids)
    assert len({tuple(grid[0].tolist()) for grid in grids}) == 5
    pages = torch.cat([batch["pixel_values"][:, 0].flatten(1) for batch in batches])
    assert len({page.numpy().tobytes() for page in pages}) == 40
    for batch in batches:
        (rows, columns), labels, fine_labels = batch["image_grids"][0].tolist(), batch["labels"], batch["fine_labels"]
        assert labels.shape[:3] == (4, rows * 8, columns * 8)
        assert fine_labels.shape[:3] == (4, rows * 16, columns * 16)
        if not (labels == pretrain.IGNORED).any():
            assert labels[labels > 0].bincount().tolist() == fine_labels[fine_labels > 0].bincount().tolist()
    (later,) = pretrain.PageBatches(options, "train", batch_size=4, first=7, count=1)
    assert torch.equal(later["pixel_values"], batches[7]["pixel_values"])


def test_cells_of_the_decoder_are_those_of_its_visual_tokens():
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=["form", "sign"])
    processor = compare.make_random({"data": {"tile_size": 112}, "model": {}}, seed=0)[1]
    batches = pretrain.CellBatches(options, "train", batch_size=3, processor=processor, count=20)
    num_low_res = num_empty = 0
    for number, batch in enumerate(batches):
        pages = [batches.lay_out(number, place) for place in range(3)]
        (rows, columns), is_image = pages[0].placement.grid, batch["input_ids"] == processor.image_token_id
        num_tokens = int(is_image[0].sum())
        assert (is_image.sum(dim=1) == num_tokens).all()
        views = batch["cells"].view(3, -1, 8, 8, pretrain.SLOTS)
        assert views.shape[1] * 64 == num_tokens
        answers = batch["labels"][0][batch["labels"][0] != pretrain.IGNORED]
        text = processor.tokenizer.decode(answers, skip_special_tokens=True)
        assert text == "".join(run.text for run in pages[0].asked) + pages[0].text
        expected = torch.from_numpy(pretrain.label_cells(pages[0], 14, "global")).clamp(min=0)
        if num_tokens == 64:
            num_low_res += 1
            assert torch.equal(views[0, 0], expected)
            continue
        num_empty += int((views[:, 0] == 0).all())
        tiles = torch.from_numpy(pretrain.label_cells(pages[0], 14)).clamp(min=0)
        for index in range(rows * columns):
            row, column = divmod(index, columns)
            assert torch.equal(views[0, 1 + index], tiles[8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
    assert 0 < num_low_res < 15
    assert num_empty < 15


def test_decoder_learns_to_repeat_what_the_cells_hold(recipe):
    torch.manual_seed(0)
    options = make_fineprint.Options(output_dir="", **recipe["data"])
    model, processor = compare.make_random(recipe, seed=0)
    batch = pretrain.CellBatches(options, "train", batch_size=2, processor=processor).make_batch(0)
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


def test_vision_learns_the_characters_of_a_page(recipe):
    torch.manual_seed(0)
    options = make_fineprint.Options(output_dir="", **recipe["data"])
    batch = pretrain.PageBatches(options, "train", batch_size=2, first=2).make_batch(2)
    network = pretrain.CharacterPretraining(compare.make_random(recipe, seed=0)[0]).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    before = pretrain.measure_accuracies(network, [batch])
    for _ in range(150):
        loss = network.train()(**batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = pretrain.measure_accuracies(network, [batch])
    for name in ("vit", "convnext", "convnext_stage3"):
        assert before[name] < 0.2
        assert after[name] > 0.9


def test_scribbles_are_what_their_cells_hold():
    options = make_fineprint.Options(output_dir="", tile_size=112)
    processor = compare.make_random({"data": {"tile_size": 112}, "model": {}}, seed=0)[1]
    letters = "".join(sorted(pretrain.CHARACTERS, key=pretrain.CHARACTERS.get))
    batches = pretrain.CellBatches(options, "train", batch_size=4, processor=processor, num_scribbles=12)
    num_lines = []
    for number in (0, 11):
        batch = batches.make_batch(number)
        assert batch["is_scribbled"]
        assert len(batch["input_ids"]) == 8
        for labels, cells in zip(batch["labels"], batch["cells"].view(8, -1)):
            text = processor.tokenizer.decode(labels[labels != pretrain.IGNORED], skip_special_tokens=True)
            assert "".join(text.split()) == "".join(letters[label - 1] for label in cells[cells > 0])
            num_lines.append(text.count("\n") + 1)
    assert max(num_lines[:8]) == 1 < max(num_lines[8:]) <= pretrain.MAX_LINES
    assert not batches.make_batch(12)["is_scribbled"]


def test_alignment_asks_of_visual_tokens_what_the_decoder_has_read():
    """A vision that gives just what the decoder's pretraining gives, in the order of its tokens, has no error."""
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=["sign"])
    model, processor = compare.make_random({"data": {"tile_size": 112}, "model": {}}, seed=0)
    cell_embedding = pretrain.CellEmbedding(processor.tokenizer, 192)
    batches = pretrain.PageBatches(options, "train", batch_size=1)
    batch = batches.make_batch(2)  # 2 x 2 tiles
    rng = mock.Mock(random=lambda: 1.0)
    cells = torch.from_numpy(pretrain.label_tokens(batches.lay_out(2, 0), 14, True, rng))
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
    compare.write_start(tmp_path / "start", recipe, None, fusion_type, 0)
    model = compare.load_model(tmp_path / "start")
    model.model.vision_tower.vit.layers[-1].mlp.fc2.bias.data += 30  # as in a ViT that was pretrained in a short time
    options = make_fineprint.Options(output_dir="", **recipe["data"])
    batch = pretrain.PageBatches(options, "train", batch_size=2).make_batch(2)
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


# Comparison


def test_strategies_start_from_the_same_networks(recipe, tmp_path):
    for fusion_type in FUSION_TYPES:
        compare.write_start(tmp_path / fusion_type, recipe, None, fusion_type, 1)
    compare.write_start(tmp_path / "other", recipe, None, "cvfm", 2)
    models = {folder.name: compare.load_model(folder) for folder in tmp_path.iterdir()}
    expected = models["cvfm"].state_dict()
    for fusion_type in FUSION_TYPES:
        state = models[fusion_type].state_dict()
        assert models[fusion_type].config.fusion_type == fusion_type
        shared = {name for name in state if ".fusion." not in name}
        assert all(torch.equal(state[name], expected[name]) for name in shared)
        assert any(".fusion." in name for name in state) is (fusion_type != "none")
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(models["other"].state_dict()[name], expected[name])


def test_summary_of_hand_made_answers():
    rows = []
    for fusion_type, answers in {"none": [1, 0, 0, 0], "cvfm": [1, 1, 0, 1]}.items():
        for seed in (0, 1):
            for row, em in enumerate(answers * 10):
                position, place = ("inside", "across")[row % 2], row % 4
                em = em if seed == 0 else answers[0] * (place < 2)
                fields = {"row": row, "em": em, "position": position, "text_height": 8.0 + place * 2, "kind": "sign"}
                rows.append({"fusion_type": fusion_type, "seed": seed, "anls": (1 + em) / 2, **fields})
    summary = compare.summarize(pd.DataFrame(rows), edges=[10, 12])
    assert summary["none"]["seeds"] == {"0": 25, "1": 50}
    assert summary["cvfm"]["seeds"] == {"0": 75, "1": 50}
    assert summary["none"]["overall"][0] == 37.5
    assert summary["cvfm"]["inside"][0] == 50
    assert summary["cvfm"]["across"][0] == 75
    assert summary["cvfm"]["differences"].keys() == {"none"}
    mean, low, high = summary["cvfm"]["differences"]["none"]
    assert low <= mean == 25 <= high
    assert summary["none"]["differences"]["cvfm"] == pytest.approx([-mean, -high, -low])
    mean, low, high = summary["none"]["lost"]  # 50 % inside, 25 % across
    assert low <= mean == 50 <= high
    assert summary["cvfm"]["lost"][0] == -50
    mean, low, high = summary["none"]["lost_differences"]["cvfm"]
    assert low < mean == 100 < high
    assert summary["cvfm"]["anls"][0] == pytest.approx(50 + summary["cvfm"]["overall"][0] / 2)
    assert {name: values[0] for name, values in summary["cvfm"]["text_height"].items()} == {
        "below 10": 100,
        "10 to 12": 100,
        "12 and above": 25,
    }
    for values in summary.values():
        mean, low, high = values["overall"]
        assert low < mean < high
    answers = pd.DataFrame(rows)
    for few in (answers.assign(em=0), answers.query("row < 4")):  # a resample may have nothing right inside
        few = compare.summarize(few, edges=[10, 12])
        assert few["none"]["lost"] is few["none"]["lost_differences"]["cvfm"] is None


STAGES = "stage1: {max_steps: 1}\nstage2: {max_steps: 1}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "with the keys"),
        ("[", "cannot be read"),
        ("stage1: {max_steps: 1}", "max_steps in stage2"),
        ("fusion_types: [cvfn]\n" + STAGES, "cvfn"),
        ("seeds: 3\n" + STAGES, "seeds is 3"),
        ("seeds: [true]\n" + STAGES, "seeds is \\[True\\]"),
        ("model: {vison_config: {}}\n" + STAGES, "vison_config"),
        ("stage1:\nstage2: {max_steps: 1}", "max_steps in stage1"),
        ("stage1: {max_steps: 1}\nstage2: [{max_steps: 1}, {seed: 1}]", "max_steps in stage2-leg2"),
        ("stage1: {max_steps: 1}\nstage2: [{max_steps: 1}, 5]", "max_steps in stage2-leg2"),
        ("stage1: {max_steps: 1}\nstage2: {max_steps: 1, data: 5}", "data of stage2 is 5"),
        ("stage1: {max_steps: 1}\nstage2: {max_steps: 1, data: }", "data of stage2 is None"),
        ("alignment: {max_steps: 1}\n" + STAGES, "needs `pretraining`"),
        *(
            (
                f"pretraining: {{vision: {{}}, decoder: {{}}}}\nalignment: {{learning_rate: {rates}}}\n{STAGES}",
                "list of numbers",
            )
            for rates in ("[1.0, x]", "[]", "", "true")
        ),
        ("pretraining: {vision: {}, decoder: {}}\nalignment: 5\n" + STAGES, "alignment is 5"),
        ("pretraining: {vit: {}}\n" + STAGES, "must have vision and decoder"),
        ("pretraining: 5\n" + STAGES, "pretraining is 5; it must have"),
        ("base: a\nmodel: {fusion_align: conv}\n" + STAGES, "has a base"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        compare.main([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["small", "comparison", "default"])
def test_recipes_are_read(name):
    recipe = compare.read_recipe(RECIPE.with_name(f"{name}.yaml"))
    make_fineprint.Options(output_dir="", **recipe["data"])
    known = {field.name for part in (TrainingArguments, ModelArguments, DataArguments) for field in fields(part)}
    for _, _, options in compare.list_legs(recipe):
        make_fineprint.Options(output_dir="", **recipe["data"] | options.get("data", {}))
        assert not options.keys() - known - {"data"}


class Runner(compare.Runner):
    """Runs scripts; the budget is used up when the `stop`th begins."""

    def __init__(self, stop=None):
        super().__init__()
        self.stop, self.scripts = stop, []

    def __call__(self, script, *arguments):
        self.scripts.append(script)
        if len(self.scripts) == self.stop:
            raise subprocess.TimeoutExpired(script, 0)
        super().__call__(script, *arguments)


def test_legs_of_stage_2_follow_each_other_on_documents_of_their_own(recipe, tmp_path):
    legs = [{"max_steps": 3}, {"max_steps": 5, "data": {"seed": 1, "num_train": 7}}, {"max_steps": 2}]
    recipe = {**recipe, "pretraining": None, "alignment": None, "fusion_types": ["cvfm"], "stage2": legs, "seeds": [4]}
    calls = []

    def run(script, *arguments):
        calls.append((script, [str(argument) for argument in arguments]))
        if script == "train.py":
            options = yaml.safe_load(arguments[0].read_text())
            trained = Path(options["output_dir"])
            trained.mkdir()
            (trained / "config.json").write_text("{}")
            calls[-1] = (script, options)

    with mock.patch.object(compare, "write_summary"):
        compare.compare(recipe, tmp_path, run)
    drawn = [arguments for script, arguments in calls if "make_fineprint" in script]
    trained = [options for script, options in calls if script == "train.py"]
    data, other = str(tmp_path / "data"), str(tmp_path / "data-stage2-leg2")
    assert [arguments[1] for arguments in drawn] == [data, other]
    assert drawn[1][drawn[1].index("--num_train") + 1] == "7"
    assert drawn[1][drawn[1].index("--seed") + 1] == "1"
    assert [options["train_data"] for options in trained] == [[data], [data], [other], [data]]
    assert [options["max_steps"] for options in trained] == [recipe["stage1"]["max_steps"], 3, 5, 2]
    assert [options["stage"] for options in trained] == [1, 2, 2, 2]
    assert [options["seed"] for options in trained] == [4, 4, 5, 6]
    for before, after in itertools.pairwise(trained):
        assert after["model_name_or_path"] == before["output_dir"]
    script, arguments = calls[-1]
    assert script == "evaluate.py"
    assert arguments[arguments.index("--model_name_or_path") + 1] == trained[-1]["output_dir"]
    assert arguments[arguments.index("--data") + 1] == data


@pytest.mark.slow
def test_comparison_goes_from_documents_to_tables_and_on_where_it_was(recipe, tmp_path):
    recipe = {**recipe, "fusion_types": ["none", "cvfm"], "data": {**recipe["data"], "num_train": 16, "num_test": 20}}
    first, second, third = Runner(stop=6), Runner(), Runner()
    with pytest.raises(subprocess.TimeoutExpired):
        compare.compare(recipe, tmp_path, first)
    assert not (tmp_path / "results.json").exists()
    compare.compare(recipe, tmp_path, second)
    start = ["benchmarks/fineprint/make_fineprint.py", "benchmarks/fineprint/pretrain.py"]
    strategy = [*["benchmarks/fineprint/pretrain.py"] * 2, "train.py", "train.py", "evaluate.py"]
    assert first.scripts == [*start, *strategy[:4]]
    assert second.scripts == [*strategy[3:], *strategy]
    compare.compare(recipe, tmp_path, third)
    assert third.scripts == []
    assert "| CVFM (FILA) |" in (tmp_path / "results.md").read_text()
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("results.png", "curves.png"))
    curves = json.loads((tmp_path / "results.json").read_text())["curves"]
    steps = [*(f"pretraining, {part}" for part in ("vision", "vit", "decoder")), "alignment-0.001", "alignment-0.002"]
    assert list(curves) == [*steps, "stage1", "stage2"]
    for fusion_type in recipe["fusion_types"]:
        folder = tmp_path / f"{fusion_type}-seed0"
        ends = {name: curves[name][f"{fusion_type}, seed 0"][-1][1] for name in steps[-2:]}
        begun_with = yaml.safe_load((folder / "stage1.yaml").read_text())["model_name_or_path"]
        assert begun_with == str(folder / min(ends, key=ends.get) / "model")
    pretrained = compare.load_model(tmp_path / "pretrained" / "decoder" / "model").state_dict()
    random = compare.load_model(tmp_path / "random").state_dict()
    vision = compare.load_model(tmp_path / "pretrained" / "vision" / "model").state_dict()
    assert any("vit." in name and not torch.equal(vision[name], pretrained[name]) for name in random)
    assert all(torch.equal(vision[name], pretrained[name]) for name in random if "convnext." in name)
    for part in ("vision_tower.vit.", "vision_tower.convnext.", "language_model."):
        assert any(part in name and not torch.equal(random[name], pretrained[name]) for name in random), part
    start = compare.load_model(tmp_path / "cvfm-seed0" / "start").state_dict()
    assert all(torch.equal(start[name], pretrained[name]) for name in start if ".fusion." not in name)
    with pytest.raises(compare.ComparisonError, match="begun with another recipe"):
        compare.compare({**recipe, "seeds": [5]}, tmp_path, third)


def test_budget_stops_a_script_with_all_that_it_started(tmp_path, monkeypatch):
    marks = [tmp_path / name for name in ("cleaned", "alive")]
    child = f"import time, pathlib; time.sleep(4); pathlib.Path({str(marks[1])!r}).touch()"
    (tmp_path / "script.py").write_text(
        "import pathlib, subprocess, sys\n"
        f"try:\n    subprocess.run([sys.executable, '-c', {child!r}])\n"
        f"finally:\n    pathlib.Path({str(marks[0])!r}).touch()\n"
    )
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        compare.Runner(budget=2)("script.py")
    time.sleep(3)
    assert [mark.exists() for mark in marks] == [True, False]
