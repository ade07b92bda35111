# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: options, timing of two sides in turn, tables, and results as JSON."""

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

from fila import FilaConfig, FilaForConditionalGeneration
from fila.common.files import new_files
from fila.common.layout import DTYPES

IMAGE_TOKEN_ID = 3
# Decoders of the shapes of Llama-3-8B, Llama-3.2-1B and SmolLM2-135M, and one for smoke tests.
LLAMA_8B_TEXT = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
LLAMA_1B_TEXT = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "tie_word_embeddings": True,
}
SMOLLM2_TEXT = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}
SMALL_TEXT = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
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
    if repeats is not None:
        parser.add_argument(
            "--repeats", type=int, help=f"timed rounds, after one to warm up (default: {repeats}, preset small: 1)"
        )
        parser.set_defaults(default_repeats=repeats)
    if device:
        parser.add_argument("--device", default="cpu", help="device to measure on (default: cpu)")
        parser.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of the model (default: float32)")
    return parser


def parse(parser, arguments=None):
    """Parses the command line and sets the number of threads.

    Returns:
        `argparse.Namespace`, with `given`, the command line without `--output`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if "--output" in given:
        place = given.index("--output")
        del given[place : place + 2]
    options.given = given
    if getattr(options, "repeats", 1) is None:
        options.repeats = 1 if options.preset == "small" else options.default_repeats
    torch.set_num_threads(options.threads)
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


def make_model(vision, convnext, text, fusion_layers, device, dtype):
    """A FILA of random weights: its vision branch, the options of its ConvNeXt, and its decoder, a Llama."""
    text = {"model_type": "llama", "max_position_embeddings": 8192, "bos_token_id": None, "eos_token_id": None, **text}
    config = FilaConfig(
        vision_config={"patch_size": 14, **vision},
        convnext_config=convnext,
        text_config={"pad_token_id": 0, **text},
        fusion_layers=fusion_layers,
        image_token_id=IMAGE_TOKEN_ID,
    )
    return FilaForConditionalGeneration(config).to(device, dtype)


def make_image_inputs(config, batch, grid, device, dtype):
    """Image inputs of noise: images that fill their canvas of `grid` rows and columns of tiles, (0, 0) for none."""
    rows, columns = grid
    size, high_res_size = config.vision_config.image_size, config.high_res_image_size
    factory = {"device": device, "dtype": dtype}
    return {
        "pixel_values": torch.randn(batch, 1 + rows * columns, 3, size, size, **factory),
        "high_res_pixel_values": torch.randn(batch, max(rows * columns, 1), 3, high_res_size, high_res_size, **factory),
        "image_sizes": torch.tensor([[max(rows, 1) * size, max(columns, 1) * size]] * batch),
        "image_grids": torch.tensor([grid] * batch),
    }


def make_prompts(config, batch, grid, text_length):
    """`torch.Tensor` of shape (batch, length): prompts of one image on `grid` and `text_length` tokens of random text."""
    rows, columns = grid
    visual = torch.full((batch, (1 + rows * columns) * config.grid_size**2), IMAGE_TOKEN_ID)
    text = torch.randint(IMAGE_TOKEN_ID + 1, config.text_config.vocab_size, (batch, text_length))
    return torch.cat([visual, text], dim=1)


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


def describe_machine(device):
    """`str`: the kind of GPU, or the kind of processor and its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    model = re.sub(r"\((R|TM)\)", "", models[0]) if models else platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def report(name, options, results, goals):
    """Prints the results as a table and, with `--output`, writes them as JSON.

    Args:
        name (`str`): name of the benchmark.
        options (`argparse.Namespace`): from [`parse`].
        results (`list[dict]`): one row each, all with the same keys. The JSON file has the `spread` of each [`Median`].
        goals (`dict[str, str]`): for columns that answer the question of the benchmark, the bound that they should meet,
            such as "<= 1.02", or "none".
    """
    settings = {
        "command": shlex.join(["python", f"benchmarks/{name}.py", *options.given]),
        "machine": describe_machine(torch.device(getattr(options, "device", "cpu"))),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": options.threads,
        "dtype": getattr(options, "dtype", "float32"),
        "preset": options.preset,
        "repeats": getattr(options, "repeats", 1),
    }
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    print_table(results)
    if goals:
        print("goals: " + ", ".join(f"{column} {bound}" for column, bound in goals.items()))
    if options.output is not None:
        spreads = [{key: getattr(value, "spread", None) for key, value in row.items()} for row in results]
        rows = [row | {"spread": {k: v for k, v in spread.items() if v}} for row, spread in zip(results, spreads)]
        content = {"benchmark": name, "settings": settings, "goals": goals, "results": rows}
        with new_files(options.output.parent) as folder:
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
