# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves for people: tables, and a picture of the worst mistakes."""

import json
import textwrap
import warnings

import numpy as np
import PIL.ImageOps
from matplotlib.figure import Figure

from fila.evaluation.questions import read_question

TABLE = """# {model_name_or_path} on {data}, {split}

Greedy answers of up to {max_new_tokens} tokens; {dtype} on {processor}, transformers {transformers}. In percent, with \
95 % confidence intervals (percentile bootstrap over questions). Case and the amount of white space do not count.

| grouping | group | questions | exact match | ANLS |
|---|---|---:|---:|---:|
"""


def write_results(results, answers, folder):
    """Writes the results of run_eval.py and its answers, one a line, and tables of the results."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    rows = [("all", "", results["overall"])]
    rows += [(grouping, name, part) for grouping, parts in results["groups"].items() for name, part in parts.items()]
    table = TABLE.format(**results["settings"] | results["environment"])
    for grouping, name, summary in rows:
        cells = [grouping, name.replace("|", "\\|").replace("\n", " "), str(summary["n"])]
        for key in ("em", "anls"):
            bounds = [f"{100 * bound:.1f}" for bound in summary[f"{key}_ci"] or []]
            cells.append(f"{100 * summary[key]:.1f}" + (f" [{', '.join(bounds)}]" if bounds else ""))
        table += f"| {' | '.join(cells)} |\n"
    (folder / "results.md").write_text(table, encoding="utf-8")


def draw_mistakes(mistakes, source, path):
    """Saves a picture, `path` (a PNG file), of questions, with what was expected and answered; `mistakes` are lines of
    predictions.jsonl. With a column `box`, the answer is framed and shown in a close-up."""
    num_columns = min(3, len(mistakes))
    num_rows = -(-len(mistakes) // num_columns)
    figure = Figure(figsize=(4.5 * num_columns, 5.5 * num_rows), layout="constrained")
    panels = figure.subfigures(num_rows, num_columns, squeeze=False).flat
    for panel, mistake in zip(panels, mistakes):
        messages = read_question(source, mistake["row"], decode=True)["messages"]
        images = [item["image"] for message in messages for item in message["content"] if item["type"] == "image"]
        _draw_panel(panel, mistake, images[0] if images else None, source.read(mistake["row"]).get("box"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # models write in any script, the font does not
        figure.savefig(path, dpi=110)


def _draw_panel(panel, mistake, image, box):
    try:
        corners = np.array(box, dtype=float).reshape(4, 2)  # (x, y) in pixels
    except (TypeError, ValueError):
        corners = np.array(np.nan)
    heights = [2, 1] if image is not None and np.isfinite(corners).all() else [2]
    axes = panel.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    lines, expected = [f"row {mistake['row']}, ANLS {mistake['anls']:.2f}"], " | ".join(mistake["references"])
    for text in (f"asked: {mistake['question']}", f"expected: {expected}", f"answered: {mistake['prediction']}"):
        lines += textwrap.wrap(textwrap.shorten(text, 150, placeholder=" ..."), 55)
    axes[0].set_title("\n".join(lines), fontsize=8, loc="left", parse_math=False)  # dollars in an answer are no formula
    for axis in axes:
        axis.set(xticks=[], yticks=[])  # a frame is left, for white paper
        if image is not None:
            shown = PIL.ImageOps.contain(image, (2000, 2000)) if max(image.size) > 2000 else image
            axis.imshow(shown, extent=(0, image.width, image.height, 0))
        if len(axes) > 1:
            axis.fill(*corners.T, fill=False, edgecolor="red", linewidth=1)
    if len(axes) > 1:
        low, high = corners.min(0), corners.max(0)
        margin = max(1, *(high - low)) / 2
        axes[1].set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
