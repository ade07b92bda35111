# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What users hand to the image processor: files, URLs, transparency, and arrays of every kind."""

import base64
import io
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.utils import logging

from fila.image_processing_fila import load_image
from helpers import random_image, tiny_image_processor


def process(image, **kwargs):
    inputs = tiny_image_processor()(image, return_tensors="pt", **kwargs)
    return torch.cat([inputs[key].flatten() for key in ("pixel_values", "high_res_pixel_values")])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A folder, and the URL it is served at."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            if not self.path.startswith("/moved/"):
                return super().do_GET()
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()

    folder = tmp_path_factory.mktemp("served")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def text_on_nothing():
    """Black on full transparency, whose color is black as well, and half transparent red."""
    image = PIL.Image.new("RGBA", (80, 60), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 10, 40, 20))
    image.paste((255, 0, 0, 128), (10, 30, 40, 50))
    return image


def with_transparent_color(mode, transparency):
    """An image of a mode without alpha, one of whose values is transparent."""
    image = PIL.Image.new(mode, (80, 60), 0)
    image.paste({"RGB": (9, 9, 9), "1": 1}.get(mode, 9), (10, 10, 40, 20))
    image.info["transparency"] = transparency
    return image


PICTURES = {
    "RGBA": text_on_nothing(),
    "LA": text_on_nothing().convert("LA"),
    "P of RGBA": text_on_nothing().quantize(8),
    "P": with_transparent_color("P", 0),
    "L": with_transparent_color("L", 0),
    "1": with_transparent_color("1", 0),
    "RGB with a transparent color": with_transparent_color("RGB", (0, 0, 0)),
    "RGB": random_image(60, 80),
}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_from_everywhere_upright_and_on_white(name, orientation, server):
    folder, url = server
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation  # 6: to be turned by 90 degrees
    path = folder / f"{name.replace(' ', '-')}-{orientation}.png"
    picture = PICTURES[name]
    kept = {key: value for key, value in picture.info.items() if key == "transparency"}
    picture.save(path, exif=exif, **kept)
    encoded = base64.b64encode(path.read_bytes()).decode()

    on_white = PIL.Image.new("RGBA", picture.size, "white")
    on_white.alpha_composite(picture.convert("RGBA"))
    on_white = on_white.convert("RGB").rotate(-90 if orientation == 6 else 0, expand=True)
    assert name == "RGB" or on_white.getpixel((1, 1)) == (255, 255, 255)
    expected = process(on_white)
    lines = "\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))
    sources = [str(path), path, f"{url}/{path.name}", f"{url}/moved/{path.name}", f"data:image/png;base64,{encoded}"]
    for source in [*sources, encoded, lines, PIL.Image.open(path)]:
        assert torch.equal(process(source), expected)
    assert np.array_equal(np.array(load_image(path)), np.array(on_white))


def test_pictures_of_16_bits_are_not_cut_off(tmp_path):
    gray = np.array(random_image(60, 80).convert("L"))
    image = PIL.Image.fromarray(gray.astype(np.uint16) * 257)
    assert image.mode.startswith("I;16")
    image.save(tmp_path / "scan.png")
    for source in (image, tmp_path / "scan.png"):
        assert torch.equal(process(source), process(PIL.Image.fromarray(gray)))


@pytest.mark.parametrize("bad", ["missing.png", "https://127.0.0.1:1/x.png", "data:image/png;base64,AAAA", "QUFBQQ=="])
def test_what_cannot_be_opened_is_named(bad, server):
    for source in (bad, f"{server[1]}/missing.png"):
        with pytest.raises(ValueError, match=f"Image 1 of the batch, '{source[:8]}.*could not be read: ."):
            process([random_image(9, 9), source])


def test_transparent_arrays_lie_on_white_too():
    image = random_image(60, 80)
    image.putalpha(random_image(60, 80, seed=1).convert("L"))
    array = np.array(image) // 2 + 64  # unlike uint8, other dtypes let the resize overshoot
    expected = process(PIL.Image.fromarray(array))
    unit = torch.from_numpy(array).permute(2, 0, 1) / 255
    for same, kwargs in (
        (array, {}),
        (array.transpose(2, 0, 1), {}),
        (torch.from_numpy(array), {}),
        (array.astype(np.float32), {}),
        (unit, {"do_rescale": False}),
        (array.astype(np.uint16) * 257, {"rescale_factor": 1 / 65535}),
    ):
        torch.testing.assert_close(process(same, **kwargs), expected, atol=0.05, rtol=0)


