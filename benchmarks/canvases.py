# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What an image on a larger canvas costs, against one on 2x2 tiles: time to the first token of an answer, time and peak
memory of a training step of stage 2.

    python benchmarks/canvases.py [--grids 1x2 2x2 3x3 4x3 4x4] [--output results.json]

The default model has a ninth of the tokens and of the decoder's width of a FILA with Llama-3-8B, and as many layers: the
share of attention, which grows with the square of the tokens, is about the same. `paper_tokens` are those of the same
canvas with tiles of 336 pixels. The time to the first token has encoding the image in it, but not its preprocessing. Times
are CPU time, which other work on the machine lengthens less than the clock's. Peak memory is without parameters and
optimizer. Canvases take turns.
"""

import time
from functools import partial

from fila.benchmarks.counters import MIB, peak_bytes
from fila.benchmarks.harness import Median, make_parser, measure_in_turn, parse, report
from fila.benchmarks.models import IMAGE_TOKEN_ID, MODELS, count_parameters, make_model, make_training_batch

PAPER_TOKENS = 576  # of a view
PRESETS = {"ninth": ["1x2", "2x2", "2x3", "3x3", "4x3", "4x4"], "small": ["2x2", "4x3"]}  # canvases


def measure(options):
    """One row for each canvas."""
    model, batch = make_model(**MODELS[options.preset]), options.batch_size
    grids = {name: tuple(map(int, name.split("x"))) for name in ["2x2", *(options.grids or PRESETS[options.preset])]}
    inputs = {name: make_training_batch(model.config, batch, grid, options.text_length) for name, grid in grids.items()}

    def answer(name):
        prompt = {key: value for key, value in inputs[name].items() if key != "labels"}
        model.eval().generate(**prompt, max_new_tokens=1, do_sample=False)

    def train(name):
        model.train().set_training_stage(2)
        model(**inputs[name]).loss.backward()
        model.zero_grad()

    def get_seconds(function, name):
        start = time.process_time()
        function(name)
        return time.process_time() - start

    costs = {"peak": {name: peak_bytes(partial(train, name)) / MIB for name in inputs}}
    for column, function in {"first_token": answer, "train": train}.items():
        seconds = measure_in_turn({name: partial(get_seconds, function, name) for name in inputs}, options.repeats)
        costs[column] = {name: Median(values) for name, values in seconds.items()}
    results = []
    for name, (rows, columns) in grids.items():
        row = {"batch": batch, "size": name, "parameters": count_parameters(model)}
        row["views"] = 1 + rows * columns
        row["tokens"] = int((inputs[name]["input_ids"][0] == IMAGE_TOKEN_ID).sum())
        row["paper_tokens"] = row["views"] * PAPER_TOKENS
        for column, unit in {"first_token": "s", "train": "s", "peak": "mib"}.items():
            row[f"{column}_{unit}"] = costs[column][name]
            row[f"{column}_ratio"] = costs[column][name] / costs[column]["2x2"]
        results.append(row)
    return sorted(results, key=lambda row: row["views"])


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=3, device=False, batch_size=1, text_length=32)
    parser.add_argument(
        "--grids", nargs="+", help="rows and columns of tiles, beside 2x2 (default: five others up to 4x4)"
    )
    options = parse(parser, arguments)
    report("canvases", options, measure(options))


if __name__ == "__main__":
    main()
