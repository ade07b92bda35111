# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Font families: found where pip and Debian put them, checked for legible letters, each in one split. And their glyphs."""

import re
import sys
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import PIL.Image
from PIL import ImageDraw, ImageFont

from fila.common.arguments import UserError

SPLITS = ("train", "validation", "test")
# What every family must draw, and pages use.
CHARACTERS = frozenset(map(chr, [*range(0x20, 0x7F), *range(0xC0, 0x100)])) | set("£§«»°±·×–—‘’“”„•…€")
MAX_FILE_SIZE = 3_000_000  # larger files are those of scripts with thousands of characters
_PACKAGED = ("fontpkg_*/files/*.[ot]tf", "font_*/files/*.[ot]tf", "matplotlib/mpl-data/fonts/ttf/*.ttf")
_SYSTEM = Path("/usr/share/fonts")
_STYLES = dict.fromkeys(("regular", "book", "roman", "normal", ""), "regular") | {"bold": "bold"}
_STYLES |= dict.fromkeys(("italic", "oblique", "regular italic", "book oblique"), "italic")
_WEIGHT_NAMES = re.compile(r" (Thin|Extra ?Light|Light|Medium|Semi ?Bold|Extra ?Bold|Black)$")
# Families that share the letters of another under a name of their own: all go into the split of the second name.
_SAME_LETTERS = {"arim": "libe", "tino": "libe", "cous": "libe", "carl": "lato", "bits": "deja", "free": "nimb"}
# Mathematical letters, and cuts for sizes that another family of nearly the same name has.
_UNUSABLE = re.compile(r"^cm[a-z]+\d+$|Math| (Display|Light|Medium)\b")


@dataclass(frozen=True, eq=False)  # compared by identity: faces are keys of all caches
class Face:
    """A style of a family: where its file is, and the weight to set where the file has all weights."""

    path: str
    weight: int | None = None


def split_of_family(name):
    """The one split that may use a family, such as "Fira Mono". Relatives, such as a sans and a mono, are in the same."""
    root = name.lower().split()[0][:4]
    share = zlib.crc32(_SAME_LETTERS.get(root, root).encode()) % 20
    return "test" if share < 4 else "validation" if share < 6 else "train"


@lru_cache(maxsize=512)
def load_font(face, size):
    """A face at a size in pixels per em."""
    # The basic layout depends on FreeType alone, and is the faster one.
    font = ImageFont.truetype(face.path, size, layout_engine=ImageFont.Layout.BASIC)
    if face.weight is not None:
        axes = font.get_variation_axes()
        font.set_variation_by_axes([face.weight if b"eight" in axis["name"] else axis["default"] for axis in axes])
    return font


@cache
def capital_share(face, letter="H"):
    """Height of a capital H, or of another letter, in em."""
    return -load_font(face, 1000).getbbox(letter, anchor="ls")[1] / 1000


@lru_cache(maxsize=1 << 15)  # drawing glyphs would take most of the time of making pages
def _draw_glyph(face, size, character):
    """Advance in pixels, an "L" image, and the (left, top) of that, seen from where the baseline begins."""
    font = load_font(face, size)
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    mask = PIL.Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), character, 255, font, "ls")
    return round(font.getlength(character)), mask, left, top


def text_width(face, size, text):
    """Width of a text in pixels, without kerning."""
    return sum([_draw_glyph(face, size, character)[0] for character in text])


def place_glyphs(face, size, text):
    """Yields an "L" image of each character of a text, without kerning, and the (left, top) where it goes, in pixels from
    where the text's baseline begins."""
    x = 0
    for character in text:
        advance, mask, left, top = _draw_glyph(face, size, character)
        yield mask, x + left, top
        x += advance


def _is_legible(face):
    """Whether there is a face, with all characters, and small letters that do not look like capitals."""
    from fontTools.ttLib import TTFont

    if face is None or not CHARACTERS.issubset(map(chr, TTFont(face.path, lazy=True).getBestCmap())):
        return False
    x, h, capital = (capital_share(face, letter) for letter in "xhH")
    return 0.5 * capital < x < 0.93 * h and 0.3 < capital < 1.1


@cache
def is_monospaced(face):
    return text_width(face, 64, "i") == text_width(face, 64, "W")


def _find_faces(assets):
    """Yields (family, style, face) of every font file that is packed, or if `assets` is `None`, installed."""
    if assets is None:
        folders = map(Path, dict.fromkeys(sys.path))
        paths = [path for folder in folders for pattern in _PACKAGED for path in folder.glob(pattern)]
        paths += _SYSTEM.rglob("*.[ot]tf")
    else:
        paths = Path(assets, "fonts").iterdir()
    for path in sorted(paths, key=lambda path: (path.name, path)):
        if path.stat().st_size > MAX_FILE_SIZE:
            continue
        family, style, axes = "", "", []
        with suppress(OSError):  # not a font, or one without variations
            font = ImageFont.truetype(path, 20, layout_engine=ImageFont.Layout.BASIC)
            family, style = (name or "" for name in font.getname())
            axes = [axis["name"] for axis in font.get_variation_axes()]
        weights = {_STYLES.get(style.lower()): None}
        if any(b"eight" in axis for axis in axes):
            family = _WEIGHT_NAMES.sub("", family)
            weights = {"italic": 400} if "talic" in path.name else {"regular": 400, "bold": 700}
        yield from ((family, style, Face(str(path), weight)) for style, weight in weights.items())


@cache
def find_families(assets):
    """`dict[str, dict[str, Face]]`: families by name, their faces by style: "regular", and where they exist "bold" and
    "italic". They are those in the folder `assets`, which [`pack_fonts`] wrote, or, if that is `None`, those installed."""
    families = {}
    for family, style, face in _find_faces(assets):
        if family and style and not _UNUSABLE.search(family):
            families.setdefault(family, {}).setdefault(style, face)
    # What is packed was checked before, where fontTools is installed.
    return {name: faces for name, faces in sorted(families.items()) if assets or _is_legible(faces.get("regular"))}


@cache
def split_families(split, assets):
    """`list[dict[str, Face]]`: the families of a split. Raises a `UserError` if none is installed."""
    found = [faces for name, faces in find_families(assets).items() if split_of_family(name) == split]
    if not found:
        raise UserError(f'There is no font for the split {split!r}. Install some: `pip install -e ".[fineprint]"`.')
    return found


def pack_fonts(folder):
    """Writes all families into a folder, for machines where they are not installed; see [`find_families`]. The files have no
    more than the characters that pages use."""
    from fontTools import subset

    (folder / "fonts").mkdir()
    options = [f"--text={''.join(CHARACTERS)}", "--layout-features=", "--notdef-outline", "--name-IDs=*"]
    options += ["--name-languages=*", "--name-legacy"]  # so that each family keeps its name
    for path in sorted({face.path for faces in find_families(None).values() for face in faces.values()}):
        subset.main([path, f"--output-file={folder / 'fonts' / Path(path).name}", *options])
