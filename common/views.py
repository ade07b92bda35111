# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the model sees, and of what it answers."""

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps


def draw_views(processor, inputs, maps=None):
    """`PIL.Image`: the tiles of one image on their canvas beside its global view; of one that is not tiled, the global view
    alone. `inputs` is what the [`FilaProcessor`] gives for it. With `maps`, its item of what `get_fusion_maps` returns, the
    global view is below the canvas, and both are drawn again under the heat map of each fusion module, from left to right."""
    names = ["canvas", "global_view"] if any(inputs["image_grids"][0]) else ["global_view"]
    if maps is None:
        rows = [[processor.draw_view(inputs, name) for name in names]]
    else:
        rows = [[processor.draw_view(inputs, name, heat=heat) for heat in (None, *maps[name])] for name in names]
    gap, top = rows[-1][-1].width // 8, 0
    widths = [max(view.width for view in column) for column in zip(*rows)]
    heights = [max(view.height for view in row) for row in rows]
    size = (sum(widths) + gap * (len(widths) - 1), sum(heights) + gap * (len(heights) - 1))
    picture = PIL.Image.new("RGB", size, "white")
    for row, height in zip(rows, heights):
        left = 0
        for view, width in zip(row, widths):
            picture.paste(view, (left, top))
            left += width + gap
        top += height + gap
    return picture


def draw_captions(images, captions, size=(440, 340)):
    """`PIL.Image`: images side by side, each fitted into a box of `size` (width, height), over its caption of three lines."""
    width, height = size
    picture = PIL.Image.new("RGB", (width * len(images), height + 100), "white")
    try:
        font = PIL.ImageFont.truetype("DejaVuSans.ttf", 17)
    except OSError:  # it is not installed, and Pillow's own lacks a few characters
        font = PIL.ImageFont.load_default(18)
    draw = PIL.ImageDraw.Draw(picture)
    for left, image, caption in zip(range(0, picture.width, width), images, captions):
        fitted = PIL.ImageOps.contain(image.convert("RGB"), (width - 20, height - 20))
        picture.paste(fitted, (left + 10, height - 10 - fitted.height))
        draw.multiline_text((left + 10, height), caption, "black", font, spacing=8)
    return picture
