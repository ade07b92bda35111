# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of FilaImageProcessor, views and ConvNeXt input, against transformers' LlavaNextImageProcessor, views alone.

    python benchmarks/preprocess.py [--threads 2] [--output results.json]

Both get the same PIL images. LLaVA-NeXT returns float32; FILA float32, and uint8 as for a model that normalises by itself.
FILA's high-resolution canvas, 5.2 times the pixels of the tiles, is work that LLaVA-NeXT does not have.
"""

import itertools
from functools import partial

import numpy as np
import PIL.Image
from transformers import LlavaNextImageProcessor

from fila import FilaImageProcessor
from fila.benchmarks.harness import make_parser, median_in_turn, parse, report

# (width, height) of the images, and batch sizes.
PRESETS = {
    "paper": ([(640, 480), (1024, 768), (1920, 1080), (3000, 2000)], [1, 8]),
    "small": ([(640, 480)], [1]),
}
UINT8 = {"do_rescale": False, "do_normalize": False}


def make_image(width, height, seed):
    """A photo-like image: large smooth shapes under a little grain."""
    rng = np.random.default_rng(seed)
    shapes = PIL.Image.fromarray(rng.integers(0, 256, (height // 64 + 2, width // 64 + 2, 3), dtype=np.uint8))
    pixels = np.asarray(shapes.resize((width, height), PIL.Image.Resampling.BICUBIC), dtype=np.int16)
    return PIL.Image.fromarray((pixels + rng.integers(-4, 5, pixels.shape)).clip(0, 255).astype(np.uint8))


def main(arguments=None):
    options = parse(make_parser(__doc__, PRESETS, repeats=15, device=False), arguments)
    fila = FilaImageProcessor()
    llava_next = LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    results = []
    for (width, height), batch in itertools.product(*PRESETS[options.preset]):
        images = [make_image(width, height, seed) for seed in range(batch)]
        sides = {
            "fila": partial(fila, images, return_tensors="pt"),
            "uint8": partial(fila, images, return_tensors="pt", **UINT8),
            "llava_next": partial(llava_next, images, return_tensors="pt"),
        }
        seconds = median_in_turn(sides, options.repeats)
        row = {"batch": batch, "size": f"{width}x{height}", "parameters": 0}
        row |= {f"{name}_ms": 1000 * value for name, value in seconds.items()}
        row["ratio"] = seconds["fila"] / seconds["llava_next"]
        results.append(row | {"uint8_ratio": seconds["uint8"] / seconds["llava_next"]})
    report("preprocess", options, results)


if __name__ == "__main__":
    main()
