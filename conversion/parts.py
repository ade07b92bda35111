# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The three backbones as the user names them: their configuration, and their tensors with the table of their names."""

from dataclasses import dataclass
from pathlib import Path

import timm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fila import FilaConvNextConfig
from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, DTYPES, ROOT, TEXT_PREFIX, VIT_PREFIX
from fila.conversion.mapping import (
    CLIP_KEYS,
    CONVNEXT_KEYS,
    DECODER_KEYS,
    OPEN_CLIP_KEYS,
    OUTPUT_EMBEDDINGS,
    TIMM_KEYS,
)
from fila.conversion.sources import hold_tensors, library_errors, open_tensors, resolve_source

# Decoders whose checkpoints have the names of Llama's tensors, and that the tests assemble.
TEXT_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
TINY_VIT |= {"image_size": 56, "patch_size": 14}
TINY_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20], "ls_init_value": 0.1}
TINY_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_LLAMA |= {"num_key_value_heads": 2, "tie_word_embeddings": True}
CLIP_NORMALIZATION = {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD}
IMAGENET_NORMALIZATION = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}


@dataclass
class Part:
    """A backbone.

    Args:
        title (`str`): for tables and errors.
        prefixes (`tuple[str, ...]`): of its parameters in FILA.
        label (`str`): what the user gave.
        config: the sub-config of [`FilaConfig`].
        table (`tuple`): from the names in the checkpoint to FILA's.
        source ([`Source`], *optional*): `None` for random weights.
        layout (`str`): the library whose names the checkpoint has.
        normalization (`dict`, *optional*): "mean" and "std" of its images.
        tensors (`dict[str, StoredTensor]`): by their names in the checkpoint.
    """

    title: str
    prefixes: tuple
    label: str
    config: object
    table: tuple
    source: object = None
    layout: str = "random"
    normalization: dict | None = None
    tensors: dict | None = None


def load_parts(options):
    """The backbones that the options name.

    Returns:
        `list[Part]`: the ViT, the ConvNeXt unless the options do without, and the decoder.

    Raises:
        UserError: a checkpoint cannot be found or read, or has another architecture.
    """
    loaders = {"vision": _load_vision, "convnext": _load_convnext, "text": _load_text}
    if options.fusion_type == "none":
        del loaders["convnext"]
    parts = []
    for option, load in loaders.items():
        label = getattr(options, option)
        with library_errors(f"--{option} {label}"):
            source = None
            if not label.startswith("none:"):
                name = _find_hub_id(label) if option == "convnext" else label
                source = resolve_source(name, getattr(options, f"{option}_revision"), options.dry_run)
            elif option != "convnext" and label != "none:tiny":
                raise UserError(f"--{option} {label}: random weights are available as none:tiny.")
            parts.append(load(label, source))
            if source is not None:
                parts[-1].tensors = open_tensors(source, DTYPES.get(options.dtype, DTYPES["bfloat16"]))
    return parts


def _find_hub_id(label):
    """Unless it is a path, a name such as "convnext_tiny.in12k" is timm's, which knows its Hub id."""
    if Path(label).expanduser().exists() or not timm.is_model(label.split(".")[0]):
        return label
    return timm.get_pretrained_cfg(label, allow_unregistered=False).hf_hub_id or label


def _refuse(source, found, allowed):
    raise UserError(f"{source.name} ({source.folder / 'config.json'}) is {found}. Allowed: {allowed}.")


def _read_normalization(source, default):
    preprocessor = source.read_json("preprocessor_config.json", "processor_config.json")
    preprocessor = preprocessor.get("image_processor", preprocessor)
    return {key: preprocessor.get(f"image_{key}", value) for key, value in default.items()}


