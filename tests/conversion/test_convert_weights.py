# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembling a FILA from checkpoints in every layout, and refusing what cannot be assembled."""

import hashlib
import http.server
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from fila import FilaForConditionalGeneration, FilaImageProcessor
from fila.common.arguments import UserError
from fila.conversion import assemble as assembling
from fila.conversion.assemble import convert
from fila.conversion.sources import SafetensorsFiles
from fila.conversion.tokenizer import add_image_token
from fila.convert_weights import main, parse_options
from helpers import ROOT, SMOLLM2_GGUF, chat, random_image, tiny_config

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 2}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The shape of Llama-3's: it starts with BOS, and strips what it is given.
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
    " + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# As Llama-3.1's: takes the system turn off the list, and names it by default.
SYSTEM = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = 'You are helpful.' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' + system_message + '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


def write_clip(folder, layout="full", image_size=56, weights="model.safetensors"):
    """A CLIP with random weights in one of the layouts that checkpoints have.

    Returns:
        `dict[str, torch.Tensor]`: the tower's tensors under the names without any prefix.
    """
    config = CLIPVisionConfig(image_size=image_size, patch_size=14, **VISION)
    torch.manual_seed(1)
    plain = {
        name.removeprefix("vision_model."): tensor.clone()
        for name, tensor in CLIPVisionModel(config).state_dict().items()
    }
    plain = {name: torch.randn_like(tensor) * 0.1 for name, tensor in plain.items() if tensor.is_floating_point()}
    prefix = "" if layout == "flat" else "vision_model."
    tensors = {prefix + name: tensor for name, tensor in plain.items()}
    raw = config.to_dict()
    if layout == "full":
        tensors["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        tensors |= {"logit_scale": torch.ones(1), "visual_projection.weight": torch.ones(8, 32)}
        tensors |= {"text_projection.weight": torch.ones(8, 8), "text_model.final_layer_norm.bias": torch.ones(8)}
        raw = {"model_type": "clip", "vision_config": raw, "text_config": {"model_type": "clip_text_model"}}
    write_checkpoint(folder, raw, tensors, weights)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3}))
    return plain


def write_checkpoint(folder, config, tensors, weights="model.safetensors"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if weights.endswith(".safetensors"):
        save_file(tensors, folder / weights, metadata={"format": "pt"})
    else:
        torch.save(tensors, folder / weights)


def write_convnext(folder, layout="timm"):
    """A ConvNeXt with random weights.

    Returns:
        `dict[str, torch.Tensor]`: its tensors under timm's names, without the head.
    """
    torch.manual_seed(2)
    architecture = "convnext_atto" if layout != "transformers" else "convnext_tiny"
    args = {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 20]}
    if layout.startswith("transformers"):
        kind = ConvNextModel if layout == "transformers" else ConvNextForImageClassification
        model = kind(ConvNextConfig(depths=args["depths"], hidden_sizes=args["dims"], layer_scale_init_value=0.3))
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.2)
        model.save_pretrained(folder)
        return model
    if layout == "open_clip":
        args = {}
    model = timm.create_model(architecture, num_classes=7, **args)
    tensors = {name: torch.randn_like(tensor) * 0.2 for name, tensor in model.state_dict().items()}
    plain = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    if layout == "timm":
        raw = {"architecture": architecture, "model_args": args, "num_classes": 7}
        raw["pretrained_cfg"] = {"mean": [0.3] * 3, "std": [0.4] * 3}
        write_checkpoint(folder, raw, tensors)
    else:
        tensors = {f"visual.trunk.{name}": tensor for name, tensor in tensors.items()}
        tensors |= {"visual.head.proj.weight": torch.ones(4, 4), "transformer.resblocks.0.ln_1.bias": torch.ones(4)}
        raw = {"model_cfg": {"embed_dim": 4, "vision_cfg": {"timm_model_name": architecture}}}
        raw["preprocess_cfg"] = {"mean": [0.3] * 3, "std": [0.4] * 3}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "open_clip_config.json").write_text(json.dumps(raw))
        torch.save(tensors, folder / "open_clip_pytorch_model.bin")
    return plain


