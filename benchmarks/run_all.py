# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, all or those that are named, each in a process of its own, and makes the table of their results.

    python benchmarks/run_all.py                  # minutes for each; results/ and README.md get the new figures
    python benchmarks/run_all.py encode generate
    python benchmarks/run_all.py --preset small --output_dir build/benchmarks     # everything at toy sizes, in a minute
    python benchmarks/run_all.py --preset gpu --output_dir build/gpu              # the sizes of the paper, in minutes
    python benchmarks/run_all.py --table          # nothing is measured

The preset "gpu" first runs the tests that depend on the device (`pytest -m gpu`), then what a GPU is for. The table is written
again after each benchmark; in another folder than the default it is `table.md`.
"""

import argparse
import ast
import importlib
import json
import multiprocessing
import operator
import subprocess
import sys
from pathlib import Path

from fila.benchmarks.harness import format_value
from fila.common.layout import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
START, END = "<!-- made by run_all.py -->\n", "<!-- end -->\n"
# Name of the result file, without its ending: script and variant, and what a full run is given besides.
RUNS = {
    "preprocess": ("preprocess", ""),
    "load_data": ("load_data", ""),
    "wait_for_data": ("wait_for_data", "--threads 2"),
    "encode": ("encode", "--threads 2 --repeats 5"),
    "encode_cut_clip": ("encode --cut-clip", "--threads 2 --repeats 5"),
    "encode_low_resolution": ("encode --grid 0 0", "--threads 2 --repeats 9"),
    "generate": ("generate", "--threads 2"),
    "train_memory": ("train_memory", "--threads 2"),
    "train_step": ("train_step", "--threads 2 --repeats 5"),
    "index_data": ("index_data", ""),
    "convert": ("convert", ""),
}
GPU_RUNS = {
    "encode": ("encode", "--preset paper --batch-size 8"),
    "train_step": ("train_step", "--preset llama-1b --batch-size 4"),
    "train_step_checkpointed": ("train_step", "--preset llama-1b --batch-size 4 --gradient-checkpointing"),
    "load_data": ("load_data", "--step llama-1b"),
    "generate": ("generate", "--preset llama-1b --batch-size 4 --new-tokens 128"),
    "train_step_convnext_large": (
        "train_step",
        "--preset llama-1b-convnext-large --batch-size 4 --gradient-checkpointing",
    ),
    "encode_convnext_large": ("encode", "--preset convnext-large --batch-size 8"),
}
GPU_OPTIONS = "--device cuda --dtype bfloat16"
VARIANT = {"what": "{}", "size": "{}", "stage": "stage {}", "batch": "batch {}"}  # columns that tell records apart


def read_goals(path):
    """The result file as a `dict`, and each of its figures that has a goal, as index of its record, column and goal."""
    content = json.loads(path.read_text())
    figures = [
        (index, column, goal)
        for index, record in enumerate(content["results"])
        for column, goal in content["goals"].items()
        if isinstance(record.get(column), (int, float))
    ]
    return content, figures


def is_met(value, goal):
    """Whether a value keeps a goal such as "<= 1.02", "1" or "none"."""
    if goal == "none":
        return True
    sign, _, bound = goal.rpartition(" ")
    compare = {"": operator.eq, "<": operator.lt, "<=": operator.le, ">=": operator.ge}[sign]
    return compare(value, ast.literal_eval(bound))


def make_table(folder, base):
    """`str`: one row for each figure of the result files in a folder that has a goal. Links start from `base`."""
    titles = ["file", "record", "variant", "figure", "goal", "measured", "machine", "versions", "command"]
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    for path in sorted(folder.glob("*.json"), key=lambda path: (json.loads(path.read_text())["benchmark"], path.name)):
        content, figures = read_goals(path)
        settings = content["settings"]
        machine = f"{settings['machine']}, threads {settings['threads']}, {settings['dtype']}"
        versions = f"torch {settings['torch']}, transformers {settings['transformers']}"
        for index, column, goal in figures:
            record = content["results"][index]
            variant = ", ".join(form.format(record[key]) for key, form in VARIANT.items() if key in record)
            shown = goal if is_met(record[column], goal) else f"**{goal}**"
            measured = format_value(record[column], record.get("spread", {}).get(column))
            cells = [f"[{path.stem}]({path.relative_to(base)})", index, variant, f"`{column}`", shown, measured]
            cells += [machine, versions, f"`{settings['command']}`"]
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def write_table(folder):
    """Writes the table into README.md, or for other results than those of the repository beside them."""
    if folder != RESULTS:
        (folder / "table.md").write_text(make_table(folder, folder))
        return
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + "\n" + make_table(folder, README.parent) + "\n" + END + rest.partition(END)[2])


def run_script(script, arguments):
    importlib.import_module(f"fila.benchmarks.{script}").main(arguments)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join({**RUNS, **GPU_RUNS})} (default: all)")
    parser.add_argument("--preset", choices=("full", "small", "gpu"), default="full", help="(default: full)")
    parser.add_argument("--output_dir", type=Path, default=RESULTS, help="folder for the result files")
    parser.add_argument("--table", action="store_true", help="make the table of what was measured before")
    options = parser.parse_args(arguments)
    folder = options.output_dir.resolve()
    runs = GPU_RUNS if options.preset == "gpu" else RUNS
    if unknown := set(options.names) - set(runs):
        parser.error(f"{', '.join(sorted(unknown))}: with --preset {options.preset} there are {', '.join(runs)}.")
    if options.preset != "full" and folder == RESULTS:
        parser.error(
            f"--preset {options.preset} needs an --output_dir of its own: {RESULTS.name}/ holds full runs on a CPU."
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Processes start with the libraries loaded, and nothing of each other.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["transformers", "fila.benchmarks.harness"])
    failed = []
    if options.preset == "gpu" and not options.names:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "gpu", "tests"]
        failed += ["tests"] if subprocess.run(command, cwd=ROOT).returncode else []
    for name in [] if options.table else options.names or runs:
        variant, full = runs[name]
        extra = {"full": full, "small": "--preset small", "gpu": f"{full} {GPU_OPTIONS}"}[options.preset]
        script, *given = f"{variant} {extra}".split()
        given += ["--output", str(folder / f"{name}.json")]
        process = context.Process(target=run_script, args=(script, given))
        process.start()
        process.join()
        failed += [name] if process.exitcode else []
        write_table(folder)
    write_table(folder)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
