# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Image processor of FILA: canvas selection, padding, tiling, and the high-resolution canvas."""

import base64
import io
import itertools
import math
import os
from urllib.request import urlopen

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from huggingface_hub import get_session
from transformers import BatchFeature, ImagesKwargs, TorchvisionBackend
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
    is_valid_image,
    make_flat_list_of_images,
)
from transformers.utils import logging

from .configuration_fila import CANVASES, CONVNEXT_STRIDE, NORMALIZATION_FIELDS, RemoteCodeMixin, get_content_box

logger = logging.get_logger(__name__)
EXIF_ORIENTATION = 0x0112
ROWS = 64  # that are written and normalised at a time, while the cache holds them
AUTO_MAP = {"AutoImageProcessor": "image_processing_fila.FilaImageProcessor"}


def load_image(image):
    """Opens an image as FILA sees it. transformers' function of this name turns what is transparent black.

    Args:
        image (`str`, `os.PathLike` or `PIL.Image.Image`): a path, an http(s) or data URL, base64, or an opened image.

    Returns:
        `PIL.Image.Image`: RGB, upright by its EXIF orientation, over white where it is transparent.

    Raises:
        ValueError: a string that is none of these.
        Exception: those of Pillow and of the HTTP client.
    """
    if isinstance(image, (str, os.PathLike)):
        image = PIL.Image.open(_open_source(os.fspath(image)))
    image.load()
    image = _turn_upright(image)
    if image.mode.startswith("I;16"):  # Pillow would cut its values off at 255
        image = PIL.Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = PIL.Image.alpha_composite(PIL.Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _open_source(source):
    """A file name or a binary stream of a path, a URL or base64."""
    if source.startswith(("http://", "https://")):
        return io.BytesIO(get_session().get(source, timeout=60, follow_redirects=True).raise_for_status().content)
    if os.path.isfile(source):
        return source
    if source.startswith("data:"):
        return io.BytesIO(urlopen(source).read())
    try:
        return io.BytesIO(base64.b64decode("".join(source.split()), validate=True))
    except ValueError as error:
        raise ValueError("it is neither a file, nor an http(s) or data URL, nor base64") from error


def _turn_upright(image):
    return PIL.ImageOps.exif_transpose(image) if image.getexif().get(EXIF_ORIENTATION, 1) != 1 else image


class FilaImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    patch_size (`int`, *optional*, defaults to 14):
        Side of a ViT patch in pixels; `size / patch_size` visual tokens lie along one side of a tile.
    image_grid_pinpoints (`list[list[int]]`, *optional*, defaults to the five canvases of the paper):
        The allowed canvases as (height, width) in pixels, multiples of `size`.
    do_dynamic_tiling (`bool`, *optional*, defaults to `True`):
        Whether to cut the image into tiles. `False` is the low-resolution mode of training stage 1: the whole image,
        stretched to `size`, is the only view.
    do_high_res (`bool`, *optional*, defaults to `True`):
        Whether to return `high_res_pixel_values`. Use `False` with `fusion_type="none"`, which has no ConvNeXt.
    high_res_image_mean (`float` or `list[float]`, *optional*):
        Mean of the ConvNeXt's input normalisation.
    high_res_image_std (`float` or `list[float]`, *optional*):
        Standard deviation of the ConvNeXt's input normalisation.
    """

    patch_size: int
    image_grid_pinpoints: list[list[int]]
    do_dynamic_tiling: bool
    do_high_res: bool
    high_res_image_mean: float | list[float] | tuple[float, ...]
    high_res_image_std: float | list[float] | tuple[float, ...]


class FilaImageProcessor(TorchvisionBackend, RemoteCodeMixin):
    r"""Turns images into the two inputs of FILA's hybrid encoder.

    It chooses the canvas in `image_grid_pinpoints` that fits the image most tightly. For the ViT, the image is resized to
    that canvas with its aspect ratio kept, padded (centred) and cut into R x C tiles of `size`, row by row; the whole image,
    stretched to `size`, is the global view. For the ConvNeXt, the original image is resized and padded in the same way to a
    canvas 32 / `patch_size` times as large (32 is ConvNeXt's stride).

    Accepts the arguments of every image processor in transformers ([`ImagesKwargs`]) and FILA's own
    ([`FilaImageProcessorKwargs`]). `do_resize=False` and `do_center_crop=True` contradict the geometry and are errors.
    """

    model_input_names = ["pixel_values", "high_res_pixel_values", "image_sizes", "image_grids"]
    valid_kwargs = FilaImageProcessorKwargs

    resample = PILImageResampling.BICUBIC
    size = {"height": 336, "width": 336}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    do_pad = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    patch_size = 14
    image_grid_pinpoints = [[336 * rows, 336 * columns] for rows, columns in CANVASES]
    do_dynamic_tiling = True
    do_high_res = True
    high_res_image_mean = OPENAI_CLIP_MEAN
    high_res_image_std = OPENAI_CLIP_STD
    # The fields of the model's configuration, where `FilaProcessor.for_model` has set them. Never saved.
    model_normalization = None

    def get_image_grid(self, height, width, images_kwargs=None):
        """How an image of this size is tiled. The only place where a canvas is chosen; touches no pixels.

        Args:
            height (`int`): height of the image in pixels.
            width (`int`): width of the image in pixels.
            images_kwargs (`dict`, *optional*): overrides of this processor's attributes, as for `__call__`.

        Returns:
            `tuple[int, int]`: rows and columns of tiles, (0, 0) when the image is not tiled.

        Raises:
            ValueError: a size below 1, or canvases that are not multiples of the tile size.
        """
        setting = self._settings(images_kwargs)
        if height < 1 or width < 1:
            raise ValueError(
                f"An image of {height}x{width} pixels (height x width) is empty; both sides must be at least 1."
            )
        if not setting("do_dynamic_tiling"):
            return 0, 0
        tile_size = self._tile_size(setting)
        pinpoints = setting("image_grid_pinpoints")
        if not pinpoints or any(
            len(canvas) != 2 or min(canvas) < 1 or canvas[0] % tile_size or canvas[1] % tile_size
            for canvas in pinpoints
        ):
            raise ValueError(
                f"image_grid_pinpoints={pinpoints!r} must be a list of (height, width) canvases whose sides are multiples of "
                f"the tile size {tile_size}."
            )

        def fit(canvas):
            """The criteria of transformers' `select_best_resolution`; where they tie, the nearest aspect ratio."""
            scale = min(canvas[0] / height, canvas[1] / width)
            effective = min(int(height * scale) * int(width * scale), height * width)
            wasted = canvas[0] * canvas[1] - effective
            return effective, -wasted, -abs(math.log(canvas[0] / canvas[1] * width / height))

        rows, columns = (side // tile_size for side in max(pinpoints, key=fit))
        return rows, columns

    def get_number_of_image_patches(self, height, width, images_kwargs=None):
        """`int`: views the ViT encodes for an image of this size, the global view included."""
        rows, columns = self.get_image_grid(height, width, images_kwargs)
        return 1 + rows * columns

    def get_number_of_image_tokens(self, height, width, images_kwargs=None):
        """`int`: visual tokens an image of this size takes in the text, (1 + R*C) * G * G."""
        setting = self._settings(images_kwargs)
        grid_size = self._tile_size(setting) // setting("patch_size")
        return self.get_number_of_image_patches(height, width, images_kwargs) * grid_size**2

    def to_dict(self):
        """`dict`: as of every image processor, always with this class alone in `auto_map`. Saving a [`FilaProcessor`] writes
        its own class there, too."""
        output = {**super().to_dict(), "auto_map": AUTO_MAP}
        output.pop("model_normalization", None)
        return output

    def fetch_images(self, image_url_or_urls):
        """Loads paths, URLs and base64, and checks every image, so that an error names the image of the batch.

        Args:
            image_url_or_urls: an image, a string, or a (nested) list of them; 4-dimensional arrays are lists.

        Returns:
            The images in the same nesting.

        Raises:
            ValueError: something that is not an image, cannot be decoded or has no pixels. The message gives its index,
                counted through all nesting.
        """
        counter = itertools.count()

        def fetch(item):
            is_batch = isinstance(item, (np.ndarray, torch.Tensor)) and item.ndim == 4
            if isinstance(item, (list, tuple)) or is_batch:
                return [fetch(element) for element in item]
            return self._fetch_image(item, f"Image {next(counter)} of the batch")

        return fetch(image_url_or_urls)

    def _fetch_image(self, image, name):
        if isinstance(image, (str, os.PathLike)):
            try:
                image = load_image(image)
            except Exception as error:
                raise ValueError(f"{name}, {str(image)[:200]!r}, could not be read: {error}") from error
        if not is_valid_image(image):
            raise ValueError(
                f"{name} is a {type(image).__name__}, not an image: a PIL image, array, tensor, path, URL or base64."
            )
        if isinstance(image, PIL.Image.Image):
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{name} could not be decoded: {error}") from error
        shape = image.size[::-1] if isinstance(image, PIL.Image.Image) else tuple(image.shape)
        if len(shape) not in (2, 3) or (len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3, 4} and 0 not in shape):
            raise ValueError(
                f"{name} has shape {shape}. An image must be (height, width), (channels, height, width) or (height, width, "
                "channels), with 1, 3 or 4 channels."
            )
        if 0 in shape:
            raise ValueError(f"{name} has shape {shape}: it has no pixels.")
        if isinstance(image, PIL.Image.Image):
            return image
        if image.dtype.is_complex if isinstance(image, torch.Tensor) else image.dtype.kind not in "biuf":
            raise ValueError(f"{name} is an array of {image.dtype}. Pass real numbers, best uint8 from 0 to 255.")
        if isinstance(image, np.ndarray):
            # torch supports neither negative strides, nor the other byte order, nor more than double precision.
            dtype = np.float64 if image.dtype.itemsize > 8 else image.dtype.newbyteorder("=")
            image = np.ascontiguousarray(image, dtype=dtype)
        return image[None] if len(shape) == 2 else image

    def preprocess(self, images, *args, **kwargs):
        """Preprocesses one image or a (nested) list of N images.

        Args:
            images: PIL images, numpy arrays, torch tensors, paths, URLs or base64. Transparency is laid on white;
                only with four values in `image_mean` and `image_std`, images of 4 channels keep them.
            kwargs: overrides of the attributes of this processor.

        Returns:
            [`BatchFeature`]: with S = `size`, s = S * 32 / `patch_size`, T the largest number of tiles in the batch:

            - **pixel_values** -- (N, 1 + T, 3, S, S) float32: the global view, then the tiles row by row. Views an image
              does not have are zero. With `do_rescale=False` and `do_normalize=False`, uint8 images stay uint8, and the
              model rescales and normalises them.
            - **high_res_pixel_values** -- (N, max(T, 1), 3, s, s) float32: the high-resolution canvas, cut in the same
              order. Absent with `do_high_res=False`.
            - **image_sizes** -- (N, 2) int: original height and width.
            - **image_grids** -- (N, 2) int: rows and columns of tiles; (0, 0) when the image is not tiled.

            With `do_pad=False` the first two are lists of N tensors without the zero views.

        Raises:
            ValueError: images that cannot be read, or arguments that contradict the geometry.
        """
        images = make_flat_list_of_images(self.fetch_images(images))
        if not images:
            raise ValueError("The list of images is empty. Pass at least one image.")
        if all(_has_four(self._settings(kwargs)(name)) for name in ("image_mean", "image_std")):
            kwargs["do_convert_rgb"] = False
        return super().preprocess(images, *args, **kwargs)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, device=None, **kwargs):
        """Turns an image into a (channels, height, width) tensor. Images of PIL keep their memory layout (channels last),
        which torch's uint8 resize reads without a copy."""
        if isinstance(image, PIL.Image.Image):
            image = torch.from_numpy(np.array(load_image(image) if do_convert_rgb else _turn_upright(image)))
            return torch.atleast_3d(image).permute(2, 0, 1).to(device)
        image = torch.as_tensor(image, device=device)
        if image.dtype == torch.bool:
            image = image.to(torch.uint8) * 255
        elif image.dtype != torch.uint8 and not image.is_floating_point():
            image = image.to(torch.int64)  # torch lacks functions for others, and overflows in the narrow ones
        if input_data_format is None or image.shape[-1] not in (1, 3, 4):  # a grayscale array got its channel in front
            input_data_format = infer_channel_dimension_format(image, (1, 3, 4))
        if input_data_format == ChannelDimension.LAST:
            image = image.permute(2, 0, 1)
        if do_convert_rgb and image.shape[0] == 4:
            image = _lay_on_white(image)
        if image.dtype != torch.uint8:  # which is resized faster with channels last
            image = image.contiguous()
        return image.expand(3, -1, -1) if do_convert_rgb and image.shape[0] == 1 else image

    @torch.no_grad()
    def _preprocess(
        self,
        images,
        size,
        patch_size,
        image_mean,
        image_std,
        high_res_image_mean,
        high_res_image_std,
        do_high_res,
        do_resize,
        do_pad,
        resample,
        do_center_crop=None,
        return_tensors=None,
        **kwargs,
    ):
        if not do_resize or do_center_crop:
            raise ValueError(
                f"do_resize={do_resize} with do_center_crop={do_center_crop} is not supported: FILA resizes every image to "
                "its canvases and the global view, and never crops. Leave both at their defaults."
            )
        channels = 4 if len(images[0]) == 4 and _has_four(image_mean) and _has_four(image_std) else 3
        if channels == 4 and not (_has_four(high_res_image_mean) and _has_four(high_res_image_std)):
            high_res_image_mean, high_res_image_std = image_mean, image_std
        _check_images(images, channels, kwargs["do_rescale"], kwargs["rescale_factor"])
        geometry = {**kwargs, "size": size, "patch_size": patch_size}
        image_sizes = [tuple(image.shape[-2:]) for image in images]
        image_grids = [self.get_image_grid(*image_size, geometry) for image_size in image_sizes]

        tile_size = self._tile_size(geometry.get)
        is_uint8 = all(image.dtype == torch.uint8 for image in images)
        if is_uint8 and kwargs["do_rescale"] and kwargs["do_normalize"]:
            values = kwargs["rescale_factor"], image_mean, image_std, high_res_image_mean, high_res_image_std
            if self._is_left_to_model(values if do_high_res else values[:3]):
                kwargs |= {"do_rescale": False, "do_normalize": False}
        is_uint8 = is_uint8 and not kwargs["do_rescale"] and not kwargs["do_normalize"]
        options = {"dtype": torch.uint8 if is_uint8 else torch.float32, "device": images[0].device}
        write = self._canvas_writer(image_mean, image_std, resample, channels, **kwargs)
        counts = {"pixel_values": [1 + rows * columns for rows, columns in image_grids]}
        data = {"pixel_values": _empty_views(counts["pixel_values"], channels, tile_size, **options)}
        for views, image, grid, count in zip(data["pixel_values"], images, image_grids, counts["pixel_values"]):
            write(views[:1], image, (1, 1), keep_aspect_ratio=False)
            if count > 1:
                write(views[1:count], image, grid)

        if do_high_res:
            high_res_size = tile_size // patch_size * CONVNEXT_STRIDE
            write = self._canvas_writer(high_res_image_mean, high_res_image_std, resample, channels, **kwargs)
            counts["high_res_pixel_values"] = num_tiles = [max(rows * columns, 1) for rows, columns in image_grids]
            data["high_res_pixel_values"] = _empty_views(num_tiles, channels, high_res_size, **options)
            for views, image, grid, count in zip(data["high_res_pixel_values"], images, image_grids, num_tiles):
                write(views[:count], image, grid if any(grid) else (1, 1), any(grid))

        if not do_pad:
            data = {key: [item[:count] for item, count in zip(data[key], counts[key])] for key in data}
        data.update(image_sizes=image_sizes, image_grids=image_grids)
        return BatchFeature(data, tensor_type=return_tensors)

    def _canvas_writer(self, mean, std, resample, channels, do_rescale, rescale_factor, do_normalize, **kwargs):
        """Returns `write(tiles, image, grid, keep_aspect_ratio)`, which resizes an image in its own dtype and writes it,
        normalised, into the tiles of a canvas.

        The values are those of transformers' `rescale_and_normalize`, computed in the same order but in place in the output.
        Padding gets the value of a normalised black pixel.
        """
        if do_normalize:
            for statistic in (mean, std):
                if not isinstance(statistic, (int, float)) and len(statistic) != channels:
                    raise ValueError(
                        f"The mean or standard deviation {statistic} must be one number or {channels}, one for each channel."
                    )
            factor = 1.0 / rescale_factor if do_rescale else 1.0
            mean, std = ((torch.tensor(s, dtype=torch.float32) * factor).view(-1, 1, 1) for s in (mean, std))

        def normalize_(pixels):
            if do_normalize:
                pixels.sub_(mean.to(pixels.device)).div_(std.to(pixels.device))
            elif do_rescale:
                pixels.mul_(rescale_factor)
            return pixels

        def write(tiles, image, grid, keep_aspect_ratio=True):
            (rows, columns), tile_size = grid, tiles.shape[-1]
            canvas_size = (rows * tile_size, columns * tile_size)
            box = get_content_box(image.shape[-2:], canvas_size) if keep_aspect_ratio else (0, 0, *canvas_size)
            top, left, height, width = box
            black = normalize_(tiles.new_zeros(tiles.shape[1], 1, 1))
            image = self.resize(image, SizeDict(height=height, width=width), resample=resample)
            for index, tile in enumerate(tiles):
                row, column = divmod(index, columns)
                # The part of this tile that the image covers, in pixels of the canvas.
                y0, y1 = _overlap(row * tile_size, tile_size, top, height)
                x0, x1 = _overlap(column * tile_size, tile_size, left, width)
                y, x = row * tile_size, column * tile_size
                for margin in (tile[:, : y0 - y], tile[:, y1 - y :], tile[:, :, : x0 - x], tile[:, :, x1 - x :]):
                    margin.copy_(black) if do_normalize else margin.zero_()  # which is faster
                pixels = image[:, y0 - top : y1 - top, x0 - left : x1 - left]
                content = tile[:, y0 - y : y1 - y, x0 - x : x1 - x]
                for part, source in zip(content.split(ROWS, dim=1), pixels.split(ROWS, dim=1)):
                    normalize_(part.copy_(source))

        return write

    def _is_left_to_model(self, values):
        """Whether the model normalises by itself with these values of `NORMALIZATION_FIELDS`, so that uint8 images stay so."""
        model = self.model_normalization or {}
        return all(np.array_equal(model.get(name), value) for name, value in zip(NORMALIZATION_FIELDS, values))

    def _settings(self, images_kwargs):
        """A function that looks up a setting: in the arguments of one call, else in the attributes of the processor."""
        overrides = images_kwargs or {}
        return lambda name: overrides[name] if overrides.get(name) is not None else getattr(self, name)

    @staticmethod
    def _tile_size(setting):
        size, patch_size = setting("size"), setting("patch_size")
        if not isinstance(size, SizeDict):
            size = SizeDict(height=size, width=size) if isinstance(size, int) else SizeDict(**size)
        if not size.height or size.height != size.width or size.height % patch_size:
            raise ValueError(
                f"size={dict(size)} with patch_size={patch_size} is invalid: the ViT needs square tiles, "
                f'{{"height": S, "width": S}}, with S a multiple of patch_size, such as {24 * patch_size}.'
            )
        return size.height


def _has_four(statistic):
    return not isinstance(statistic, (int, float)) and len(statistic) == 4


def _check_images(images, channels, do_rescale, rescale_factor):
    """Checks channels and values; those of uint8 images need no look."""
    for index, image in enumerate(images):
        if len(image) != channels:
            raise ValueError(
                f"Image {index} of the batch has {len(image)} channels instead of {channels}. Convert it to RGB; "
                "do_convert_rgb=True does so for arrays of 1 or 4 channels and for PIL images of any mode. To keep 4 channels, "
                "pass image_mean and image_std of 4 values."
            )
        if image.dtype == torch.uint8:
            continue
        low, high = (value.item() for value in image.aminmax())
        if not math.isfinite(low) or not math.isfinite(high):
            raise ValueError(f"Image {index} of the batch has pixels that are NaN or infinite.")
        if do_rescale and image.is_floating_point() and 0 < high <= 1 and rescale_factor < 0.1:
            logger.warning_once(
                f"Images of floats from 0 to 1 are multiplied by rescale_factor={rescale_factor} and become almost black. "
                "Pass do_rescale=False for them."
            )
        elif do_rescale and high * rescale_factor > 1.01:
            logger.warning_once(
                f"Images have values above 255, which rescale_factor={rescale_factor} does not bring to the range from 0 to 1. "
                "Pass rescale_factor=1 / 65535 for images of 16 bits."
            )


def _lay_on_white(image):
    """(4, height, width) RGBA to (3, height, width) RGB. White is 255, or 1 for floats up to 1, or 65535 for 16 bits."""
    white = 255
    if image.dtype != torch.uint8:
        high = image.max().item()
        white = 1 if image.is_floating_point() and high <= 1 else 255 if high <= 255 else 65535
    alpha = image[3:] / white
    color = image[:3] * alpha + white * (1 - alpha)
    return color if image.is_floating_point() else color.round().to(image.dtype)


def _empty_views(num_views, channels, size, dtype, device):
    """A buffer of shape (N, max(num_views), channels, size, size), uninitialised except for the views that an image does not
    have, which are zero."""
    is_uint8 = dtype == torch.uint8  # then channels last, as images come from the resize and as the ConvNeXt takes them
    shape = (len(num_views), max(num_views), *((size, size, channels) if is_uint8 else (channels, size, size)))
    if device.type == "cpu":
        # numpy asks the kernel for huge pages. With small ones, the page faults would cost as much as the writing.
        buffer = torch.from_numpy(np.empty(shape, np.uint8 if is_uint8 else np.float32))
    else:
        buffer = torch.empty(shape, dtype=dtype, device=device)
    buffer = buffer.permute(0, 1, 4, 2, 3) if is_uint8 else buffer
    for views, count in zip(buffer, num_views):
        views[count:].zero_()
    return buffer


def _overlap(tile_start, tile_size, content_start, content_size):
    """The interval of a canvas axis that a tile and the content share; (start, start) if they do not overlap."""
    start = min(max(tile_start, content_start), tile_start + tile_size)
    return start, max(start, min(tile_start + tile_size, content_start + content_size))


FilaImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["FilaImageProcessor"]
