# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Small checkpoints in every layout, and FILAs assembled from them."""

import json

import timm
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from fila import FilaForConditionalGeneration
from fila.conversion.assemble import convert
from fila.convert_weights import parse_options

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


def write_convnext(folder):
    """A ConvNeXt with random weights.

    Returns:
        `dict[str, torch.Tensor]`: its tensors under timm's names, without the head.
    """
    torch.manual_seed(2)
    architecture, args = "convnext_atto", {"depths": [1, 1, 2, 1], "dims": [8, 12, 16, 20]}
    model = timm.create_model(architecture, num_classes=7, **args)
    tensors = {name: torch.randn_like(tensor) * 0.2 for name, tensor in model.state_dict().items()}
    raw = {"architecture": architecture, "model_args": args, "num_classes": 7}
    raw["pretrained_cfg"] = {"mean": [0.3] * 3, "std": [0.4] * 3}
    write_checkpoint(folder, raw, tensors)
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}


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


def sources_of(folder):
    return ["--vision", str(folder / "clip"), "--convnext", str(folder / "convnext"), "--text", str(folder / "text")]


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


def edit_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def edit_tensors(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
