# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How long and in how much memory `convert_weights.py` assembles a model, against `cp` of the same bytes on the same disk.

    python benchmarks/convert.py --output benchmarks/results/convert.json

The sources have the shapes of LLaMA-3-8B (bfloat16, in shards), CLIP ViT-L/14-336 and ConvNeXt-L (float32), and random
contents, in a temporary folder. Every step runs in a process of its own, and starts with the page cache that the step before it
left behind: `cp`, the conversion alone, and with its verification, which reads the output again and runs the ViT. `convert_s`
has the start of Python and its imports in it, which at the smaller presets is nearly all of it.

`peak_gib` is the largest resident memory of the converting process. Pages of files that it maps count for it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import timm
import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fila.benchmarks.harness import Median, make_parser, measure_in_turn, parse, report
from fila.benchmarks.models import LLAMA_8B, llama, vit
from fila.common.layout import ROOT

# Between this process and the one that is measured: Linux counts the peak of the process that starts another as that
# one's own, and this one has held the largest tensor of the sources.
LAUNCHER = """
import os, sys
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, 2, 1)])
_, status, usage = os.wait4(process, 0)
print(usage.ru_maxrss)
sys.exit(status != 0)
"""
# Decoder, ViT, ConvNeXt, and the largest size of the decoder's shards.
PRESETS = {
    "full": (LLAMA_8B, vit(1024), "convnext_large_mlp", "5GB"),
    # 1/50 of the bytes: narrower, and fewer layers.
    "fiftieth": (llama(16032, 1024, 3584, 9, 32, 8, tied=False), vit(256), "convnext_nano", "100MB"),
    "small": (llama(2048, 64, 128, 2, 32, 8, tied=False), vit(64), "convnext_atto", "500KB"),
}


def write_source(folder, model, dtype, max_shard_size):
    """Writes a model on the meta device as a checkpoint of random contents, one shard in memory at a time."""
    folder.mkdir(parents=True)
    block = (torch.randn(2**22) * 0.02).to(dtype)
    tensors = {name: tensor.to(dtype) for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    plan = split_torch_state_dict_into_shards(tensors, max_shard_size=max_shard_size)
    for file_name, names in plan.filename_to_tensors.items():
        sizes = {name: tensors[name].numel() for name in names}
        shard = {name: block.repeat(-(-size // len(block)))[:size] for name, size in sizes.items()}
        shard = {name: values.view(tensors[name].shape) for name, values in shard.items()}
        save_file(shard, folder / file_name, metadata={"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def count_stored_parameters(folder):
    """`int`: how many numbers the safetensors files of a folder hold."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            total += sum(torch.Size(tensors.get_slice(name).get_shape()).numel() for name in tensors.keys())  # noqa: SIM118
    return total


def write_sources(folder, preset):
    """The three sources; returns the options that name them."""
    text, vision, architecture, max_shard_size = PRESETS[preset]
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)  # the automatic class asks whether to trust the folder
    tokens = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text_config = LlamaConfig(dtype="bfloat16", **text, **tokens)
    vision_config = CLIPVisionConfig(**vision)
    with torch.device("meta"):
        decoder, vit = AutoModelForCausalLM.from_config(text_config), CLIPVisionModel(vision_config)
        convnext = timm.create_model(architecture, num_classes=0)
    write_source(folder / "text", decoder, torch.bfloat16, max_shard_size)
    write_source(folder / "vision", vit, torch.float32, "5GB")
    write_source(folder / "convnext", convnext, torch.float32, "5GB")
    text_config.save_pretrained(folder / "text")
    tokenizer.save_pretrained(folder / "text")
    vision_config.save_pretrained(folder / "vision")
    convnext_config = {
        "architecture": architecture,
        "pretrained_cfg": {"mean": OPENAI_CLIP_MEAN, "std": OPENAI_CLIP_STD},
    }
    (folder / "convnext" / "config.json").write_text(json.dumps(convnext_config))
    return [item for part in ("text", "vision", "convnext") for item in (f"--{part}", str(folder / part))]


def run(command):
    """Runs a command to its end.

    Returns:
        `tuple[float, float]`: seconds, and its largest resident memory in GiB.

    Raises:
        RuntimeError: the command failed; with the end of what it printed.
    """
    start = time.perf_counter()
    launcher = [sys.executable, "-I", "-S", "-c", LAUNCHER, *map(str, command)]
    process = subprocess.run(launcher, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} failed: {process.stderr[-2000:]}")
    return seconds, int(process.stdout) * 1024 / 2**30


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=1, device=False)
    parser.add_argument("--folder", type=Path, help="where there is room for two and a half times the sources")
    options = parse(parser, arguments)
    free = shutil.disk_usage(options.folder or tempfile.gettempdir()).free
    if options.preset == "full" and free < 40e9:
        parser.error(f"the preset full needs 40 GB in --folder, and {free / 1e9:.0f} GB are free")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        folder, rows = Path(folder), {}
        names = write_sources(folder / "sources", options.preset)
        output = folder / "output"

        def run_once(title, command):
            seconds_and_gib = run(command)
            size, output_size = (
                sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e9
                for place in (folder / "sources", output)
            )
            rows[title] = {"what": title, "batch": 1, "size": f"{size:.2f} GB"}
            rows[title] |= {"parameters": count_stored_parameters(output), "output_gb": output_size}
            shutil.rmtree(output)
            return seconds_and_gib

        command = [sys.executable, ROOT / "convert_weights.py", *names, "--output", output]
        commands = {"cp": ["cp", "-r", folder / "sources", output]}
        commands |= {"convert": [*command, "--no-verify"], "convert and verify": command}
        sides = {title: partial(run_once, title, command) for title, command in commands.items()}
        measured = measure_in_turn(sides, options.repeats, warm_up=False)
    seconds, peaks = ({title: Median(pair[n] for pair in pairs) for title, pairs in measured.items()} for n in (0, 1))
    results = []
    for title, column in {"convert": "ratio", "convert and verify": "verified_ratio"}.items():
        row = rows[title] | {"cp_s": seconds["cp"], "convert_s": seconds[title], "ratio": None, "verified_ratio": None}
        results.append(row | {column: seconds[title] / seconds["cp"], "peak_gib": peaks[title]})
    report("convert", options, results)


if __name__ == "__main__":
    main()
