# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the fine-print benchmark: documents with small text, and questions about values that must be read.

    python fineprint/generate.py --output_dir build/fineprint --num_train 20000 --num_proc 16
    python fineprint/generate.py --output_dir build/signs --kinds sign receipt --num_train 1000

A first argument that ends in .yaml is a recipe: values for any option, which the command line overrides.

The folder can be given to `datasets.load_dataset`: splits train, validation and test in chat format, of which train has
one to `max_questions` questions for each image (with `--transcribe` and all text of the page last), the others one.
Answers that a cut between tiles merely touches are not asked about. Sample i depends on the seed, the split and i alone.
"""

from functools import partial
from pathlib import Path

from datasets import Dataset

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.fineprint.card import draw_gallery, make_card
from fila.fineprint.drawing import FEATURES, make_sample
from fila.fineprint.pages import Options
from fila.fineprint.sources import SPLITS

ROWS_PER_FILE = 1000


def draw_split(options, split, folder):
    """`Dataset`: the samples of a split, in a file of the folder."""
    indices = Dataset.from_dict({"index": range(getattr(options, f"num_{split}"))})
    return indices.map(
        partial(make_sample, options, split),
        input_columns="index",
        remove_columns="index",
        features=FEATURES,
        cache_file_name=str(folder / f"{split}.arrow"),
        num_proc=options.num_proc if options.num_proc > 1 else None,
        desc=split,
    )


def write(options):
    """Makes the benchmark: the output folder is complete or absent.

    Raises:
        UserError: the folder exists or cannot be written, a layout does not fit, or a package is missing.
    """
    output = Path(options.output_dir)
    if output.exists():
        raise UserError(f"--output_dir {output} exists already. Choose another one, or remove it.")
    try:
        with new_folder(output) as folder:
            splits = [split for split in SPLITS if getattr(options, f"num_{split}")]
            samples = {split: draw_split(options, split, folder.parent) for split in splits}
            for split, dataset in samples.items():
                count = -(-len(dataset) // ROWS_PER_FILE)
                for index in range(count):
                    path = folder / "data" / f"{split}-{index:05}-of-{count:05}.parquet"
                    dataset.shard(count, index).to_parquet(path)
            make_card(options, samples).save(folder / "README.md")
            if options.gallery and options.num_test:
                draw_gallery(options, samples["test"], folder / "gallery.png")
    except OSError as error:
        raise UserError(f"--output_dir {output} cannot be written: {error}") from error


def main(arguments=None):
    (options,) = parse_arguments(Options, __doc__, arguments)
    write(options)


if __name__ == "__main__":
    run_command(main)
