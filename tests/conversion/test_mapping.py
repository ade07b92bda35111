# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Every layout is taken bit by bit, and every tensor is accounted for."""

import json
import shutil

import pytest
import torch
from checkpoints import (
    assemble,
    assert_same,
    edit_json,
    edit_tensors,
    load,
    write_checkpoint,
    write_clip,
    write_convnext,
    write_text,
)
from transformers import (
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SiglipVisionConfig,
)

from fila import FilaImageProcessor
from fila.common.arguments import UserError


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("layout", ["full", "tower", "flat"])
def test_clip_layouts_are_taken_bit_by_bit(sources, layout, weights):
    shutil.rmtree(sources / "clip")
    plain = write_clip(sources / "clip", layout, weights=weights)
    model = load(assemble(sources))
    expected = {}
    for name, tensor in plain.items():
        name = name.removeprefix("encoder.").replace("pre_layrnorm", "pre_layernorm")
        if not name.startswith(("post_layernorm", "layers.5", "embeddings.position_ids")):
            expected[name] = tensor
    assert len(expected) > 80
    assert_same(model, "model.vision_tower.vit.", expected)
    assert len(model.model.vision_tower.vit.layers) == 5
    processor = FilaImageProcessor.from_pretrained(sources / "output")
    assert list(processor.image_mean) == [0.1] * 3
    assert list(processor.high_res_image_std) == [0.4] * 3


def test_a_convnext_of_timm_is_taken_bit_by_bit(sources):
    shutil.rmtree(sources / "convnext")
    plain = write_convnext(sources / "convnext")
    model = load(assemble(sources))
    expected = {name: tensor for name, tensor in plain.items() if not name.startswith(("head.", "norm_pre."))}
    assert len(expected) > 30
    assert_same(model, "model.vision_tower.convnext.", expected)
    assert set(expected) == set(model.model.vision_tower.convnext.state_dict())


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("shard", ["5GB", "20KB"])
def test_llama_layouts_are_taken_bit_by_bit(sources, tie, shard):
    shutil.rmtree(sources / "text")
    source = write_text(sources / "text", tie=tie, max_shard_size=shard)
    assert (sources / "text" / "model.safetensors.index.json").exists() == (shard == "20KB")
    model = load(assemble(sources, "--max-shard-size", "50KB"))
    old_size = source.config.vocab_size
    assert model.config.text_config.vocab_size == -(-(old_size + 1) // 64) * 64
    for name, tensor in source.state_dict().items():
        name = name if name == "lm_head.weight" else name.replace("model.", "model.language_model.", 1)
        actual = model.state_dict()[name]
        if "embed_tokens" in name or "lm_head" in name:
            torch.testing.assert_close(actual[old_size:], tensor.mean(0).expand(len(actual) - old_size, -1))
            actual = actual[:old_size]
        assert torch.equal(actual, tensor), name
    assert model.config.tie_word_embeddings == tie
    index = json.loads((sources / "output" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in (sources / "output").glob("*.safetensors")}


@pytest.mark.parametrize(
    "kind",
    [(MistralConfig, MistralForCausalLM), (Qwen2Config, Qwen2ForCausalLM), (Qwen3Config, Qwen3ForCausalLM)],
    ids=["mistral", "qwen2", "qwen3"],
)
@torch.no_grad()
def test_other_decoders_with_the_names_of_llama_compute_the_same_logits(sources, kind):
    shutil.rmtree(sources / "text")
    source = write_text(sources / "text", kind=kind)
    input_ids = torch.arange(20)[None]
    logits = load(assemble(sources))(input_ids=input_ids).logits[..., : source.config.vocab_size]
    assert torch.equal(logits, source(input_ids).logits)


def test_wrong_architectures_are_named(sources):
    write_checkpoint(sources / "siglip", SiglipVisionConfig().to_dict(), {"a": torch.ones(1)})
    with pytest.raises(UserError, match="model_type 'siglip_vision_model'.*clip_vision_model"):
        assemble(sources, vision=sources / "siglip")
    edit_json(sources / "text" / "config.json", model_type="mixtral")
    with pytest.raises(UserError, match="'mixtral'.*llama, mistral"):
        assemble(sources)
    edit_json(sources / "text" / "config.json", model_type="llama", quantization_config={"quant_method": "gptq"})
    with pytest.raises(UserError, match="quantized \\(gptq\\)"):
        assemble(sources)
    edit_json(sources / "convnext" / "config.json", architecture="resnet50")
    with pytest.raises(UserError, match="'resnet50'"):
        assemble(sources)
    write_checkpoint(sources / "facebook", {"model_type": "convnext"}, {"a": torch.ones(1)})
    with pytest.raises(UserError, match="names no architecture of timm"):
        assemble(sources, convnext=sources / "facebook")
    assert not (sources / "output").exists()


@pytest.mark.parametrize("part", ["clip", "convnext", "text"])
def test_missing_unknown_and_misshapen_tensors_are_named_with_their_file(sources, part):
    file = sources / part / "model.safetensors"
    name = {
        "clip": "vision_model.encoder.layers.1.mlp.fc1.weight",
        "convnext": "stages.1.blocks.0.mlp.fc1.weight",
        "text": "model.layers.1.mlp.up_proj.weight",
    }[part]
    whole = file.read_bytes()
    edit_tensors(file, lambda tensors: tensors.pop(name))
    with pytest.raises(UserError, match="lacks 1 tensors.*1\\."):
        assemble(sources)
    file.write_bytes(whole)
    edit_tensors(file, lambda tensors: tensors.update({name.replace("1", "77"): torch.ones(2)}))
    with pytest.raises(UserError, match=r"model\.safetensors has the tensor '.*77.*no place"):
        assemble(sources)
    file.write_bytes(whole)
    edit_tensors(file, lambda tensors: tensors.update({name: torch.ones(2, 3)}))
    with pytest.raises(UserError, match=rf"{name}' has the shape \[2, 3\]"):
        assemble(sources)
    assert not (sources / "output").exists()


def test_tied_head_that_differs_is_refused_and_one_that_does_not_is_dropped(sources, capsys):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", tie=True)
    file = sources / "text" / "model.safetensors"
    edit_tensors(file, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assemble(sources)
    assert "tied to the input embeddings" in capsys.readouterr().out
    edit_tensors(file, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(UserError, match="tie_word_embeddings to false"):
        assemble(sources, "--output", str(sources / "second"))
