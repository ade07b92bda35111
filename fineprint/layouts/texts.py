# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What stands on the pages: names, numbers, words, sentences and code. Each value belongs to one split only."""

import json
import re
import string
import sysconfig
import unicodedata
import zlib
from functools import cache
from pathlib import Path

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pt_BR", "sv_SE", "da_DK", "fi_FI", "pl_PL")
_FAKER = {"person": "name", "street": "street_address", "city": "city", "company": "company", "job": "job"}
# Labels are the vocabulary of documents, and all splits share them; half of the labels are drawn words instead.
LABELS = {
    "person": "Name|Customer|Contact|Patient|Author|Driver|Teacher|Guest|Cashier|Owner|Signed by|Prepared by|Doctor|Player",
    "company": "Company|Supplier|Sender|Carrier|Bank|Employer|Brand|Shop|Insurer|Publisher|Sold by|Operator",
    "street": "Address|Street|Deliver to|Ship to|Billing address|Residence|Site|Office",
    "city": "City|Place|From|To|Destination|Origin|Via|Branch|Terminal|Born in|Region|Location",
    "job": "Job|Position|Profession|Role|Occupation|Title|Department",
    "date": "Date|Due date|Issued|Valid until|Date of birth|Arrival|Departure|Check-in|Expires|Delivered|Start date|Since",
    "time": "Time|Opens|Closes|Start|End|Boarding|Doors open|Last entry|Call at|Duration|Time of day",
    "price": "Total|Subtotal|Price|Amount|Tax|Fee|Balance|Discount|Deposit|Cash|Change|Shipping|Net|VAT|Rent|Salary|Cost",
    "number": "Number|Quantity|Page|Pieces|Seats|Copies|Stock|Units|Room|Floor|Year|Points|Rank|Count|Visitors|Lot",
    "code": "Invoice no.|Order no.|Code|Reference|Serial no.|Model|Ticket|Booking|Account|Flight|Permit|SKU|ID|Batch|Case",
    "phone": "Phone|Tel.|Mobile|Fax|Hotline|Call|Emergency",
    "email": "E-mail|Mail|Support|Reply to|Contact us|Write to",
    "url": "Website|Web|Link|More at|Source|Home page|Download",
    "unit": "Weight|Height|Width|Length|Volume|Power|Speed|Voltage|Distance|Size|Capacity|Depth|Energy|Temperature",
    "percent": "Share|Rate|Humidity|Alcohol|Growth|Progress|Battery|Interest|Score|Cotton|Load",
    "version": "Version|Build|Release|Firmware|IP address|Host|Gateway",
    "words": "Status|Type|Category|Colour|Material|Subject|Note|Method|Class|Language|Level|Format|Terms|Payment|Remarks",
}
LABELS = {kind: labels.split("|") for kind, labels in LABELS.items()}
_UNITS = "kg g mg km m cm mm l ml kW V A W Hz GHz GB MB km/h bar kcal °C min h s pcs m² ppm dB".split()
_CURRENCIES = "$ € £ EUR USD CHF kr zł".split()
_DOMAINS = "com org net de fr es it nl io co.uk se dk fi pl eu info".split()
# Letters and digits that no font draws alike.
_CODE_LETTERS, _CODE_DIGITS = "ACDEFHJKLMNPRTUVWXY", "2345679"
_PROSE = re.compile(r"(?<=[.:] )[A-Z][A-Za-z ,;'()-]{25,140}\.(?= |$)")
_MONTHS = (
    "January February March April May June July August September October November December",
    "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
)
_MONTHS = [names.split() for names in _MONTHS]


class DoesNotFit(Exception):
    """There is no room for this here; something else may fit."""


def split_of_text(text):
    """The one split that may show a text: a tenth of all texts are for validation, a tenth for test."""
    return {0: "test", 1: "validation"}.get(zlib.crc32(text.casefold().encode()) % 10, "train")


