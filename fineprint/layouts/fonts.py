# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Font families: found where pip and Debian put them, checked for legible letters, each in one split."""

import io
import json
import re
import string
import sys
import zlib
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from fila.common.arguments import UserError

SPLITS = ("train", "validation", "test")
_PACKAGED = ("fontpkg_*/files/*.[ot]tf", "font_*/files/*.[ot]tf", "matplotlib/mpl-data/fonts/ttf/*.ttf")
_SYSTEM = Path("/usr/share/fonts")
_STYLES = {
    **dict.fromkeys(("regular", "book", "roman", "normal", ""), "regular"),
    "bold": "bold",
    **dict.fromkeys(("italic", "oblique", "regular italic", "book oblique"), "italic"),
}
_WEIGHT_NAMES = re.compile(r" (Thin|Extra ?Light|Light|Medium|Semi ?Bold|Extra ?Bold|Black)$")
# Families that share the letters of another under a name of their own: all go into the split of the second name.
_SAME_LETTERS = {"arim": "libe", "tino": "libe", "cous": "libe", "carl": "lato", "bits": "deja", "free": "nimb"}
# Mathematical letters, and cuts for sizes that another family of nearly the same name has.
_UNUSABLE = re.compile(r"^cm[a-z]+\d+$|Math| (Display|Light|Medium)\b")
# What a family may draw beyond ASCII, which it must draw.
EXTRA_CHARACTERS = "".join(map(chr, range(0xC0, 0x100))) + "ĄĆĘŁŃŚŹŻąćęłńśźżŒœ£§«»°±·×½–—‘’“”„•…€"
_ASCII = frozenset(map(chr, range(32, 127)))
_MISSING = "\U0010fffe"  # no font has it: drawn as the sign for missing characters
MAX_FILE_SIZE = 3_000_000  # larger files are those of scripts with thousands of characters


@dataclass(frozen=True, eq=False)  # compared by identity: faces are keys of all caches
class Face:
    """A style of a family: where its file is, and the weight to set where the file has all weights."""

    source: str
    weight: int | None = None


def split_of_family(name):
    """The one split that may use a family. Relatives, such as a sans and a mono of one name, are in the same.

    Args:
        name (`str`): of the family, such as "Fira Mono".
    """
    root = name.lower().split()[0][:4]
    share = zlib.crc32(_SAME_LETTERS.get(root, root).encode()) % 20
    return "test" if share < 4 else "validation" if share < 6 else "train"


def _file(source):
    """What FreeType reads a source from: a path, or bytes that a package keeps in a module."""
    if source.startswith("pymupdf_fonts:"):
        import pymupdf_fonts

        return io.BytesIO(pymupdf_fonts.myfont(source.split(":")[1]))
    return source


@lru_cache(maxsize=512)
def load_font(face, size):
    """A face at a size in pixels per em."""
    # The basic layout depends on FreeType alone, and is the faster one.
    font = ImageFont.truetype(_file(face.source), size, layout_engine=ImageFont.Layout.BASIC)
    if face.weight is not None:
        axes = font.get_variation_axes()
        font.set_variation_by_axes([face.weight if b"eight" in axis["name"] else axis["default"] for axis in axes])
    return font


@cache
def capital_share(face):
    """Height of a capital H, in em."""
    left, top, right, bottom = load_font(face, 1000).getbbox("H", anchor="ls")
    return (bottom - top) / 1000


@cache
def _advances(face, size):
    """Advances of characters in pixels, as far as they were needed."""
    return {}


def text_width(face, size, text):
    """Width of a text in pixels, without kerning. That of large text is scaled, so that few sizes are measured."""
    measured = size if size < 20 else 64
    advances = _advances(face, measured)
    for character in set(text).difference(advances):
        advances[character] = load_font(face, measured).getlength(character)
    return sum([advances[character] for character in text]) * (size / measured)


@lru_cache(maxsize=1 << 14)
def text_ink(face, size, text):
    """(left, top, right, bottom) of a text's ink in pixels, seen from where its baseline begins."""
    return load_font(face, size).getbbox(text, anchor="ls")


def _missing(face, characters):
    """Yields those characters that a face has no shape for."""
    font = load_font(face, 12)

    def shape(character):
        mask = font.getmask(character)
        return mask.size, bytes(mask)

    missing = shape(_MISSING)
    return (character for character in characters if shape(character) == missing)


@cache
def drawable(face):
    """`frozenset[str]`: ASCII, and those of `EXTRA_CHARACTERS` that a face has a shape for."""
    return _ASCII | set(EXTRA_CHARACTERS).difference(_missing(face, EXTRA_CHARACTERS))


