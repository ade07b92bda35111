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

from fila.benchmarks.harness import make_parser, median_in_turn, parse, report
from fila.benchmarks.models import MODELS, count_parameters, llama, make_image_inputs, make_model
from fila.configuration_fila import FUSION_TYPES

PRESETS = {"paper": "smollm2", "convnext-large": "llama-1b-convnext-large", "small": "small"}
TINY_TEXT = llama(8, 16, 16, 1, 1, 1)  # the decoder is not measured
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@torch.no_grad()
def measure(options):
    """One row of the table."""
    grid, batch = tuple(options.grid), options.batch_size
    preset = MODELS[PRESETS[options.preset]] | {"text": TINY_TEXT}
    model = make_model(**preset, **options.factory, fusion_type=options.fusion_type)
    config, encoder = model.config, model.model.vision_tower.eval()
    inputs = make_image_inputs(config, batch, grid, **options.factory)
    # As in the model's own forward pass, the check comes before the encoder.
    inputs["image_sizes"], inputs["image_grids"] = encoder.check_inputs(**inputs)
    sides = {"fila": lambda: encoder(**inputs)}

    clip_config = type(config.vision_config)(**config.vision_config.to_dict())
    if options.cut_clip:
        clip_config.num_hidden_layers = config.num_vision_layers
    clip = CLIPVisionModel(clip_config).eval().to(**options.factory)
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
            canvas = torch.randn(shape, **options.factory).to(memory_format=layout)
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
    parser = make_parser(__doc__, PRESETS, repeats=3, batch_size=1, grid=[2, 2])
    parser.add_argument("--fusion-type", choices=FUSION_TYPES, default="cvfm", help="(default: cvfm)")
    parser.add_argument("--cut-clip", action="store_true", help="the peer runs only the layers that FILA builds")
    options = parse(parser, arguments)
    report("encode", options, [measure(options)])


if __name__ == "__main__":
    main()
