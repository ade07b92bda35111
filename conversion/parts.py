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

from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, DTYPES, ROOT, TEXT_PREFIX, VIT_PREFIX
from fila.conversion.mapping import CLIP_KEYS, CONVNEXT_KEYS, DECODER_KEYS, OPEN_CLIP_KEYS, TIMM_KEYS
from fila.conversion.sources import LoadedTensors, resolve_source

# Decoders whose checkpoints have the names of Llama's tensors, and that the tests assemble.
TEXT_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
TINY_VIT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
TINY_VIT |= {"image_size": 56, "patch_size": 14}
TINY_CONVNEXT = {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20], "ls_init_value": 0.1}
TINY_LLAMA = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TINY_LLAMA |= {"num_key_value_heads": 2, "tie_word_embeddings": True}


@dataclass
class Part:
    """A backbone.

    Args:
        title (`str`): for tables and errors.
        prefix (`str`): of its parameters in FILA.
        label (`str`): what the user gave.
        config: the sub-config of [`FilaConfig`].
        checkpoint: [`SafetensorsFiles`] or [`LoadedTensors`]; `None` in a dry run that cannot read the headers.
        table (`tuple`): from the names in the checkpoint to FILA's.
        layout (`str`): the library whose names these are.
        source ([`CheckpointSource`], *optional*): `None` for random weights.
        mean, std (`list[float]`, *optional*): the normalisation of its images.
    """

    title: str
    prefix: str
    label: str
    config: object
    checkpoint: object
    table: tuple
    layout: str = "random"
    source: object = None
    mean: list | None = None
    std: list | None = None


def _check_tiny(option, label):
    if label != "none:tiny":
        raise UserError(f"--{option} {label}: random weights are available as none:tiny.")


def _wrong_architecture(source, found, allowed):
    return UserError(f"{source.name} ({source.folder / 'config.json'}) is {found}. Allowed: {allowed}.")


def _read_normalization(source, mean, std):
    preprocessor = source.read_json("preprocessor_config.json", "processor_config.json")
    preprocessor = preprocessor.get("image_processor", preprocessor)
    return {"mean": list(preprocessor.get("image_mean", mean)), "std": list(preprocessor.get("image_std", std))}


