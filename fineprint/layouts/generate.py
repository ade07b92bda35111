# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes pages of free layout with questions about them, as a dataset, a contact sheet, or a pack for other machines.

    python -m fila.fineprint.layouts.generate --output_dir build/layouts --split train --num_pages 20000 --num_proc 8
    python -m fila.fineprint.layouts.generate --output_dir build/preview --preview 24
    python -m fila.fineprint.layouts.generate --output_dir build/pack --pack

`datasets.load_dataset` reads the folder of the first: train has all questions about a page in one conversation, validation
and test one question a page. The splits share no family of fonts and no text, but for labels such as "Total". Row i
depends on the seed, the split and i alone, and on which fonts and which versions of Faker, wonderwords and Python there
are. A pack fixes those: the pages of `--assets build/pack` are the same everywhere, with nothing but Pillow and NumPy.
"""

import io
import math
import textwrap
from dataclasses import dataclass, field, fields

import numpy as np
import PIL.Image
from PIL import ImageDraw

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.fineprint.layouts.fonts import load_font, pack_fonts, split_families
from fila.fineprint.layouts.pages import PageOptions, get_canvas, make_page
from fila.fineprint.layouts.texts import pack_texts

CARD = 480  # pixels of a page on the contact sheet


@dataclass
class Options(PageOptions):
    """What is made, and where it is written."""

    output_dir: str = field(default="", metadata={"help": "Folder to make; it must not exist, or be empty."})
    num_pages: int = field(default=1000, metadata={"help": "Pages."})
    seed: int = field(default=0, metadata={"help": "Where all chance comes from."})
    num_proc: int = field(default=1, metadata={"help": "Processes that draw."})
    preview: int = field(default=0, metadata={"help": "Only draw so many pages with their questions on a contact sheet."})
    pack: bool = field(default=False, metadata={"help": "Only write fonts and texts for machines that lack them."})


class PageDataset:
    """Pages as a map-style dataset for `torch.utils.data.DataLoader`: item i is a [`Page`], drawn when it is asked for.

    Args:
        seed (`int`): where all chance comes from.
        num_pages (`int`): how many there are.
        options ([`PageOptions`])
    """

    def __init__(self, seed, num_pages, options):
        self.seed, self.num_pages, self.options = seed, num_pages, options

    def __len__(self):
        return self.num_pages

    def __getitem__(self, row):
        return make_page(self.seed, row, self.options)
