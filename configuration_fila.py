# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""FILA configuration, and the one piece of geometry that the processor and the model share.

Source: "FILA: Fine-Grained Vision Language Models" (arXiv 2412.08378v3), called "the paper" below.
"""

import difflib
import importlib
import math
import sys

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils import is_timm_available

FUSION_TYPES = ("none", "cross_attention", "channel_concat", "cvfm")
FUSION_ALIGNS = ("conv", "interpolate")
NUM_CONVNEXT_STAGES = 4
# One cell of ConvNeXt's last stage is this many pixels wide. FILA scales the high-resolution canvas
# so that such a cell covers exactly one ViT patch (paper: a scale of 32/14 for CLIP ViT-L/14).
CONVNEXT_STRIDE = 32
# The five canvases of the paper, in rows and columns of tiles: the default of the image processor, which chooses among them.
CANVASES = ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))
# How bytes become the inputs of ViT and ConvNeXt: attributes of the image processor and fields of [`FilaConfig`].
NORMALIZATION_FIELDS = ("rescale_factor", "image_mean", "image_std", "high_res_image_mean", "high_res_image_std")
# Keywords of timm that FILA sets itself.
RESERVED_MODEL_ARGS = frozenset({"num_classes", "pretrained", "features_only", "in_chans", "output_stride"})


def get_content_box(image_size, canvas_size):
    """Where an image lies on its canvas after the aspect-keeping resize and the centred padding.

    Equals `LlavaNextImageProcessor`'s arithmetic: the tight side fills the canvas, the other is rounded up, and an odd
    pixel of padding goes to the bottom or the right.

    Args:
        image_size (`tuple[int, int]`): original (height, width) in pixels.
        canvas_size (`tuple[int, int]`): (height, width) of the canvas in pixels.

    Returns:
        `tuple[int, int, int, int]`: (top, left, height, width) of the resized image on the canvas, in pixels.
    """
    image_height, image_width = image_size
    canvas_height, canvas_width = canvas_size
    scale_height, scale_width = canvas_height / image_height, canvas_width / image_width
    if scale_width < scale_height:
        height, width = min(math.ceil(image_height * scale_width), canvas_height), canvas_width
    else:
        height, width = canvas_height, min(math.ceil(image_width * scale_height), canvas_width)
    return (canvas_height - height) // 2, (canvas_width - width) // 2, height, width


class RemoteCodeMixin:
    """Lets dill send objects of remote code to other processes, as `Dataset.map` with `num_proc` does.

    transformers puts the modules of remote code into `sys.modules`, but not on their package, where dill looks for them. It
    would take their classes for local ones and copy them piece by piece, which fails, or gives the other process a second
    class of the same name. So each module is put on its package, as `import` does, before an object is pickled.
    """

    def __reduce_ex__(self, protocol):
        for name in {cls.__module__ for cls in type(self).__mro__}:
            package, _, attribute = name.rpartition(".")
            # A module is absent where its class came by value, as in the processes of vLLM.
            if name.startswith("transformers_modules.") and name in sys.modules:
                setattr(importlib.import_module(package), attribute, sys.modules[name])
        return super().__reduce_ex__(protocol)


def _sub_config(field, value, default_model_type, default_kwargs):
    """Turns `None`, a dict or a config object into a config object, as transformers' composite configs do."""
    if value is None:
        return CONFIG_MAPPING[default_model_type](**default_kwargs)
    if isinstance(value, PreTrainedConfig):
        return value
    if not isinstance(value, dict):
        raise ValueError(
            f"FilaConfig.{field} must be a configuration object, a dict of its fields or None, got "
            f"{type(value).__name__} {value!r}."
        )
    model_type = value.get("model_type", default_model_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"FilaConfig.{field} has model_type={model_type!r}, which this version of transformers does not know. "
            "Use a model type that `AutoConfig` can build."
        )
    return CONFIG_MAPPING[model_type](**{key: item for key, item in value.items() if key != "model_type"})


