# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: options, timing of sides in turn, the figures that they report with their goals, and results as
JSON."""

import argparse
import json
import operator
import os
import platform
import re
import shlex
import statistics
import sys
import time
from functools import partialmethod
from pathlib import Path

import torch
import transformers

from fila.common.files import new_files
from fila.common.layout import DTYPES

# The columns of each benchmark that answer its question: what they compare, and the bound that they should meet.
FIGURES = {
    "preprocess": {
        "uint8_ratio": ("preprocessing to bytes, time / LLaVA-NeXT's", "<= 0.6"),
        "ratio": ("preprocessing to floats, time / LLaVA-NeXT's", "<= 1.0"),
    },
    "decode": {
        "ratio": ("JPEG in training, time / decoded whole", "<= 0.83"),
        "max_steps": ("JPEG in training, largest difference of 255", "<= 100.0"),
        "mean_steps": ("JPEG in training, mean difference of 255", "<= 1.0"),
    },
    "encode": {"ratio": ("encoder, time / CLIP's and ConvNeXt's", "<= 1.02")},
    "generate": {
        "prefill_ratio": ("prefill, time / LlamaForCausalLM's", "<= 1.02"),
        "decode_ratio": ("decoding, tokens/s / LlamaForCausalLM's", ">= 0.98"),
    },
    "train_step": {
        "speed_per_flop_ratio": ("training, FLOP/s / LLaVA-NeXT's", ">= 0.97"),
        "memory_ratio": ("training, memory / LLaVA-NeXT's", "<= 1.4"),
        "speed_ratio": ("training, samples/s / LLaVA-NeXT's", "none"),
    },
    "train_memory": {
        "stage_1_ratio": ("stage 1, memory / training everything", "<= 0.45"),
        "checkpointed_stage_1_ratio": ("stage 1, ViT checkpointed, memory / training everything", "<= 0.27"),
    },
    "wait_for_data": {
        "wait_share": ("share of training that waits for data", "< 0.05"),
        "headroom": ("loader alone, samples/s / training's", "none"),
    },
    "load_data": {
        "mb_ratio": ("a batch between processes, bytes / floats", "<= 0.26"),
        "speed_ratio": ("loader, samples/s, bytes / floats", "none"),
        "peak_ratio": ("loader, memory, bytes / floats", "none"),
        "to_device_ratio": ("copy to the device, time, bytes / floats", "none"),
        "step_ratio": ("training step, time, bytes / floats", "none"),
    },
    "index_data": {
        "first_ratio": ("first check of data, time / one process", "<= 1.1"),
        "second_ratio": ("second start, time / first", "<= 0.05"),
    },
    "convert": {
        "ratio": ("conversion, time / cp", "<= 2.0"),
        "verified_ratio": ("conversion with verification, time / cp", "<= 2.5"),
        "peak_gib": ("conversion, memory, GiB", "<= 3.72"),
    },
    "canvases": {"train_ratio": ("training step on a canvas, time / on 2x2", "none")},
    "finetune": {"peak_gib": ("fine-tuning on one page, memory, GiB", "none")},
}


def make_parser(description, presets, repeats, device=True, **sizes):
    """An argument parser with the options that every benchmark has.

    Args:
        description (`str`): docstring of the script.
        presets (`dict`): what `--preset` chooses from; the first is the default.
        repeats (`int`, *optional*): default of `--repeats`, `None` for a benchmark that counts and does not time.
        device (`bool`): whether the benchmark runs on other devices and in other dtypes than float32 on the CPU.
        sizes: defaults of options with one or two numbers, such as `batch_size=1` or `grid=[2, 2]`, rows and columns of tiles.

    Returns:
        `argparse.ArgumentParser`
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(presets)
    parser.add_argument("--preset", choices=names, default=names[0], help=f"sizes to measure (default: {names[0]})")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU (default: 1)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="JSON file to write the results to")
    for name, default in sizes.items():
        count = len(default) if isinstance(default, list) else None
        shown = f"{name.replace('_', ' ')} (default: {default})"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, nargs=count, default=default, help=shown)
    parser.set_defaults(device="cpu", dtype="float32", repeats=1, default_repeats=repeats)
    if repeats is not None:
        shown = f"timed rounds, after one to warm up (default: {repeats}, preset small: 1)"
        parser.add_argument("--repeats", type=int, default=None, help=shown)
    if device:
        parser.add_argument("--device", default="cpu", help="device to measure on (default: cpu)")
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the model (default: float32)")
    return parser


