# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How a page comes into its image: as it is, turned a little, or photographed."""

import io
import math
from functools import cache

import numpy as np
import PIL.Image
from PIL import ImageChops, ImageFilter
from PIL.Image import Resampling, Transform

from fila.fineprint.tiles import corners

MAX_ANGLE = 3  # degrees


class Camera:
    """The projection of a page of `width` x `height` pixels into an image of the same size: straight, turned a little, or, if
    `is_photo`, seen from an angle, with blur, noise and uneven light."""

    def __init__(self, rng, width, height, is_photo):
        self.rng, self.size, self.is_photo = rng, np.array([width, height]), is_photo
        self.margin = min(width, height) * rng.uniform(0.02, 0.07)
        self.is_straight = not is_photo and rng.random() < 0.855
        page = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (self.size / 2)
        turn = math.radians(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
        rotation = [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        seen = page if self.is_straight else page @ np.array(rotation)
        if is_photo:
            seen = seen + np.array([[rng.uniform(-0.05, 0.05) for _ in "xy"] for _ in page]) * self.size
        # Shrunk until all that is within the margin is in the image.
        seen = seen * min(1, ((self.size / 2) / (np.abs(seen).max(axis=0) - self.margin * 0.8)).min())
        start, end = page + self.size / 2, seen + self.size / 2
        rows = [[x, y, 1, 0, 0, 0, -x * u, -y * u] for (x, y), (u, v) in zip(start, end)]
        rows += [[0, 0, 0, x, y, 1, -x * v, -y * v] for (x, y), (u, v) in zip(start, end)]
        matrix = np.append(np.linalg.solve(rows, end.T.flatten()), 1).reshape(3, 3)
        self.matrix = np.eye(3) if self.is_straight else matrix

    def to_image(self, points):
        """Points of the page, (..., 2) as (x, y), in the image."""
        mapped = np.asarray(points) @ self.matrix[:, :2].T + self.matrix[:, 2]
        return mapped[..., :2] / mapped[..., 2:]

    def scale(self, point):
        """Height in the image of one pixel of the page."""
        low, high = self.to_image([point, (point[0], point[1] + 1)])
        return float(np.hypot(*(high - low)))

    @property
    def least_scale(self):
        """The least [`scale`] within the margin."""
        xs, ys = ((self.margin, side - self.margin) for side in self.size)
        return min(self.scale((x, y)) for x in xs for y in ys)

    def corners(self, marks):
        """The corners in the image of the box around marks, as (4, 2), clockwise from the left top."""
        boxes = np.array([mark.box for mark in marks])
        return self.to_image(corners([*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0)]))

    def take(self, image, desk):
        """The image of a drawn page; `desk` is the color of what lies around it."""
        rng = self.rng
        if not self.is_straight:
            inverse = np.linalg.inv(self.matrix)
            inverse = (inverse / inverse[2, 2]).flatten()[:8].tolist()
            method = Transform.PERSPECTIVE if self.is_photo else Transform.AFFINE
            image = image.transform(image.size, method, inverse, Resampling.BILINEAR, fillcolor=desk)
        if not self.is_photo:
            return image
        if rng.random() < 0.8:  # uneven light
            light = PIL.Image.frombytes("L", (3, 3), bytes(rng.randrange(150, 256) for _ in range(9)))
            image = ImageChops.multiply(image, light.resize(image.size, Resampling.BILINEAR).convert("RGB"))
        if rng.random() < 0.25:
            image = image.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.6)))
        if rng.random() < 0.6:
            left, top = (rng.randrange(max(1, 2048 - side)) for side in image.size)
            grain = _grain(rng.choice([3, 6, 10])).crop((left, top, left + image.width, top + image.height))
            image = ImageChops.add(image, grain.convert("RGB"), offset=-128)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randint(45, 92))
        return PIL.Image.open(file).convert("RGB")


@cache
def _grain(strength):
    """A piece of noise around 128, from which the noise of all images is cut."""
    noise = np.random.default_rng(0).standard_normal((2048, 2048), dtype=np.float32) * strength + 128
    return PIL.Image.fromarray(noise.clip(0, 255).astype(np.uint8))
