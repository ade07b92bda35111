# Copyright 2026 The FILA authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""benchmarks/fineprint/pretrain.py and compare.py: labels, equal starts, summaries, and the way from end to end."""

import importlib
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

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


def test_batches_have_one_canvas_all_kinds_and_no_page_twice():
    options = make_fineprint.Options(output_dir="", tile_size=112, kinds=["sign", "chart"])
    batches = list(pretrain.PageBatches(options, "train", batch_size=4, count=10))
    grids = [batch["image_grids"] for batch in batches]
    assert all((grid == grid[0]).all() for grid in grids)
    assert len({tuple(grid[0].tolist()) for grid in grids}) == 5
    pages = torch.cat([batch["pixel_values"][:, 0].flatten(1) for batch in batches])
    assert len({page.numpy().tobytes() for page in pages}) == 40
    (later,) = pretrain.PageBatches(options, "train", batch_size=4, first=7, count=1)
    assert torch.equal(later["pixel_values"], batches[7]["pixel_values"])


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
    for name in ("vit", "convnext"):
        assert before[name] < 0.2
        assert after[name] > 0.9


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
            for row, em in enumerate(answers):
                position = ("inside", "across")[row % 2]
                em = em if seed == 0 else answers[0] * (row < 2)
                fields = {"row": row, "em": em, "position": position, "text_height": 8.0 + row * 2, "kind": "sign"}
                rows.append({"fusion_type": fusion_type, "seed": seed, **fields})
    summary = compare.summarize(pd.DataFrame(rows), edges=[10, 12])
    assert summary["none"]["seeds"] == {"0": 25, "1": 50}
    assert summary["cvfm"]["seeds"] == {"0": 75, "1": 50}
    assert summary["none"]["overall"][0] == 37.5
    assert summary["cvfm"]["inside"][0] == 50
    assert summary["cvfm"]["across"][0] == 75
    assert summary["cvfm"]["gain"][0] == 25
    assert {name: values[0] for name, values in summary["cvfm"]["text_height"].items()} == {
        "below 10": 100,
        "10 to 12": 100,
        "12 and above": 25,
    }
    for values in summary.values():
        mean, low, high = values["overall"]
        assert low < mean < high


def test_mean_with_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [compare.mean_with_interval(rng.random(80) < 0.4) for _ in range(60)]
    assert sum(low <= 40 <= high for _, low, high in intervals) >= 52


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "with the keys"),
        ("[", "cannot be read"),
        ("stage1: {max_steps: 1}", "max_steps in stage2"),
        ("fusion_types: [cvfn]\nstage1: {max_steps: 1}\nstage2: {max_steps: 1}", "cvfn"),
        ("base: a\nmodel: {fusion_align: conv}\nstage1: {max_steps: 1}\nstage2: {max_steps: 1}", "has a base"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        compare.main([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_comparison_goes_from_documents_to_tables_and_on_where_it_was(recipe, tmp_path, capfd):
    recipe = {**recipe, "fusion_types": ["none", "cvfm"], "data": {**recipe["data"], "num_train": 16, "num_test": 20}}
    path, output = tmp_path / "recipe.yaml", tmp_path / "output"
    path.write_text(yaml.safe_dump(recipe))
    compare.main([str(path), "--output_dir", str(output), "--budget", "25"])
    assert "The budget is used up" in capfd.readouterr().out
    assert not (output / "results.json").exists()
    compare.main([str(path), "--output_dir", str(output)])
    shown = capfd.readouterr().out
    assert "> train.py" in shown
    assert "| CVFM (FILA) |" in (output / "results.md").read_text()
    assert (output / "results.png").stat().st_size > 10_000
    pretrained = compare.load_model(output / "pretrained" / "model").state_dict()
    random = compare.load_model(output / "random").state_dict()
    for part in ("vision_tower.vit.", "vision_tower.convnext.", "language_model."):
        assert any(part in name and not torch.equal(random[name], pretrained[name]) for name in random), part
    start = compare.load_model(output / "cvfm-seed0" / "start").state_dict()
    assert all(torch.equal(start[name], pretrained[name]) for name in start if ".fusion." not in name)
    compare.main([str(path), "--output_dir", str(output)])
    assert "> " not in capfd.readouterr().out.replace("\n> evaluate.py", "\n!")  # nothing is run again
    path.write_text(yaml.safe_dump({**recipe, "seeds": [5]}))
    with pytest.raises(SystemExit, match="begun with another recipe"):
        compare.main([str(path), "--output_dir", str(output)])
