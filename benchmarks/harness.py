# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: options, timing of two sides in turn, tables, and results as JSON."""

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import transformers

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


def make_parser(description, presets, repeats, device=True):
    """An argument parser with the options that every benchmark has.

    Args:
        description (`str`): docstring of the script.
        presets (`dict`): what `--preset` chooses from; the first is the default.
        repeats (`int`, *optional*): default of `--repeats`, `None` for a benchmark that counts and does not time.
        device (`bool`): whether the benchmark runs on other devices and in other dtypes than float32 on the CPU.

    Returns:
        `argparse.ArgumentParser`
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(presets)
    parser.add_argument("--preset", choices=names, default=names[0], help=f"sizes to measure (default: {names[0]})")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU (default: 1)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="JSON file to write the results to")
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
        `argparse.Namespace`
    """
    options = parser.parse_args(arguments)
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


def measure_in_turn(sides, repeats):
    """Calls the sides one after the other, round after round, so that all see the same state of the machine.

    Args:
        sides (`dict[str, Callable]`): each returns its measurement.
        repeats (`int`): rounds that count; one round before them does not.

    Returns:
        `dict[str, list]`: the measurements of each side, in the order of the rounds.
    """
    measured = {name: [] for name in sides}
    for index in range(1 + repeats):
        for name, measure in sides.items():
            value = measure()
            if index > 0:
                measured[name].append(value)
    return measured


def median_in_turn(sides, repeats, device="cpu"):
    """Times the sides in turn.

    Returns:
        `dict[str, float]`: median seconds of each side.
    """
    measured = measure_in_turn({name: timed(function, device) for name, function in sides.items()}, repeats)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}


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


def describe_settings(options):
    """What the numbers depend on besides the code: versions, dtype, threads and kind of processor."""
    device = torch.device(getattr(options, "device", "cpu"))
    is_cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device.type,
        "processor": torch.cuda.get_device_name(device) if is_cuda else platform.processor() or platform.machine(),
        "threads": options.threads,
        "dtype": getattr(options, "dtype", "float32"),
        "preset": options.preset,
        "repeats": getattr(options, "repeats", 1),
    }


def report(name, options, results, goals):
    """Prints the results as a table and, with `--output`, writes them as JSON.

    Args:
        name (`str`): name of the benchmark.
        options (`argparse.Namespace`): from [`parse`].
        results (`list[dict]`): one row each, all with the same keys.
        goals (`dict[str, str]`): for columns of the table, the bound that they should meet.
    """
    settings = describe_settings(options)
    print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in settings.items()))
    print_table(results)
    print("goals: " + ", ".join(f"{column} {bound}" for column, bound in goals.items()))
    if options.output is not None:
        content = {"benchmark": name, "settings": settings, "goals": goals, "results": results}
        with new_files(options.output.parent) as folder:
            (folder / options.output.name).write_text(json.dumps(content, indent=2) + "\n")


def print_table(rows):
    """Prints dicts with the same keys as a table with aligned columns."""
    cells = [list(rows[0])] + [[_format(value) for value in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))


def _format(value):
    return f"{value:.3f}" if isinstance(value, float) else str(value)
