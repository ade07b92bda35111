# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the fine-print benchmark: documents with small text, and questions about values that must be read.

    python fineprint/generate.py --output_dir build/fineprint --num_train 20000 --num_proc 16
    python fineprint/generate.py --output_dir build/signs --kinds sign receipt --num_train 1000
    python fineprint/generate.py --output_dir build/fineprint-112 --tile_size 112

The folder can be given to `datasets.load_dataset`: splits train, validation and test in chat format, of which train has
one to `max_questions` questions for each image (with `--transcribe` and all text of the page last), the others one. Train, validation and test share no font, no template and no value.

Each question says where its answer lies on the canvas that FilaImageProcessor picks: "inside" one tile of the ViT, or
"across" a cut. Answers that a cut merely touches are not asked about. Sample i depends on the seed, the split and i alone:
shards, processes and the numbers of samples change nothing. Other versions of Pillow, NumPy or Faker may.
"""

import io
import math
import os
import shutil
import sys
import tempfile
import textwrap
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, disable_progress_bars
from PIL import ImageDraw
from tqdm import tqdm
from transformers import HfArgumentParser

from fila.fineprint.drawing import FEATURES, make_sample
from fila.fineprint.pages import BICUBIC, Options, Placement
from fila.fineprint.sources import FONTS, SPLITS, load_font

# Bounds of the classes that the card counts.
TEXT_HEIGHTS = (8, 10, 12, 16, 20, 28, 40, math.inf)

CARD = """---
task_categories:
- image-text-to-text
---

# Fine print

Generated documents with small text, and questions about values that must be read: receipts, forms, letters, tables,
charts, and signs on photos. Made for tiles of {tile_size} pixels by `fineprint/generate.py` of FILA.
{gallery}
| column | holds |
|---|---|
| `images` | one JPEG |
| `messages` | the chat: one question and answer; up to {max_questions} in train |
| `question`, `answer` | the first question and its answer, which is once on the page and in no other split |
| `kind`, `template`, `font` | what the page is, how it is laid out, its font; no template and no font is in two splits |
| `position` | of the first answer on the tiled canvas: "inside" one tile, or "across" a cut |
| `text_height` | height of its capitals in pixels of the canvas of the ViT |
| `box` | its corners, x and y, in pixels of the image, clockwise from the left top of the text |
| `grid` | rows and columns of tiles |

{table}

Made with {versions}, other versions of which may draw otherwise, and these settings:

