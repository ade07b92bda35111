# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks, all or those that are named, each in a process of its own, and makes the tables of their results.

    python benchmarks/run_all.py                  # minutes for each; results/ and README.md get the new figures
    python benchmarks/run_all.py encode generate
    python benchmarks/run_all.py --preset small --output_dir build/benchmarks     # everything at toy sizes, in a minute
    python benchmarks/run_all.py --preset gpu --output_dir build/gpu              # the sizes of the paper, in minutes
    python benchmarks/run_all.py --table          # nothing is measured

The preset "gpu" first runs the tests that depend on the device (`pytest -m gpu`), then what a GPU is for. The tables are
written again after each benchmark; in another folder than the default they are in `table.md`.
"""

import argparse
import importlib
import json
import multiprocessing
import operator
import subprocess
import sys
from pathlib import Path

from fila.benchmarks.harness import FIGURES, format_value
from fila.common.layout import ROOT

RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "benchmarks" / "README.md"
START, END = "<!-- made by run_all.py -->\n", "<!-- end -->\n"
# Name of the result file, without its ending: script and variant, and what a full run is given besides.
RUNS = {
    "preprocess": ("preprocess", ""),
    "preprocess_two_threads": ("preprocess --threads 2", ""),
    "decode": ("decode", ""),
    "encode": ("encode", "--threads 2 --repeats 5"),
    "encode_cut_clip": ("encode --cut-clip", "--threads 2 --repeats 5"),
    "encode_low_resolution": ("encode --grid 0 0", "--threads 2 --repeats 9"),
    "generate": ("generate", "--threads 2"),
    "train_step": ("train_step", "--threads 2 --repeats 5"),
    "train_memory": ("train_memory", "--threads 2"),
    "wait_for_data": ("wait_for_data", "--threads 2"),
    "load_data": ("load_data", ""),
    "index_data": ("index_data", ""),
    "convert": ("convert", ""),
    "canvases": ("canvases", ""),
    "finetune": ("finetune", ""),
}
LLAMA_1B = "--preset llama-1b --batch-size 4"
GPU_RUNS = {
    "encode": ("encode", "--preset paper --batch-size 8"),
    "train_step": ("train_step", LLAMA_1B),
    "train_step_checkpointed": ("train_step --gradient-checkpointing", LLAMA_1B),
    "load_data": ("load_data", "--step llama-1b"),
    "generate": ("generate", f"{LLAMA_1B} --new-tokens 128"),
    "train_step_convnext_large": (
        "train_step --gradient-checkpointing",
        "--preset llama-1b-convnext-large --batch-size 4",
    ),
    "encode_convnext_large": ("encode", "--preset convnext-large --batch-size 8"),
}
GPU_OPTIONS = "--device cuda --dtype bfloat16"
# The columns that tell the records of a file apart.
VARIANT = {
    "name": "{}",
    "what": "{}",
    "stage": "stage {}",
    "size": "{}",
    "processes": "{} processes",
    "batch": "batch {}",
}


def describe(record):
    """`str`: which of its file's records this one is."""
    parts = [form.format(record[key]) for key, form in VARIANT.items() if key in record]
    return ", ".join(part for part in parts if part not in ("batch 1", "1 processes"))


def is_met(value, goal):
    """Whether a value keeps a goal such as "<= 1.02" or "none"."""
    sign, _, bound = goal.rpartition(" ")
    return not sign or {"<": operator.lt, "<=": operator.le, ">=": operator.ge}[sign](value, float(bound))


def format_table(titles, rows):
    return "".join(f"| {' | '.join(row)} |\n" for row in [titles, ["---"] * len(titles), *rows])


def make_tables(folder, base):
    """`str`: a table with a row for each figure of the result files in a folder, those with goals first, and one with a row
    for each file. Links start from `base`."""
    order = {name: place for place, name in enumerate(RUNS | GPU_RUNS)}
    figures, files = [], []
    for path in sorted(folder.glob("*.json"), key=lambda path: order.get(path.stem, len(order))):
        content = json.loads(path.read_text())
        link, settings = f"[{path.stem}]({path.relative_to(base)})", content["settings"]
        files.append([link, "{machine}, threads {threads}, {dtype}".format(**settings)])
        files[-1] += ["torch {torch}, transformers {transformers}".format(**settings), f"`{settings['command']}`"]
        for column, (figure, goal) in FIGURES[content["benchmark"]].items():
            for record in [record for record in content["results"] if record.get(column) is not None]:
                shown = goal if is_met(record[column], goal) else f"**{goal}**"
                measured = format_value(record[column], record.get("spread", {}).get(column))
                figures.append([figure, describe(record), shown, measured, link])
    figures.sort(key=lambda row: row[2] == "none")
    figures = format_table(["what is compared", "variant", "goal", "measured", "file"], figures)
    return figures + "\n" + format_table(["file", "machine", "versions", "command"], files)


def write_tables(folder):
    """Writes the tables into README.md, or for other results than those of the repository beside them."""
    if folder != RESULTS:
        (folder / "table.md").write_text(make_tables(folder, folder))
        return
    before, _, rest = README.read_text().partition(START)
    README.write_text(before + START + "\n" + make_tables(folder, README.parent) + "\n" + END + rest.partition(END)[2])


def run_script(script, arguments):
    multiprocessing.set_start_method(None, force=True)  # the default of train.py, not that of this process
    importlib.import_module(f"fila.benchmarks.{script}").main(arguments)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join({**RUNS, **GPU_RUNS})} (default: all)")
    parser.add_argument("--preset", choices=("full", "small", "gpu"), default="full", help="(default: full)")
    parser.add_argument("--output_dir", type=Path, default=RESULTS, help="folder for the result files")
    parser.add_argument("--table", action="store_true", help="make the tables of what was measured before")
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
    names = [] if options.table else options.names or runs
    # Processes share no memory, but at toy sizes: there they start with the libraries loaded, whose import would take most time.
    context = multiprocessing.get_context("forkserver" if options.preset == "small" else "spawn")
    context.set_forkserver_preload(sorted({f"fila.benchmarks.{runs[name][0].split()[0]}" for name in names}))
    failed = []
    if options.preset == "gpu" and not options.names:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "gpu", "tests"]
        failed += ["tests"] if subprocess.run(command, cwd=ROOT).returncode else []
    for name in names:
        variant, full = runs[name]
        extra = {"full": full, "small": "--preset small", "gpu": f"{full} {GPU_OPTIONS}"}[options.preset]
        script, *given = f"{variant} {extra}".split()
        given += ["--output", str(folder / f"{name}.json")]
        process = context.Process(target=run_script, args=(script, given))
        process.start()
        process.join()
        failed += [name] if process.exitcode else []
        write_tables(folder)
    write_tables(folder)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
