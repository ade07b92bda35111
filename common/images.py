# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Reads the encoded images of rows: as a whole, their sizes alone, or as small as the image processor allows."""

import io
from contextlib import contextmanager

import PIL.Image

from fila.configuration_fila import CONVNEXT_STRIDE, get_content_box
from fila.image_processing_fila import EXIF_ORIENTATION, load_image


@contextmanager
def _open_image(image):
    """Opens an encoded image, a `dict` from [`~fila.training.rows.read_row`], without reading its pixels. What goes wrong
    in the `with` block is a `ValueError` about the image, too."""
    name, problem = image["path"] or "encoded in the row", "an image that cannot be read"
    try:
        with PIL.Image.open(image["path"] if image["bytes"] is None else io.BytesIO(image["bytes"])) as opened:
            problem = "a broken image"
            yield opened
    except FileNotFoundError as error:
        raise ValueError(f"misses its image {name}") from error
    except Exception as error:  # each of Pillow's formats has exceptions of its own
        raise ValueError(f"has {problem} ({name}: {error or type(error).__name__})") from error


def decode_image(image, image_processor=None):
    """`PIL.Image`: as [`~fila.image_processing_fila.load_image`] gives it. Raises a `ValueError` if it cannot be read.

    With an image processor, a JPEG that is larger than any of its inputs may come at a half, a quarter or an eighth of its
    size, which is decoded faster. The processor takes the same canvas for it."""
    with _open_image(image) as opened:
        if image_processor is not None:
            _reduce_jpeg(opened, image_processor)
        return load_image(opened)


def get_image_size(image):
    """`tuple[int, int]`: height and width of what [`decode_image`] gives, read from the header. Raises as that does."""
    with _open_image(image) as opened:
        return _get_upright_size(opened)


def _get_upright_size(opened):
    # A PNG without EXIF before its pixels would be read whole in search of it.
    exif = opened.getexif() if opened.format != "PNG" or "exif" in opened.info else {}
    return opened.size if exif.get(EXIF_ORIENTATION, 1) > 4 else opened.size[::-1]


def _reduce_jpeg(opened, image_processor):
    """Makes Pillow decode a JPEG at the smallest of its scales that divides both sides, so that the aspect ratio stays
    exactly, and still has the pixels that the processor resizes to. Does nothing to images of other formats."""
    height, width = _get_upright_size(opened)
    grid, view = image_processor.get_image_grid(height, width), image_processor.size["height"]
    side = view // image_processor.patch_size * CONVNEXT_STRIDE if image_processor.do_high_res else view
    needed = get_content_box((height, width), [side * n for n in grid])[2:] if any(grid) else (side, side)
    most = min(height // max(needed[0], view), width // max(needed[1], view))
    scale = next((scale for scale in (8, 4, 2) if scale <= most and not height % scale and not width % scale), 1)
    if scale > 1:
        opened.draft(None, (opened.width // scale, opened.height // scale))