{settings}
"""


def _write_split(options, split, folder, samples):
    """Writes the shards of a split, and returns what its card counts: `Counter` of (column, value)."""
    count = num_samples(options, split)
    num_shards = math.ceil(count / options.shard_size)
    counts = Counter()
    for shard in range(num_shards):
        rows = list(islice(samples, options.shard_size))
        path = folder / f"{split}-{shard:05}-of-{num_shards:05}.parquet"
        Dataset.from_list(rows, features=FEATURES).to_parquet(path)
        for row in rows:
            counts["questions"] += len(row["messages"]) // 2
            counts["kind", row["kind"]] += 1
            counts["position", row["position"]] += 1
            counts["grid", "{}x{}".format(*row["grid"])] += 1
            counts["height", next(bound for bound in TEXT_HEIGHTS if row["text_height"] < bound)] += 1
    return counts


def num_samples(options, split):
    """`int`: images that are made for a split."""
    return getattr(options, f"num_{split}")


def write(options):
    """Makes the benchmark in a folder beside the output, which it becomes when all is written.

    Args:
        options ([`Options`])

    Raises:
        FileExistsError: there is something in the output already.
        ValueError: a layout does not fit; see [`lay_out`].
        ModuleNotFoundError: a package with fonts or photos is missing.
    """
    output = Path(options.output_dir)
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output} is there already. Remove it, or choose another --output_dir.")
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        folder = temporary / "fineprint"  # with ordinary permissions, which the temporary folder has not
        (folder / "data").mkdir(parents=True)
        counts = {}
        with _parallel_map(options) as parallel_map:
            for split in SPLITS:
                if count := num_samples(options, split):
                    samples = parallel_map(partial(make_sample, options, split), range(count))
                    samples = iter(tqdm(samples, split, count, unit=" images"))
                    counts[split] = _write_split(options, split, folder / "data", samples)
        (folder / "README.md").write_text(make_card(options, counts), encoding="utf-8")
        if options.gallery and options.num_test:
            draw_gallery(options, folder / "gallery.png")
        if output.exists():
            output.rmdir()
        os.replace(folder, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _parallel_map(options):
    """What `map` is, in as many processes as are asked for."""
    if options.num_proc == 1:
        yield map
        return
    executor = ProcessPoolExecutor(options.num_proc)
    try:
        yield partial(executor.map, chunksize=8)
    finally:
        executor.shutdown(cancel_futures=True)


def make_card(options, counts):
    """The dataset card: what is in the folder, and how it was made.

    Args:
        options ([`Options`])
        counts (`dict[str, Counter]`): by split, from writing it.

    Returns:
        `str`: Markdown with a YAML head.
    """
    splits = list(counts)
    rows = [("images", [num_samples(options, split) for split in splits])]
    rows.append(("questions", [counts[split]["questions"] for split in splits]))
    for column in ("kind", "position", "grid", "height"):
        keys = {key[1] for split in splits for key in counts[split] if key[0] == column}
        for key in sorted(keys):
            below = max((bound for bound in (0, *TEXT_HEIGHTS) if bound < key), default=0) if column == "height" else 0
            name = f"capitals of {below:g} to {key:g} pixels" if column == "height" else f"{column} {key}"
            rows.append((name, [counts[split][column, key] for split in splits]))
    table = [f"| | {' | '.join(splits)} |", "|---" * (len(splits) + 1) + "|"]
    table += [f"| {name} | {' | '.join(str(number) for number in numbers)} |" for name, numbers in rows]
    settings = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "num_proc")}
    versions = ", ".join(f"{name} {version(name)}" for name in ("pillow", "numpy", "faker"))
    gallery = "\n![Samples of the test split](gallery.png)\n" if options.gallery and options.num_test else ""
    return CARD.format(
        tile_size=options.tile_size,
        max_questions=options.max_questions,
        table="\n".join(table),
        settings="\n".join(f"- `{name}`: {value}" for name, value in settings.items()),
        versions=versions,
        gallery=gallery,
    )


def draw_gallery(options, path):
    """Draws test samples on their canvases, with tile cuts (blue), the answer's box (red), question and answer.

    Args:
        options ([`Options`])
        path (`Path`): the picture to write.
    """
    # A step that is prime to the numbers of kinds and grids shows all of them.
    indices = sorted({37 * number % options.num_test for number in range(options.gallery)})
    cards = [_draw_gallery_card(options, make_sample(options, "test", index)) for index in indices]
    width = max(1400, max(card.width for card in cards))
    placed, left, top, shelf = [], 0, 0, 0
    for card in sorted(cards, key=lambda card: card.height):
        if left + card.width > width:
            left, top, shelf = 0, top + shelf, 0
        placed.append((card, (left, top)))
        left, shelf = left + card.width, max(shelf, card.height)
    sheet = PIL.Image.new("RGB", (width, top + shelf), "white")
    for card, place in placed:
        sheet.paste(card, place)
    sheet.save(path)


def _draw_gallery_card(options, row):
    tile, pad, line = options.tile_size, 12, 18
    scale = max(1, round(336 / tile))
    rows, columns = row["grid"]
    image = PIL.Image.open(io.BytesIO(row["images"][0]["bytes"]))
    placement = Placement(image.size[::-1], (rows, columns), tile)
    canvas = PIL.Image.new("RGB", (columns * tile * scale, rows * tile * scale), "gray")
    size = (placement.content_width * scale, placement.content_height * scale)
    canvas.paste(image.resize(size, BICUBIC), (placement.left * scale, placement.top * scale))
    draw = ImageDraw.Draw(canvas)
    for step in range(1, columns):
        draw.line([(step * tile * scale, 0), (step * tile * scale, canvas.height)], "blue")
    for step in range(1, rows):
        draw.line([(0, step * tile * scale), (canvas.width, step * tile * scale)], "blue")
    quad = placement.to_canvas(np.reshape(row["box"], (4, 2))) * scale
    draw.polygon([tuple(point) for point in quad], outline="red")
    text = f"{row['question']} {row['answer']} ({row['kind']}, {row['position']}, {row['text_height']:.0f} pixels)"
    lines = textwrap.wrap(text, canvas.width // 8)
    card = PIL.Image.new("RGB", (canvas.width + pad, canvas.height + pad + line * len(lines)), "white")
    card.paste(canvas, (0, line * len(lines)))
    font = load_font(FONTS["train"]["DejaVu Sans"][0], 13)
    ImageDraw.Draw(card).text((0, 0), "\n".join(lines), "black", font)
    return card


def main(arguments=None):
    """Reads the command line and makes the benchmark; whatever goes wrong is one sentence."""
    try:
        disable_progress_bars()  # those of datasets, which would show for each shard
        (options,) = HfArgumentParser(Options, description=__doc__).parse_args_into_dataclasses(arguments)
        write(options)
    except (OSError, ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