@cache
def make_pools():
    """Lists of texts by kind, from Faker's locales, wonderwords' nouns and adjectives, and the prose and code of Python's
    own library. `dict[str, list[str]]`, the same for the same versions of the three.

    Raises:
        ModuleNotFoundError: faker or wonderwords is not installed.
    """
    from faker import Faker
    from wonderwords import RandomWord

    pools = {kind: [] for kind in (*_FAKER, "sentence")}
    for locale in LOCALES:
        faker = Faker(locale)
        faker.seed_instance(0)
        for kind, method in [*_FAKER.items(), ("sentence", "sentence")]:
            pools[kind] += [" ".join(getattr(faker, method)().split()) for _ in range(400)]
    library = Path(sysconfig.get_path("stdlib"))
    pools["listing"] = []
    for path in sorted(library.glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="ignore")
        lines = [line.rstrip() for line in source.splitlines() if line.strip() and line.isascii() and "\t" not in line]
        pools["listing"] += ["\n".join(lines[start : start + 24]) for start in range(0, len(lines) - 24, 240)]
        pools["sentence"] += _PROSE.findall(" ".join(source.replace("#", " ").split()))
    topics = (library / "pydoc_data" / "topics.py").read_text(encoding="utf-8", errors="ignore")
    pools["sentence"] += _PROSE.findall(" ".join(re.sub(r"\\n|['\"]\s+['\"]", " ", topics).split()))
    words = RandomWord()
    pools["noun"] = [word for word in words.filter(include_parts_of_speech=["nouns"], regex="[A-Za-z -]{3,16}")]
    pools["adjective"] = words.filter(include_parts_of_speech=["adjectives"], regex="[a-z]{3,12}")
    return {kind: list(dict.fromkeys(filter(None, pool))) for kind, pool in pools.items()}


@cache
def split_pools(split, assets=None):
    """The part of the pools that a split may show; from the folder `assets`, where [`pack_texts`] was called, if given."""
    pools = make_pools() if assets is None else json.loads((Path(assets) / "texts.json").read_text(encoding="utf-8"))
    return {kind: [text for text in pool if split_of_text(text) == split] for kind, pool in pools.items()}


def pack_texts(folder):
    """Writes the pools into a folder, for machines without Faker."""
    (Path(folder) / "texts.json").write_text(json.dumps(make_pools(), ensure_ascii=False, indent=0), encoding="utf-8")


