# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Image processor of FILA: canvas selection, padding, tiling, and the high-resolution canvas."""

import itertools

import numpy as np
import PIL.Image
import torch
from transformers import BatchFeature
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    PILImageResampling,
    SizeDict,
    is_valid_image,
    load_image,
    make_flat_list_of_images,
)
from transformers.processing_utils import ImagesKwargs

from .configuration_fila import CANVASES, CONVNEXT_STRIDE, RemoteCodeMixin, get_content_box


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


class FilaImageProcessor(RemoteCodeMixin, TorchvisionBackend):
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
        canvas_height, canvas_width = select_best_resolution((height, width), pinpoints)
        return canvas_height // tile_size, canvas_width // tile_size

    def get_number_of_image_patches(self, height, width, images_kwargs=None):
        """`int`: views the ViT encodes for an image of this size, the global view included."""
        rows, columns = self.get_image_grid(height, width, images_kwargs)
        return 1 + rows * columns

    def get_number_of_image_tokens(self, height, width, images_kwargs=None):
        """`int`: visual tokens an image of this size takes in the text, (1 + R*C) * G * G."""
        setting = self._settings(images_kwargs)
        grid_size = self._tile_size(setting) // setting("patch_size")
        return self.get_number_of_image_patches(height, width, images_kwargs) * grid_size**2

    def fetch_images(self, image_url_or_urls):
        """Loads URLs and paths, and checks every image, so that an error names the image of the batch.

        Args:
            image_url_or_urls: an image, a path, a URL, or a (nested) list of them; 4-dimensional arrays are lists.

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
            return self._fetch_image(item, next(counter))

        return fetch(image_url_or_urls)

    def _fetch_image(self, image, index):
        if isinstance(image, str):
            try:
                image = load_image(image)  # applies the EXIF orientation
            except Exception as error:
                raise ValueError(f"Image {index} of the batch, {image!r}, could not be read: {error}") from error
        if not is_valid_image(image):
            raise ValueError(
                f"Image {index} of the batch is a {type(image).__name__}, not an image. Pass PIL images, numpy arrays, torch "
                "tensors, paths or URLs."
            )
        if isinstance(image, PIL.Image.Image):
            shape = (image.height, image.width)
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"Image {index} of the batch could not be decoded: {error}") from error
        else:
            shape = tuple(image.shape)
            if len(shape) not in (2, 3) or (
                len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3, 4} and 0 not in shape
            ):
                raise ValueError(
                    f"Image {index} of the batch has shape {shape}. An image must be (height, width), (channels, height, "
                    "width) or (height, width, channels), with 1, 3 or 4 channels."
                )
        if 0 in shape:
            raise ValueError(f"Image {index} of the batch has shape {shape}: it has no pixels.")
        if isinstance(image, PIL.Image.Image):
            return image
        if isinstance(image, np.ndarray):
            image = np.ascontiguousarray(image)  # torch does not support negative strides
        return image[None] if len(shape) == 2 else image

    def preprocess(self, images, *args, **kwargs):
        """Preprocesses one image or a (nested) list of N images.

        Args:
            images: PIL images, numpy arrays, torch tensors, paths or URLs.
            kwargs: overrides of the attributes of this processor.

        Returns:
            [`BatchFeature`]: with S = `size`, s = S * 32 / `patch_size`, T the largest number of tiles in the batch:

            - **pixel_values** -- (N, 1 + T, 3, S, S) float32: the global view, then the tiles row by row. Views an image
              does not have are zero.
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
        return super().preprocess(images, *args, **kwargs)

    def process_image(self, image, do_convert_rgb=None, input_data_format=None, device=None, **kwargs):
        """Turns an image into a (3, height, width) tensor. An RGB image of PIL keeps its memory layout (channels last), which
        torch's uint8 resize reads without a copy."""
        if isinstance(image, PIL.Image.Image) and image.mode == "RGB" and "transparency" not in image.info:
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).to(device)
        image = super().process_image(
            image, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device, **kwargs
        )
        if do_convert_rgb and image.shape[0] == 1:
            image = image.expand(3, -1, -1)
        return image

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
        for index, image in enumerate(images):
            if image.shape[0] != 3:
                raise ValueError(
                    f"Image {index} of the batch has {image.shape[0]} channels instead of 3. Convert it to RGB; "
                    "do_convert_rgb=True does so for grayscale arrays and for PIL images of any mode."
                )
        geometry = {**kwargs, "size": size, "patch_size": patch_size}
        image_sizes = [tuple(image.shape[-2:]) for image in images]
        image_grids = [self.get_image_grid(*image_size, geometry) for image_size in image_sizes]

        tile_size = self._tile_size(geometry.get)
        write = self._canvas_writer(image_mean, image_std, resample, **kwargs)
        pixel_values = _empty_views([1 + rows * columns for rows, columns in image_grids], tile_size, images[0].device)
        for views, image, grid in zip(pixel_values, images, image_grids):
            write(views[:1], image, (1, 1), keep_aspect_ratio=False)
            if grid != (0, 0):
                write(views[1 : 1 + grid[0] * grid[1]], image, grid)
        data = {"pixel_values": pixel_values}

        if do_high_res:
            high_res_size = tile_size // patch_size * CONVNEXT_STRIDE
            write = self._canvas_writer(high_res_image_mean, high_res_image_std, resample, **kwargs)
            num_tiles = [max(rows * columns, 1) for rows, columns in image_grids]
            data["high_res_pixel_values"] = _empty_views(num_tiles, high_res_size, images[0].device)
            for views, image, grid in zip(data["high_res_pixel_values"], images, image_grids):
                write(views[: max(grid[0] * grid[1], 1)], image, grid if any(grid) else (1, 1), any(grid))

        if not do_pad:
            data["pixel_values"] = [views[: 1 + r * c] for views, (r, c) in zip(pixel_values, image_grids)]
            if do_high_res:
                high_res = zip(data["high_res_pixel_values"], image_grids)
                data["high_res_pixel_values"] = [views[: max(r * c, 1)] for views, (r, c) in high_res]
        data.update(image_sizes=image_sizes, image_grids=image_grids)
        return BatchFeature(data, tensor_type=return_tensors)

    def _canvas_writer(self, mean, std, resample, do_rescale, rescale_factor, do_normalize, **kwargs):
        """Returns `write(tiles, image, grid, keep_aspect_ratio)`, which resizes an image in its own dtype and writes it,
        normalised, into the tiles of a canvas.

        The values are those of transformers' `rescale_and_normalize`, computed in the same order but in place in the output.
        Padding gets the value of a normalised black pixel.
        """
        channel = {"dtype": torch.float32}
        if do_normalize:
            for statistic in (mean, std):
                if not isinstance(statistic, (int, float)) and len(statistic) != 3:
                    raise ValueError(
                        f"The mean or standard deviation {statistic} must be one number or 3, one for each RGB channel."
                    )
            factor = 1.0 / rescale_factor if do_rescale else 1.0
            mean = (torch.tensor(mean, **channel) * factor).expand(3)[:, None, None]
            std = (torch.tensor(std, **channel) * factor).expand(3)[:, None, None]

        def normalize_(pixels):
            if do_normalize:
                pixels.sub_(mean.to(pixels.device)).div_(std.to(pixels.device))
            elif do_rescale:
                pixels.mul_(rescale_factor)
            return pixels

        black = normalize_(torch.zeros(3, 1, 1, **channel))

        def write(tiles, image, grid, keep_aspect_ratio=True):
            rows, columns = grid
            tile_size = tiles.shape[-1]
            canvas_size = (rows * tile_size, columns * tile_size)
            box = get_content_box(image.shape[-2:], canvas_size) if keep_aspect_ratio else (0, 0, *canvas_size)
            top, left, height, width = box
            image = self.resize(image, SizeDict(height=height, width=width), resample=resample)
            for index, tile in enumerate(tiles):
                row, column = divmod(index, columns)
                # The part of this tile that the image covers, in pixels of the canvas.
                y0, y1 = _overlap(row * tile_size, tile_size, top, height)
                x0, x1 = _overlap(column * tile_size, tile_size, left, width)
                y, x = row * tile_size, column * tile_size
                for margin in (tile[:, : y0 - y], tile[:, y1 - y :], tile[:, :, : x0 - x], tile[:, :, x1 - x :]):
                    margin.copy_(black)
                content = tile[:, y0 - y : y1 - y, x0 - x : x1 - x]
                content.copy_(image[:, y0 - top : y1 - top, x0 - left : x1 - left])
                normalize_(content)

        return write

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


def _empty_views(num_views, size, device):
    """A buffer of shape (N, max(num_views), 3, size, size), uninitialised except for the views that an image does not have,
    which are zero."""
    shape = (len(num_views), max(num_views), 3, size, size)
    if device.type == "cpu":
        # numpy asks the kernel for huge pages. With small ones, the page faults would cost as much as the writing.
        buffer = torch.from_numpy(np.empty(shape, np.float32))
    else:
        buffer = torch.empty(shape, dtype=torch.float32, device=device)
    for views, count in zip(buffer, num_views):
        views[count:].zero_()
    return buffer


def _overlap(tile_start, tile_size, content_start, content_size):
    """The interval of a canvas axis that a tile and the content share; (start, start) if they do not overlap."""
    start = min(max(tile_start, content_start), tile_start + tile_size)
    return start, max(start, min(tile_start + tile_size, content_start + content_size))


FilaImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["FilaImageProcessor"]
