# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the model sees."""

import torch
from matplotlib import patches
from matplotlib.figure import Figure


def draw_views(image_processor, inputs, output, title=None):
    """Saves a picture of the tiles on their canvas, with the padding hatched, and of the global view.

    Args:
        image_processor ([`FilaImageProcessor`]): the processor that made the inputs.
        inputs (`dict`): its output for one image.
        output (`Path`): a PNG file to write.
        title (`str`, *optional*): what stands above, where there are tiles.
    """
    mean, std = (
        torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std)
    )
    views = (inputs["pixel_values"][0] * std + mean).clamp(0, 1)
    (rows, columns), (height, width) = inputs["image_grids"][0].tolist(), inputs["image_sizes"][0].tolist()
    tile_size = views.shape[-1]
    if rows == 0:  # not tiled: the global view is all there is
        output.parent.mkdir(parents=True, exist_ok=True)
        plt.imsave(output, views[0].permute(1, 2, 0).numpy())
        return
    canvas_height, canvas_width = rows * tile_size, columns * tile_size
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(3.2 * columns + 3.6, 3.2 * max(rows, 1.2)), width_ratios=[columns, 1], layout="constrained"
    )
    # tile, channel, y, x -> row y, column x, channel
    canvas = views[1 : 1 + rows * columns].unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2)
    left.imshow(canvas.reshape(canvas_height, canvas_width, 3))
    for column in range(1, columns):
        left.axvline(column * tile_size - 0.5, color="red", linewidth=1.5)
    for row in range(1, rows):
        left.axhline(row * tile_size - 0.5, color="red", linewidth=1.5)
    scale = min(canvas_height / height, canvas_width / width)
    pad_y, pad_x = (canvas_height - height * scale) / 2, (canvas_width - width * scale) / 2
    padding = {"hatch": "///", "facecolor": "none", "edgecolor": "gray", "linewidth": 0}
    for corner in ((0, 0), (0, canvas_height - pad_y)):
        left.add_patch(patches.Rectangle(corner, canvas_width, pad_y, **padding))
    for corner in ((0, 0), (canvas_width - pad_x, 0)):
        left.add_patch(patches.Rectangle(corner, pad_x, canvas_height, **padding))
    if title is not None:
        figure.suptitle(title, parse_math=False)
    left.set_title(
        f"image of {height} x {width} on the canvas {canvas_height} x {canvas_width}: {rows} x {columns} tiles"
    )
    right.imshow(views[0].permute(1, 2, 0))
    right.set_title(f"global view, {tile_size} x {tile_size}")
    for axis in (left, right):
        axis.set_axis_off()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)
