# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/compare.py: recipes, equal starts, summaries, and the way from documents to tables."""

import itertools
import json
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from transformers import TrainingArguments

from fila.common.arguments import UserError, parse_arguments
from fila.fineprint.experiments import compare, pretrain, probe
from fila.fineprint.experiments.compare import ComparisonArguments
from fila.training.data import DataArguments
from fila.training.finetuning import ModelArguments
from helpers import FUSION_TYPES, ROOT

RECIPE = ROOT / "fineprint" / "recipes" / "small.yaml"


def read_recipe(output, path=RECIPE, **changes):
    values = yaml.safe_load(path.read_text()) | changes
    return parse_arguments(ComparisonArguments, "", [], output_dir=str(output), **values)[0]


def test_strategies_start_from_the_same_networks(tmp_path):
    options = read_recipe(tmp_path)
    for name, fusion_type, seed in [*((name, name, 1) for name in FUSION_TYPES), ("other", "cvfm", 2)]:
        start = compare.make_random(options.documents["stage1"], options.model, seed)
        compare.make_start(*start, fusion_type, seed, tmp_path / name)
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
    none, cvfm = summary["none"], summary["cvfm"]
    assert (none["seed 0"], none["seed 1"], cvfm["seed 0"], cvfm["seed 1"]) == (25, 50, 75, 50)
    assert none["exact match"][0] == 37.5
    assert cvfm["position inside"][0] == 50
    assert cvfm["position across"][0] == 75
    mean, low, high = cvfm["more than none"]
    assert low <= mean == 25 <= high
    assert none["more than cvfm"] == pytest.approx([-mean, -high, -low])
    assert cvfm["ANLS"][0] == pytest.approx(50 + cvfm["exact match"][0] / 2)
    assert cvfm["kind sign"] == cvfm["exact match"]
    heights = {"below 10": 100, "10 to 12": 100, "12 and above": 25}
    found = {key.removeprefix("text_height "): value[0] for key, value in cvfm.items() if key.startswith("text_height")}
    assert list(found.items()) == list(heights.items())  # in this order
    for values in summary.values():
        mean, low, high = values["exact match"]
        assert low < mean < high


STAGES = "stage1: {max_steps: 1}\nstage2: [{max_steps: 1}]"


@pytest.mark.parametrize("main", [compare.main, probe.main])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1", "unknown options: seed"),
        ("[", "cannot be read"),
        ("data: 5\n" + STAGES, "data is 5; it must be a mapping"),
        ("data: {tile_siz: 56}\n" + STAGES, "data of stage1 do not fit: .*tile_siz"),
        ("data: {kinds: [poem]}\n" + STAGES, "kinds=.*poem.* is not possible"),
        ("data: {num_train: many}\n" + STAGES, "num_train='many' is not possible"),
        ("data: {min_text_height: small}\n" + STAGES, "data of stage1 do not fit"),
        ("fusion_types: [cvfn]\n" + STAGES, "cvfn"),
        ("seeds: 3\n" + STAGES, "seeds is 3; it must be a list"),
        ("model: {vison_config: {}}\n" + STAGES, "vison_config"),
        ("stage2: [{max_steps: 1}]", "max_steps in stage1"),
        ("stage1: {max_steps: 1}", "stage2 is \\[\\]; it must be a list"),
        ("stage1: {max_steps: 1}\nstage2: {max_steps: 1}", "stage2 is {.*}; it must be a list"),
        ("stage1: {max_steps: 1}\nstage2: [{max_steps: 1}, {seed: 1}]", "max_steps in stage2-leg2"),
        ("stage1: {max_steps: 1}\nstage2: [{max_steps: 1}, 5]", "max_steps in stage2-leg2"),
        ("stage1: {max_steps: 1}\nstage2: [{max_steps: 1, data: 5}]", "data of stage2 do not fit"),
        (
            "stage1: {max_steps: 1}\nstage2: [{max_steps: 1, data: {num_tran: 5}}]",
            "data of stage2 do not fit: .*num_tran",
        ),
        ("alignment: {learning_rate: 1}\n" + STAGES, "An alignment needs .* the decoder in `pretraining`"),
        ("pretraining: {decoder: {}}\nalignment: {max_steps: 1}\n" + STAGES, "An alignment needs a learning_rate"),
        ("pretraining: {decoder: {}}\nalignment: 5\n" + STAGES, "alignment is 5"),
        ("pretraining: {vim: {}}\n" + STAGES, "pretraining has \\['vim'\\]; allowed are vision"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, text, message, main):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["small", "comparison", "default"])
