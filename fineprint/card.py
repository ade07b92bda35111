# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What a generated benchmark says about itself: a dataset card and a picture of samples."""

import textwrap
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import yaml
from huggingface_hub import DatasetCard
from matplotlib.figure import Figure

from fila.fineprint.pages import Placement


def make_card(options, samples):
    """`DatasetCard`: what `samples`, a `dict[str, Dataset]` by split, hold, and how they were made. fineprint/README.md
    gives the metadata and the meaning of the columns."""
    card = DatasetCard.load(Path(__file__).with_name("README.md"))
    card.data.size_categories = None  # of what the default options make
    columns = card.text.partition("## Columns\n")[2].partition("\n## ")[0]
    counts = {split: sum(map(len, dataset["messages"])) // 2 for split, dataset in samples.items()}
    table = "\n".join(f"| {split} | {len(samples[split])} | {count} |" for split, count in counts.items())
    versions = ", ".join(f"{name} {version(name)}" for name in ("pillow", "numpy", "faker"))
    recipe = {name: value for name, value in asdict(options).items() if name not in ("output_dir", "num_proc")}
    gallery = "![Samples of the test split](gallery.png)" if options.gallery and options.num_test else ""
    return DatasetCard(f"""---
{card.data.to_yaml()}
---

# Fine print

Generated documents with small text, and questions about values that must be read: receipts, forms, letters, tables,
charts, and signs on photos. Made for tiles of {options.tile_size} pixels by `fineprint/generate.py` of FILA.

{gallery}
{columns}
| split | images | questions |
|---|---:|---:|
{table}

Made with {versions}, other versions of which may draw otherwise, and this recipe:

```yaml
{yaml.safe_dump(recipe, sort_keys=False)}```
""")


def draw_gallery(options, samples, path):
    """Saves a picture of some samples, with the cuts between their tiles (blue) and the answer (framed in red)."""
    # A step that is prime to the numbers of kinds and grids shows all of them.
    samples = samples.select(sorted({37 * number % len(samples) for number in range(options.gallery)}))
    num_rows, num_columns = -(-len(samples) // 3), min(3, len(samples))
    figure = Figure(figsize=(5 * num_columns, 5 * num_rows), layout="constrained")
    axes = figure.subplots(num_rows, num_columns, squeeze=False).flatten()
    for axis, row in zip(axes, samples):
        (image,) = row["images"]
        placement = Placement(image.size[::-1], row["grid"], options.tile_size)
        axis.imshow(image)
        for step in range(1, row["grid"][0]):
            axis.axhline((step * options.tile_size - placement.top) / placement.canvas_scale[1], color="blue")
        for step in range(1, row["grid"][1]):
            axis.axvline((step * options.tile_size - placement.left) / placement.canvas_scale[0], color="blue")
        axis.fill(*np.reshape(row["box"], (4, 2)).T, fill=False, edgecolor="red")
        text = f"{row['question']} {row['answer']} ({row['kind']}, {row['position']}, {row['text_height']:.0f} pixels)"
        axis.set_title(textwrap.fill(text, 60), fontsize=8, loc="left", parse_math=False)
    for axis in axes:
        axis.set_axis_off()
    figure.savefig(path, dpi=150)
