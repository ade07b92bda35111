# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/compare.py: recipes, equal starts, summaries, and the way from documents to tables."""

import itertools
import json
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from transformers import TrainingArguments

from fila import run_eval, train
from fila.common.arguments import UserError
from fila.fineprint import generate
from fila.fineprint.experiments import compare, pretrain
from fila.fineprint.pages import Options
from fila.training.data import DataArguments
from fila.training.finetuning import ModelArguments
from helpers import FUSION_TYPES, ROOT

RECIPE = ROOT / "fineprint" / "recipes" / "small.yaml"


@pytest.fixture(scope="module")
def recipe():
    return compare.read_recipe(RECIPE)


def test_strategies_start_from_the_same_networks(recipe, tmp_path):
    for fusion_type in FUSION_TYPES:
        compare.make_start(recipe, None, fusion_type, 1, tmp_path / fusion_type)
    compare.make_start(recipe, None, "cvfm", 2, tmp_path / "other")
    models = {folder.name: pretrain.load_fila(folder)[0] for folder in tmp_path.iterdir()}
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
    summary = compare.summarize_answers(pd.DataFrame(rows), edges=[10, 12])
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
        few = compare.summarize_answers(few, edges=[10, 12])
        assert few["none"]["lost"] is few["none"]["lost_differences"]["cvfm"] is None