def _load_vision(label, source):
    if source is None:
        config = CLIPVisionConfig(**TINY_VIT)
        part = Part("ViT", (VIT_PREFIX,), label, config, CLIP_KEYS, normalization=CLIP_NORMALIZATION)
        part.tensors = hold_tensors(CLIPVisionModel(config).state_dict(), label)
        return part
    config = AutoConfig.from_pretrained(source.folder)
    config = getattr(config, "vision_config", config)
    if config.model_type != "clip_vision_model":
        _refuse(source, f"of model_type {config.model_type!r}", "a CLIP in the format of transformers")
    normalization = _read_normalization(source, CLIP_NORMALIZATION)
    return Part("ViT", (VIT_PREFIX,), label, config, CLIP_KEYS, source, "transformers CLIP", normalization)


def _load_convnext(label, source):
    if source is not None:
        config, *details = _read_convnext_config(source)
        config = FilaConvNextConfig(**config)
        table, layout, normalization = details
        return Part("ConvNeXt", (CONVNEXT_PREFIX,), label, config, table, source, layout, normalization)
    name = label.removeprefix("none:")
    config = (
        {"architecture": "convnext_atto", "model_args": TINY_CONVNEXT} if name == "tiny" else {"architecture": name}
    )
    config = FilaConvNextConfig(**config)
    model = timm.create_model(config.architecture, num_classes=0, **config.model_args)
    part = Part("ConvNeXt", (CONVNEXT_PREFIX,), label, config, TIMM_KEYS, normalization=IMAGENET_NORMALIZATION)
    part.tensors = hold_tensors(model.state_dict(), label)
    return part


def _read_convnext_config(source):
    """The fields of FILA's config of the ConvNeXt, the table of names, the layout, and the normalization."""
    raw, open_clip = source.read_json("config.json"), source.read_json("open_clip_config.json")
    if open_clip:
        architecture = open_clip.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name")
        preprocess = CLIP_NORMALIZATION | open_clip.get("preprocess_cfg", {})
        return {"architecture": architecture}, OPEN_CLIP_KEYS, "OpenCLIP", preprocess
    if "architecture" in raw:
        ours = {"num_classes", "pretrained", "features_only", "in_chans", "output_stride"}  # set by FILA
        model_args = {key: value for key, value in (raw.get("model_args") or {}).items() if key not in ours}
        pretrained = IMAGENET_NORMALIZATION | raw.get("pretrained_cfg", raw)
        return {"architecture": raw["architecture"], "model_args": model_args}, TIMM_KEYS, "timm", pretrained
    config = AutoConfig.from_pretrained(source.folder)
    found = [getattr(config, name, None) for name in ("model_type", "patch_size", "hidden_act", "num_channels")]
    if found != ["convnext", 4, "gelu", 3]:
        _refuse(
            source, f"of {found}", "a ConvNeXt of timm or OpenCLIP, or of transformers with ['convnext', 4, 'gelu', 3]"
        )
    model_args = {"depths": list(config.depths), "dims": list(config.hidden_sizes)}
    model_args["ls_init_value"] = config.layer_scale_init_value or None
    normalization = _read_normalization(source, IMAGENET_NORMALIZATION)
    return (
        {"architecture": "convnext_tiny", "model_args": model_args},
        CONVNEXT_KEYS,
        "transformers ConvNext",
        normalization,
    )


def _load_text(label, source):
    prefixes = (TEXT_PREFIX, OUTPUT_EMBEDDINGS)
    if source is None:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        config = LlamaConfig(**TINY_LLAMA, **sizes, **ids)
        tensors = hold_tensors(AutoModelForCausalLM.from_config(config).state_dict(), label)
        return Part("decoder", prefixes, label, config, DECODER_KEYS, tensors=tensors)
    config = AutoConfig.from_pretrained(source.folder, **source.gguf_file)
    layout, allowed = ("GGUF", ("llama",)) if source.gguf_file else ("transformers", TEXT_MODEL_TYPES)
    if config.model_type not in allowed:
        _refuse(source, f"of model_type {config.model_type!r}", f"model_type {', '.join(allowed)}")
    if quantization := getattr(config, "quantization_config", None):
        found = f"quantized ({quantization.get('quant_method')})"
        _refuse(source, found, "weights that are not quantized, or a GGUF file")
    return Part("decoder", prefixes, label, config, DECODER_KEYS, source, layout)
