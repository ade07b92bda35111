# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the fine-print benchmark: pages with small text, and questions about what stands where.

    python fineprint/generate.py --output_dir build/fineprint --num_train 20000 --num_proc 16
    python fineprint/generate.py --output_dir build/preview --preview 24
    python fineprint/generate.py --output_dir build/pack --pack

A first argument that ends in .yaml is a recipe: values for any option, which the command line overrides.

fineprint/README.md says what is in the folder, and what the pages depend on.
"""

import io
import textwrap
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import yaml
from datasets import Dataset, Features, Image, List, Value

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.fineprint.fonts import SPLITS, pack_fonts
from fila.fineprint.pages import PageOptions, make_messages, make_page
from fila.fineprint.texts import pack_texts
from fila.fineprint.tiles import Canvas

ROWS_PER_FILE = 1000
TEXT = Value("string")
FEATURES = Features(
    images=List(Image()),
    messages=List({"role": TEXT, "content": List({"type": TEXT, "text": TEXT})}),
    answers=List(TEXT),
    kind=TEXT,
    position=TEXT,
    text_height=Value("float32"),
    box=List(Value("float32"), length=8),
    grid=List(Value("int32"), length=2),
)


@dataclass
class Options(PageOptions):
    """What is made, and where it is written."""

    split: str = field(default="test", metadata={"help": "Split whose pages --preview shows."})
    output_dir: str = field(default="build/fineprint", metadata={"help": "Folder to make."})
    num_train: int = field(default=20000, metadata={"help": "Pages for training."})
    num_validation: int = field(default=500, metadata={"help": "Pages, and questions, for validation."})
    num_test: int = field(default=2000, metadata={"help": "Pages, and questions, for the test."})
    seed: int = field(default=0, metadata={"help": "Where all chance comes from."})
    num_proc: int = field(default=1, metadata={"help": "Processes that draw."})
    preview: int = field(default=0, metadata={"help": "Only draw so many pages, with questions, into preview.png."})
    pack: bool = field(default=False, metadata={"help": "Only write fonts and texts, for machines that lack them."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_train", "num_validation", "num_test", "preview", "num_proc"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} is not possible: it must be 0 or more.")
        if not any(getattr(self, f"num_{split}") for split in SPLITS):
            raise ValueError("num_train, num_validation and num_test are all 0: there is nothing to make.")


def make_row(options, split, row):
    """`dict`: a row with the columns of `FEATURES`, which fineprint/README.md explains: a page and all questions about it in
    train, one of them in validation and test: if there is any, one whose answer no cut merely touches."""
    image, samples, _ = make_page(options.seed, row, replace(options, split=split))
    canvas = Canvas(image.size[::-1], options.tile_size)
    if split != "train":
        samples = [next((sample for sample in samples if canvas.locate(sample.box)), samples[0])]
    file, first = io.BytesIO(), samples[0]
    image.save(file, "JPEG", quality=92)
    return {
        "images": [{"bytes": file.getvalue(), "path": None}],
        "messages": make_messages(samples),
        "answers": [first.answer],
        "kind": first.kind,
        "position": canvas.locate(first.box),
        "text_height": first.text_height * canvas.scale[1],
        "box": first.box.flatten().tolist(),
        "grid": list(canvas.grid),
    }


def write_split(options, split, folder):
    """Writes the rows of a split as parquet files into the folder `data`."""
    dataset = Dataset.from_dict({"row": range(getattr(options, f"num_{split}"))}).map(
        partial(make_row, options, split),
        input_columns="row",
        remove_columns="row",
        features=FEATURES,
        cache_file_name=str(folder.parent / f"{split}.arrow"),
        num_proc=options.num_proc if options.num_proc > 1 else None,
        desc=split,
    )
    count = -(-len(dataset) // ROWS_PER_FILE)
    for index in range(count):
        path = folder / "data" / f"{split}-{index:05}-of-{count:05}.parquet"
        dataset.shard(count, index).to_parquet(path)


def draw_preview(options, path):
    """Draws pages with the boxes of answers in red, the cuts between tiles in blue, and what is asked above each."""
    from matplotlib.figure import Figure  # here, because the pages can be made without it

    num_columns = min(3, options.preview)
    num_rows = -(-options.preview // num_columns)
    figure = Figure(figsize=(5 * num_columns, 5 * num_rows), layout="constrained")
    for row in range(options.preview):
        axis = figure.add_subplot(num_rows, num_columns, row + 1)
        axis.set_axis_off()
        image, samples, _ = make_page(options.seed, row, options)
        canvas, lines = Canvas(image.size[::-1], options.tile_size), []
        axis.imshow(image)
        for draw, cuts, offset, scale in zip((axis.axvline, axis.axhline), canvas.cuts, canvas.offset, canvas.scale):
            for cut in cuts:
                draw((cut - offset) / scale, color="blue")
        for sample in samples:
            axis.fill(*sample.box.T, fill=False, edgecolor="red")
            position, height = canvas.locate(sample.box), sample.text_height * canvas.scale[1]
            text = f"{sample.question} {sample.answer!r} ({sample.kind}, {position}, {height:.0f} pixels)"
            lines += textwrap.wrap(text, 75)
        axis.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    (options,) = parse_arguments(Options, __doc__, arguments)
    if Path(options.output_dir).exists():
        raise UserError(f"--output_dir {options.output_dir} exists already. Choose another one, or remove it.")
    try:
        with new_folder(options.output_dir) as folder:
            if options.pack:
                pack_fonts(folder)
                pack_texts(folder)
            elif options.preview:
                draw_preview(options, folder / "preview.png")
            else:
                for split in SPLITS:
                    write_split(options, split, folder)
                recipe = asdict(options)
                del recipe["output_dir"], recipe["num_proc"]
                (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    except ModuleNotFoundError as error:
        raise UserError(f'{error}. Install what the pages are made of with `pip install -e ".[fineprint]"`.') from error
    except OSError as error:
        raise UserError(f"--output_dir {options.output_dir} cannot be written: {error}") from error


if __name__ == "__main__":
    run_command(main)
