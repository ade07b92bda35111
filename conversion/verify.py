# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The output beside its sources, as their own libraries load them: equal visual tokens, ConvNeXt features and logits.

What runs is small, but has every layer: the encoders see an image of 4 x 4 patches, and the decoder has one attention
head and a few tokens, which are the first rows and columns of its tensors. `write_weights` has compared all bytes.
"""

import copy
import re

import timm
import torch
from accelerate import init_empty_weights
from timm.models.convnext import checkpoint_filter_fn
from transformers import AutoModelForCausalLM, CLIPVisionModel

from fila import FilaForConditionalGeneration
from fila.common.arguments import UserError
from fila.conversion.mapping import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, Drop, rename
from fila.conversion.sources import Source, open_tensors

OUTPUTS = {"ViT": "visual tokens", "ConvNeXt": "features of the ConvNeXt", "decoder": "logits"}


def _make_small(config):
    """A config of FILA for a small image and a narrow decoder."""
    config = copy.deepcopy(config)
    config.vision_config.image_size = 4 * config.vision_config.patch_size
    text = config.text_config
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    text.hidden_size, text.num_attention_heads, text.num_key_value_heads = min(text.hidden_size, width), 1, 1
    text.intermediate_size, text.vocab_size = min(text.intermediate_size, width), 8
    text.pad_token_id, config.image_token_id = None, text.vocab_size - 1  # they have to be among the few tokens
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


def _run_source(part, config, inputs):
    """What a source computes where its own library loads it: `list[torch.Tensor]`."""
    if part.title == "decoder":
        # Some checkpoints have the decoder without its head, and names without this prefix.
        tensors = {re.sub(r"^(?!model\.|lm_head\.)", "model.", name): value for name, value in part.tensors.items()}
        tensors.setdefault(OUTPUT_EMBEDDINGS, tensors["model.embed_tokens.weight"])
        model = _load(lambda: AutoModelForCausalLM.from_config(config.text_config), tensors, config.dtype)
        return [model(input_ids=inputs, use_cache=False).logits]
    used = [name for name in part.tensors if not isinstance(rename(name, part, config), Drop)]
    tensors = {name: part.tensors[name].read().to(config.dtype).float() for name in used}
    if part.title == "ViT":
        for name in [name for name in tensors if name.endswith("position_embedding.weight")]:
            tensors[name] = tensors[name][: 1 + config.grid_size**2]
        model = CLIPVisionModel.from_pretrained(
            None, config=config.vision_config, state_dict=tensors, dtype=torch.float32
        )
        return [model.eval()(inputs, output_hidden_states=True).hidden_states[config.num_vision_layers]]
    with init_empty_weights():
        model = timm.create_model(part.config.architecture, num_classes=0, **part.config.model_args).eval()
    model.load_state_dict(checkpoint_filter_fn(tensors, model), strict=False, assign=True)
    return model.forward_intermediates(inputs, intermediates_only=True)


def _run_output(folder, config, inputs):
    """What the output computes, by the title of each part."""
    tensors = open_tensors(Source("output", folder, sorted(folder.glob("*.safetensors"))))
    tensors.setdefault(OUTPUT_EMBEDDINGS, tensors[INPUT_EMBEDDINGS])
    model = _load(lambda: FilaForConditionalGeneration(config), tensors, config.dtype)
    tower, images = model.model.vision_tower, {"image_sizes": [inputs["ViT"].shape[-2:]], "image_grids": [(0, 0)]}
    tokens = tower(inputs["ViT"][:, None], inputs["ConvNeXt"][:, None], **images).last_hidden_state
    outputs = {"ViT": [tokens], "decoder": [model(input_ids=inputs["decoder"], use_cache=False).logits]}
    if tower.convnext is not None:
        outputs["ConvNeXt"] = tower.convnext.forward_intermediates(inputs["ConvNeXt"], intermediates_only=True)
    return outputs


@torch.no_grad()
def compare_with_sources(folder, config, parts):
    """Runs the output in a folder beside its parts, in float32: the encoders on noise, the decoder on a few tokens.

    Returns one line for each comparison, as `list[str]`. Raises [`UserError`] for a difference.
    """
    config = _make_small(config)
    sizes = {"ViT": config.vision_config.image_size, "ConvNeXt": config.high_res_image_size}
    generator = torch.Generator().manual_seed(0)
    inputs = {title: torch.randn(1, 3, size, size, generator=generator) for title, size in sizes.items()}
    inputs["decoder"] = torch.arange(config.image_token_id)[None]
    outputs, lines = _run_output(folder, config, inputs), []
    for part in parts:  # one model in memory at a time
        pairs = zip(outputs[part.title], _run_source(part, config, inputs[part.title]), strict=True)
        if not all(torch.equal(actual, expected) for actual, expected in pairs):
            advice = "The output was not kept. `--no-verify` keeps it, to find out why. Please report it."
            raise UserError(f"The {OUTPUTS[part.title]} differ from those of {part.label}. {advice}")
        lines.append(f"{OUTPUTS[part.title]}: equal, bit by bit")
    return lines