STAGES = "stage1: {max_steps: 1}\nstage2: {max_steps: 1}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "unknown options \\['seed'\\]"),
        ("[", "cannot be read"),
        ("stage1: {max_steps: 1}", "max_steps in stage2"),
        ("stage1: {max_steps: 1}\nstage2: []", "max_steps in stage2"),
        ("data: 5\n" + STAGES, "data is 5; it must be a mapping"),
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
    with pytest.raises(UserError, match=message):
        compare.main([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["small", "comparison", "default"])
def test_recipes_are_read(name):
    recipe = compare.read_recipe(RECIPE.with_name(f"{name}.yaml"))
    Options(output_dir="", **recipe["data"])
    known = {field.name for part in (TrainingArguments, ModelArguments, DataArguments) for field in fields(part)}
    for _, _, options in compare.list_stages(recipe):
        Options(output_dir="", **recipe["data"] | options.get("data", {}))
        assert not options.keys() - known - {"data"}


def test_scripts_run_with_options_and_their_failure_is_reported(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(
        "import pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_text(' '.join(sys.argv[2:]))\n"
        "sys.exit('--fail' in sys.argv)\n"
    )
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    compare.run("script.py", tmp_path / "written", limit=3, kinds=["sign", "form"])
    assert (tmp_path / "written").read_text() == "--limit 3 --kinds sign form"
    with pytest.raises(UserError, match="script.py failed, see above"):
        compare.run("script.py", tmp_path / "written", fail=1)


def test_legs_of_stage_2_follow_each_other_on_documents_of_their_own(recipe, tmp_path, monkeypatch):
    legs = [{"max_steps": 3}, {"max_steps": 5, "data": {"seed": 1, "num_train": 7}}, {"max_steps": 2}]
    recipe = {**recipe, "pretraining": None, "alignment": None, "fusion_types": ["cvfm"], "stage2": legs, "seeds": [4]}
    calls = []

    def run(script, *arguments, **options):
        if script == "train.py":
            options = yaml.safe_load(arguments[0].read_text())
            trained = Path(options["output_dir"])
            trained.mkdir()
            (trained / "config.json").write_text("{}")
        calls.append((script, {key: value if key == "train_data" else str(value) for key, value in options.items()}))

    monkeypatch.setattr(compare, "run", run)
    monkeypatch.setattr(compare, "write_comparison", lambda output, recipe: None)
    compare.compare(recipe, tmp_path)
    drawn = [options for script, options in calls if script == "fineprint/generate.py"]
    trained = [options for script, options in calls if script == "train.py"]
    data, other = str(tmp_path / "data"), str(tmp_path / "data-stage2-leg2")
    assert [options["output_dir"] for options in drawn] == [data, other]
    assert drawn[1]["num_train"] == "7"
    assert drawn[1]["seed"] == "1"
    assert [options["train_data"] for options in trained] == [[data], [data], [other], [data]]
    assert [options["max_steps"] for options in trained] == [str(recipe["stage1"]["max_steps"]), "3", "5", "2"]
    assert [options["stage"] for options in trained] == ["1", "2", "2", "2"]
    assert [options["seed"] for options in trained] == ["4", "4", "5", "6"]
    for before, after in itertools.pairwise(trained):
        assert after["model_name_or_path"] == before["output_dir"]
    script, options = calls[-1]
    assert script == "run_eval.py"
    assert options["model_name_or_path"] == trained[-1]["output_dir"]
    assert options["data"] == data


class Scripts:
    """Runs the scripts in this process, which spares their start; the `stop`th is interrupted as it begins."""

    MAINS = {
        "fineprint/generate.py": generate.main,
        "fineprint/experiments/pretrain.py": pretrain.main,
        "train.py": train.main,
        "run_eval.py": run_eval.main,
    }

    def __init__(self, stop=None):
        self.stop, self.called = stop, []

    def run(self, command):
        script = str(Path(command[1]).relative_to(ROOT))
        self.called.append(script)
        if len(self.called) == self.stop:
            raise KeyboardInterrupt
        self.MAINS[script](command[2:])
        return SimpleNamespace(returncode=0)


@pytest.mark.slow
def test_comparison_goes_from_documents_to_tables_and_on_where_it_was(recipe, tmp_path, monkeypatch):
    short = {"max_steps": 2, "batch_size": 2, "logging_steps": 1}
    recipe = {
        **recipe,
        "fusion_types": ["none", "cvfm"],
        "data": {**recipe["data"], "num_train": 8, "num_test": 10},
        "pretraining": {part: options | short for part, options in recipe["pretraining"].items()},
        "alignment": recipe["alignment"] | short,
        "evaluation": recipe["evaluation"] | {"num_mistakes": 0},
    }

    def compare_with(scripts, recipe=recipe):
        monkeypatch.setattr(compare, "subprocess", scripts)
        compare.compare(recipe, tmp_path)
        return scripts.called

    first = Scripts(stop=5)
    with pytest.raises(KeyboardInterrupt):
        compare_with(first)
    assert not (tmp_path / "results.json").exists()
    start = ["fineprint/generate.py", "fineprint/experiments/pretrain.py"]
    strategy = ["fineprint/experiments/pretrain.py", "train.py", "train.py", "run_eval.py"]
    assert first.called == [*start, *strategy[:3]]
    assert compare_with(Scripts()) == [*strategy[2:], *strategy]
    assert compare_with(Scripts()) == []
    assert "| CVFM (FILA) |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for fusion_type in recipe["fusion_types"]:
        folder = tmp_path / f"{fusion_type}-seed0"
        assert results[fusion_type]["overall"][0] == results[fusion_type]["seeds"]["0"]
        # The alignment that ends with the lower loss is the one that training starts from.
        losses = json.loads((folder / "alignment" / "losses.json").read_text())
        assert list(losses) == ["0.001", "0.002"]
        for rate, loss in losses.items():
            log = json.loads((folder / "alignment" / rate / "log_history.json").read_text())
            assert loss == pytest.approx(np.mean([entry["loss"] for entry in log if "loss" in entry]))
            assert (folder / "alignment" / rate / "model").exists() == (rate != min(losses, key=losses.get))
        begun_with = yaml.safe_load((folder / "stage1.yaml").read_text())["model_name_or_path"]
        assert begun_with == str(folder / "alignment" / "model")
    random, vision, pretrained, start = (
        pretrain.load_fila(tmp_path / name)[0].state_dict()
        for name in ("random", "pretrained/vision/model", "pretrained/decoder/model", "cvfm-seed0/start")
    )
    assert any("vit." in name and not torch.equal(vision[name], pretrained[name]) for name in random)
    assert all(torch.equal(vision[name], pretrained[name]) for name in random if "convnext." in name)
    for part in ("vision_tower.vit.", "vision_tower.convnext.", "language_model."):
        assert any(part in name and not torch.equal(random[name], pretrained[name]) for name in random), part
    assert all(torch.equal(start[name], pretrained[name]) for name in start if ".fusion." not in name)
    with pytest.raises(UserError, match="begun with another recipe"):
        compare_with(Scripts(), {**recipe, "seeds": [5]})