class Texts:
    """Draws the texts of one page, no two of which are equal.

    Args:
        rng (`random.Random`): where all chance comes from.
        split (`str`): whose texts are drawn.
        assets (`str` or `None`): see [`split_pools`].
        characters (`set[str]`): those that the fonts of the page have. Accents that they lack are left out.
    """

    def __init__(self, rng, split, assets, characters):
        self.rng, self.split, self.pools, self.characters = rng, split, split_pools(split, assets), characters
        self.used = set()
        self.currency, self.date_format, self.months = rng.choice(_CURRENCIES), rng.randrange(9), rng.choice(_MONTHS)
        self.label_kind = None
        self.price_format, self.phone_format = rng.randrange(6), rng.randrange(5)

    def clean(self, text):
        """The text in characters that the fonts of the page have."""
        if self.characters.issuperset(text):
            return text
        text = "".join(c if c in self.characters else unicodedata.normalize("NFKD", c)[0] for c in text)
        return "".join(c if c in self.characters else "-" for c in text)

    def one(self, kind, fits=lambda text: True):
        """Draws a text of a kind, such as "person": the kinds are the pools and the methods below.

        Raises:
            DoesNotFit: none was found that is new on the page and for which `fits` holds.
        """
        pool = self.pools.get(kind)
        for _ in range(60):
            text = self.clean(self.rng.choice(pool) if pool else getattr(self, kind)())
            if text.casefold() not in self.used and fits(text):
                self.used.add(text.casefold())
                return text
        raise DoesNotFit

    def label(self):
        """Text that names a value of `label_kind`, or any value."""
        if self.rng.random() < 0.5 and self.label_kind in LABELS:
            return self.rng.choice(LABELS[self.label_kind])
        return self.words().capitalize() if self.rng.random() < 0.7 else self.words().title()

    def words(self):
        """A noun, which may have an adjective."""
        noun = self.rng.choice(self.pools["noun"])
        return f"{self.rng.choice(self.pools['adjective'])} {noun}" if self.rng.random() < 0.4 else noun

    def item(self):
        """Something in a list: of any kind that is made of words."""
        return self.words().capitalize() if self.rng.random() < 0.8 else self.rng.choice(self.pools["job"])

    def phrase(self):
        """The beginning of a sentence, or a few words."""
        words = self.rng.choice(self.pools["sentence"]).split()
        return " ".join(words[: self.rng.randrange(2, 7)]).strip(" .,;:(")

    def _own(self, make):
        """Draws a made value until it belongs to the split."""
        while split_of_text(text := make()) != self.split:
            pass
        return text

    def _digits(self, count):
        return str(self.rng.randrange(1, 10)) + "".join(self.rng.choices(string.digits, k=count - 1))

    def price(self):
        def make():
            cents = self.rng.choice([99, 999, 9999, 99999]) * self.rng.random() + 0.5
            number = f"{cents:,.2f}"
            if self.price_format % 3 == 0:
                number = number.translate(str.maketrans(",.", ".,"))
            elif self.price_format % 3 == 1:
                number = number.replace(",", "")
            return f"{number} {self.currency}" if self.price_format > 2 else sign + number

        sign = self.currency if len(self.currency) == 1 and self.price_format else ""
        return self._own(make)

    def number(self):
        return self._own(lambda: self._digits(self.rng.choice([1, 2, 2, 3, 3, 4, 5])))

    def decimal(self):
        return self._own(lambda: f"{self.rng.choice([9, 99, 999]) * self.rng.random():.{self.rng.choice([1, 1, 2])}f}")

    def new_scale(self):
        """Chooses how large the next levels are."""
        self.scale, self.level_digits, self.level_unit = self.rng.choice([(10, 1, ""), (100, 0, ""), (100, 0, "%"), (5000, 0, "")])

    def level(self):
        """A value of a chart."""
        return self._own(lambda: f"{self.scale * self.rng.uniform(0.08, 1):.{self.level_digits}f}{self.level_unit}")

    def page(self):
        """The number of a page."""
        number = self.rng.randrange(1, 400)
        forms = (f"Page {number}", f"{number}", f"- {number} -", f"{number} / {number + self.rng.randrange(200)}", f"p. {number}")
        return self.rng.choice(forms)

    def percent(self):
        return self._own(lambda: f"{self.rng.uniform(0.5, 99):.{self.rng.choice([0, 1])}f}{self.rng.choice(['%', '%', ' %'])}")

    def unit(self):
        return self._own(lambda: f"{self.decimal() if self.rng.random() < 0.5 else self.number()} {self.rng.choice(_UNITS)}")

    def version(self):
        parts = self.rng.choice([2, 3, 3, 4])
        return self._own(lambda: ".".join(str(self.rng.randrange(256 if parts == 4 else 21)) for _ in range(parts)))

    def code(self):
        def make():
            letters = "".join(self.rng.choices(_CODE_LETTERS, k=self.rng.choice([1, 2, 3])))
            digits = "".join(self.rng.choices(_CODE_DIGITS, k=self.rng.choice([2, 3, 4, 5])))
            parts = [letters, digits, self._digits(self.rng.choice([2, 4]))][: self.rng.choice([2, 2, 3])]
            return self.rng.choice(["", "-", "-", "/", " "]).join(parts)

        return self._own(make)

    def phone(self):
        groups = [[3, 3, 4], [4, 3, 3], [2, 2, 2, 2], [5, 6], [3, 4]][self.phone_format]
        prefix = self.rng.choice(["", "0", "+" + self._digits(2) + " "])
        return self._own(lambda: prefix + self.rng.choice("- ").join(self._digits(count) for count in groups))

    def date(self):
        def make():
            year, month, day = self.rng.randrange(1960, 2035), self.rng.randrange(1, 13), self.rng.randrange(1, 29)
            name = self.months[month - 1]
            return (
                f"{year}-{month:02}-{day:02}",
                f"{day} {name} {year}",
                f"{day:02}.{month:02}.{year}",
                f"{day:02}/{month:02}/{year % 100:02}",
                f"{name} {day}, {year}",
                f"{day}. {name}",
                f"{name} {year}",
                f"{day:02}/{month:02}/{year}",
                f"{day}.{month}.{year % 100:02}",
            )[self.date_format]

        return self._own(make)

    def time(self):
        def make():
            hour, minute = self.rng.randrange(24), self.rng.randrange(60)
            return (f"{hour:02}:{minute:02}", f"{hour % 12 + 1}:{minute:02} {'ap'[hour > 11]}m", f"{hour}.{minute:02}")[
                self.date_format % 3
            ]

        return self._own(make)

    def _handle(self):
        return re.sub("[^a-z]", "", self.rng.choice(self.pools["noun"]).lower()) or "info"

    def email(self):
        name = f"{self._handle()}{self.rng.choice(['', '.', '_', '-'])}{self._handle()}"
        return f"{name}@{self._handle()}.{self.rng.choice(_DOMAINS)}"

    def url(self):
        start = self.rng.choice(["www.", "", "https://", "http://www."])
        path = "" if self.rng.random() < 0.5 else f"/{self._handle()}" + self.rng.choice(["", ".html", f"/{self.number()}"])
        return f"{start}{self._handle()}-{self._handle()}.{self.rng.choice(_DOMAINS)}{path}"

    def path(self):
        """A file with its folder, or a command."""
        folder = self.rng.choice(["", "/", "~/", "./", "C:\\"])
        steps = [self._handle() for _ in range(self.rng.randrange(1, 4))]
        ending = self.rng.choice(".txt .py .log .csv .json .pdf .cfg".split())
        return folder + ("\\" if folder == "C:\\" else "/").join(steps) + ending
