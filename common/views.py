# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of what the model sees."""

import PIL.Image


def draw_views(processor, inputs):
    """`PIL.Image`: the tiles of one image on their canvas beside its global view; of one that is not tiled, the global view
    alone. `inputs` is what the [`FilaProcessor`] gives for it."""
    names = ["canvas", "global_view"] if any(inputs["image_grids"][0]) else ["global_view"]
    views = [processor.draw_view(inputs, name) for name in names]
    gap = views[-1].width // 8
    size = (sum(view.width for view in views) + gap * (len(views) - 1), max(view.height for view in views))
    picture, left = PIL.Image.new("RGB", size, "white"), 0
    for view in views:
        picture.paste(view, (left, 0))
        left += view.width + gap
    return picture
