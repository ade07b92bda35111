# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py: options, recipes, preview."""

import PIL.Image
import pytest
from trainings import QUESTION, parse, run

from fila import train
from fila.common.arguments import UserError
from helpers import ROOT


def test_preview_shows_what_is_learnt(model_folder, documents, tmp_path, capsys):
    for stage in (1, 2):
        output = tmp_path / str(stage)
        assert run(model_folder, documents, output, "--preview", 2, "--stage", stage) == {}
        shown = capsys.readouterr().out
        assert f"{QUESTION}<|im_end|>\n<|im_start|>assistant\n[[letter<|im_end|>]]" in shown
        assert f"<image x {16 if stage == 1 else 48}>" in shown or "<image x 80>" in shown
        picture = PIL.Image.open(output / "preview" / "sample1-image0.png")
        assert (picture.size == (56, 56)) == (stage == 1)  # in stage 2 the canvas stands beside the global view
        assert not (output / "config.json").exists()


@pytest.mark.parametrize("name", ["stage1", "stage2", "tiny-stage1", "tiny-stage2"])
def test_preview_needs_no_accelerator(model_folder, documents, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    monkeypatch.setattr("fila.training.finetuning.has_fast_bfloat16", lambda device: False)
    options = ["--model_name_or_path", model_folder, "--train_data", documents, "--output_dir", tmp_path / "output"]
    train.main([ROOT / "recipes" / f"{name}.yaml", *options, "--preview", 1])
    shown = capsys.readouterr().out
    assert "--- sample 0" in shown
    note = "This CPU has no bfloat16 instructions: --bf16 is ignored, training is in float32."
    assert shown.count(note) == (0 if name.startswith("tiny") else 1)


def test_bf16_on_a_cpu_depends_on_its_instructions(monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    for is_fast in (False, True):
        monkeypatch.setattr("fila.training.finetuning.has_fast_bfloat16", lambda device, is_fast=is_fast: is_fast)
        _, _, training = parse("--bf16")
        assert (training.use_cpu, training.bf16) == (True, is_fast)


def test_recipes_are_read_and_overridden(tmp_path):
    for name in ("stage1", "stage2", "tiny-stage1", "tiny-stage2"):
        recipe = [
            str(ROOT / "recipes" / f"{name}.yaml"),
            "--model_name_or_path",
            "m",
            "--train_data",
            "a",
            "b",
            "--bf16",
        ]
        model, data, training = train.parse([*recipe, "false", "--output_dir", "o", "--use_cpu"])
        assert model.stage == int(name[-1])
        assert data.train_data == ["a", "b"]
        assert (training.remove_unused_columns, training.prediction_loss_only) == (False, True)
        if "tiny" not in name:
            assert training.learning_rate == {1: 1e-3, 2: 2e-5}[model.stage]
            assert training.get_warmup_steps(1000) == 30
    recipe = tmp_path / "r.yaml"
    recipe.write_text("model_name_or_path: m\ntrain_data:\n- {path: a.json, weight: 2}\n- b.json\n")
    assert train.parse([str(recipe)])[1].train_data == [{"path": "a.json", "weight": 2}, "b.json"]
    recipe.write_text("learning_rat: 1")
    with pytest.raises(UserError, match="learning_rat"):
        train.parse([str(recipe)])
    with pytest.raises(UserError, match="cannot be read"):
        train.parse([str(tmp_path / "no.yaml")])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stage", "3"], "--stage: invalid choice: .*1, 2"),
        (["--dtype", "int8"], "--dtype: invalid choice: .*bfloat16"),
        (["--stage", "1", "--lora_r", "4"], "stage 1 freezes"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(*arguments)


def test_what_is_needed_must_be_given():
    with pytest.raises(UserError, match="--model_name_or_path"):
        train.parse(["--train_data", "a"])
    with pytest.raises(UserError, match="--train_data"):
        train.parse(["--model_name_or_path", "a"])


def test_models_and_outputs_that_do_not_fit_are_refused(model_folder, documents, tmp_path):
    with pytest.raises(UserError, match="holds a model already"):
        run(model_folder, documents, model_folder)
    with pytest.raises(UserError, match="is no FILA that can be loaded"):
        run(tmp_path, documents, tmp_path / "output")
    with pytest.raises(UserError, match="--label_smoothing_factor 0.1 is not supported"):
        run(model_folder, documents, tmp_path / "output", "--label_smoothing_factor", "0.1")


def test_errors_end_the_program_with_a_sentence(capsys):
    with pytest.raises(SystemExit, match="^error: Not given: --model_name_or_path"):
        train.main([])
