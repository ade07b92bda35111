# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The output beside its sources, as their own libraries load them: equal visual tokens, ConvNeXt features and logits.

What runs is small, but has every layer: the encoders see an image of 4 x 4 patches, and the decoder has one attention head
and a few tokens, which are the first rows and columns of its tensors. That all bytes were written is checked elsewhere.
"""

import copy

import timm
import torch
from accelerate import init_empty_weights
from timm.models.convnext import checkpoint_filter_fn
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel, ConvNextModel

from fila import FilaForConditionalGeneration
from fila.common.arguments import UserError
from fila.common.layout import DTYPES
from fila.conversion.mapping import CONVNEXT_KEYS, INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS
from fila.conversion.sources import Source, open_tensors

PATCHES_PER_SIDE, NUM_TOKENS = 4, 8


def _make_small(config):
    """A config of FILA for a small image and a narrow decoder."""
    config = copy.deepcopy(config)
    config.vision_config.image_size = PATCHES_PER_SIDE * config.vision_config.patch_size
    text = config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    text.hidden_size, text.num_attention_heads, text.num_key_value_heads = width, 1, 1
    text.intermediate_size, text.vocab_size = min(text.intermediate_size, width), NUM_TOKENS
    text.pad_token_id = None  # it would have to be one of the few tokens
    return config


def _load(make_model, tensors, dtype):
    """A model with as many rows and columns of the tensors as it has place for, rounded to `dtype`, in float32."""
    with init_empty_weights():
        model = make_model().eval()
    state = {}
    for name, place in model.state_dict().items():
        weights = tensors[name].read()[tuple(slice(size) for size in place.shape)]
        state[name] = weights.to(dtype).float()
    model.load_state_dict(state, assign=True)
    return model


def _read_all(part, dtype):
    return {name: tensor.read().to(dtype).float() for name, tensor in part.tensors.items() if "text_model" not in name}


def _run_clip(part, config, dtype, pixels):
    tensors = _read_all(part, dtype)
    for name in tensors:
        if name.endswith("position_embedding.weight"):
            tensors[name] = tensors[name][: 1 + config.grid_size**2]
    options = {"config": config.vision_config, "dtype": torch.float32, "output_loading_info": True}
    clip, info = CLIPVisionModel.from_pretrained(None, state_dict=tensors, **options)
    if info["missing_keys"]:
        raise UserError(f"CLIPVisionModel does not find {sorted(info['missing_keys'])[:4]} in {part.label}.")
    return [clip.eval()(pixels, output_hidden_states=True).hidden_states[config.num_vision_layers]]


def _run_convnext(part, dtype, pixels):
    tensors = _read_all(part, dtype)
    if part.table is CONVNEXT_KEYS:
        config = AutoConfig.from_pretrained(part.source.folder)
        model = ConvNextModel.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
        return model.eval()(pixels, output_hidden_states=True).hidden_states[1:]
    with init_empty_weights():
        model = timm.create_model(part.config.architecture, num_classes=0, **part.config.model_args).eval()
    model.load_state_dict(checkpoint_filter_fn(tensors, model), strict=False, assign=True)
    return model.forward_intermediates(pixels, intermediates_only=True)


def _run_decoder(part, config, dtype, ids):
    prefixes = ("model.", "lm_head.")
    tensors = {name if name.startswith(prefixes) else f"model.{name}": value for name, value in part.tensors.items()}
    if config.tie_word_embeddings:
        tensors[OUTPUT_EMBEDDINGS] = tensors["model.embed_tokens.weight"]
    model = _load(lambda: AutoModelForCausalLM.from_config(config.text_config), tensors, dtype)
    return [model(input_ids=ids, use_cache=False).logits]


@torch.no_grad()
def compare_with_sources(folder, config, parts):
    """Runs the output beside its sources, in float32: the encoders on noise, the decoder on a few tokens.

    Args:
        folder (`Path`): the output.
        config ([`FilaConfig`]): of the output.
        parts (`list[Part]`): the backbones.

    Returns:
        `list[str]`: one line for each comparison.

    Raises:
        UserError: a difference.
    """
    dtype, config = DTYPES[str(config.dtype).removeprefix("torch.")], _make_small(config)
    generator = torch.Generator().manual_seed(0)
    size, high_res_size = config.vision_config.image_size, config.high_res_image_size
    pixels, high_res_pixels = (torch.randn(1, 3, side, side, generator=generator) for side in (size, high_res_size))
    ids = torch.arange(NUM_TOKENS)[None]
    run = {"ViT": lambda part: _run_clip(part, config, dtype, pixels)}
    run |= {"ConvNeXt": lambda part: _run_convnext(part, dtype, high_res_pixels)}
    run |= {"decoder": lambda part: _run_decoder(part, config, dtype, ids)}
    expected = {part.title: run[part.title](part) for part in parts}  # one source in memory at a time

    tensors = open_tensors(Source("output", folder, files=sorted(folder.glob("*.safetensors"))), dtype)
    if config.tie_word_embeddings:
        tensors[OUTPUT_EMBEDDINGS] = tensors[INPUT_EMBEDDINGS]
    model = _load(lambda: FilaForConditionalGeneration(config), tensors, dtype)
    tower, inputs = (
        model.model.vision_tower,
        {"pixel_values": pixels[:, None], "high_res_pixel_values": high_res_pixels[:, None]},
    )
    actual = {"ViT": [tower(**inputs, image_sizes=[(size, size)], image_grids=[(0, 0)]).last_hidden_state]}
    if "ConvNeXt" in expected:
        actual["ConvNeXt"] = tower.convnext.forward_intermediates(high_res_pixels, intermediates_only=True)
    actual["decoder"] = [model(input_ids=ids, use_cache=False).logits]
    names = {"ViT": "visual tokens", "ConvNeXt": "features of the ConvNeXt", "decoder": "logits"}
    return [_check_equal(names[part.title], actual[part.title], expected[part.title], part) for part in parts]


def _check_equal(title, actual, expected, part):
    tolerance = 1e-4 if part.table is CONVNEXT_KEYS else 0  # transformers computes a ConvNeXt in another order
    pairs = list(zip(actual, expected, strict=True))
    difference = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    if not difference <= tolerance:
        raise UserError(
            f"The {title} differ from those of {part.label} by up to {difference:.3g} of the largest (allowed: {tolerance}), "
            "so the output was not kept. `--no-verify` keeps it, to find out why. Please report it."
        )
    return f"{title}: " + ("equal, bit by bit" if difference == 0 else f"equal within {difference:.2g}")
