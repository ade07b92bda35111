# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes pages of free layout with questions about them: a dataset, a contact sheet, or a pack for other machines.

    python -m fila.fineprint.layouts.generate --output_dir build/layouts --split train --num_pages 20000 --num_proc 8
    python -m fila.fineprint.layouts.generate --output_dir build/preview --preview 24
    python -m fila.fineprint.layouts.generate --output_dir build/pack --pack

`datasets.load_dataset` reads the folder of the first: in train a page has one conversation with all its questions, in
validation and test one question. The splits share no family of fonts and no text but labels such as "Total". Row i depends
on the seed, the split and i alone, and on the fonts and the versions of Faker, wonderwords and Python that are installed.
A pack fixes those: with `--assets build/pack` pages are the same everywhere, and need no more than Pillow and NumPy.
"""

import io
import tempfile
import textwrap
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import PIL.Image
from PIL import ImageDraw

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.fineprint.layouts.fonts import load_font, pack_fonts, split_families
from fila.fineprint.layouts.pages import PageOptions, get_canvas, make_page
from fila.fineprint.layouts.texts import pack_texts

SHARD_SIZE = 1000  # rows of a file
CARD_SIZE = 600  # pixels of a page on the contact sheet


@dataclass
class Options(PageOptions):
    """What is made, and where it is written."""

    output_dir: str = field(
        default="build/layouts", metadata={"help": "Folder to make, in place of one that is there."}
    )
    num_pages: int = field(default=1000, metadata={"help": "Pages of the dataset."})
    seed: int = field(default=0, metadata={"help": "Where all chance comes from."})
    num_proc: int = field(default=1, metadata={"help": "Processes that draw."})
    preview: int = field(default=0, metadata={"help": "Only draw so many pages, with questions, into preview.png."})
    pack: bool = field(default=False, metadata={"help": "Only write fonts and texts, for machines that lack them."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_pages", "num_proc"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 1 or more.")


class PageDataset:
    """Rows for `torch.utils.data.DataLoader`; item i is drawn when it is asked for.

    Args:
        seed (`int`): where all chance comes from.
        num_pages (`int`): how many there are.
        options ([`PageOptions`])
        make (`Callable`): from seed, row and options to the item: [`make_page`] or [`make_row`].
    """

    def __init__(self, seed, num_pages, options, make=make_page):
        self.seed, self.num_pages, self.options, self.make = seed, num_pages, options, make

    def __len__(self):
        return self.num_pages

    def __getitem__(self, row):
        return self.make(self.seed, row, self.options)


def make_row(seed, row, options):
    """Makes a row of the dataset: all samples of a page as one conversation in train, one sample in validation and test.

    Returns:
        `dict`: `images`, `messages`, `question`, `answer`, `kind`, `position`, `text_height`, `box` and `grid`, as the other
        pages of the benchmark have them; those of one answer are of the first. `position` is `None` where a cut between
        tiles touches the answer without tearing it; validation and test avoid that if the page has other answers.
    """
    from fila.fineprint.pages import locate

    image, samples, _ = make_page(seed, row, options)
    grid, (top, left, height, width) = get_canvas(image.size[::-1], options.tile_size)
    scale = np.array([width / image.width, height / image.height])
    positions = [locate(sample.box * scale + (left, top), options.tile_size, grid) for sample in samples]
    if options.split != "train":
        first = next((index for index, position in enumerate(positions) if position), 0)
        samples, positions = samples[first : first + 1], positions[first : first + 1]
    messages = []
    for sample in samples:
        messages.append({"role": "user", "content": [{"type": "text", "text": sample.question}]})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": sample.answer}]})
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    file = io.BytesIO()
    image.save(file, "JPEG", quality=92)
    return {
        "images": [{"bytes": file.getvalue(), "path": None}],
        "messages": messages,
        **{name: getattr(samples[0], name) for name in ("question", "answer", "kind")},
        "position": positions[0],
        "text_height": samples[0].text_height * scale[1],
        "box": samples[0].box.flatten().tolist(),
        "grid": list(grid),
    }


def _make_rows(options, rows):
    for row in rows:
        yield make_row(options.seed, row, options)


def write_dataset(options, folder):
    """Writes the pages of a split as parquet files."""
    from datasets import Dataset, Features, Image, List, Value

    turn = {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
    features = {name: Value("string") for name in ("question", "answer", "kind", "position")}
    features |= {"images": List(Image()), "messages": List(turn), "text_height": Value("float32")}
    features |= {"box": List(Value("float32"), length=8), "grid": List(Value("int32"), length=2)}
    with tempfile.TemporaryDirectory() as cache:
        dataset = Dataset.from_generator(
            partial(_make_rows, options),
            gen_kwargs={"rows": list(range(options.num_pages))},
            features=Features(features),
            num_proc=options.num_proc if options.num_proc > 1 else None,
            cache_dir=cache,
        )
        num_shards = -(-options.num_pages // SHARD_SIZE)
        for index in range(num_shards):
            path = folder / f"{options.split}-{index:05}-of-{num_shards:05}.parquet"
            dataset.shard(num_shards, index, contiguous=True).to_parquet(path)


def draw_preview(options, path):
    """Draws pages with the boxes of answers in red, and what is asked and answered below each."""
    face, cards = split_families("train", options.assets)[0]["regular"], []
    for row in range(options.preview):
        image, samples, _ = make_page(options.seed, row, options)
        draw = ImageDraw.Draw(image)
        for sample in samples:
            draw.polygon([tuple(point) for point in sample.box], outline="red")
        image.thumbnail((CARD_SIZE, CARD_SIZE))
        texts = [f"{s.question} {s.answer!r} ({s.kind}, {s.text_height:.0f} pixels)" for s in samples]
        lines = [line for text in texts for line in textwrap.wrap(text, CARD_SIZE // 8)]
        card = PIL.Image.new("RGB", (CARD_SIZE + 10, image.height + 18 * len(lines) + 20), "white")
        card.paste(image)
        ImageDraw.Draw(card).text((0, image.height + 4), "\n".join(lines), "black", load_font(face, 13))
        cards.append(card)
    columns = [cards[number::4] for number in range(min(4, len(cards)))]
    height = max(sum(card.height for card in column) for column in columns)
    sheet = PIL.Image.new("RGB", ((CARD_SIZE + 10) * len(columns), height), "gray")
    for number, column in enumerate(columns):
        top = 0
        for card in column:
            sheet.paste(card, (number * card.width, top))
            top += card.height
    sheet.save(path)


def main(arguments=None):
    (options,) = parse_arguments(Options, __doc__, arguments)
    try:
        with new_folder(options.output_dir) as folder:
            if options.pack:
                pack_fonts(folder)
                pack_texts(folder)
            elif options.preview:
                draw_preview(options, folder / "preview.png")
            else:
                write_dataset(options, folder)
    except ModuleNotFoundError as error:
        raise UserError(f'{error}. Install what the pages are made of with `pip install -e ".[fineprint]"`.') from error


if __name__ == "__main__":
    run_command(main)
