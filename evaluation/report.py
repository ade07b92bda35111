# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves for people: tables, and a picture of the worst mistakes."""

import json
import platform
import textwrap
import warnings
from importlib.metadata import version

import numpy as np
import PIL.ImageOps
import torch
from matplotlib.figure import Figure

from fila.common.arguments import UserError
from fila.common.files import new_folder
from fila.evaluation.questions import read_question


def describe_environment(model):
    """`dict`: versions of libraries, and what the model ran on."""
    is_cuda = model.device.type == "cuda"
    return {
        **{name: version(name) for name in ("transformers", "torch", "datasets", "anls_star", "scipy")},
        "device": model.device.type,
        "processor": torch.cuda.get_device_name(model.device)
        if is_cuda
        else platform.processor() or platform.machine(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "model_type": model.config.model_type,
    }


def write_report(output_dir, results, answers, mistakes, source):
    """Writes the output folder of run_eval.py, whole or not at all: the `results` of its `evaluate`, `answers` (the lines of
    predictions.jsonl), and a picture of those in `mistakes`. Raises a `UserError` if it cannot be written."""
    try:
        with new_folder(output_dir) as folder:
            (folder / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n")
            (folder / "results.md").write_text(make_tables(results), encoding="utf-8")
            lines = [json.dumps(answer, ensure_ascii=False, default=str) + "\n" for answer in answers]
            (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
            if mistakes:
                draw_mistakes(mistakes, source, folder / "mistakes.png")
    except OSError as error:
        raise UserError(f"--output_dir {output_dir} cannot be written: {error}") from error


def make_tables(results):
    """`str`: the results of run_eval.py in Markdown."""
    settings, environment = results["settings"], results["environment"]
    lines = [
        f"# {settings['model_name_or_path']} on {settings['data']}, {settings['split']}",
        "",
        f"Greedy answers of up to {settings['max_new_tokens']} tokens; {environment['dtype']} on {environment['processor']}, "
        f"transformers {environment['transformers']}. In percent, with 95 % confidence intervals (percentile bootstrap over "
        "questions). Case and the amount of white space do not count.",
        "",
        "| grouping | group | questions | exact match | ANLS |",
        "|---|---|---:|---:|---:|",
    ]
    rows = [("all", "", results["overall"])]
    rows += [(grouping, name, part) for grouping, parts in results["groups"].items() for name, part in parts.items()]
    for grouping, name, summary in rows:
        cells = [grouping, name.replace("|", "\\|").replace("\n", " "), str(summary["n"])]
        for key in ("em", "anls"):
            interval = summary[f"{key}_ci"]
            bounds = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
            cells.append(f"{100 * summary[key]:.1f}{bounds}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_mistakes(mistakes, source, path):
    """Saves a picture, `path` (a PNG file), of questions, with what was expected and answered; `mistakes` are lines of
    predictions.jsonl. With a column `box`, the answer is framed and shown in a close-up."""
    num_columns = min(3, len(mistakes))
    num_rows = -(-len(mistakes) // num_columns)
    figure = Figure(figsize=(4.5 * num_columns, 5.5 * num_rows), layout="constrained")
    for panel, mistake in zip(figure.subfigures(num_rows, num_columns, squeeze=False).flat, mistakes):
        lines = [f"row {mistake['row']}, ANLS {mistake['anls']:.2f}"]
        expected = " | ".join(mistake["references"])
        for text in (f"asked: {mistake['question']}", f"expected: {expected}", f"answered: {mistake['prediction']}"):
            lines += textwrap.wrap(textwrap.shorten(text, 150, placeholder=" ..."), 55)
        messages = read_question(source, mistake["row"], decode=True)["messages"]
        items = [item for message in messages for item in message["content"] if item["type"] == "image"]
        box = source.dataset[mistake["row"]].get("box")
        is_box = isinstance(box, list) and len(box) == 8 and all(isinstance(x, int | float) for x in box)
        corners = np.reshape(box, (4, 2)) if items and is_box and np.isfinite(box).all() else None
        _draw_panel(panel, "\n".join(lines), items[0]["image"] if items else None, corners)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # models write in any script, the font does not
        figure.savefig(path, dpi=110)


def _draw_panel(panel, title, image, corners):
    """Draws an image and, below it, a close-up of the box with these corners, (x, y) in pixels."""
    heights = [2] if corners is None else [2, 1]
    axes = panel.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    axes[0].set_title(title, fontsize=8, loc="left", parse_math=False)  # dollars in an answer are no formula
    for axis in axes:
        axis.set(xticks=[], yticks=[])  # a frame is left, for white paper
        if image is not None:
            extent = (0, image.width, image.height, 0)
            axis.imshow(PIL.ImageOps.contain(image, (2000, 2000)) if max(image.size) > 2000 else image, extent=extent)
        if corners is not None:
            axis.fill(*corners.T, fill=False, edgecolor="red", linewidth=1)
    if corners is not None:
        low, high = corners.min(0), corners.max(0)
        margin = max(1, *(high - low)) / 2
        axes[1].set(xlim=(low[0] - margin, high[0] + margin), ylim=(high[1] + margin, low[1] - margin))
