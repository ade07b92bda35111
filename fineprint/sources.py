# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the documents are made of: fonts, photos and values. Each belongs to one split only."""

import importlib.util
import io
import string
import zlib
from functools import cache, lru_cache
from pathlib import Path

import PIL.Image
import yaml
from faker.providers.address.en_US import Provider as AddressProvider
from faker.providers.job.en_US import Provider as JobProvider
from faker.providers.lorem.en_US import Provider as LoremProvider
from faker.providers.person.en_US import Provider as PersonProvider
from PIL import ImageFont

from fila.common.arguments import UserError

SPLITS = ("train", "validation", "test")
DATA = yaml.safe_load(Path(__file__).with_name("documents.yaml").read_text(encoding="utf-8"))
FONTS, PHOTOS, WORDS = DATA["fonts"], DATA["photos"], DATA["words"]


def _package_folder(package):
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(
            f"The benchmark draws with the package {package!r}, which is not installed. Install all that it needs with "
            '`pip install -e ".[fineprint]"`.'
        )
    return Path(spec.origin).parent


@cache
def _font_bytes(source):
    package, name = source.split(":")
    folder = _package_folder(package)
    return importlib.import_module(package).myfont(name) if package == "pymupdf_fonts" else (folder / name).read_bytes()


@lru_cache(maxsize=256)
def load_font(source, size):
    """A font of `FONTS`, at a size in pixels per em. Raises a `UserError` if its package is not installed."""
    # The basic layout depends on FreeType alone, and is the faster one.
    return ImageFont.truetype(io.BytesIO(_font_bytes(source)), size, layout_engine=ImageFont.Layout.BASIC)


@cache
def capital_height(source):
    """Height of a capital H, in em."""
    left, top, right, bottom = load_font(source, 1000).getbbox("H", anchor="ls")
    return (bottom - top) / 1000


@lru_cache(maxsize=4096)
def measure(source, size, text):
    """(left, top, right, bottom) of a text's ink in pixels, seen from where its baseline begins."""
    return load_font(source, size).getbbox(text, anchor="ls")


@cache
def mean_advance(source):
    """Mean width of a letter or digit, in em."""
    characters = string.ascii_lowercase + string.digits
    return load_font(source, 1000).getlength(characters) / len(characters) / 1000


@cache
def load_photo(name):
    """A photo of `PHOTOS`, as a PIL image in RGB."""
    with PIL.Image.open(_package_folder("skimage") / "data" / name) as photo:
        return photo.convert("RGB")


def split_of(value):
    """The one split that may show a value: a tenth of all values are for validation, a tenth for test."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(value.casefold().encode()) % 10, "train")


# Faker's lists, without its weights: drawing by weight would take most of the time.
_FIRST_NAMES, _SURNAMES = tuple(PersonProvider.first_names), tuple(PersonProvider.last_names)
_JOBS = tuple(job.split(",")[0] for job in JobProvider.jobs)
_CODE_LETTERS, _CODE_DIGITS = "ACDEFHJKLMNPRTUVWXY", "2345679"  # which no font draws alike


class DoesNotFit(Exception):
    """The page is too small for this layout; another draw may fit."""


class Values:
    """Draws the values of one document, of up to `max_length` characters: they belong to its split, differ, and none is
    part of another. All chance comes from `rng`, a `random.Random`."""

    def __init__(self, split, rng, max_length=100):
        self.split, self.rng, self.max_length, self.used = split, rng, max_length, []
        self.currency = rng.choice(["", "", "$", "€", "£"])
        self.date_format, self.phone_format = rng.randrange(3), rng.randrange(4)

    def draw(self, make, accept=lambda value: True):
        """Draws with `make()` until the value may be used. Raises `DoesNotFit` if it finds none that is short enough."""
        for _ in range(500):
            value = make()
            if len(value) <= self.max_length and self.admits(value) and accept(value):
                return self.take(value)
        raise DoesNotFit

    def admits(self, value):
        """Whether a value may still be used."""
        key = value.casefold()
        return split_of(value) == self.split and not any(key in other or other in key for other in self.used)

    def take(self, value):
        """Marks a value as used, and returns it."""
        self.used.append(value.casefold())
        return value

    def one(self, kind):
        """Draws a value of a kind, such as "person"; the kinds are the methods below."""
        return self.draw(getattr(self, kind))

    def _digits(self, count):
        return str(self.rng.randrange(1, 10)) + "".join(self.rng.choices(string.digits, k=count - 1))

    def price(self):
        return f"{self.currency}{self.rng.choice([9, 99, 999]) * self.rng.random() + 0.5:.2f}"

    def number(self):
        return self._digits(self.rng.choice([3, 4, 4, 5]))

    def code(self):
        letters = "".join(self.rng.choices(_CODE_LETTERS, k=self.rng.choice([1, 2, 3])))
        digits = "".join(self.rng.choices(_CODE_DIGITS, k=self.rng.choice([3, 4, 5])))
        return letters + self.rng.choice(["", "-"]) + digits

    def phone(self):
        groups = [[3, 4], [3, 3, 4], [3, 3, 3], [4, 3, 3]][self.phone_format]
        return self.rng.choice("- ").join(self._digits(count) for count in groups)

    def date(self):
        year, month, day = self.rng.randrange(1990, 2030), self.rng.randrange(1, 13), self.rng.randrange(1, 29)
        name = WORDS["month"][month - 1]
        return (f"{year}-{month:02}-{day:02}", f"{day} {name} {year}", f"{day:02}.{month:02}.{year}")[self.date_format]

    def time(self):
        return f"{self.rng.randrange(24):02}:{self.rng.randrange(60):02}"

    def person(self):
        return f"{self.rng.choice(_FIRST_NAMES)} {self.surname()}"

    def surname(self):
        return self.rng.choice(_SURNAMES)

    def city(self):
        if self.rng.random() < 0.5:
            return f"{self.rng.choice(AddressProvider.city_prefixes)} {self.rng.choice(_FIRST_NAMES)}"
        return self.surname() + self.rng.choice(AddressProvider.city_suffixes)

    def street(self):
        return f"{self.surname()} {self.rng.choice(WORDS['street'])} {self.rng.randrange(1, 300)}"

    def job(self):
        return self.rng.choice(_JOBS)

    def email(self):
        return f"{self.rng.choice(_FIRST_NAMES)}.{self.rng.randrange(10, 99)}@{self.rng.choice(WORDS['mail'])}".lower()

    def shop(self):
        return f"{self.surname()} {self.rng.choice(WORDS['shop'])}"

    def goods(self):
        return f"{self.rng.choice(WORDS['goods_kind'])} {self.rng.choice(WORDS['goods'])}".capitalize()

    def place(self):
        return f"{self.rng.choice(WORDS['place'])} {self.rng.choice(['', self.rng.choice('ABCDEFH')])}{self.rng.randrange(2, 1000)}"

    def words(self):
        return f"{self.rng.choice(LoremProvider.word_list)} {self.rng.choice(LoremProvider.word_list)}".capitalize()

    def sentence(self):
        """Filler; not a value, so not unique."""
        return " ".join(self.rng.choices(LoremProvider.word_list, k=8)).capitalize() + "."
