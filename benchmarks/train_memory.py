# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Peak memory of a training step of stage 1 against the same step with every parameter trainable.

    python benchmarks/train_memory.py [--grid 2 2] [--output results.json]

A step is forward, loss and backward on an image and its text, without an optimizer. It runs plainly, and with gradient
checkpointing of the ViT alone, which by default only stage 1 uses: `stage_1_ratio` and `checkpointed_stage_1_ratio` compare
both with the plain step that trains everything.

`peak` is the most memory that the step held at one time on top of what was there before it: activations, gradients and
temporaries, without parameters and inputs.
"""

import torch

from fila.benchmarks.counters import MIB, peak_bytes
from fila.benchmarks.harness import make_parser, parse, report
from fila.benchmarks.models import MODELS, count_parameters, make_model, make_training_batch

RATIOS = ["stage_1_ratio", "checkpointed_stage_1_ratio"]


def measure(options, stage, checkpoint_vit):
    """Memory of one step in a fresh model."""
    torch.manual_seed(0)
    model = make_model(**MODELS[options.preset], **options.factory)
    grid = tuple(options.grid)
    inputs = make_training_batch(model.config, options.batch_size, grid, options.text_length, **options.factory)
    if checkpoint_vit:
        model.model.vision_tower.vit.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    model.set_training_stage(stage)
    peak = peak_bytes(lambda: model(**inputs).loss.backward(), options.device)
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    return {
        "batch": options.batch_size,
        "size": f"{grid[0]}x{grid[1]}, {inputs['input_ids'].shape[1]} tokens",
        "parameters": count_parameters(model),
        "trains": "fusion and projector" if stage == 1 else "everything",
        "checkpointed": "vit" if checkpoint_vit else "nothing",
        "gradients_mib": gradients / MIB,
        "peak_mib": peak / MIB,
    }


def main(arguments=None):
    parser = make_parser(__doc__, MODELS, repeats=None, batch_size=1, grid=[0, 0], text_length=128)
    options = parse(parser, arguments)
    results = [measure(options, stage, checkpoint_vit) for checkpoint_vit in (False, True) for stage in (2, 1)]
    for row in results:
        row |= {"ratio": row["peak_mib"] / results[0]["peak_mib"], **dict.fromkeys(RATIOS)}
    for row, name in zip(results[1::2], RATIOS):
        row[name] = row["ratio"]
    report("train_memory", options, results)


if __name__ == "__main__":
    main()