class FilaConvNextConfig(PreTrainedConfig, RemoteCodeMixin):
    r"""The high-resolution branch: a ConvNeXt of timm, stem and four stages, without its head.

    Args:
        architecture (`str`, *optional*, defaults to `"convnext_tiny"`):
            Name of a timm ConvNeXt; a pretrained tag after a dot is allowed and ignored when the network is built.
            The default has the stage widths of the paper (96, 192, 384, 768). `"convnext_large_mlp"` is the trunk of
            OpenCLIP's ConvNeXt-L, which Mini-Gemini uses.
        model_args (`dict`, *optional*):
            Keyword arguments for `timm.create_model`, for example `{"depths": [2, 2, 6, 2]}` or
            `{"drop_path_rate": 0.1}`. FILA sets `num_classes`, `pretrained`, `features_only`, `in_chans` and
            `output_stride` itself; these are not allowed.

    Raises:
        ValueError: unknown architecture, or a reserved key in `model_args`.
    """

    model_type = "fila_convnext"

    architecture: str = "convnext_tiny"
    model_args: dict | None = None

    def __post_init__(self, **kwargs):
        _reject_misspelt_fields(self, kwargs)
        self.model_args = dict(self.model_args or {})
        super().__post_init__(**kwargs)
        self.validate()

    def validate(self):
        """Checks all fields; see [`FilaConfig.validate`]."""
        super().validate()
        reserved = RESERVED_MODEL_ARGS & set(self.model_args)
        if reserved:
            raise ValueError(
                f"FilaConvNextConfig.model_args may not contain {sorted(reserved)}: FILA sets these itself. Remove them; any "
                "other keyword of timm's ConvNeXt is allowed, such as depths, dims, drop_path_rate or ls_init_value."
            )
        # Checked only where timm is installed: reading a config, to tokenize or to serve elsewhere, does not need it.
        if is_timm_available():
            import timm

            known = timm.list_models(module="convnext")
            if self.architecture.split(".")[0] not in known:
                close = difflib.get_close_matches(self.architecture, known, n=3)
                raise ValueError(
                    f"FilaConvNextConfig.architecture={self.architecture!r} is not a ConvNeXt of timm. "
                    + (f"Did you mean {' or '.join(close)}? " if close else "")
                    + "`timm.list_models(module='convnext')` lists the allowed names."
                )


