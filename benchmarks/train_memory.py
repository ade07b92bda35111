# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a training step of stage 1 against the same step with every parameter trainable.

    python benchmarks/train_memory.py [--grid 2 2] [--output results.json]

A step is forward, loss and backward on an image and its text, as stage 1 sees it: not tiled, grid (0, 0), unless
`--grid` says otherwise. It runs plainly, and with gradient checkpointing of the ViT alone, which by default only stage 1
uses: both of its peaks are compared with the plain step that trains everything.

`peak` is the most memory that the step held at one time on top of what was there before it: activations, gradients and
temporaries. Parameters and inputs are not in it; `peak_with_parameters` adds the parameters. There is no optimizer
(AdamW would add two values for each *trainable* parameter, all of them in the other step). On CUDA this is
`torch.cuda.max_memory_allocated`; on the CPU every allocation and release that torch's profiler records, added up.
What a library allocates for itself, as oneDNN does, is in neither.

`stage_1_ratio` compares stage 1 with the step that trains everything, `checkpointed_stage_1_ratio` does so where the ViT is
checkpointed in stage 1 alone.

The models: "smollm2" is the paper's vision branch (ViT-L/14-336, ConvNeXt-T) at its real size over a decoder of the
shape of SmolLM2-135M. "eighth" has the depths, head sizes and tokens of the paper's model (with LLaMA-3-8B) and an
eighth of all its widths and of its vocabulary. There activations shrink with the width and gradients with its square, so
one image stands for eight, and most of what stage 1 holds is the activations of the frozen decoder, through which the
gradient passes. "quarter" has a quarter of the widths of "smollm2" in its vision branch and a fifth of its decoder's layers;
a CPU trains it in seconds.
"""

import gc
import json
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from fila.benchmarks.harness import (
    LLAMA_1B_TEXT,
    LLAMA_8B_TEXT,
    SMALL_TEXT,
    SMOLLM2_TEXT,
    count_parameters,
    make_image_inputs,
    make_model,
    make_parser,
    make_prompts,
    parse,
    report,
)
from fila.common.layout import DTYPES


def vit(width, num_layers=24, image_size=336):
    """The options of a ViT with heads of 64 channels, or with two heads."""
    heads = max(width // 64, 2)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": num_layers}
    return {**sizes, "num_attention_heads": heads, "image_size": image_size}


def convnext(architecture, *dims, **options):
    return {"architecture": architecture, "model_args": {"dims": dims, **options} if dims else {}}


PAPER_LAYERS = [2, 6, 12, 20]
PAPER_VISION = {"vision": vit(1024), "convnext": convnext("convnext_tiny"), "fusion_layers": PAPER_LAYERS}
PRESETS = {
    "smollm2": {**PAPER_VISION, "text": SMOLLM2_TEXT},
    "llama-1b": {**PAPER_VISION, "text": LLAMA_1B_TEXT},
    "llama-1b-convnext-large": {
        **PAPER_VISION,
        "convnext": convnext("convnext_large_mlp"),
        "text": LLAMA_1B_TEXT,
    },
    "llama-8b-convnext-large": {
        **PAPER_VISION,
        "convnext": convnext("convnext_large_mlp"),
        "text": LLAMA_8B_TEXT,
    },
    "quarter": {
        "vision": vit(256),
        "convnext": convnext("convnext_tiny", 24, 48, 96, 192),
        "text": {**SMOLLM2_TEXT, "vocab_size": 16032, "num_hidden_layers": 6},
        "fusion_layers": PAPER_LAYERS,
    },
    "eighth": {
        "vision": vit(128),
        "convnext": convnext("convnext_tiny", 12, 24, 48, 96),
        "text": {
            "vocab_size": 16032,
            "hidden_size": 512,
            "intermediate_size": 1792,
            "num_hidden_layers": 32,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
        },
        "fusion_layers": PAPER_LAYERS,
    },
    "ninth": {
        "vision": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 24,
            "num_attention_heads": 2,
            "image_size": 112,
        },
        "convnext": {"architecture": "convnext_tiny", "model_args": {"dims": [12, 24, 48, 96]}},
        "text": {
            "vocab_size": 16032,
            "hidden_size": 448,
            "intermediate_size": 1568,
            "num_hidden_layers": 32,
            "num_attention_heads": 7,
            "num_key_value_heads": 1,
        },
        "fusion_layers": [2, 6, 12, 20],
    },
    "small": {
        "vision": vit(32, 6, 56),
        "convnext": convnext("convnext_atto", 8, 16, 24, 32, depths=[1, 1, 1, 1]),
        "text": SMALL_TEXT,
        "fusion_layers": [1, 2, 3, 4],
    },
}
GOALS = {"stage_1_ratio": "<= 0.45", "checkpointed_stage_1_ratio": "<= 0.27"}
MIB = 2**20


def make_training_batch(config, batch, grid, text_length, device, dtype):
    """Samples of one image and text, of which the second half is learnt."""
    input_ids = make_prompts(config, batch, grid, text_length)
    labels = input_ids.clone()
    labels[:, : -(text_length // 2)] = -100
    return {
        "input_ids": input_ids.to(device),
        "attention_mask": torch.ones_like(input_ids).to(device),
        "labels": labels.to(device),
        **make_image_inputs(config, batch, grid, device, dtype),
    }


def peak_bytes(step, device):
    """The most bytes that `step` held at one time beyond those that were allocated before it."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event["args"]["Ev Idx"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


def measure(options, stage, checkpoint_vit):
    """Memory of one step in a fresh model."""
    dtype = DTYPES[options.dtype]
    torch.manual_seed(0)
    model = make_model(**PRESETS[options.preset], device=options.device, dtype=dtype)
    inputs = make_training_batch(
        model.config, options.batch_size, tuple(options.grid), options.text_length, options.device, dtype
    )
    if checkpoint_vit:
        model.model.vision_tower.vit.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.set_training_stage(stage)
    peak = peak_bytes(lambda: model(**inputs).loss.backward(), options.device)
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return {
        "batch": options.batch_size,
        "size": f"{options.grid[0]}x{options.grid[1]}, {inputs['input_ids'].shape[1]} tokens",
        "parameters": count_parameters(model),
        "trains": "fusion and projector" if stage == 1 else "everything",
        "checkpointed": "vit" if checkpoint_vit else "nothing",
        "gradients_mib": gradients / MIB,
        "peak_mib": peak / MIB,
        "peak_with_parameters_mib": (peak + sum(p.nbytes for p in model.parameters())) / MIB,
    }


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=None, batch_size=1, grid=[0, 0], text_length=128)
    options = parse(parser, arguments)
    results = [measure(options, stage, checkpoint_vit) for checkpoint_vit in (False, True) for stage in (2, 1)]
    for row in results:
        for key in ("peak", "peak_with_parameters"):
            row[key.replace("peak", "ratio")] = row[f"{key}_mib"] / results[0][f"{key}_mib"]
        row.update(dict.fromkeys(GOALS))
    for row, name in zip(results[1::2], GOALS):
        row[name] = row["ratio"]
    report("train_memory", options, results, GOALS)


if __name__ == "__main__":
    main()