def test_recipes_are_read(name):
    options = read_recipe("output", RECIPE.with_name(f"{name}.yaml"))
    known = {field.name for part in (TrainingArguments, ModelArguments, DataArguments) for field in fields(part)}
    for _, _, settings in options.stages:
        assert not settings.keys() - known - {"data"}
    for settings in (*options.pretraining.values(), options.alignment):
        assert not settings.keys() - known - {"batch_size", "num_scribbles"}


def test_legs_of_stage_2_follow_each_other_on_documents_of_their_own(tmp_path, monkeypatch):
    legs = [{"max_steps": 3}, {"max_steps": 5, "data": {"seed": 1, "num_train": 7}}, {"max_steps": 2}]
    changes = {"pretraining": {}, "alignment": {}, "fusion_types": ["cvfm"], "stage2": legs, "seeds": [4]}
    options = read_recipe(tmp_path, **changes)
    drawn, trained, evaluated = [], [], []

    def train(model_arguments, data_arguments, training_arguments):
        trained.append((model_arguments, data_arguments, training_arguments))
        folder = Path(training_arguments.output_dir)
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(compare.generate, "write", drawn.append)
    monkeypatch.setattr(compare.train, "train", train)
    monkeypatch.setattr(compare.run_eval, "evaluate", evaluated.append)
    monkeypatch.setattr(compare, "write_comparison", lambda options: None)
    compare.compare(options)
    data, other = str(tmp_path / "data"), str(tmp_path / "data-stage2-leg2")
    expected = {data: (options.data["num_train"], 0), other: (7, 1)}
    assert {part.output_dir: (part.num_train, part.seed) for part in drawn} == expected
    assert [part.train_data for _, part, _ in trained] == [[data], [data], [other], [data]]
    assert [part.max_steps for _, _, part in trained] == [options.stage1["max_steps"], 3, 5, 2]
    assert [part.stage for part, _, _ in trained] == [1, 2, 2, 2]
    assert [part.seed for _, _, part in trained] == [4, 4, 5, 6]
    for (_, _, before), (after, _, _) in itertools.pairwise(trained):
        assert after.model_name_or_path == before.output_dir
    (evaluation,) = evaluated
    assert (evaluation.model_name_or_path, evaluation.data) == (trained[-1][2].output_dir, data)


@pytest.mark.slow
def test_comparison_goes_from_documents_to_tables_and_on_where_it_was(tmp_path, monkeypatch):
    short = {"max_steps": 2, "batch_size": 2, "logging_steps": 1}
    recipe = read_recipe(tmp_path)
    changes = {
        "fusion_types": ["none", "cvfm"],
        "data": recipe.data | {"num_train": 8, "num_test": 10},
        "pretraining": {part: settings | short for part, settings in recipe.pretraining.items()},
        "alignment": recipe.alignment | short,
    }
    options, called = read_recipe(tmp_path, **changes), []
    evaluate = compare.run_eval.evaluate

    def stop(arguments):
        called.append(arguments.output_dir)
        if len(called) == 2:
            raise KeyboardInterrupt
        return evaluate(arguments)

    monkeypatch.setattr(compare.run_eval, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        compare.compare(options)
    assert not (tmp_path / "results.json").exists()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    for _ in range(2):
        compare.compare(options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == before
    folders = [tmp_path / f"{name}-seed0" for name in ("none", "cvfm")]
    assert called == [str(folder / "evaluation") for folder in (folders[0], folders[1], folders[1])]
    assert "| CVFM (FILA) |" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "results.png").stat().st_size > 10_000
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    for folder, fusion_type in zip(folders, changes["fusion_types"]):
        assert results[fusion_type]["exact match"][0] == results[fusion_type]["seed 0"]
        # The alignment that ends with the lower loss is the one that training starts from.
        ends = {}
        for rate in ("0.001", "0.002"):
            log = json.loads((folder / "alignment" / rate / "model" / "log_history.json").read_text())
            ends[rate] = sum(entry["loss"] for entry in log if "loss" in entry)
        begun_with = yaml.safe_load((folder / "stage1.yaml").read_text())["model_name_or_path"]
        assert begun_with == str(folder / "alignment" / min(ends, key=ends.get) / "model")
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
        compare.compare(read_recipe(tmp_path, **changes, seeds=[5]))