def write_tokenizer(folder, family="chatml"):
    """A small byte-level tokenizer with the special tokens of a family of decoders."""
    llama3 = family != "chatml"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    if llama3:
        special = [
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|reserved_special_token_0|>",
            "<|reserved_special_token_1|>",
        ]
        special += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["the answer of the model is four"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if llama3:
        names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        bos = ("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = {"chatml": CHATML, "llama3": LLAMA3, "system": SYSTEM, "plain": None}[family]
    fast.save_pretrained(folder)
    return fast


def write_text(folder, family="chatml", tie=False, max_shard_size="5GB", kind=(LlamaConfig, LlamaForCausalLM), **extra):
    """A decoder with random weights and its tokenizer.

    Returns:
        `PreTrainedModel`
    """
    tokenizer = write_tokenizer(folder, family)
    config_class, model_class = kind
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    torch.manual_seed(3)
    config = config_class(vocab_size=len(tokenizer), tie_word_embeddings=tie, **TEXT, **ids, **extra)
    model = model_class(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    GenerationConfig(eos_token_id=[tokenizer.eos_token_id], do_sample=False).save_pretrained(folder)
    return model


@pytest.fixture
def sources(tmp_path):
    """Folders of the three backbones, and the options that name them."""
    write_clip(tmp_path / "clip")
    write_convnext(tmp_path / "convnext")
    write_text(tmp_path / "text")
    return tmp_path


def assemble(folder, *options, **names):
    names = {"vision": folder / "clip", "convnext": folder / "convnext", "text": folder / "text"} | names
    arguments = [item for name, value in names.items() for item in (f"--{name}", str(value))]
    return convert(parse_options([*arguments, "--output", str(folder / "output"), *options]))


def load(output, **kwargs):
    return FilaForConditionalGeneration.from_pretrained(output, **kwargs).eval()


def assert_same(model, prefix, tensors):
    state = model.state_dict()
    for name, tensor in tensors.items():
        assert torch.equal(state[prefix + name], tensor), name


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


@pytest.mark.parametrize("layout", ["timm", "open_clip"])
def test_timm_convnext_layouts_are_taken_bit_by_bit(sources, layout):
    shutil.rmtree(sources / "convnext")
    plain = write_convnext(sources / "convnext", layout)
    model = load(assemble(sources))
    expected = {name: tensor for name, tensor in plain.items() if not name.startswith(("head.", "norm_pre."))}
    assert len(expected) > 30
    assert_same(model, "model.vision_tower.convnext.", expected)
    assert set(expected) == set(model.model.vision_tower.convnext.state_dict())


@pytest.mark.parametrize("layout", ["transformers", "transformers classifier"])
@torch.no_grad()
def test_transformers_convnext_computes_the_same_features(sources, layout):
    shutil.rmtree(sources / "convnext")
    source = write_convnext(sources / "convnext", layout)
    model = load(assemble(sources))
    pixels = torch.randn(1, 3, 96, 64)
    hidden_states = getattr(source.eval(), "convnext", source)(pixels, output_hidden_states=True).hidden_states
    stages = model.model.vision_tower.convnext.forward_intermediates(pixels, intermediates_only=True)
    for stage, expected in zip(stages, hidden_states[1:], strict=True):
        torch.testing.assert_close(stage, expected, rtol=1e-4, atol=1e-4)


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
    "kind", [(MistralConfig, MistralForCausalLM), (Qwen2Config, Qwen2ForCausalLM)], ids=["mistral", "qwen2"]
)
def test_other_decoders_with_the_names_of_llama_are_assembled_and_verified(sources, kind, capsys):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", kind=kind)
    assemble(sources)
    assert "logits of a text: equal" in capsys.readouterr().out


def test_output_is_complete_and_verified(sources, capsys):
    output = assemble(sources)
    printed = capsys.readouterr().out
    assert "visual tokens: equal, bit by bit" in printed
    assert "logits of a text: equal" in printed
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
    assert "visual tokens: equal" in capsys.readouterr().out
    assert model.config.fusion_type == fusion_type
    assert (model.model.vision_tower.convnext is None) == (fusion_type == "none")


def test_random_weights_follow_the_rules_of_the_parts():
    config = tiny_config()
    torch.manual_seed(0)
    expected = FilaForConditionalGeneration(config).state_dict()
    # transformers passes over the rules of containers in remote code; the converter does not: a ViT starts as CLIP's do.
    for name, tensor in CLIPVisionModel(config.vision_config).state_dict().items():
        name = name.removeprefix("vision_model.").removeprefix("encoder.").replace("pre_layrnorm", "pre_layernorm")
        if f"model.vision_tower.vit.{name}" in expected:
            expected[f"model.vision_tower.vit.{name}"] = tensor
    with torch.device("meta"):
        empty = FilaForConditionalGeneration(config)
    random_weights = RandomWeights(empty, seed=0)
    for name, tensor in expected.items():
        actual = random_weights.read(name)
        assert actual.shape == tensor.shape
        spread = tensor.std(correction=0)
        if spread == 0:
            assert torch.equal(actual, tensor), name
        elif tensor.numel() >= 100:
            assert 0.6 < actual.std() / spread < 1.6, name
    again = RandomWeights(empty, seed=0)
    assert all(torch.equal(again.read(name), random_weights.read(name)) for name in reversed(expected))
    name = "model.multi_modal_projector.linear_1.weight"
    assert not torch.equal(RandomWeights(empty, seed=1).read(name), again.read(name))


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


def test_llama_3_gives_a_reserved_token_and_no_row_is_added(sources):
    shutil.rmtree(sources / "text")
    source = write_text(sources / "text", family="llama3")
    output = assemble(sources)
    config, tokenizer = load(output).config, AutoTokenizer.from_pretrained(output)
    old = AutoTokenizer.from_pretrained(sources / "text")
    assert config.text_config.vocab_size == source.config.vocab_size
    assert config.image_token_id == old.convert_tokens_to_ids("<|reserved_special_token_0|>")
    assert tokenizer.convert_ids_to_tokens(config.image_token_id) == "<image>"
    assert len(tokenizer) == len(old)
    assert tokenizer.pad_token == "<|end_of_text|>"


@pytest.mark.parametrize("family", ["chatml", "llama3", "system", "plain"])
def test_chats_render_as_the_decoder_has_them(sources, family):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", family=family)
    old = AutoTokenizer.from_pretrained(sources / "text")
    processor = AutoProcessor.from_pretrained(assemble(sources), trust_remote_code=True)
    user = {"role": "user", "content": "Is <image> a tag? "}
    messages = [{"role": "system", "content": "Be brief."}, user, {"role": "assistant", "content": "Four. "}, user]
    for chat_messages in (messages, messages[1:], messages[1:3]):
        for prompt in (False, True):
            rendered = processor.apply_chat_template(chat_messages, add_generation_prompt=prompt)
            rendered = rendered.replace("<\u2060image>", "<image>")
            if old.chat_template:
                assert rendered == old.apply_chat_template(chat_messages, add_generation_prompt=prompt, tokenize=False)
            ids = processor.tokenizer(rendered.replace("<image>", "<\u2060image>"))["input_ids"]
            assert ids == old(rendered)["input_ids"]
    if family == "plain":
        assert (
            rendered
            == (old.bos_token or "") + "USER: Is <image> a tag?  ASSISTANT: Four. " + old.eos_token + "ASSISTANT:"
        )


@pytest.mark.parametrize("family", ["chatml", "llama3", "system", "plain"])
def test_answers_and_their_end_are_what_is_trained(sources, family):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", family=family)
    processor = AutoProcessor.from_pretrained(assemble(sources), trust_remote_code=True)
    collator = type(processor).__module__
    collator = sys.modules[collator].FilaDataCollator(processor)
    messages = [
        *({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},),
        *({"role": "assistant", "content": "Four."}, {"role": "user", "content": "Sure?"}),
        {"role": "assistant", "content": [{"type": "text", "text": "Yes, <image>."}]},
    ]
    batch = collator([{"messages": messages, "images": [random_image(60, 90)]}])
    counted = batch["labels"] != -100
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    end = processor.tokenizer.eos_token
    assert processor.decode(batch["labels"][counted]) == f"Four.{end}Yes, <image>.{end}"
    if (start := processor.tokenizer.bos_token_id) is not None:
        assert (batch["input_ids"] == start).sum() == 1


def test_tokenizer_of_fila_is_left_as_it_is():
    tokenizer = AutoTokenizer.from_pretrained(ROOT)
    again = add_image_token(add_image_token(tokenizer, 100), 100)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_wrong_architectures_are_named(sources):
    write_checkpoint(sources / "siglip", SiglipVisionConfig().to_dict(), {"a": torch.ones(1)})
    with pytest.raises(UserError, match="model_type 'siglip_vision_model'.*CLIP"):
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


@pytest.mark.parametrize("keep", [0.5, 0.001, 0.0])
def test_truncated_files_are_refused(sources, keep):
    file = sources / "text" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
        assemble(sources)


def test_an_index_that_names_an_absent_shard_is_refused(sources):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", max_shard_size="20KB")
    lost = sorted((sources / "text").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost.name} is missing"):
        assemble(sources)


class Payload:
    """What a pickle could run."""

    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def test_pickles_that_hold_code_are_not_run(sources, monkeypatch):
    monkeypatch.chdir(sources)
    (sources / "clip" / "model.safetensors").unlink()
    for write in (
        lambda path: torch.save({"a": Payload()}, path),
        lambda path: path.write_bytes(pickle.dumps(Payload())),
    ):
        write(sources / "clip" / "pytorch_model.bin")
        with pytest.raises(UserError, match="was not run.*save_file"):
            assemble(sources)
        assert not (sources / "payload-was-run").exists()


def test_older_pickles_are_read(sources):
    tensors = load_file(sources / "clip" / "model.safetensors")
    (sources / "clip" / "model.safetensors").unlink()
    torch.save(tensors, sources / "clip" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    model = load(assemble(sources))
    name = "embeddings.patch_embedding.weight"
    assert_same(model, "model.vision_tower.vit.", {name: tensors[f"vision_model.{name}"]})


def test_tied_head_that_differs_is_refused_and_one_that_does_not_is_dropped(sources, capsys):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", tie=True)
    file = sources / "text" / "model.safetensors"
    edit_tensors(file, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assemble(sources)
    assert "tied to the input embeddings" in capsys.readouterr().out
    edit_tensors(file, lambda tensors: tensors["lm_head.weight"].add_(1))
    with pytest.raises(UserError, match="tie_word_embeddings to false"):
        assemble(sources, "--overwrite")


def test_output_in_the_way_is_refused_or_replaced_whole(sources):
    (sources / "output").mkdir()
    (sources / "output" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty.*--overwrite"):
        assemble(sources)
    assert (sources / "output" / "notes.txt").exists()
    assemble(sources, "--overwrite")
    assert not (sources / "output" / "notes.txt").exists()
    assert (sources / "output" / "model.safetensors").exists()
    with pytest.raises(UserError, match="is or holds"):
        convert(parse_options([*sources_of(sources), "--output", str(sources), "--overwrite"]))
    with pytest.raises(UserError, match="the repository of FILA"):
        convert(parse_options([*sources_of(sources), "--output", str(ROOT), "--overwrite"]))


def sources_of(folder):
    return ["--vision", str(folder / "clip"), "--convnext", str(folder / "convnext"), "--text", str(folder / "text")]


def test_full_disk_is_found_before_the_first_byte(sources, monkeypatch):
    usage = shutil.disk_usage(sources)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match="needs .* MB, and .* has 1.0 kB free"):
        assemble(sources)
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text"}


def test_dry_run_writes_nothing(sources, capsys):
    assemble(sources, "--dry-run")
    printed = capsys.readouterr().out
    assert "Nothing was written" in printed
    assert "decoder" in printed
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text"}


def test_a_failed_comparison_keeps_nothing(sources, monkeypatch):
    read = SafetensorsFiles.read
    calls = []

    def unsteady(self, name):
        calls.append(name)
        return read(self, name) + (calls.count(name) > 1)  # another value at the second reading

    monkeypatch.setattr(SafetensorsFiles, "read", unsteady)
    with pytest.raises(UserError, match="is not what .* says"):
        assemble(sources)
    assert {path.name for path in sources.iterdir()} == {"clip", "convnext", "text"}


@pytest.mark.parametrize("name", ["no/such/thing/here", "not a name"])
def test_names_that_are_nothing_are_explained(sources, name):
    with pytest.raises(UserError, match="neither a file or folder here nor a Hub id"):
        assemble(sources, vision=name)


def write_hub_cache(cache, repo, folder, commit="0123456789abcdef0123456789abcdef01234567"):
    """Puts a folder where the Hub's client keeps what it has downloaded."""
    base = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, base / "snapshots" / commit)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    return commit


def run_command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / "convert_weights.py"), *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_hub_ids_are_read_from_the_cache_when_offline(sources):
    cache = sources / "cache"
    (sources / "text" / "README.md").write_text("---\nlicense: llama3\n---\n")
    (sources / "text" / "LICENSE").write_text("terms")
    commit = write_hub_cache(cache, "org/text", sources / "text")
    write_hub_cache(cache, "org/clip", sources / "clip")
    write_hub_cache(cache, "timm/convnext_tiny.in12k_ft_in1k", sources / "convnext")
    options = ["--vision", "org/clip", "--convnext", "convnext_tiny.in12k_ft_in1k", "--text", "org/text"]
    options += ["--output", sources / "output"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = run_command(*options, **offline)
    assert done.returncode == 0, done.stderr
    card = (sources / "output" / "README.md").read_text()
    assert f"| org/text | transformers | {commit} | llama3 |" in card
    assert (sources / "output" / "licenses" / "decoder" / "LICENSE").read_text() == "terms"
    done = run_command(*options, "--overwrite", "--text-revision", "v9", **offline)
    assert done.returncode != 0
    assert "not in the Hub's cache" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def hub(sources):
    """A Hub on this machine that serves the sources as org/clip, org/text and a repository of timm; yields its address."""
    folders = {"org/clip": "clip", "org/text": "text", "timm/convnext_tiny.in12k_ft_in1k": "convnext"}
    commit = "89abcdef0123456789abcdef0123456789abcdef"

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlparse(self.path).path).strip("/")
            body, status, headers = b"", 404, {"X-Error-Code": "RepoNotFound"}
            for name, folder in folders.items():
                if re.fullmatch(f"api/models/{re.escape(name)}(/revision/.*)?", path):
                    files = [
                        {"rfilename": file.name, "size": file.stat().st_size} for file in (sources / folder).iterdir()
                    ]
                    body = json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": files}).encode()
                    status, headers = 200, {"Content-Type": "application/json"}
                elif path.startswith(f"api/models/{name}/tree/"):
                    files = [
                        {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
                        for file in (sources / folder).iterdir()
                    ]
                    body, status, headers = json.dumps(files).encode(), 200, {"Content-Type": "application/json"}
                elif match := re.fullmatch(f"{re.escape(name)}/resolve/[^/]+/(.*)", path):
                    file = sources / folder / match[1]
                    if not file.exists():
                        headers = {"X-Error-Code": "EntryNotFound"}
                        continue
                    body, status = file.read_bytes(), 200
                    headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}
                    if byte_range := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
                        start, end = int(byte_range[1]), int(byte_range[2] or len(body) - 1)
                        body, status = body[start : end + 1], 206
                        headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{file.stat().st_size}"
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.slow
def test_hub_ids_are_downloaded_and_a_dry_run_reads_headers_alone(sources, hub):
    options = ["--vision", "org/clip", "--convnext", "convnext_tiny.in12k_ft_in1k", "--text", "org/text"]
    options += ["--output", sources / "output"]
    network = {
        "HF_ENDPOINT": hub,
        "HF_HUB_CACHE": str(sources / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_OFFLINE": "0",
    }
    done = run_command(*options, "--dry-run", **network)
    assert done.returncode == 0, done.stderr
    size = (sources / "text" / "model.safetensors").stat().st_size
    assert f"to download: org/text, {size / 1000:.1f} kB (headers checked)" in done.stdout
    assert not list((sources / "cache").rglob("*.safetensors"))
    assert not (sources / "output").exists()
    done = run_command(*options, **network)
    assert done.returncode == 0, done.stderr
    assert "logits of a text: equal" in done.stdout
    assert list((sources / "cache").rglob("*.safetensors"))
    done = run_command(*options, "--overwrite", "--text", "org/absent", **network)
    assert done.returncode != 0
    assert "the Hub has no such repository" in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """A FILA on SmolLM2-135M-Instruct, assembled by the command."""
    output = tmp_path_factory.mktemp("smollm2") / "output"
    done = run_command(
        *("--vision", "none:tiny", "--convnext", "none:tiny", "--text", SMOLLM2_GGUF, "--output", output),
        *("--dtype", "float32"),
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_answers_word_for_word_like_its_source(smollm2):
    folder, file = SMOLLM2_GGUF.parent, SMOLLM2_GGUF.name
    gguf_config = getattr(transformers, "GgufConfig", None)
    dequantize = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, **dequantize).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model, processor = load(smollm2), AutoProcessor.from_pretrained(smollm2, trust_remote_code=True)
    state = model.model.language_model.state_dict()
    for name, tensor in source.model.state_dict().items():
        assert torch.equal(state[name][: len(tensor)], tensor), name
    messages = [{"role": "user", "content": "What is the capital of France? And what is <image> in HTML?"}]
    kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = tokenizer.apply_chat_template(messages, **kwargs)
    actual = processor.apply_chat_template(messages, **kwargs)
    assert torch.equal(actual["input_ids"], expected["input_ids"])
    greedy = {"do_sample": False, "max_new_tokens": 60}
    words = tokenizer.decode(source.generate(**expected, **greedy)[0, expected["input_ids"].shape[1] :])
    answer = processor.decode(model.generate(**actual, **greedy)[0, actual["input_ids"].shape[1] :])
    assert answer == words
    assert "Paris" in answer


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_output(tmp_path, sent):
    output = tmp_path / "output"
    arguments = [
        "--vision",
        "none:tiny",
        "--convnext",
        "none:tiny",
        "--text",
        str(SMOLLM2_GGUF),
        "--output",
        str(output),
    ]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "convert_weights.py"), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    deadline = time.time() + 120
    while not list(tmp_path.glob(".output.*.partial/model*.safetensors")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert not output.exists()
    if sent != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
        assert b"Traceback" not in errors


def test_recipes_are_read_and_overridden(tmp_path):
    for recipe in sorted((ROOT / "recipes").glob("fila-*.yaml")):
        options = parse_options([str(recipe), "--output", "elsewhere"])
        assert options.output == "elsewhere"
        assert options.vision == "openai/clip-vit-large-patch14-336"
        assert timm.get_pretrained_cfg(options.convnext).hf_hub_id
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("vison: a\n")
    with pytest.raises(UserError, match="vison"):
        parse_options([str(recipe)])
    with pytest.raises(UserError, match="--vision, --text"):
        parse_options(["--output", "a", "--convnext", "b"])


def test_errors_reach_the_user_without_a_traceback(sources):
    with pytest.raises(SystemExit, match="^error: .*none:tiny, none:small"):
        main([*sources_of(sources), "--vision", "none:huge", "--output", str(sources / "output")])


def test_a_generation_config_that_transformers_would_not_save_is_mended(sources):
    edit_json(sources / "text" / "generation_config.json", temperature=0.6, do_sample=False)
    generation_config = GenerationConfig.from_pretrained(assemble(sources))
    assert (generation_config.do_sample, generation_config.temperature) == (True, 0.6)


def test_push_to_hub_uploads_the_finished_folder(sources, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, name, exist_ok):
            calls.append(("create", name))

        def upload_folder(self, repo_id, folder_path, commit_message):
            calls.append(("upload", repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(assembling, "HfApi", Api)
    output = assemble(sources, "--push-to-hub", "org/fila")
    assert calls == [("create", "org/fila"), ("upload", "org/fila", sorted(path.name for path in output.iterdir()))]
