# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Where text lies on the tiles that FilaImageProcessor cuts an image into."""

from functools import cache
from itertools import pairwise, product

import numpy as np

from fila import FilaImageProcessor
from fila.common.layout import image_grid_pinpoints
from fila.configuration_fila import get_content_box

MAX_SHARE_ACROSS = 0.85  # of an answer's box that one tile may hold, if it is "across"
MIN_DISTANCE_INSIDE = 1.0  # from the next tile, in pixels of the canvas, if it is "inside"


@cache
def _image_processor(tile_size):
    return FilaImageProcessor(size=tile_size, image_grid_pinpoints=image_grid_pinpoints(tile_size))


class Canvas:
    """The canvas that the image processor picks for an image of `image_size` (height, width): `grid`, its rows and columns of
    tiles; `scale`, its pixels for one of the image along x and y; `offset`, where the image's left top corner is on it; `cuts`,
    where tiles meet along x and y."""

    def __init__(self, image_size, tile_size, image_processor=None):
        image_processor = image_processor or _image_processor(tile_size)
        self.grid = image_processor.get_image_grid(*image_size)
        top, left, height, width = get_content_box(image_size, [count * tile_size for count in self.grid])
        self.scale = np.array([width / image_size[1], height / image_size[0]])
        self.offset = np.array([left, top])
        self.cuts = [range(tile_size, count * tile_size, tile_size) for count in self.grid[::-1]]

    def to_canvas(self, points):
        """Points of the image, (..., 2) as (x, y), on the canvas."""
        return points * self.scale + self.offset

    def locate(self, quad):
        """Where a text lies: "inside" a tile, "across" a cut, or, where a cut touches it, neither: `None`. `quad` has the
        corners (x, y) of its box in pixels of the image, shape (4, 2)."""
        from matplotlib.path import Path  # here, because pages can be made without it
        from matplotlib.transforms import Bbox

        quad = self.to_canvas(quad)
        low, high = quad.min(axis=0) - MIN_DISTANCE_INSIDE, quad.max(axis=0) + MIN_DISTANCE_INSIDE
        xs, ys = ([low[i], *(cut for cut in self.cuts[i] if low[i] < cut < high[i]), high[i]] for i in (0, 1))
        if len(xs) == len(ys) == 2:
            return "inside"
        areas = []
        for (left, right), (top, bottom) in product(pairwise(xs), pairwise(ys)):
            x, y = Path(quad, closed=True).clip_to_bbox(Bbox.from_extents(left, top, right, bottom)).vertices.T
            areas.append(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)
        return "across" if max(areas) <= MAX_SHARE_ACROSS * sum(areas) else None


def corners(rectangle):
    """(left, top, right, bottom) as a (4, 2) array of (x, y), clockwise from the left top corner."""
    left, top, right, bottom = rectangle
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
