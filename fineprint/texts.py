# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands on the pages: names, numbers, words, sentences and code. Each belongs to one split only, but labels do not."""

import json
import re
import string
import sysconfig
import zlib
from functools import cache
from pathlib import Path

from fila.fineprint.fonts import CHARACTERS

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "sv_SE", "da_DK", "fi_FI", "no_NO")
_FAKER = {
    "person": "name",
    "street": "street_address",
    "city": "city",
    "company": "company",
    "job": "job",
    "sentence": "sentence",
}
# Labels by the kind of value they name. All splits share them; half of the labels on a page are drawn words instead.
_LABELS = {
    "person": "Name|Customer|Contact|Patient|Author|Driver|Teacher|Guest|Cashier|Owner|Signed by|Prepared by|Player",
    "company": "Company|Supplier|Sender|Carrier|Bank|Employer|Brand|Shop|Insurer|Publisher|Sold by|Operator",
    "street": "Address|Street|Deliver to|Ship to|Billing address|Residence|Site|Office",
    "city": "City|Place|From|To|Destination|Origin|Via|Branch|Terminal|Born in|Region|Location",
    "date": "Date|Due date|Issued|Valid until|Date of birth|Arrival|Departure|Check-in|Expires|Delivered|Start date|Since",
    "time": "Time|Opens|Closes|Start|End|Boarding|Doors open|Last entry|Call at|Duration",
    "price": "Total|Subtotal|Price|Amount|Tax|Fee|Balance|Discount|Deposit|Cash|Change|Shipping|Net|VAT|Rent|Salary|Cost",
    "number": "Number|Quantity|Pieces|Seats|Copies|Stock|Units|Room|Floor|Points|Rank|Count|Visitors|Lot",
    "code": "Invoice no.|Order no.|Code|Reference|Serial no.|Model|Ticket|Booking|Account|Flight|Permit|SKU|ID|Batch|Case",
    "phone": "Phone|Tel.|Mobile|Fax|Hotline|Call|Emergency",
    "email": "E-mail|Mail|Support|Reply to|Contact us|Write to",
    "url": "Website|Web|Link|More at|Source|Home page|Download",
    "unit": "Weight|Height|Width|Length|Volume|Power|Speed|Voltage|Distance|Size|Capacity|Depth|Energy|Temperature",
    "percent": "Share|Rate|Humidity|Alcohol|Growth|Progress|Battery|Interest|Score|Load",
    "version": "Version|Build|Release|Firmware|IP address|Host|Gateway",
    "words": "Status|Type|Category|Colour|Material|Subject|Note|Method|Class|Language|Level|Format|Terms|Payment|Remarks",
}
LABELS = {kind: labels.split("|") for kind, labels in _LABELS.items()}
# Made values: 9 is a digit but 0, # a digit, A a letter, {name} one of `_PARTS`. A page writes a kind in one or two forms.
_FORMS = {
    "price": "$9.##|$9#.##|$9,###.##|9.## €|9#,## €|9.###,## €|£9##.##|9#.##|9,##|EUR 9##.##|CHF 9#.##|9## kr|9#.## USD",
    "number": "9|9#|9##|9###|9####|9,###|9.###",
    "decimal": "0.##|9.#|9#.#|9.##|9##.#|9,#",
    "percent": "9#%|9.#%|9# %|9#,#%|9%",
    "unit": "9 {unit}|9# {unit}|9## {unit}|9.# {unit}|9#,# {unit}|9#{unit}",
    "version": "9.#|9.#.#|v9.##|9##.1#.##.2#|9#.9.#.9",
    "code": "A##|AA###|A-####|AA-####|A##/9##|AAA 9##|9##-AA-9#|AA9999|9####A",
    "phone": "+9# 9## 9## ###|9##-9##-####|0## 9##-####|(9##) 9##-####|0#### 9#####|9# ## ## ##",
    "date": "{yyyy}-{mm}-{dd}|{d} {month} {yyyy}|{dd}.{mm}.{yyyy}|{dd}/{mm}/{yy}|{month} {d}, {yyyy}|{d}. {month}|{month} {yyyy}"
    "|{mm}/{dd}/{yyyy}|{d}.{mm}.{yy}|{dd} {mon} {yy}|{mon} {d}",
    "time": "{hh}:{min}|{h}:{min} am|{h}:{min} pm|{hh}.{min}|{hh}:{min}:{min}|{hh}h{min}",
    "email": "{word}@{word}.{end}|{word}.{word}@{word}.{end}|{word}_{word}@{word}.{end}|{word}9#@{word}.{end}",
    "url": "www.{word}-{word}.{end}|https://{word}.{end}/{word}|{word}.{end}|http://www.{word}.{end}|{word}.{end}/{word}9.html",
    "path": "/{word}/{word}.{file}|~/{word}.{file}|./{word}/{word}.{file}|C:\\{word}\\{word}.{file}|{word}_{word}.{file}|cd {word}",
    "page": "Page 9#|Page 9|9#|- 9## -|9 / 9#|p. 9##",
}
_FORMS = {kind: forms.split("|") for kind, forms in _FORMS.items()}
_PARTS = {
    "unit": "kg|g|mg|km|m|cm|mm|l|ml|kW|V|A|W|Hz|GB|MB|km/h|bar|kcal|°C|min|h|pcs|ppm|dB",
    "end": "com|org|net|de|fr|es|it|nl|io|co.uk|se|dk|fi|pl|eu|info",
    "file": "txt|py|log|csv|json|pdf|cfg",
    "month": "January|February|March|April|May|June|July|August|September|October|November|December|Januar|Februar|März|Mai"
    "|Juni|Juli|Oktober|Dezember|janvier|février|mars|avril|mai|juin|enero|marzo|julio|agosto",
    "mon": "Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec",
}
_PARTS = {name: parts.split("|") for name, parts in _PARTS.items()}
_PARTS |= {"9": "123456789", "#": string.digits, "A": "ACDEFHJKLMNPRTUVWXY"}  # letters that no font draws like digits
# First and last number, and digits, of what is counted.
_NUMBERS = {"d": (1, 28, 1), "dd": (1, 28, 2), "mm": (1, 12, 2), "yy": (0, 99, 2), "yyyy": (1950, 2039, 4)}
_NUMBERS |= {"h": (1, 12, 1), "hh": (0, 23, 2), "min": (0, 59, 2)}
_PARTS |= {name: [f"{n:0{size}}" for n in range(low, high + 1)] for name, (low, high, size) in _NUMBERS.items()}
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

    pools = {kind: [] for kind in (*_FAKER, "listing")}
    for locale in LOCALES:
        faker = Faker(locale)
        faker.seed_instance(0)
        for kind, method in _FAKER.items():
            if (locale, kind) != ("it_IT", "city"):  # Faker takes these from a set, whose order changes from run to run
                pools[kind] += [" ".join(getattr(faker, method)().split()) for _ in range(400)]
    library = Path(sysconfig.get_path("stdlib"))
    for path in [*sorted(library.glob("*.py")), library / "pydoc_data" / "topics.py"]:
        source = path.read_text(encoding="utf-8", errors="ignore")
        pools["sentence"] += _PROSE.findall(" ".join(re.sub(r"#|\\n|['\"]\s+['\"]", " ", source).split()))
        pools["listing"] += [
            line.rstrip() for line in source.splitlines() if len(line.strip()) > 3 and "\t" not in line
        ]
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
