# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""demo.py and the picture of the views: any image, any fusion, clear errors, and the answer that the README shows."""

import PIL.Image
import pytest

from fila import demo
from fila.common.arguments import UserError
from fila.common.views import draw_views
from helpers import ANSWER, FUSION_TYPES, ROOT, default_processor, random_image, tiny_model, tiny_processor


def save(folder, fusion_type="cvfm", trained=True, **processor_kwargs):
    """A folder with a tiny model and its processor."""
    tiny_model(fusion_type, trained=trained).save_pretrained(folder)
    tiny_processor(do_high_res=fusion_type != "none", **processor_kwargs).save_pretrained(folder)
    return folder


def run(image, model, folder, capsys):
    """What the demo prints, and the picture it draws."""
    picture = folder / "out" / "views.png"
    demo.main([str(image), "--model", str(model), "--output", str(picture), "--max-new-tokens", "2"])
    with PIL.Image.open(picture) as drawn:
        return capsys.readouterr().out, drawn.convert("RGB")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


def test_default_model_reads_the_receipt(tmp_path, capsys):
    picture = tmp_path / "out" / "views.png"
    demo.main(["--output", str(picture)])
    output = capsys.readouterr().out
    assert f"answer         {ANSWER}\n" in output
    assert picture.read_bytes().startswith(b"\x89PNG")
    # The pages of other programs: what is right and what is not is said, and drawn.
    lines = [line for line in output.splitlines() if line.startswith("foreign page")]
    assert len(lines) == 3
    assert all(("(right)" in line) != ("(wrong; right is: " in line) for line in lines)
    with PIL.Image.open(picture.with_name("foreign.png")) as drawn:
        assert drawn.width == 3 * 440


def test_demo_prints_the_geometry_and_saves_a_picture(tmp_path, capsys):
    processor = default_processor().image_processor
    side = processor.size["height"]
    pieces = side // 14 * 32
    random_image(side, 3 * side).save(tmp_path / "page.png")
    output, _ = run(tmp_path / "page.png", ROOT, tmp_path, capsys)
    assert f"{side} x {3 * side}, ConvNeXt sees {pieces} x {3 * pieces}" in output
    assert "1 x 3, and the global view" in output
    assert f"{4 * (side // 14) ** 2} of the image" in output and "untrained" not in output


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_demo_shows_every_fusion(fusion_type, tmp_path, capsys):
    random_image(60, 180).save(tmp_path / "page.png")
    output, _ = run(tmp_path / "page.png", save(tmp_path / "model", fusion_type), tmp_path, capsys)
    assert "image          60 x 180 pixels" in output and "tiles          1 x 3, and the global view" in output
    assert ("canvas         56 x 168\n" if fusion_type == "none" else "56 x 168, ConvNeXt sees 128 x 384\n") in output
    assert "2 new tokens" in output and "untrained" not in output


def test_demo_shows_a_model_that_does_not_tile_and_is_untrained(tmp_path, capsys):
    random_image(60, 180).save(tmp_path / "page.png")
    model = save(tmp_path / "model", trained=False, do_dynamic_tiling=False)
    output, _ = run(tmp_path / "page.png", model, tmp_path, capsys)
    assert "tiles          none, the global view alone" in output
    assert "canvas         56 x 56, ConvNeXt sees 128 x 128\n" in output
    assert "the fusion of this model is untrained" in output


def test_demo_draws_what_each_fusion_module_changed(model_folder, tmp_path, capsys):
    random_image(60, 180).save(tmp_path / "page.png")
    picture = tmp_path / "maps.png"
    arguments = [str(tmp_path / "page.png"), "--output", str(picture), "--max-new-tokens", "1", "--fusion-maps"]
    demo.main([*arguments, "--model", str(model_folder)])
    with PIL.Image.open(picture) as drawn:
        assert drawn.size == (5 * 168 + 4 * 7, 56 + 7 + 56)  # tiles and four modules, over the global view
        columns = [drawn.crop((left, 0, left + 168, 56 + 7 + 56)) for left in range(0, 5 * 175, 175)]
    assert len({column.tobytes() for column in columns}) == 5
    with pytest.raises(UserError, match="--fusion-maps: fusion_type='none' adds nothing"):
        demo.main([*arguments, "--model", str(save(tmp_path / "none", "none"))])


def test_demo_shows_photos_upright(model_folder, tmp_path, capsys):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    random_image(60, 180).save(tmp_path / "photo.jpg", exif=exif)
    output, _ = run(tmp_path / "photo.jpg", model_folder, tmp_path, capsys)
    assert "image          180 x 60 pixels" in output and "tiles          3 x 1" in output


def test_demo_names_images_that_cannot_be_read(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    random_image(200, 200).save(tmp_path / "half.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "half.png").read_bytes()[:2000])
    PIL.Image.new("1", (14000, 14000)).save(tmp_path / "bomb.png")
    random_image(60, 90).save(tmp_path / "corrupt.avif")
    data = (tmp_path / "corrupt.avif").read_bytes()
    media = data.index(b"mdat") + 4
    (tmp_path / "corrupt.avif").write_bytes(data[:media] + bytes(len(data) - media))
    for name in ("text.png", "half.png", "bomb.png", "corrupt.avif", "."):
        with pytest.raises(UserError, match=f"{tmp_path / name} is not an image that can be read: ."):
            demo.main([str(tmp_path / name)])
    with pytest.raises(UserError, match="There is no image .*none.png"):
        demo.main([str(tmp_path / "none.png")])


def test_demo_names_options_that_do_not_work(model_folder, tmp_path):
    image = str(ROOT / "assets" / "receipt.png")
    with pytest.raises(UserError, match="--max-new-tokens 0 is too small: give 1 or more"):
        demo.main([image, "--max-new-tokens", "0"])
    with pytest.raises(UserError, match=f"{tmp_path} cannot be loaded as a vision-language model"):
        demo.main([image, "--model", str(tmp_path)])
    arguments = [image, "--model", str(model_folder), "--max-new-tokens", "1"]
    with pytest.raises(UserError, match="The picture .*/views.png cannot be written"):
        demo.main([*arguments, "--output", f"{image}/views.png"])


def test_views_show_canvas_padding_cuts_and_global_view():
    # The left half is green, the right half blue; the canvas is 56 x 112.
    image = PIL.Image.new("RGB", (100, 40), (0, 255, 0))
    image.paste((0, 0, 255), (50, 0, 100, 40))
    processor = tiny_processor()
    picture = draw_views(processor, processor.image_processor(image, return_tensors="pt"))
    assert picture.size == (112 + 7 + 56, 56)
    assert picture.getpixel((20, 28)) == picture.getpixel((112 + 7 + 10, 28)) == (0, 255, 0)
    assert picture.getpixel((90, 28)) == picture.getpixel((112 + 7 + 46, 28)) == (0, 0, 255)
    assert picture.getpixel((56, 28)) == (255, 0, 0)  # the cut
    assert picture.getpixel((20, 2)) == picture.getpixel((90, 53)) == (200, 200, 200)  # padding
    assert picture.getpixel((115, 28)) == (255, 255, 255)  # between canvas and global view


def test_views_of_an_image_that_is_not_tiled():
    processor = tiny_processor(do_dynamic_tiling=False)
    inputs = processor.image_processor(PIL.Image.new("RGB", (100, 40), (0, 255, 0)), return_tensors="pt")
    assert draw_views(processor, inputs).getcolors() == [(56 * 56, (0, 255, 0))]
