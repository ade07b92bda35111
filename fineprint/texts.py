# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands on the pages: names, numbers, words, sentences and code. Each belongs to one split only, but labels do not."""

import json
import re
import sysconfig
import zlib
from functools import cache
from pathlib import Path

import yaml

from fila.fineprint.fonts import CHARACTERS

TABLES = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text(encoding="utf-8"))
# Labels by the kind of value they name. All splits share them; half of the labels on a page are drawn words instead.
LABELS, _FORMS, _PARTS = TABLES["labels"], TABLES["forms"], TABLES["parts"]
_PARTS |= {name: [f"{n:0{size}}" for n in range(low, end)] for name, (low, end, size) in TABLES["numbers"].items()}
_PROSE = re.compile(r"(?<=[.:] )[A-Z][A-Za-z ,;'()-]{25,140}\.(?= |$)")


class DoesNotFit(Exception):
    """There is no room for this here; something else may fit."""


def split_of_text(text):
    """The one split that may show a text: a tenth of all texts are for validation, a tenth for test."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(text.casefold().encode()) % 10, "train")


@cache
def make_pools():
    """Lists of texts by kind, `dict[str, list[str]]`, from Faker's locales, wonderwords' nouns and adjectives, and the prose
    and code of Python's own library; the same for the same versions of the three."""
    from faker import Faker
    from wonderwords import RandomWord

    methods = TABLES["faker"]["kinds"]
    pools = {kind: [] for kind in (*methods, "listing")}
    for locale in TABLES["faker"]["locales"]:
        faker = Faker(locale)
        faker.seed_instance(0)
        for kind, method in methods.items():
            if (locale, kind) != ("it_IT", "city"):  # Faker takes these from a set, whose order changes from run to run
                pools[kind] += [" ".join(getattr(faker, method)().split()) for _ in range(400)]
    library = Path(sysconfig.get_path("stdlib"))
    for path in [*sorted(library.glob("*.py")), library / "pydoc_data" / "topics.py"]:
        source = path.read_text(encoding="utf-8", errors="ignore")
        pools["sentence"] += _PROSE.findall(" ".join(re.sub(r"#|\\n|['\"]\s+['\"]", " ", source).split()))
        lines = map(str.rstrip, source.splitlines())
        pools["listing"] += [line for line in lines if len(line.strip()) > 3 and "\t" not in line]
    words = RandomWord()
    for kind, regex in (("noun", "[A-Za-z -]{3,16}"), ("adjective", "[a-z]{3,12}")):
        pools[kind] = sorted(words.filter(include_parts_of_speech=[f"{kind}s"], regex=regex))  # it has no order
    return {kind: list(filter(CHARACTERS.issuperset, dict.fromkeys(pool))) for kind, pool in pools.items()}


@cache
def split_pools(split, assets):
    """The part of the pools that a split may show; from the folder `assets`, where [`pack_texts`] was called, if given."""
    pools = make_pools() if assets is None else json.loads((Path(assets) / "texts.json").read_text(encoding="utf-8"))
    return {kind: [text for text in pool if split_of_text(text.strip()) == split] for kind, pool in pools.items()}


def pack_texts(folder):
    """Writes the pools into a folder, for machines without Faker."""
    (folder / "texts.json").write_text(json.dumps(make_pools(), ensure_ascii=False, indent=0), encoding="utf-8")


class Texts:
    """Draws the texts of one page, no two of which are equal, from those of a split; `assets` as in [`split_pools`].
    `used` has the kinds of those drawn, by their folded text."""

    def __init__(self, rng, split, assets):
        self.rng, self.split, self.pools, self.used = rng, split, split_pools(split, assets), {}
        # Prices have one form, or one could not tell which is higher.
        self.forms = {kind: rng.choices(forms, k=1 if kind == "price" else 2) for kind, forms in _FORMS.items()}

    def draw(self, kind, fits=lambda text: True):
        """Draws a text of a kind, such as "person": the kinds are the pools, the forms, and the methods below. Raises
        `DoesNotFit` if it finds none that belongs to the split, is new on the page, and for which `fits` holds."""
        for _ in range(100):
            if kind in self.forms:
                text = re.sub(r"\{\w+\}|[9#A](?![a-z])", self._fill, self.rng.choice(self.forms[kind]))
            elif kind in self.pools:
                text = self.rng.choice(self.pools[kind])
            else:
                text = getattr(self, kind)()
            is_pooled = kind not in self.forms and kind != "phrase"  # so it has a name or a noun of the split alone
            if text.casefold() not in self.used and fits(text) and (is_pooled or split_of_text(text) == self.split):
                return self.use(text, kind)
        raise DoesNotFit

    def use(self, text, kind=None):
        self.used[text.casefold()] = kind
        return text

    def _fill(self, match):
        name = match.group().strip("{}")
        if name == "word":
            return re.sub("[^a-z]", "", self.rng.choice(self.pools["noun"]).lower())
        return self.rng.choice(_PARTS[name])

    def label(self, kind, fits):
        """Text that names a value of a kind: of the labels that all splits share, or words."""
        labels = [text for text in LABELS.get(kind, ()) if text.casefold() not in self.used and fits(text)]
        return self.use(self.rng.choice(labels)) if labels and self.rng.random() < 0.5 else self.draw("title", fits)

    def title(self):
        return self.words().capitalize() if self.rng.random() < 0.7 else self.words().title()

    def words(self):
        """A noun, which may have an adjective."""
        noun = self.rng.choice(self.pools["noun"])
        return f"{self.rng.choice(self.pools['adjective'])} {noun}" if self.rng.random() < 0.4 else noun

    def item(self):
        """Something in a list."""
        return self.words().capitalize() if self.rng.random() < 0.8 else self.rng.choice(self.pools["job"])

    def phrase(self):
        """The beginning of a sentence."""
        words = self.rng.choice(self.pools["sentence"]).split()
        return " ".join(words[: self.rng.randrange(2, 7)]).strip(" .,;:(")
