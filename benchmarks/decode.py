# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Time from a JPEG to the inputs of the model, as bytes, where training decodes it at a part of its size, against whole.

    python benchmarks/decode.py [--output results.json]

"page" is a wall of the rendered pages in fineprint/foreign, with text at the size at which it was rendered, finer than on
most scans; "photo" has smooth shapes and grain. Both are JPEGs of quality 90. `mean_steps` and `max_steps` are how far the
two results differ, on the scale from 0 to 255, `jpeg_mean_steps` how far the JPEG itself differs from the image, both decoded
whole.
"""

import io
import itertools
from functools import partial

import PIL.Image

from fila import FilaImageProcessor
from fila.benchmarks.harness import make_parser, median_in_turn, parse, report
from fila.benchmarks.preprocess import UINT8, make_image
from fila.common.images import decode_image
from fila.common.layout import ROOT

# (width, height): photographs, and a page of A4 at 300 dpi.
PRESETS = {"paper": [(4032, 3024), (3024, 4032), (2480, 3508)], "small": [(4608, 672)]}


def make_page(width, height):
    files = sorted((ROOT / "fineprint" / "foreign" / "pages").glob("*.png"))
    pages, image = map(PIL.Image.open, itertools.cycle(files)), PIL.Image.new("RGB", (width, height))
    for top, left in itertools.product(range(0, height, 600), range(0, width, 600)):
        image.paste(next(pages), (left, top))
    return image


def main(arguments=None):
    options = parse(make_parser(__doc__, PRESETS, repeats=9, device=False), arguments)
    processor, results = FilaImageProcessor(), []
    for (width, height), kind in itertools.product(PRESETS[options.preset], ("page", "photo")):
        image, file = make_page(width, height) if kind == "page" else make_image(width, height, 0), io.BytesIO()
        image.save(file, "JPEG", quality=90)

        def process(jpeg, *given):
            return processor(decode_image(jpeg, *given), return_tensors="pt", **UINT8)

        jpeg = {"bytes": file.getvalue(), "path": None}
        sides = {"reduced": partial(process, jpeg, processor), "whole": partial(process, jpeg)}
        seconds = median_in_turn(sides, options.repeats)
        reduced, whole = (side() for side in sides.values())
        original = processor(image, return_tensors="pt", **UINT8)
        steps, jpeg_steps = (
            [(whole[key].int() - other[key]).abs().float() for key in ("pixel_values", "high_res_pixel_values")]
            for other in (reduced, original)
        )
        row = {"what": kind, "batch": 1, "size": f"{width}x{height}", "parameters": 0}
        row |= {"decoded": "x".join(map(str, reduced["image_sizes"][0].tolist()[::-1]))}
        row |= {f"{name}_ms": 1000 * value for name, value in seconds.items()}
        row |= {"ratio": seconds["reduced"] / seconds["whole"], "max_steps": max(part.max().item() for part in steps)}
        row["mean_steps"] = max(part.mean().item() for part in steps)
        results.append(row | {"jpeg_mean_steps": max(part.mean().item() for part in jpeg_steps)})
    report("decode", options, results)


if __name__ == "__main__":
    main()