def parse(parser, arguments=None):
    """Parses the command line, sets the number of threads and the seed.

    Returns:
        `argparse.Namespace`, with `given`, the command line without `--output`, and `factory`, device and dtype of tensors.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if "--output" in given:
        place = given.index("--output")
        del given[place : place + 2]
    options.given = given
    options.factory = {"device": options.device, "dtype": DTYPES[options.dtype]}
    if options.repeats is None:
        options.repeats = 1 if options.preset == "small" else options.default_repeats
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def synchronize(device):
    """Waits until the device has finished its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def timed(function, device="cpu"):
    """A function that calls `function` without arguments and returns the seconds it took."""

    def call():
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        return time.perf_counter() - start

    return call


class Median(float):
    """The median of what several rounds measured. Sums, products and quotients go round by round: both sides of a round
    see the same state of the machine, so the spread of their ratio is smaller than that of their times."""

    def __new__(cls, rounds):
        rounds = list(rounds)
        self = super().__new__(cls, statistics.median(rounds))
        self.rounds = rounds
        return self

    @property
    def spread(self):
        """`list[float]`: the first and the third quartile of the rounds; `None` if there was only one."""
        if len(self.rounds) > 1:
            return statistics.quantiles(self.rounds, n=4, method="inclusive")[::2]

    def _combine(self, other, function):
        others = getattr(other, "rounds", [other] * len(self.rounds))
        return Median(map(function, self.rounds, others))

    __add__ = __radd__ = partialmethod(_combine, function=operator.add)
    __mul__ = __rmul__ = partialmethod(_combine, function=operator.mul)
    __truediv__ = partialmethod(_combine, function=operator.truediv)
    __rtruediv__ = partialmethod(_combine, function=lambda value, other: other / value)


def measure_in_turn(sides, repeats, warm_up=True):
    """Calls the sides one after the other, round after round, so that all see the same state of the machine.

    Args:
        sides (`dict[str, Callable]`): each returns its measurement.
        repeats (`int`): rounds that count.
        warm_up (`bool`): whether a round that does not count comes before them.

    Returns:
        `dict[str, list]`: the measurements of each side, in the order of the rounds.
    """
    rounds = [{name: measure() for name, measure in sides.items()} for _ in range(warm_up + repeats)]
    return {name: [measured[name] for measured in rounds[warm_up:]] for name in sides}


def median_in_turn(sides, repeats, device="cpu"):
    """Times the sides in turn.

    Returns:
        `dict[str, Median]`: seconds of each side.
    """
    measured = measure_in_turn({name: timed(function, device) for name, function in sides.items()}, repeats)
    return {name: Median(seconds) for name, seconds in measured.items()}


def describe_machine(device):
    """`str`: the kind of GPU, or the kind of processor and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    model = re.sub(r"\((R|TM)\)", "", models[0]) if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def report(name, options, results):
    """Prints the results as a table, with the goals of the benchmark, and, with `--output`, writes them as JSON.

    Args:
        name (`str`): name of the benchmark, as in `FIGURES`.
        options (`argparse.Namespace`): from [`parse`].
        results (`list[dict]`): one row each, all with the same keys. The JSON file has the `spread` of each [`Median`].
    """
    settings = {
        "command": shlex.join(["python", f"benchmarks/{name}.py", *options.given]),
        "machine": describe_machine(torch.device(options.device)),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{key: getattr(options, key) for key in ("threads", "dtype", "preset", "repeats")},
    }
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    print_table(results)
    print("goals: " + ", ".join(f"{column} {goal}" for column, (_, goal) in FIGURES[name].items()))
    if options.output is not None:
        spreads = [{key: getattr(value, "spread", None) for key, value in row.items()} for row in results]
        rows = [row | {"spread": {k: v for k, v in spread.items() if v}} for row, spread in zip(results, spreads)]
        with new_files(options.output.parent) as folder:
            content = {"benchmark": name, "settings": settings, "results": rows}
            (folder / options.output.name).write_text(json.dumps(content, indent=2) + "\n")


def print_table(rows):
    """Prints dicts with the same keys as a table with aligned columns."""
    cells = [list(rows[0])] + [[format_value(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def format_value(value, spread=None):
    """`str`: a value, with its spread in brackets if it has one."""
    spread = getattr(value, "spread", spread)
    is_float = isinstance(value, float)
    text = f"{float(value):{'.3g' if abs(value) < 100 else '.0f'}}" if is_float else str(value)
    return text + (f" [{format_value(spread[0])}, {format_value(spread[1])}]" if spread else "")
