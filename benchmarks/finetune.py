# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning on pages of documents takes: the FLOPs and the memory of a training step, and the hours that follow.

    python benchmarks/finetune.py [--output results.json]

A step is that of train.py with recipes/stage2.yaml on one page of 2x2 tiles: forward in bfloat16 over float32 weights, loss
of the answer, backward, with gradient checkpointing. It really runs, operation by operation and with all of its shapes, but
on tensors without data (torch's FakeTensorMode), so that no size is out of reach of a laptop.

`teraflops` are matrix products, convolutions and attention (whole, though half of a causal one can be skipped), those that
checkpointing repeats included. `states_gib` are the weights, and what AdamW remembers of those that are trained. `step_gib`
is the most that a step holds at one time on top of that: activations, gradients, temporaries between operators. `peak_gib`
is their sum. Workspaces of operators and fragmentation take more.

`hours` are pages times FLOPs by `--flops-per-second`. That rate is an assumption, no measurement: by default 30 % of the
989 TFLOP/s that an H100 is specified with for dense bfloat16.
"""

from itertools import product
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils

from fila.benchmarks.counters import GIB, PeakMemory, count_flops
from fila.benchmarks.harness import make_parser, parse, report
from fila.benchmarks.models import MODELS, count_parameters, make_model, make_training_batch
from fila.training.finetuning import ModelArguments, add_lora

PRESETS = {
    "paper": {"135M": "smollm2", "1B": "llama-1b-convnext-large", "8B": "llama-8b-convnext-large"},
    "small": {"tiny": "small"},
}
WAYS = {"full": 0, "LoRA": 16}  # rank of LoRA, 0 for none
GRID = (2, 2)


def prepare_model(name, lora_r):
    """A FILA as train.py sets it up for stage 2, without data. FakeTensorMode must be off."""
    with torch.device("meta"):
        model = make_model(**MODELS[name], device="meta").train()
        model.set_training_stage(2)
        if lora_r:
            add_lora(model, ModelArguments(lora_r=lora_r))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def make_step(model, text_length):
    """Makes the tensors of the model, without data.

    Returns:
        `tuple[Callable, int]`: forward, loss and backward of one page, and its tokens. Both under FakeTensorMode.
    """
    model.to_empty(device="cpu")
    inputs = make_training_batch(model.config, 1, GRID, text_length)
    input_ids, labels = inputs["input_ids"], inputs.pop("labels")
    del inputs["attention_mask"]  # all ones
    # What forward reads from data, in which there is none: sizes, which tokens are those of images, and that the tokens are
    # one sequence, so that attention needs no mask.
    size = model.config.vision_config.image_size
    inputs |= {"image_sizes": [(GRID[0] * size, GRID[1] * size)], "image_grids": [GRID]}
    is_image = torch.empty(*input_ids.shape, 1, dtype=torch.bool)
    model.model.get_placeholder_mask = lambda *args, **kwargs: is_image
    counted = text_length // 2  # the answer, of which make_training_batch has labels
    before_answer = torch.arange(-counted - 1, -1)

    def compute_loss():
        logits = model(**inputs, logits_to_keep=before_answer, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits[0].float(), labels[0, -counted:])

    def step():
        one_sequence = patch.object(masking_utils, "find_packed_sequence_indices", return_value=None)
        with one_sequence, torch.autocast("cpu", torch.bfloat16):
            loss = compute_loss()
        loss.backward()
        model.zero_grad()

    return step, input_ids.shape[1]


def measure(options, decoder, way):
    """One row of the table: a decoder, and what of the model is trained."""
    model = prepare_model(PRESETS[options.preset][decoder], WAYS[way])
    with FakeTensorMode(allow_non_fake_inputs=True):
        step, tokens = make_step(model, options.text_length)
        flops = count_flops(step)
        with PeakMemory() as memory:  # by itself: FlopCounterMode keeps alive what checkpointing computes again
            step()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = sum(p.nbytes for p in model.parameters()) + 2 * sum(p.nbytes for p in trained)
    return {
        "name": f"{decoder}, {way}",
        "batch": 1,
        "size": f"{GRID[0]}x{GRID[1]}, {tokens} tokens",
        "parameters": count_parameters(model),
        "trained": sum(parameter.numel() for parameter in trained),
        "teraflops": flops / 1e12,
        "states_gib": states / GIB,
        "step_gib": memory.peak / GIB,
        "peak_gib": (states + memory.peak) / GIB,
        "hours": options.pages * flops / options.flops_per_second / 3600,
    }


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=None, device=False, text_length=128, pages=100_000)
    parser.add_argument("--flops-per-second", type=float, default=3e14, help="of the GPU, in training (default: 3e14)")
    options = parse(parser, arguments)
    report("finetune", options, [measure(options, *row) for row in product(PRESETS[options.preset], WAYS)])


if __name__ == "__main__":
    main()
