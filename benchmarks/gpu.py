# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Checks FILA on a GPU and measures it there at the sizes of the paper, within a few minutes.

    python benchmarks/gpu.py --output_dir build/gpu
    python benchmarks/gpu.py --output_dir build/gpu --preset small --device cpu

First the tests that depend on the device run (`pytest -m gpu`), then benchmarks of this folder, each in a process of its own:
the hybrid encoder beside its parts, generation beside a stock Llama, and a training step of both stages beside LLaVA-NeXT, with
ConvNeXt-T and with the ConvNeXt-L of CLIP, over a decoder of the shape of Llama-3.2-1B. The output folder gets `gpu.json` with
all results and `gpu.md` with a table of the ratios. Both are written again after each step. Steps for which no time is left
are listed as skipped.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from fila.common.files import new_files
from fila.common.layout import ROOT

DEVICE_TESTS = ["-m", "pytest", "-p", "no:cacheprovider", "-q", "-m", "gpu", "tests"]
# Name of a step, script, and its options.
STEPS = {
    "paper": (
        ("encoder", "encode", "--preset paper --batch-size 8"),
        ("training, ConvNeXt-T", "train_step", "--preset llama-1b --batch-size 4 --gradient-checkpointing"),
        ("generation", "generate", "--preset llama-1b --batch-size 4 --new-tokens 128"),
        (
            "training, ConvNeXt-L",
            "train_step",
            "--preset llama-1b-convnext-large --batch-size 4 --gradient-checkpointing",
        ),
        ("encoder, ConvNeXt-L", "encode", "--preset convnext-large --batch-size 8"),
    ),
    "small": (
        ("encoder", "encode", "--preset small"),
        ("training", "train_step", "--preset small --text-length 20"),
        ("generation", "generate", "--preset small --new-tokens 4"),
    ),
}


def run_step(command, seconds):
    """Runs a command for at most `seconds`.

    Returns:
        `str`: "passed", or the end of what went wrong.
    """
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    print(done.stdout[-4000:], flush=True)
    return "passed" if done.returncode == 0 else f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"


def write_report(folder, content):
    """Writes `gpu.json` and `gpu.md`."""
    lines = ["| step | outcome | variant | ratio | value |", "|---|---|---|---|---:|"]
    for name, step in content["steps"].items():
        outcome = step["outcome"].splitlines()[0]
        ratios = [
            (row.get("stage", row["size"]), key, value)
            for row in step.get("results", [])
            for key, value in row.items()
            if key.endswith("ratio")
        ]
        lines += [f"| {name} | {outcome} | {variant} | {key} | {value:.2f} |" for variant, key, value in ratios]
        lines += [] if ratios else [f"| {name} | {outcome} | | | |"]
    title = (
        f"# FILA on {content['device']}\n\npreset {content['preset']}, {content['dtype']}, torch {torch.__version__}"
    )
    with new_files(folder) as temporary:
        (temporary / "gpu.json").write_text(json.dumps(content, indent=2) + "\n")
        (temporary / "gpu.md").write_text("\n".join([title, "", *lines]) + "\n")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--preset", choices=STEPS, default="paper", help="sizes to measure (default: paper)")
    parser.add_argument("--device", default="cuda", help="device to measure on (default: cuda)")
    parser.add_argument("--dtype", help="dtype of the models (default: bfloat16, on a CPU float32)")
    parser.add_argument("--seconds", type=float, default=340, help="time for all steps together (default: 340)")
    options = parser.parse_args(arguments)
    is_cuda = torch.device(options.device).type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        parser.error(f"--device {options.device}: PyTorch sees no CUDA device. `--preset small --device cpu` tries it.")
    dtype = options.dtype or ("bfloat16" if is_cuda else "float32")
    end = time.monotonic() + options.seconds
    device = torch.cuda.get_device_name(options.device) if is_cuda else "CPU"
    content = {"device": device, "preset": options.preset, "dtype": dtype, "steps": {}}
    measured = options.output_dir.absolute() / "steps"
    commands = [("tests", [sys.executable, *DEVICE_TESTS], None)]
    for name, script, arguments in STEPS[options.preset]:
        path = measured / f"{name.replace(', ', '-').lower()}.json"
        command = [sys.executable, f"benchmarks/{script}.py", *arguments.split(), "--output", str(path)]
        commands.append((name, [*command, "--device", options.device, "--dtype", dtype], path))
    for name, command, path in commands:
        print(f"{name}: {' '.join(command[1:])}", flush=True)
        start = time.monotonic()
        step = {"outcome": run_step(command, end - start) if end - start > 5 else "skipped: no time left"}
        step["seconds"] = round(time.monotonic() - start, 1)
        if step["outcome"] == "passed" and path is not None:
            step |= {"command": " ".join(command[1:]), **json.loads(path.read_text())}
        content["steps"][name] = step
        write_report(options.output_dir, content)
    print((options.output_dir / "gpu.md").read_text())
    if any(step["outcome"] != "passed" for step in content["steps"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