def load_vision(options):
    """The vision tower of a CLIP, as a [`Part`]. Raises [`UserError`] for another architecture."""
    if options.vision.startswith("none:"):
        _check_tiny("vision", options.vision)
        config = CLIPVisionConfig(**TINY_VIT)
        tensors = LoadedTensors(CLIPVisionModel(config).state_dict(), options.vision)
        normalization = {"mean": list(OPENAI_CLIP_MEAN), "std": list(OPENAI_CLIP_STD)}
        return Part("ViT", VIT_PREFIX, options.vision, config, tensors, CLIP_KEYS, **normalization)
    source = resolve_source(options.vision, options.vision_revision, dry_run=options.dry_run)
    model_type = source.read_json("config.json").get("model_type")
    if model_type not in ("clip", "clip_vision_model"):
        raise _wrong_architecture(source, f"of model_type {model_type!r}", "a CLIP in the format of transformers")
    config = AutoConfig.from_pretrained(source.folder)
    config = getattr(config, "vision_config", config)
    normalization = _read_normalization(source, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    layout = "transformers CLIP"
    return Part("ViT", VIT_PREFIX, options.vision, config, source.open(), CLIP_KEYS, layout, source, **normalization)


def load_convnext(options):
    """A ConvNeXt of timm, OpenCLIP or transformers, as a [`Part`]. Raises [`UserError`] for one that timm cannot build."""
    label = options.convnext
    architectures = timm.list_models(module="convnext")
    if label.startswith("none:"):
        architecture, model_args = label.removeprefix("none:"), {}
        if architecture == "tiny":
            architecture, model_args = "convnext_atto", TINY_CONVNEXT
        if architecture not in architectures:
            raise UserError(f"--convnext {label}: after none: give tiny or the name of a ConvNeXt of timm.")
        config = {"architecture": architecture, "model_args": model_args}
        model = timm.create_model(architecture, num_classes=0, **model_args)
        checkpoint, layout, source = LoadedTensors(model.state_dict(), label), "random", None
        table, normalization = TIMM_KEYS, {"mean": list(IMAGENET_DEFAULT_MEAN), "std": list(IMAGENET_DEFAULT_STD)}
    else:
        source = _resolve_convnext(label, options)
        config, table, layout, normalization = _read_convnext_config(source)
        if config["architecture"] not in architectures:
            found = f"of the architecture {config['architecture']!r}"
            raise _wrong_architecture(source, found, "a ConvNeXt that timm knows")
        checkpoint = source.open()
    return Part("ConvNeXt", CONVNEXT_PREFIX, label, config, checkpoint, table, layout, source, **normalization)


def _resolve_convnext(label, options):
    """Finds a ConvNeXt. Unless it is a path, a name such as "convnext_tiny.in12k" is timm's, which knows its Hub id."""
    name, weights_file = label, None
    architecture = label.split(".")[0]
    if not Path(label).expanduser().exists() and timm.is_model(architecture):
        pretrained = timm.get_pretrained_cfg(label)
        if pretrained is None or not pretrained.hf_hub_id:
            tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
            raise UserError(f"timm has no weights {label!r} on the Hub. It has: {tags}.")
        name, weights_file = pretrained.hf_hub_id, pretrained.hf_hub_filename
        if name.endswith("/"):
            name = f"{name}{pretrained.architecture}.{pretrained.tag}"
    return resolve_source(name, options.convnext_revision, weights_file, options.dry_run)


def _read_convnext_config(source):
    """The config of FILA's ConvNeXt, the table of names, the layout, and the normalisation."""
    raw, open_clip = source.read_json("config.json"), source.read_json("open_clip_config.json")
    if open_clip:
        architecture = open_clip.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name")
        preprocess = {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD} | open_clip.get("preprocess_cfg", {})
        normalization = {key: list(preprocess[key]) for key in ("mean", "std")}
        return {"architecture": architecture}, OPEN_CLIP_KEYS, "OpenCLIP", normalization
    if "architecture" in raw:
        ours = {"num_classes", "pretrained", "features_only", "in_chans", "output_stride"}  # set by FILA
        model_args = {key: value for key, value in (raw.get("model_args") or {}).items() if key not in ours}
        defaults = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        pretrained = defaults | raw.get("pretrained_cfg", raw)
        normalization = {key: list(pretrained[key]) for key in ("mean", "std")}
        return {"architecture": raw["architecture"], "model_args": model_args}, TIMM_KEYS, "timm", normalization
    if raw.get("model_type") != "convnext":
        found = f"of model_type {raw.get('model_type')!r}" if raw else "missing"
        raise _wrong_architecture(source, found, "a ConvNeXt of timm, OpenCLIP or transformers")
    config = AutoConfig.from_pretrained(source.folder)
    if config.patch_size != 4 or config.hidden_act != "gelu" or config.num_channels != 3:
        found = f"a ConvNext with {config.patch_size=}, {config.hidden_act=}, {config.num_channels=}".replace(
            "config.", ""
        )
        raise _wrong_architecture(source, found, "patch_size=4, hidden_act='gelu' and num_channels=3")
    model_args = {"depths": list(config.depths), "dims": list(config.hidden_sizes)}
    model_args["ls_init_value"] = config.layer_scale_init_value or None
    normalization = _read_normalization(source, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    config = {"architecture": "convnext_tiny", "model_args": model_args}
    return config, CONVNEXT_KEYS, "transformers ConvNext", normalization


def load_text(options):
    """The decoder, as a [`Part`]. Raises [`UserError`] for another architecture or weights quantized other than by GGUF."""
    label = options.text
    if label.startswith("none:"):
        _check_tiny("text", label)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        config = LlamaConfig(**TINY_LLAMA, **sizes, **ids)
        checkpoint = LoadedTensors(AutoModelForCausalLM.from_config(config).state_dict(), label)
        return Part("decoder", TEXT_PREFIX, label, config, checkpoint, DECODER_KEYS)
    source = resolve_source(label, options.text_revision, dry_run=options.dry_run)
    file, layout, allowed = source.files[0], "transformers", TEXT_MODEL_TYPES
    if file.suffix == ".gguf":
        if not file.exists():
            raise UserError(f"{source.name}: download its GGUF file before a dry run.")
        layout, allowed = "GGUF", ("llama",)
        try:
            config = AutoConfig.from_pretrained(source.folder, gguf_file=file.name)
        except Exception as error:  # the reader raises whatever its parser meets in a damaged file
            raise UserError(f"{file} is damaged, or a GGUF file of an unknown architecture: {error}") from error
        model_type = config.model_type
    else:
        raw = source.read_json("config.json")
        if raw.get("quantization_config"):
            found = f"quantized ({raw['quantization_config'].get('quant_method')})"
            raise _wrong_architecture(source, found, "weights that are not quantized, or a GGUF file")
        model_type = raw.get("model_type")
    if model_type not in allowed:
        raise _wrong_architecture(source, f"of model_type {model_type!r}", f"model_type {', '.join(allowed)}")
    if layout == "transformers":
        config = AutoConfig.from_pretrained(source.folder)
    gguf_dtype = None if options.dry_run else DTYPES.get(options.dtype, DTYPES["bfloat16"])
    return Part("decoder", TEXT_PREFIX, label, config, source.open(gguf_dtype), DECODER_KEYS, layout, source)