def _is_legible(faces):
    """Whether a family has all of ASCII, and small letters that do not look like capitals."""
    face = faces["regular"]
    if any(True for _ in _missing(face, string.ascii_letters + string.digits + string.punctuation)):
        return False
    x, h = (-text_ink(face, 1000, letter)[1] for letter in "xh")
    return 0.5 * capital_share(face) < x / 1000 < 0.93 * h / 1000 and 0.3 < capital_share(face) < 1.1


@cache
def is_monospaced(face):
    return text_width(face, 1000, "i") == text_width(face, 1000, "W")


def _find_sources():
    """Yields (family, style, face) of every font file that is installed."""
    paths = [path for folder in dict.fromkeys(sys.path) for pattern in _PACKAGED for path in Path(folder).glob(pattern)]
    paths += _SYSTEM.rglob("*.[ot]tf")
    for path in sorted(paths, key=lambda path: (path.name, path)):
        if path.stat().st_size > MAX_FILE_SIZE:
            continue
        try:
            font = ImageFont.truetype(path, 20, layout_engine=ImageFont.Layout.BASIC)
            family, style = font.getname()
            axes = [axis["name"] for axis in font.get_variation_axes()]
        except OSError:  # not a font, or one without variations
            axes = []
        if any(b"eight" in axis for axis in axes):
            family = _WEIGHT_NAMES.sub("", family or "")
            if "talic" in path.name:
                yield family, "italic", Face(str(path), 400)
            else:
                yield family, "regular", Face(str(path), 400)
                yield family, "bold", Face(str(path), 700)
        else:
            yield family, _STYLES.get((style or "").lower()), Face(str(path))
    try:
        from pymupdf_fonts import fontdescriptors
    except ModuleNotFoundError:
        return
    for code, about in fontdescriptors.items():
        family, style = re.sub(r"( Bold| Italic| Regular)+$", "", about["name"]), (about["bold"], about["italic"])
        style = {(False, False): "regular", (True, False): "bold", (False, True): "italic"}.get(style)
        yield family, style, Face(f"pymupdf_fonts:{code}")


@cache
def find_families(assets):
    """All families that can be used.

    Args:
        assets (`str` or `None`): a folder that [`pack_fonts`] wrote, to take them from; else what is installed counts.

    Returns:
        `dict[str, dict[str, Face]]`: by name, faces by style: "regular", and where it exists "bold" and "italic".
    """
    families = {}
    if assets is not None:
        index = json.loads((Path(assets) / "fonts.json").read_text(encoding="utf-8"))
        for family, faces in index.items():
            families[family] = {
                style: Face(str(Path(assets) / "fonts" / name), weight) for style, (name, weight) in faces.items()
            }
        return families
    for family, style, face in _find_sources():
        if family and style:
            families.setdefault(family, {}).setdefault(style, face)
    return {
        family: faces
        for family, faces in sorted(families.items())
        if "regular" in faces and not _UNUSABLE.search(family) and _is_legible(faces)
    }


@cache
def split_families(split, assets):
    """`list[dict[str, Face]]`: the families of a split.

    Raises:
        UserError: none is installed.
    """
    found = [faces for name, faces in find_families(assets).items() if split_of_family(name) == split]
    if not found:
        raise UserError(
            f'No font for the split {split!r} is installed. Install some with `pip install -e ".[fineprint]"`.'
        )
    return found


def pack_fonts(folder):
    """Writes all families into a folder, for machines where they are not installed; see [`find_families`]. The files have no
    more than the characters that pages use."""
    from fontTools import subset

    folder, index = Path(folder), {}
    (folder / "fonts").mkdir()
    for family, faces in find_families(None).items():
        index[family] = {}
        for style, face in faces.items():
            name = f"{family.replace(' ', '')}-{'all' if face.weight and style != 'italic' else style}.ttf"
            index[family][style] = name, face.weight
            if (folder / "fonts" / name).exists():  # one file has all weights
                continue
            with subset.load_font(_file(face.source), subset.Options(), dontLoadGlyphNames=True) as font:
                subsetter = subset.Subsetter(subset.Options(layout_features=[], legacy_kern=True, notdef_outline=True))
                subsetter.populate(unicodes=map(ord, _ASCII.union(EXTRA_CHARACTERS)))
                subsetter.subset(font)
                font.save(folder / "fonts" / name)
    (folder / "fonts.json").write_text(json.dumps(index, indent=1), encoding="utf-8")
