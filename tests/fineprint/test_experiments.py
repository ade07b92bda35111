# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/train_checkpoint.py and compare.py: recipes, parts, and the way from pages to weights and tables."""

import json
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

from fila.common.arguments import UserError, parse_arguments
from fila.fineprint.experiments import compare, train_checkpoint
from helpers import ROOT

RECIPES = ROOT / "fineprint" / "recipes"


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_make_pages_and_a_model(path):
    (options,) = parse_arguments(compare.ComparisonArguments, "", [path, "--output_dir", "unused"])
    options.start = ROOT if options.start else None
    model, processor = train_checkpoint.make_model(options)
    assert model.num_parameters() < 28e6
    for part in train_checkpoint.PARTS:
        settings = dict(getattr(options, part))
        if settings:
            options.assets = None
            pages = train_checkpoint.make_pages(options, settings, processor, 0)
            assert len(list(pages.draw(0)[0])) > 0


@pytest.mark.parametrize(
    ("main", "text", "message"),
    [
        (compare.main, "seed_: 1", "unknown options: seed_"),
        (compare.main, "[", "cannot be read"),
        (compare.main, "fusion_types: [cvfn]", "cvfn"),
        (compare.main, "num_pages: 1", "num_pages is 1; it must be at least 2"),
        (train_checkpoint.main, "parts: [decodr]", "parts has 'decodr'; allowed are encoder"),
        (
            train_checkpoint.main,
            "start: /nowhere\nparts: [decoder]\ndecoder: {max_steps: 1, kinds: [{}]}",
            "start /nowhere is no FILA",
        ),
        (train_checkpoint.main, "decoder: {max_steps: 1}", "There are no kinds of pages in decoder"),
        (train_checkpoint.main, "encoder: {max_steps: 1, kinds: [{sise: 56}]}", "kinds of encoder do not fit: .*sise"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(tmp_path, main, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        main([str(tmp_path / "recipe.yaml"), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


@pytest.mark.slow
def test_parts_make_a_model_and_what_is_done_is_kept(tmp_path):
    output = tmp_path / "checkpoint"
    arguments = [RECIPES / "small.yaml", "--output_dir", output]
    for part in ("decoder", "encoder"):  # in any order, or at once
        train_checkpoint.main([*arguments, "--parts", part])
    before = {path: path.stat().st_mtime_ns for path in output.rglob("weights.safetensors")}
    train_checkpoint.main(arguments)
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    parts = {part: load_file(output / part / "weights.safetensors") for part in train_checkpoint.PARTS}
    assert not parts["encoder"].keys() & parts["decoder"].keys()
    for name, value in {**parts["encoder"], **parts["decoder"]}.items():
        is_fusion = ".fusion." in name or "multi_modal_projector" in name
        assert torch.equal(parts["stage1"][name], value) != is_fusion, name  # the only parts that stage 1 trains
    assert not all(torch.equal(parts["stage2"][name], value) for name, value in parts["stage1"].items())
    model = AutoModel.from_pretrained(output / "model", trust_remote_code=True)
    assert model.dtype == torch.bfloat16
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            assert torch.equal(value, parts["stage2"][name].to(torch.bfloat16))
    processor = AutoProcessor.from_pretrained(output / "model", trust_remote_code=True)
    assert processor.image_processor.size["height"] == model.config.vision_config.image_size == 56


@pytest.mark.slow
def test_two_processes_end_at_the_same_time_and_write_one_model(tmp_path):
    text = (
        (RECIPES / "small.yaml").read_text().replace("max_steps: 4", "max_steps: 1000, max_seconds: 3, use_cpu: true")
    )
    (tmp_path / "timed.yaml").write_text(text)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", train_checkpoint.__file__]
    arguments = [tmp_path / "timed.yaml", "--output_dir", tmp_path / "output", "--parts", "stage2"]
    subprocess.run([sys.executable, *launch, *arguments], check=True, timeout=600)
    model = AutoModel.from_pretrained(tmp_path / "output" / "model", trust_remote_code=True)
    weights = load_file(tmp_path / "output" / "stage2" / "weights.safetensors")
    assert all(torch.equal(model.state_dict()[name], value.to(torch.bfloat16)) for name, value in weights.items())


def test_summary_of_hand_made_words():
    rows = []
    for fusion_type, across in {"none": 0.25, "cvfm": 0.75}.items():
        for page, seed, number in ((p, s, n) for p in range(6) for s in (0, 1) for n in range(4)):
            names = {"fusion_type": fusion_type, "page": page, "seed": seed}
            rows.append({**names, "position": "inside", "read": True})
            rows.append({**names, "position": "across", "read": number < 4 * across})
    rows.append({"fusion_type": "none", "page": 99, "seed": 0, "position": "inside", "read": False})  # has no other
    summary = compare.summarize_words(pd.DataFrame(rows))
    none, cvfm = summary["none"], summary["cvfm"]
    assert (none["inside"][0], none["across"][0], none["drop"][0], none["lost"]) == (100, 25, 75, 75)
    assert (cvfm["inside"][0], cvfm["across"][0], cvfm["drop"][0], cvfm["lost"]) == (100, 75, 25, 25)
    assert cvfm["seed 0"] == cvfm["seed 1"] == 87.5


@pytest.mark.slow
def test_comparison_goes_from_pages_to_tables_and_on_where_it_was(tmp_path):
    arguments = [RECIPES / "small.yaml", "--output_dir", tmp_path, "--num_pages", "12", "--fusion_types"]
    compare.main([*arguments, "none", "convnext"])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("weights.safetensors")}
    compare.main([*arguments, *compare.NAMES])
    assert len(before) == 2
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    results = json.loads((tmp_path / "comparison.json").read_text())["results"]
    assert list(results) == list(compare.NAMES)
    assert "| CVFM (FILA) |" in (tmp_path / "comparison.md").read_text()
    assert (tmp_path / "comparison.png").stat().st_size > 10_000


def test_nothing_of_the_vit_reaches_the_projector_of_the_convnext_alone():
    (options,) = parse_arguments(compare.ComparisonArguments, "", [RECIPES / "small.yaml", "--output_dir", "unused"])
    network, processor = compare.make_encoder(options, "convnext", 0)
    images = train_checkpoint.make_pages(options, dict(options.encoder), processor, 0).make_images(0)
    del images["labels"], images["fine_labels"]
    with torch.no_grad():  # the fusion begins with zeros for the ConvNeXt
        for parameter in network.vision_tower.fusion.parameters():
            parameter += torch.randn_like(parameter)

    def encode(**changes):
        with torch.no_grad():
            return torch.cat(network.model[0].get_image_features(**{**images, **changes}).pooler_output)

    assert torch.equal(encode(pixel_values=images["pixel_values"].flip(-1)), encode())
    assert not torch.allclose(encode(high_res_pixel_values=images["high_res_pixel_values"].flip(-1)), encode())