class FilaConfig(PreTrainedConfig, RemoteCodeMixin):
    r"""Configuration of a FILA model. The defaults are the paper's: CLIP ViT-L/14-336, a ConvNeXt with stage widths
    96/192/384/768, LLaMA-3-8B, and a CVFM module after ViT layers 2, 6, 12 and 20.

    Args:
        vision_config (`CLIPVisionConfig` or `dict`, *optional*):
            The ViT. Only its layers up to `vision_feature_layer` are built. Fields missing from a dict get the defaults of
            `CLIPVisionConfig`, not those of the paper; likewise for `text_config`.
        convnext_config (`FilaConvNextConfig` or `dict`, *optional*):
            The high-resolution branch. Ignored for `fusion_type="none"`.
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            A causal decoder of transformers with a plain LM head, such as Llama, Qwen or Mistral.
        fusion_type (`str`, *optional*, defaults to `"cvfm"`):
            How ConvNeXt features reach the visual tokens. The four strategies that the paper compares: `"cvfm"` (FILA),
            `"none"` (dynamic resolution only, as in LLaVA-NeXT), `"cross_attention"` (Mini-Gemini) or `"channel_concat"`.
        fusion_layers (`list[int]`, *optional*, defaults to `[2, 6, 12, 20]`):
            For `"cvfm"`: the ViT layers, counted from 1, after which ConvNeXt stages 1 to 4 are fused (paper).
        fusion_align (`str`, *optional*, defaults to `"conv"`):
            How a ConvNeXt stage is brought to the token grid: strided 2x2 convolutions (`"conv"`) or area
            interpolation (`"interpolate"`).
        vision_feature_layer (`int`, *optional*, defaults to -2):
            Which ViT layer's output becomes the visual tokens, numbered as in LLaVA: 1 is the first layer, -1 the last.
        projector_hidden_act (`str`, *optional*, defaults to `"gelu"`):
            Activation between the two linear layers of the projector.
        image_token_id (`int`, *optional*, defaults to 128002):
            Vocabulary id of the `<image>` placeholder. The default is a reserved special token of LLaMA-3.
        image_mean, image_std (`list[float]` or `float`, *optional*, defaults to those of CLIP):
            How the model normalises uint8 `pixel_values`, after it has multiplied them by `rescale_factor`. These five
            fields must be those of the image processor, which does the same when it returns floats.
        high_res_image_mean, high_res_image_std (`list[float]` or `float`, *optional*, defaults to those of CLIP):
            The same for `high_res_pixel_values`.
        rescale_factor (`float`, *optional*, defaults to 1/255):
            Factor of uint8 pixels.
        tie_word_embeddings (`bool`, *optional*):
            Whether the LM head shares the input embedding. Taken from `text_config` when not given.

    Raises:
        ValueError: an invalid field; the message names it, its value and what is allowed.

    Example:

    ```python
    >>> from fila import FilaConfig

    >>> config = FilaConfig(fusion_type="channel_concat", convnext_config={"architecture": "convnext_base"})
    >>> config.grid_size, config.high_res_image_size, config.num_vision_layers
    (24, 768, 23)
    ```
    """

    model_type = "fila"
    keys_to_ignore_at_inference = ["past_key_values", "cache", "image_outputs"]
    sub_configs = {"vision_config": AutoConfig, "convnext_config": FilaConvNextConfig, "text_config": AutoConfig}

    vision_config: dict | PreTrainedConfig | None = None
    convnext_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    fusion_type: str = "cvfm"
    fusion_layers: list[int] | tuple[int, ...] = (2, 6, 12, 20)
    fusion_align: str = "conv"
    vision_feature_layer: int = -2
    projector_hidden_act: str = "gelu"
    image_token_id: int = 128002
    image_mean: float | list[float] | tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    image_std: float | list[float] | tuple[float, ...] = tuple(OPENAI_CLIP_STD)
    high_res_image_mean: float | list[float] | tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    high_res_image_std: float | list[float] | tuple[float, ...] = tuple(OPENAI_CLIP_STD)
    rescale_factor: float = 1 / 255
    tie_word_embeddings: bool | None = None

    def __post_init__(self, **kwargs):
        _reject_misspelt_fields(self, kwargs)
        self.vision_config = _sub_config(
            "vision_config",
            self.vision_config,
            "clip_vision_model",
            {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "image_size": 336,
                "patch_size": 14,
                "projection_dim": 768,
            },
        )
        if self.convnext_config is None or isinstance(self.convnext_config, dict):
            convnext_kwargs = dict(self.convnext_config or {})
            convnext_kwargs.pop("model_type", None)
            self.convnext_config = FilaConvNextConfig(**convnext_kwargs)
        if getattr(self.convnext_config, "model_type", None) != FilaConvNextConfig.model_type:
            raise ValueError(
                "FilaConfig.convnext_config must be a FilaConvNextConfig, a dict of its fields or None, got "
                f"{type(self.convnext_config).__name__}."
            )
        self.text_config = _sub_config(
            "text_config",
            self.text_config,
            "llama",
            {
                "vocab_size": 128256,
                "hidden_size": 4096,
                "intermediate_size": 14336,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "max_position_embeddings": 8192,
                "rms_norm_eps": 1e-5,
                "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
                "bos_token_id": 128000,
                "eos_token_id": 128009,
            },
        )
        if self.tie_word_embeddings is None:
            self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))
        # Which class each Auto class loads. `AutoModel` loads the generative model too, because users of remote code call
        # `AutoModel` and expect `generate`. `save_pretrained` writes this to config.json.
        kwargs["auto_map"] = {
            "AutoConfig": "configuration_fila.FilaConfig",
            "AutoModel": "modeling_fila.FilaForConditionalGeneration",
            "AutoModelForImageTextToText": "modeling_fila.FilaForConditionalGeneration",
            "AutoModelForMultimodalLM": "modeling_fila.FilaForConditionalGeneration",
            **(kwargs.get("auto_map") or {}),
        }
        super().__post_init__(**kwargs)
        self.validate()

    def validate(self):
        """Checks all fields: when the configuration is made or saved, and when a model is built from it, because
        `from_pretrained` sets fields later.

        Raises:
            ValueError: an invalid field; the message names it, its value and what is allowed.
        """
        super().validate()
        self._check_vision_fields()
        self._check_text_fields()

    def _check_vision_fields(self):
        self.convnext_config.validate()
        vision_config = self.vision_config
        if vision_config.model_type != "clip_vision_model":
            raise ValueError(
                f"FilaConfig.vision_config has model_type={vision_config.model_type!r}; FILA's ViT is a CLIP vision "
                "tower, model_type='clip_vision_model'. If you have a full CLIP config, pass its vision_config."
            )
        if vision_config.num_channels != 3 or vision_config.patch_size < 1 or vision_config.image_size < 1:
            raise ValueError(
                f"FilaConfig.vision_config has num_channels={vision_config.num_channels}, "
                f"image_size={vision_config.image_size} and patch_size={vision_config.patch_size}; FILA takes RGB images, so "
                "num_channels must be 3, and both sizes must be positive."
            )
        if vision_config.image_size % vision_config.patch_size:
            raise ValueError(
                f"FilaConfig.vision_config has image_size={vision_config.image_size}, which is not a multiple of its "
                f"patch_size={vision_config.patch_size}. Use a multiple of the patch size, such as "
                f"{max(1, vision_config.image_size // vision_config.patch_size) * vision_config.patch_size}."
            )
        for field, allowed in (("fusion_type", FUSION_TYPES), ("fusion_align", FUSION_ALIGNS)):
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"FilaConfig.{field}={getattr(self, field)!r} is invalid. Use one of {', '.join(allowed)}."
                )
        for field in NORMALIZATION_FIELDS:
            value = getattr(self, field)
            values = list(value) if isinstance(value, (list, tuple)) and field != "rescale_factor" else [value] * 3
            is_positive = field == "rescale_factor" or field.endswith("std")
            if len(values) != 3 or not all(_is_finite(item) and (item > 0 or not is_positive) for item in values):
                allowed = "one number" if field == "rescale_factor" else "one number or 3, one for each channel,"
                raise ValueError(
                    f"FilaConfig.{field}={value!r} must be {allowed} and finite{' and positive' * is_positive}. Use the value of "
                    "the image processor."
                )
        num_layers = vision_config.num_hidden_layers
        feature_layer = self.vision_feature_layer
        if not _is_int(feature_layer) or not -num_layers <= feature_layer <= num_layers or feature_layer == 0:
            raise ValueError(
                f"FilaConfig.vision_feature_layer={feature_layer!r} is not the number of a ViT layer: with "
                f"{num_layers} layers, use 1 to {num_layers} or -1 to -{num_layers}."
            )
        try:
            self.fusion_layers = list(self.fusion_layers)
        except TypeError:
            raise ValueError(
                f"FilaConfig.fusion_layers={self.fusion_layers!r} must be a list of layer numbers, such as [2, 6, 12, 20]."
            ) from None
        if self.fusion_type == "cvfm":
            layers = self.fusion_layers
            increasing = all(_is_int(layer) for layer in layers) and layers == sorted(set(layers))
            if (
                len(layers) != NUM_CONVNEXT_STAGES
                or not increasing
                or not 1 <= layers[0] <= layers[-1] <= self.num_vision_layers
            ):
                raise ValueError(
                    f"FilaConfig.fusion_layers={layers!r} must be {NUM_CONVNEXT_STAGES} increasing ViT layers, one for each "
                    f"ConvNeXt stage, counted from 1 and at most {self.num_vision_layers} (the layer that "
                    f"vision_feature_layer={feature_layer} selects)."
                )

    def _check_text_fields(self):
        # FILA puts a plain linear head on the decoder. A decoder whose own head does more would give wrong logits silently.
        scalings = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
        scalings = {key: getattr(self.text_config, key, neutral) for key, neutral in scalings.items()}
        if not hasattr(self.text_config, "vocab_size") or any(value not in (None, 1.0) for value in scalings.values()):
            raise ValueError(
                f"FilaConfig.text_config is a {self.text_config.model_type!r} with {scalings}; FILA needs a text-only "
                "causal decoder with a plain LM head, such as Llama, Qwen, Mistral or Phi-3."
            )
        if not _is_int(self.image_token_id) or not 0 <= self.image_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"FilaConfig.image_token_id={self.image_token_id!r} is not in the vocabulary of text_config, whose vocab_size "
                f"is {self.text_config.vocab_size}. Use the id of the tokenizer's image token."
            )

    @property
    def max_position_embeddings(self):
        """`int`: the longest text that the decoder was made for; `generate` warns beyond it."""
        return getattr(self.text_config, "max_position_embeddings", None)

    @property
    def num_vision_layers(self):
        """`int`: how many ViT layers are built, up to the one that `vision_feature_layer` selects."""
        if self.vision_feature_layer > 0:
            return self.vision_feature_layer
        return self.vision_config.num_hidden_layers + 1 + self.vision_feature_layer

    @property
    def grid_size(self):
        """`int`: visual tokens along one side of a tile or of the global view."""
        return self.vision_config.image_size // self.vision_config.patch_size

    @property
    def high_res_image_size(self):
        """`int`: side in pixels of a tile on the high-resolution canvas (paper: 768 for 336)."""
        return self.grid_size * CONVNEXT_STRIDE


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _reject_misspelt_fields(config, kwargs):
    """Configs silently accept unknown keys. A key that is almost the name of a field is probably a typo."""
    fields = list(type(config).__annotations__)
    for key in kwargs:
        close = difflib.get_close_matches(key, fields, n=1, cutoff=0.85)
        if close and key not in fields:
            raise ValueError(
                f"{type(config).__name__} has no field {key!r} (value {kwargs[key]!r}). Did you mean {close[0]!r}?"
            )


FilaConvNextConfig.register_for_auto_class()
FilaConfig.register_for_auto_class()

__all__ = ["FilaConfig", "FilaConvNextConfig"]
