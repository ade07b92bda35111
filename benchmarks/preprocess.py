# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Time of FilaImageProcessor, views and ConvNeXt input, against transformers' LlavaNextImageProcessor, views alone.

    python benchmarks/preprocess.py [--threads 2] [--output results.json]

Both get the same PIL images. LLaVA-NeXT returns float32; FILA float32, and uint8 as for a model that normalises by itself.
FILA's high-resolution canvas, 5.2 times the pixels of the tiles, is work that LLaVA-NeXT does not have. Beside the
times stands whether FILA's outputs equal, bit by bit, those of the plain way: torchvision's resize of a contiguous image, padding, cutting, transformers' `rescale_and_normalize`.
"""

from functools import partial

import numpy as np
import PIL.Image
import torch
from torchvision.transforms.v2 import functional as tvF
from transformers import LlavaNextImageProcessor
from transformers.image_processing_utils import get_patch_output_size

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


def preprocess_plainly(processor, image):
    """The two tensors of one image, computed step by step with stock functions."""
    pixels = tvF.pil_to_tensor(image)
    rows, columns = processor.get_image_grid(*pixels.shape[-2:])

    def resize(size):
        return tvF.resize(pixels, list(size), interpolation=tvF.InterpolationMode.BICUBIC, antialias=True)

    def cut(side):
        canvas = (rows * side, columns * side)
        content = resize(get_patch_output_size(pixels, canvas, input_data_format="channels_first"))
        top, left = (canvas[0] - content.shape[1]) // 2, (canvas[1] - content.shape[2]) // 2
        bottom, right = canvas[0] - content.shape[1] - top, canvas[1] - content.shape[2] - left
        padded = tvF.pad(content, [left, top, right, bottom])
        return [tile for row in padded.split(side, dim=1) for tile in row.split(side, dim=2)]

    def normalize(tiles, mean, std):
        return processor.rescale_and_normalize(torch.stack(tiles), True, 1 / 255, True, tuple(mean), tuple(std))

    size = processor.size["height"]
    views = normalize([resize((size, size)), *cut(size)], processor.image_mean, processor.image_std)
    high_res = normalize(
        cut(size // processor.patch_size * 32), processor.high_res_image_mean, processor.high_res_image_std
    )
    return views, high_res


def is_identical(processor, images):
    """Whether the processor gives, bit by bit, what the plain way gives; of uint8, after it is normalised."""
    outputs, raw = processor(images, return_tensors="pt"), processor(images, return_tensors="pt", **UINT8)
    for index, image in enumerate(images):
        for prefix, expected in zip(("", "high_res_"), preprocess_plainly(processor, image)):
            normalization = (tuple(getattr(processor, f"{prefix}image_{name}")) for name in ("mean", "std"))
            pixels = raw[f"{prefix}pixel_values"][index, : len(expected)]
            normalized = processor.rescale_and_normalize(pixels, True, 1 / 255, True, *normalization)
            if not torch.equal(outputs[f"{prefix}pixel_values"][index, : len(expected)], expected):
                return False
            if not torch.equal(normalized, expected):
                return False
    return True


def main(arguments=None):
    options = parse(make_parser(__doc__, PRESETS, repeats=15, device=False), arguments)
    fila = FilaImageProcessor()
    llava_next = LlavaNextImageProcessor(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336})
    sizes, batches = PRESETS[options.preset]
    results = []
    for width, height in sizes:
        for batch in batches:
            images = [make_image(width, height, seed) for seed in range(batch)]
            sides = {
                "fila": partial(fila, images, return_tensors="pt"),
                "uint8": partial(fila, images, return_tensors="pt", **UINT8),
                "llava_next": partial(llava_next, images, return_tensors="pt"),
            }
            seconds = median_in_turn(sides, options.repeats)
            results.append(
                {
                    "batch": batch,
                    "size": f"{width}x{height}",
                    "grid": "x".join(map(str, fila.get_image_grid(height, width))),
                    "parameters": 0,
                    "fila_ms": 1000 * seconds["fila"],
                    "uint8_ms": 1000 * seconds["uint8"],
                    "llava_next_ms": 1000 * seconds["llava_next"],
                    "ratio": seconds["fila"] / seconds["llava_next"],
                    "uint8_ratio": seconds["uint8"] / seconds["llava_next"],
                    "identical": is_identical(fila, images),
                }
            )
    report("preprocess", options, results)


if __name__ == "__main__":
    main()
