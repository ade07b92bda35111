# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Data and runs for the tests of train.py."""

import json
import random
from pathlib import Path

import matplotlib
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from transformers import TrainingArguments

from fila import FilaDataCollator, train
from fila.common.arguments import parse_arguments
from fila.training.data import DataArguments, SampleCollator, load_data_source, make_dataset
from helpers import ROOT

KINDS = ("invoice", "letter", "menu", "chart")
QUESTION = "What is this?"


def llava(*turns, image=None):
    row = {} if image is None else {"image": image}
    roles = ("human", "gpt")
    return row | {"conversations": [{"from": roles[n % 2], "value": text} for n, text in enumerate(turns)]}


def write_json(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def draw_document(kind, seed):
    """A small picture of a kind of document, of one of three shapes."""
    rng = random.Random(f"{kind}{seed}")
    height, width = rng.choice([(90, 140), (140, 90), (120, 120)])
    image = PIL.Image.new("RGB", (width, height), tuple(rng.randint(225, 255) for _ in range(3)))
    draw = PIL.ImageDraw.Draw(image)
    ink = tuple(rng.randint(0, 80) for _ in range(3))
    font = PIL.ImageFont.truetype(
        Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", rng.randint(7, 9)
    )

    def word():
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8)))

    if kind == "invoice":
        draw.line((width - 34, 8, width - 34, height - 8), fill=ink)
        for y in range(8, height - 8, 12):
            draw.line((6, y, width - 6, y), fill=ink)
            draw.text((8, y + 1), word(), font=font, fill=ink)
            draw.text((width - 30, y + 1), f"{rng.uniform(1, 99):.2f}", font=font, fill=ink)
    elif kind == "letter":
        for y in range(20, height - 10, 9):
            draw.text((10, y), " ".join(word() for _ in range(6))[: width // 6], font=font, fill=ink)
    elif kind == "menu":
        draw.rectangle((4, 4, width - 5, height - 5), outline=ink, width=2)
        for y in range(12, height - 14, 14):
            draw.text((width / 2, y), word(), font=font, fill=ink, anchor="ma")
    else:
        draw.line((8, 10, 8, height - 10, width - 8, height - 10), fill=ink)
        step = (width - 20) / rng.randint(3, 6)
        for left in range(10, width - 20, round(step)):
            draw.rectangle((left, rng.randint(20, height - 30), left + step - 4, height - 10), fill=ink)
    return image


def write_documents(folder, count, first_seed=0):
    """LLaVA data: `count` documents, the kinds in turn. Returns the JSON file."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        draw_document(kind, first_seed + number).save(folder / f"{number}.png")
        turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": kind}]
        rows.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (folder / "documents.json").write_text(json.dumps(rows))
    return folder / "documents.json"


def parse(*arguments, model=".", data="none.json", output="unused"):
    base = ["--model_name_or_path", model, "--train_data", data, "--output_dir", output, "--use_cpu"]
    return train.parse([str(argument) for argument in (*base, *arguments)])


def run(model, data, output, *arguments, recipe=None):
    """Trains in this process."""
    options = ["--use_cpu", "--disable_tqdm", "true", "--report_to", "none", *arguments]
    options += ["--model_name_or_path", model, "--train_data", data, "--output_dir", output]
    options = ([ROOT / "recipes" / recipe] if recipe else []) + options
    return train.train(*train.parse([str(option) for option in options]))


def make(processor, tmp_path, *entries, arguments=(), max_length=256):
    """Samples of datasets, and their collator."""
    options = ["--max_length", max_length, "--output_dir", tmp_path / "output", "--use_cpu", *arguments]
    data, training = parse_arguments((DataArguments, TrainingArguments), "", options)
    sources = [load_data_source(number, entry) for number, entry in enumerate(entries)]
    collator = FilaDataCollator(processor, max_length=max_length)
    dataset = make_dataset(sources, collator, data, training)
    return dataset, SampleCollator(collator, sources)
