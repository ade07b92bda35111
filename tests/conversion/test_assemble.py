# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The output: complete, verified or absent."""

import shutil
import subprocess
import sys

import pytest
import torch
from checkpoints import assemble, edit_json, load, write_clip
from safetensors.torch import load_file
from transformers import AutoProcessor, CLIPVisionModel, GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration
from fila.common.arguments import UserError
from fila.conversion import assemble as assembling
from fila.conversion.assemble import convert
from fila.convert_weights import parse_options
from helpers import ROOT, chat, random_image


def test_output_is_complete_and_verified(sources, capsys):
    output = assemble(sources)
    printed = capsys.readouterr().out
    assert "tensors: as in the sources, bit by bit\nvisual tokens: as of the CLIP, bit by bit" in printed
    assert "dropped: 4 tensors of the ViT: CLIP's text tower" in printed
    assert "dropped: 18 tensors of the ViT: after the feature layer" in printed
    names = {path.name for path in output.iterdir()}
    assert names == {
        *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
        *("processor_config.json", "tokenizer.json", "tokenizer_config.json"),
        *("configuration_fila.py", "image_processing_fila.py", "modeling_fila.py", "processing_fila.py"),
    }
    assert "untrained" in (output / "README.md").read_text()
    assert all(str(sources) not in file.read_text() for file in output.iterdir() if file.suffix != ".safetensors")
    assert [path for path in sources.iterdir() if path.name.startswith(".")] == []
    # It loads from elsewhere, by remote code alone, into the model that save_pretrained would write again.
    code = (
        "import sys; from transformers import AutoModel, AutoProcessor; name = sys.argv[1]\n"
        "model, info = AutoModel.from_pretrained(name, trust_remote_code=True, output_loading_info=True)\n"
        "assert not any(info[key] for key in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info\n"
        "processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)\n"
        "assert processor.image_token_id == model.config.image_token_id\n"
        "assert model.generation_config.suppress_tokens == [model.config.image_token_id]\n"
        "assert 'fila' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(output)], check=True, cwd=sources)


def test_geometry_follows_a_clip_of_224_pixels(sources):
    shutil.rmtree(sources / "clip")
    write_clip(sources / "clip", image_size=224)
    output = assemble(sources)
    config = load(output).config
    assert (config.grid_size, config.high_res_image_size) == (16, 512)
    processor = AutoProcessor.from_pretrained(output, trust_remote_code=True)
    inputs = processor(images=random_image(300, 500), text="<image>", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 5, 3, 224, 224)
    assert inputs["high_res_pixel_values"].shape == (1, 4, 3, 512, 512)
    assert (inputs["input_ids"] == config.image_token_id).sum() == 5 * 256


def test_model_and_processor_normalise_as_the_sources_do(sources):
    output = assemble(sources)
    config, processor = load(output).config, AutoProcessor.from_pretrained(output, trust_remote_code=True)
    assert (config.image_mean, config.image_std) == ([0.1] * 3, [0.2] * 3)
    assert (config.high_res_image_mean, config.high_res_image_std) == ([0.3] * 3, [0.4] * 3)
    inputs = processor.for_model(config).image_processor(random_image(30, 50), return_tensors="pt")
    assert inputs["pixel_values"].dtype == inputs["high_res_pixel_values"].dtype == torch.uint8


def test_max_shard_size_and_dtype_are_kept(sources):
    output = assemble(sources, "--max-shard-size", "100KB", "--dtype", "bfloat16")
    files = sorted(output.glob("*.safetensors"))
    assert len(files) > 2
    for file in files:
        tensors = load_file(file)
        assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
        size = sum(tensor.numel() * 2 for tensor in tensors.values())
        assert size <= 100_000 or len(tensors) == 1


@pytest.mark.parametrize("fusion_type", ["none", "cross_attention", "channel_concat", "cvfm"])
def test_every_fusion_starts_as_its_clip(sources, fusion_type, capsys):
    model = load(assemble(sources, "--fusion-type", fusion_type, "--fusion-align", "interpolate"))
    assert "visual tokens: as of the CLIP" in capsys.readouterr().out
    assert model.config.fusion_type == fusion_type
    assert (model.model.vision_tower.convnext is None) == (fusion_type == "none")


def test_random_weights_follow_the_rules_of_the_parts(tmp_path):
    names = {"vision": "none:tiny", "convnext": "none:tiny", "text": "none:tiny", "output": tmp_path / "output"}
    arguments = [item for name, value in names.items() for item in (f"--{name}", str(value))]
    output = convert(parse_options([*arguments, "--dtype", "float32"]))
    weights = load_file(output / "model.safetensors")
    torch.manual_seed(0)
    config = FilaConfig.from_pretrained(output)
    expected = FilaForConditionalGeneration(config).state_dict()
    # transformers passes over the rules of containers in custom code; here a ViT starts as CLIP's do.
    for name, tensor in CLIPVisionModel(config.vision_config).state_dict().items():
        name = name.removeprefix("vision_model.").removeprefix("encoder.").replace("pre_layrnorm", "pre_layernorm")
        if f"model.vision_tower.vit.{name}" in expected:
            expected[f"model.vision_tower.vit.{name}"] = tensor
    assert set(weights) == set(expected) - {"lm_head.weight"}
    for name, actual in weights.items():
        tensor = expected[name]
        assert actual.shape == tensor.shape
        spread = tensor.std(correction=0)
        if spread == 0:
            assert torch.equal(actual, tensor), name
        elif tensor.numel() >= 100:
            assert 0.6 < actual.std() / spread < 1.6, name
    for seed, is_same in ((0, True), (1, False)):
        again = load_file(
            convert(
                parse_options(
                    [*arguments, "--dtype", "float32", "--output", str(tmp_path / f"seed{seed}"), "--seed", str(seed)]
                )
            )
            / "model.safetensors"
        )
        name = "model.multi_modal_projector.linear_1.weight"
        assert torch.equal(again[name], weights[name]) == is_same
        assert all(torch.equal(again[name], weights[name]) for name in weights) == is_same


def test_presets_alone_make_a_model_that_trains(tmp_path):
    output = assemble(tmp_path, vision="none:tiny", convnext="none:tiny", text="none:tiny")
    model, processor = load(output, dtype="float32"), AutoProcessor.from_pretrained(output, trust_remote_code=True)
    inputs = processor.apply_chat_template(
        [chat(random_image(60, 90), "What?", answer="Four.")], tokenize=True, return_dict=True, return_tensors="pt"
    )
    model.set_training_stage(1)
    loss = model.train()(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert model.model.vision_tower.fusion[0].linear_2.weight.grad.abs().sum() > 0


def test_output_in_the_way_is_refused(sources):
    (sources / "output").mkdir()
    (sources / "output" / "notes.txt").write_text("mine")
    (sources / "file").write_text("mine")
    for output in (sources / "output", sources / "file", sources, ROOT):
        with pytest.raises(UserError, match=f"--output {output} exists already. Choose another one, or remove it"):
            assemble(sources, "--output", str(output))
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text", "output", "file"}
    assert [path.name for path in (sources / "output").iterdir()] == ["notes.txt"]
    (sources / "output" / "notes.txt").unlink()
    assemble(sources)  # into an empty folder
    assert (sources / "output" / "model.safetensors").exists()


def test_a_byte_that_is_written_wrong_is_found_and_nothing_is_kept(sources, monkeypatch):
    save_file = assembling.save_file

    def save_wrong(tensors, file, **kwargs):
        save_file(tensors, file, **kwargs)
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    monkeypatch.setattr(assembling, "save_file", save_wrong)
    with pytest.raises(UserError, match=r"differs from .*model\.safetensors"):
        assemble(sources)
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text"}


def test_swapped_tensors_are_found_and_nothing_is_kept(sources, monkeypatch):
    map_tensors, layer = assembling.map_tensors, "model.vision_tower.vit.layers.4.self_attn."
    names = [f"{layer}{name}_proj.weight" for name in "qk"]

    def swap(*args):
        used, dropped = map_tensors(*args)
        if names[0] in used:
            used[names[0]], used[names[1]] = used[names[1]], used[names[0]]
        return used, dropped

    monkeypatch.setattr(assembling, "map_tensors", swap)
    with pytest.raises(UserError, match="visual tokens differ from those of"):
        assemble(sources)
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text"}


def test_a_generation_config_that_transformers_would_not_save_is_fixed(sources):
    edit_json(sources / "text" / "generation_config.json", temperature=0.6, do_sample=False)
    generation_config = GenerationConfig.from_pretrained(assemble(sources))
    assert (generation_config.do_sample, generation_config.temperature) == (True, 0.6)


def test_push_to_hub_leaves_the_finished_folder_and_no_older_weights(sources, hub, capsys):
    hub.repos["org/fila"] = {
        ".gitattributes": b"",
        "model-00001-of-00002.safetensors": b"old",
        "onnx/model.onnx": b"kept",
    }
    output = assemble(sources, "--push-to-hub", "org/fila")
    assert hub.repos["org/fila"] == {
        **{path.name: path.read_bytes() for path in output.iterdir()},
        **{".gitattributes": b"", "onnx/model.onnx": b"kept"},
    }
    assert 'from_pretrained("org/fila", ' in (output / "README.md").read_text()
    assert "uploaded to https://huggingface.co/org/fila" in capsys.readouterr().out


def test_push_to_hub_with_a_wrong_token_stops_before_the_work(sources, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="org/fila cannot be made on the Hub.*hf auth login.*401"):
        assemble(sources, "--push-to-hub", "org/fila")
    assert not (sources / "output").exists() and not hub.repos
