# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the model sees."""

import warnings
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle


def draw_views(image_processor, inputs, output, title=None):
    """Saves a picture of the tiles on their canvas, with the padding hatched, and of the global view; of the global view
    alone where an image is not tiled.

    Args:
        image_processor ([`FilaImageProcessor`]): the processor that made the inputs.
        inputs (`dict`): its output for one image.
        output (`str` or `Path`): a PNG file to write. Its folder is made.
        title (`str`, *optional*): a line above.
    """
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    views = (inputs["pixel_values"][0].float().cpu() * std + mean).clamp(0, 1)
    rows, columns = inputs["image_grids"][0].tolist()
    tile_size = views.shape[-1]
    figure = Figure(figsize=(3.2 * columns + 3.6, 3.2 * max(rows, 1.2)), layout="constrained")
    if title is not None:
        figure.suptitle(title, parse_math=False)
    axes = figure.subplots(1, 2, width_ratios=[columns, 1]) if rows else [figure.subplots()]
    if rows:
        # tile, channel, y, x -> row, y, column, x, channel
        canvas = views[1 : 1 + rows * columns].unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
        canvas = canvas.reshape(rows * tile_size, columns * tile_size, 3)
        _draw_canvas(axes[0], canvas, tile_size, inputs["image_sizes"][0].tolist())
    axes[-1].imshow(views[0].permute(1, 2, 0))
    axes[-1].set_title(f"global view, {tile_size} x {tile_size}")
    for axis in axes:
        axis.set_axis_off()
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # models write in any script, the font does not
        figure.savefig(output, dpi=110)


def _draw_canvas(axis, canvas, tile_size, image_size):
    """Draws a canvas of shape (height, width, 3) that holds an image of `image_size` (height, width) before resizing."""
    (canvas_height, canvas_width), (height, width) = canvas.shape[:2], image_size
    axis.imshow(canvas)
    for x in range(tile_size, canvas_width, tile_size):
        axis.axvline(x - 0.5, color="red", linewidth=1.5)
    for y in range(tile_size, canvas_height, tile_size):
        axis.axhline(y - 0.5, color="red", linewidth=1.5)
    scale = min(canvas_height / height, canvas_width / width)
    pad_y, pad_x = (canvas_height - height * scale) / 2, (canvas_width - width * scale) / 2
    bands = [((0, y), canvas_width, pad_y) for y in (0, canvas_height - pad_y)]
    bands += [((x, 0), pad_x, canvas_height) for x in (0, canvas_width - pad_x)]
    for corner, *size in bands:
        axis.add_patch(Rectangle(corner, *size, hatch="///", facecolor="none", edgecolor="gray", linewidth=0))
    axis.set_title(
        f"image of {height} x {width} on the canvas {canvas_height} x {canvas_width}: "
        f"{canvas_height // tile_size} x {canvas_width // tile_size} tiles"
    )