def test_four_channels_stay_with_four_means_and_deviations():
    array = np.array(text_on_nothing())
    four = {"image_mean": [0.1, 0.2, 0.3, 0.4], "image_std": [0.5, 0.6, 0.7, 0.8]}
    three = {"image_mean": four["image_mean"][:3], "image_std": four["image_std"][:3]}
    three.update(high_res_image_mean=three["image_mean"], high_res_image_std=three["image_std"])
    expected = tiny_image_processor()([np.ascontiguousarray(array[..., :3])] * 2, return_tensors="pt", **three)
    actual = tiny_image_processor()([array, array], return_tensors="pt", **four)
    for key in ("pixel_values", "high_res_pixel_values"):
        assert actual[key].shape[2] == 4
        torch.testing.assert_close(actual[key][:, :, :3], expected[key])
    with pytest.raises(ValueError, match="Image 0 of the batch has 4 channels instead of 3"):
        process(array, do_convert_rgb=False)
    with pytest.raises(ValueError, match="Image 1 of the batch has 3 channels instead of 4"):
        process([array, array[..., :3]], **four)
    with pytest.raises(ValueError, match="0.1, 0.2, 0.3, 0.4. must be one number or 3"):
        process(array[..., :3], **four)


@pytest.mark.parametrize(
    "dtype", [bool, np.int8, np.int64, ">u2", ">i4", "<u4", np.float16, np.float64, np.longdouble, ">f4", ">f8"]
)
def test_dtypes_give_what_the_uint8_image_gives(dtype):
    array = np.array(random_image(60, 80)) // 2  # from 0 to 127
    if dtype is bool:
        array = (array > 63) * np.uint8(255)
    expected = process(array)
    torch.testing.assert_close(process(array.astype(dtype)), expected, atol=0.05, rtol=0)  # uint8 resizing rounds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.uint16])
def test_dtypes_of_tensors_give_what_the_uint8_image_gives(dtype):
    tensor = torch.from_numpy(np.array(random_image(60, 80)))
    torch.testing.assert_close(process(tensor.to(dtype)), process(tensor), atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((9, 9, 3), None), "an array of object"),
        (np.full((9, 9, 3), "a"), "an array of <U1"),
        (np.zeros((9, 9, 3), complex), "an array of complex128"),
        (torch.zeros((9, 9, 3), dtype=torch.complex64), "an array of torch.complex64"),
        (np.zeros((9, 9, 3), "datetime64[s]"), "an array of datetime64"),
        *((np.full((9, 9, 3), value, np.float32), "pixels that are NaN or infinite") for value in (np.nan, np.inf)),
        (np.where(np.arange(243).reshape(9, 9, 3) == 7, -np.inf, 0.5), "pixels that are NaN or infinite"),
        (torch.full((4, 9, 9), torch.nan), "pixels that are NaN or infinite"),
    ],
)
def test_arrays_without_pixel_values_are_named(array, message):
    with pytest.raises(ValueError, match=f"Image 1 of the batch.*{message}"):
        process([np.ones((9, 9, 3), np.float32), array])


def test_values_that_are_rescaled_wrongly_are_warned_of_once(caplog):
    array = np.array(random_image(60, 80))
    expected = process(array)
    wrong = [(array / 255, "do_rescale=False"), (array.astype(np.uint16) * 257, "rescale_factor=1 / 65535")]
    right = [{"do_rescale": False}, {"rescale_factor": 1 / 65535}]
    logging.warning_once.cache_clear()
    for (image, advice), kwargs in zip(wrong, right):
        caplog.clear()
        torch.testing.assert_close(process(image, **kwargs), expected, atol=0.05, rtol=0)
        process([array, array.astype(np.float32), np.zeros((9, 9, 3))])
        assert not caplog.messages
        for _ in range(2):
            process(image)
        assert len(caplog.messages) == 1 and advice in caplog.text


def test_images_that_are_neither_rescaled_nor_normalized_stay_uint8():
    array = np.array(random_image(60, 130)) // 2 + 64  # unlike uint8, floats let the resize overshoot
    raw = tiny_image_processor()([array, array[:, :50]], do_rescale=False, do_normalize=False, return_tensors="pt")
    floats = [image.astype(np.float32) for image in (array, array[:, :50])]
    wide = tiny_image_processor()(floats, do_rescale=False, do_normalize=False, return_tensors="pt")
    for key in ("pixel_values", "high_res_pixel_values"):
        assert raw[key].dtype == torch.uint8
        assert wide[key].dtype == torch.float32
        torch.testing.assert_close(raw[key].float(), wide[key], atol=2, rtol=0)
    assert process(array, do_normalize=False).dtype == process(array, do_rescale=False).dtype == torch.float32


def test_encoded_images_are_read_from_any_format(tmp_path):
    for suffix in ("jpg", "webp", "gif", "bmp", "tiff"):
        text_on_nothing().convert("RGB").save(tmp_path / f"a.{suffix}")
        image = PIL.Image.open(io.BytesIO((tmp_path / f"a.{suffix}").read_bytes()))
        assert torch.equal(process(str(tmp_path / f"a.{suffix}")), process(image.convert("RGB")))
