# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What an image on a larger canvas costs, against one on 2x2 tiles: time to the first token of an answer, time and peak
memory of a training step of stage 2.

    python benchmarks/canvases.py [--grids 1x2 2x2 3x3 4x3 4x4] [--output results.json]

The default preset has a ninth of the tokens and of the decoder's width of a FILA with Llama-3-8B, and as many layers: the
share of attention, which grows with the square of the tokens, is about the same. `paper_tokens` are those of the same
canvas with tiles of 336 pixels. The time to the first token has encoding the image in it, but not its preprocessing. Times
are medians of CPU time, which other work on the machine lengthens less than the clock's. Peak memory is measured as
train_memory.py does, without parameters and optimizer. Canvases take turns.
"""

import statistics
import time
from functools import partial

import torch

from fila.benchmarks.harness import IMAGE_TOKEN_ID, count_parameters, make_parser, measure_in_turn, parse, report
from fila.benchmarks.train_memory import MIB, PRESETS, make_training_batch, make_training_model, peak_bytes

PAPER_TOKENS = 576  # of a view


def read_grid(text):
    """Rows and columns of "4x3"."""
    rows, columns = map(int, text.split("x"))
    return rows, columns


def measure(options):
    """One row for each canvas."""
    batch = options.batch_size
    model = make_training_model(options.preset, "cpu", torch.float32)
    inputs = {
        grid: make_training_batch(model.config, batch, grid, options.text_length, "cpu", torch.float32)
        for grid in dict.fromkeys([(2, 2), *options.grids])
    }

    def answer(grid):
        prompt = {key: value for key, value in inputs[grid].items() if key != "labels"}
        model.eval().generate(**prompt, max_new_tokens=1, do_sample=False)

    def train(grid):
        model.train().set_training_stage(2)
        model(**inputs[grid]).loss.backward()
        model.zero_grad()

    def get_seconds(function, grid):
        start = time.process_time()
        function(grid)
        return time.process_time() - start

    def get_medians(function):
        sides = {grid: partial(get_seconds, function, grid) for grid in inputs}
        return {grid: statistics.median(values) for grid, values in measure_in_turn(sides, options.repeats).items()}

    first_token, step = get_medians(answer), get_medians(train)
    peaks = {grid: peak_bytes(partial(train, grid), "cpu") / MIB for grid in inputs}
    return [
        {
            "batch": batch,
            "size": f"{rows}x{columns}",
            "parameters": count_parameters(model),
            "views": 1 + rows * columns,
            "tokens": int((inputs[rows, columns]["input_ids"][0] == IMAGE_TOKEN_ID).sum()),
            "paper_tokens": (1 + rows * columns) * PAPER_TOKENS,
            "first_token_s": first_token[rows, columns],
            "first_token_ratio": first_token[rows, columns] / first_token[2, 2],
            "train_s": step[rows, columns],
            "train_ratio": step[rows, columns] / step[2, 2],
            "peak_mib": peaks[rows, columns],
            "peak_ratio": peaks[rows, columns] / peaks[2, 2],
        }
        for rows, columns in options.grids
    ]


def main(arguments=None):
    parser = make_parser(__doc__, {"ninth": PRESETS["ninth"], **PRESETS}, repeats=3, device=False)
    parser.add_argument("--batch-size", type=int, default=1, help="samples, with one image each (default: 1)")
    grids = "1x2 2x2 2x3 3x3 4x3 4x4"
    parser.add_argument(
        "--grids", type=read_grid, nargs="+", default=[*map(read_grid, grids.split())], help=f"(default: {grids})"
    )
    parser.add_argument("--text-length", type=int, default=32, help="text tokens after the image (default: 32)")
    options = parse(parser, arguments)
    torch.manual_seed(0)
    report("canvases", options, measure(options), {})


if __name__ == "__main__":
    main()
