# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The three backbones as the user names them: their configuration and their tensors."""

from dataclasses import dataclass
from pathlib import Path

import timm
from transformers import AutoModelForCausalLM, CLIPVisionConfig, CLIPVisionModel, LlamaConfig
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fila import FilaConvNextConfig
from fila.common.arguments import library_errors
from fila.configuration_fila import RESERVED_MODEL_ARGS
from fila.conversion.sources import Source, hold_tensors, open_tensors, resolve_source
from fila.conversion.tokenizer import load_tokenizer

# Decoders whose checkpoints have the names of Llama's tensors, and that the tests assemble.
TEXT_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
TINY_VIT |= {"image_size": 56, "patch_size": 14}
TINY_CONVNEXT = {"architecture": "convnext_atto"}
TINY_CONVNEXT |= {"model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20], "ls_init_value": 0.1}}
TINY_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_LLAMA |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
CLIP_NORMALIZATION = {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD}
IMAGENET_NORMALIZATION = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


@dataclass
class Part:
    """A backbone."""

    title: str  # "ViT", "ConvNeXt" or "decoder"
    label: str  # what the user gave
    config: object  # the sub-config of FilaConfig
    normalization: dict | None  # "mean" and "std" of its images, unless it has none or takes any
    tensors: dict  # StoredTensor by the names in the checkpoint
    source: Source | None = None  # none for random weights

    @property
    def origin(self):
        """`tuple`: source, revision and licence as the model card says them, without folders of this machine."""
        if self.source is None:
            return self.label, "random weights", ""
        name, revision = self.source.name, self.source.revision
        return name if revision else Path(name).name, revision or "local", self.source.license


def load_parts(options):
    """The ViT, the ConvNeXt unless there is no fusion, and the decoder that the options name, as a list of [`Part`].
    Raises [`UserError`] for a checkpoint that cannot be found or read, or has another architecture."""
    parts = [_load_part("ViT", "vision", _read_vision, options)]
    if options.fusion_type != "none":
        parts.append(_load_part("ConvNeXt", "convnext", _read_convnext, options))
    return [*parts, _load_part("decoder", "text", _read_text, options)]


def _load_part(title, option, read, options):
    label = getattr(options, option)
    with library_errors(f"--{option} {label}"):
        if label.startswith("none:"):
            return _make_random(title, label)
        name = label
        if title == "ConvNeXt" and not Path(label).expanduser().exists() and timm.is_model(label.split(".")[0]):
            name = timm.get_pretrained_cfg(label, allow_unregistered=False).hf_hub_id or label
        source = resolve_source(name)
        return Part(title, label, *read(source), open_tensors(source, options.dtype), source)


def _make_random(title, label):
    name = label.removeprefix("none:")
    if title == "ConvNeXt":
        config = FilaConvNextConfig(**(TINY_CONVNEXT if name == "tiny" else {"architecture": name}))
        model = timm.create_model(config.architecture, num_classes=0, **config.model_args)
    elif name != "tiny":
        raise ValueError("random weights are available as none:tiny.")
    elif title == "ViT":
        config = CLIPVisionConfig(**TINY_VIT)
        model = CLIPVisionModel(config)
    else:
        tokenizer = load_tokenizer(None)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        config = LlamaConfig(**TINY_LLAMA, **sizes, **ids)
        model = AutoModelForCausalLM.from_config(config)
    return Part(title, label, config, None, hold_tensors(model.state_dict(), label))


def _check_model_type(config, *allowed):
    if config.model_type not in allowed:
        raise ValueError(f"model_type {config.model_type!r} in its config is not one of {', '.join(allowed)}.")


# Each of these returns the config and the normalization.
def _read_vision(source):
    config = source.read_config()
    config = getattr(config, "vision_config", config)
    _check_model_type(config, "clip_vision_model")
    preprocessor = source.read_json("preprocessor_config.json", "processor_config.json")
    preprocessor = preprocessor.get("image_processor", preprocessor)
    normalization = {key: preprocessor.get(f"image_{key}", value) for key, value in CLIP_NORMALIZATION.items()}
    return config, normalization


def _read_convnext(source):
    raw = source.read_json("config.json")
    if "architecture" not in raw:
        raise ValueError("its config.json names no architecture of timm. timm has most ConvNeXts: give the name there.")
    given = (raw.get("model_args") or {}).items()
    model_args = {key: value for key, value in given if key not in RESERVED_MODEL_ARGS}
    config = FilaConvNextConfig(architecture=raw["architecture"], model_args=model_args)
    normalization = IMAGENET_NORMALIZATION | raw.get("pretrained_cfg", raw)
    return config, {key: normalization[key] for key in IMAGENET_NORMALIZATION}


def _read_text(source):
    config = source.read_config()
    _check_model_type(config, *(("llama",) if source.gguf_file else TEXT_MODEL_TYPES))
    if quantization := getattr(config, "quantization_config", None):
        raise ValueError(f"it is quantized ({quantization.get('quant_method')}). Use plain weights, or a GGUF file.")
    return config, None
