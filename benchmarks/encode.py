# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of FILA's hybrid encoder against the sum of its parts: transformers' CLIPVisionModel on the same views, and the
bare timm ConvNeXt, all four stages, on the same canvas.

    python benchmarks/encode.py [--grid 2 2] [--fusion-type cvfm] [--output results.json]

The weights are random, and the same on both sides. CLIP runs all its layers, as in LLaVA-NeXT; with `--cut-clip` only
those that FILA builds, so that FILA gains nothing from leaving the last one out. The ConvNeXt is timed in both memory
layouts, weights included, and the faster one counts. Laying the pieces of the canvas together and the fusion are FILA's
own.
"""

from copy import deepcopy
from functools import partial

import torch
from transformers import CLIPVisionModel

from fila import FilaConfig, FilaForConditionalGeneration
from fila.benchmarks.harness import (
    count_parameters,
    make_image_inputs,
    make_parser,
    median_in_turn,
    parse,
    report,
)
from fila.common.layout import DTYPES
from fila.configuration_fila import FUSION_TYPES

# The decoder is not measured.
TINY_TEXT = {
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
PRESETS = {
    "paper": {},
    "convnext-large": {"convnext_config": {"architecture": "convnext_large_mlp"}},
    "small": {
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 6,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
        },
        "convnext_config": {"architecture": "convnext_atto"},
        "fusion_layers": [1, 2, 3, 4],
    },
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
GOALS = {"ratio": "<= 1.02"}


@torch.no_grad()
def measure(options):
    """One row of the table."""
    dtype, grid, batch = DTYPES[options.dtype], tuple(options.grid), options.batch_size
    config = FilaConfig(
        text_config=TINY_TEXT, image_token_id=0, fusion_type=options.fusion_type, **PRESETS[options.preset]
    )
    encoder = FilaForConditionalGeneration(config).model.vision_tower.eval().to(options.device, dtype)
    inputs = make_image_inputs(config, batch, grid, options.device, dtype)
    # As in the model's own forward pass, the check comes before the encoder.
    inputs["image_sizes"], inputs["image_grids"] = encoder.check_inputs(**inputs)
    sides = {"fila": lambda: encoder(**inputs)}

    clip_config = type(config.vision_config)(**config.vision_config.to_dict())
    if options.cut_clip:
        clip_config.num_hidden_layers = config.num_vision_layers
    clip = CLIPVisionModel(clip_config).eval().to(options.device, dtype)
    # The same modules, not copies: the time of a layer depends a little on its values and on where they lie.
    clip.embeddings, clip.pre_layrnorm = encoder.vit.embeddings, encoder.vit.pre_layernorm
    for number, layer in enumerate(encoder.vit.layers):
        clip.encoder.layers[number] = layer
    views = inputs["pixel_values"].flatten(0, 1)
    sides["clip"] = lambda: clip(views)

    if config.fusion_type != "none":
        side = config.high_res_image_size
        shape = (batch, 3, max(grid[0], 1) * side, max(grid[1], 1) * side)
        for name, layout in LAYOUTS.items():
            convnext = deepcopy(encoder.convnext).to(memory_format=layout)
            canvas = torch.randn(shape, device=options.device, dtype=dtype).to(memory_format=layout)
            sides[name] = partial(convnext.forward_intermediates, canvas, intermediates_only=True)

    seconds = median_in_turn(sides, options.repeats, options.device)
    layouts = {name: seconds[name] for name in LAYOUTS if name in seconds}
    best = min(layouts, key=layouts.get, default=None)
    parts = seconds["clip"] + (layouts[best] if best else 0.0)
    return {
        "batch": batch,
        "size": f"{grid[0]}x{grid[1]}",
        "fusion_type": config.fusion_type,
        "parameters": count_parameters(encoder),
        "clip_layers": clip_config.num_hidden_layers,
        "fila_s": seconds["fila"],
        "clip_s": seconds["clip"],
        "convnext_s": layouts.get(best),
        "convnext_layout": best,
        "parts_s": parts,
        "ratio": seconds["fila"] / parts,
    }


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=3)
    parser.add_argument("--batch-size", type=int, default=1, help="images (default: 1)")
    parser.add_argument(
        "--grid", type=int, nargs=2, default=[2, 2], metavar=("R", "C"), help="rows and columns of tiles (default: 2 2)"
    )
    parser.add_argument("--fusion-type", choices=FUSION_TYPES, default="cvfm", help="(default: cvfm)")
    parser.add_argument("--cut-clip", action="store_true", help="the peer runs only the layers that FILA builds")
    options = parse(parser, arguments)
    torch.manual_seed(0)
    report("encode", options, [measure(options)], GOALS)


if __name__ == "__main__":
    main()
