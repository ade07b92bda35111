# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What fine-tuning on pages of documents takes: the FLOPs and the memory of a training step, and the hours that follow.

    python benchmarks/finetune.py [--output results.json]

A step is that of train.py with recipes/stage2.yaml on one page of 2x2 tiles: forward in bfloat16 over float32 weights, loss
of the answer, backward, with gradient checkpointing. It really runs, operation by operation and with all of its shapes, but
on tensors without data (torch's FakeTensorMode), so that no size is out of reach of a laptop.

`teraflops` is what torch's FlopCounterMode counts: matrix products, convolutions and attention (whole, though half of a causal
one can be skipped), those that checkpointing repeats included. `states_gib` are the weights, and what AdamW remembers of those
that are trained. `step_gib` is the most that a step holds at one time on top of that: activations, gradients, temporaries.
`peak_gib` is their sum. Libraries and fragmentation take more.

`hours` are pages times FLOPs by `--flops-per-second`. That rate is an assumption, no measurement: by default 30 % of the
989 TFLOP/s that an H100 is specified with for dense bfloat16.
"""

import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from fila.benchmarks.harness import count_parameters, make_parser, parse, report
from fila.benchmarks.train_memory import make_training_batch, make_training_model
from fila.common.layout import DTYPES
from fila.training.finetuning import ModelArguments, add_lora

DECODERS = {
    "paper": {"135M": "smollm2", "1B": "llama-1b-convnext-large", "8B": "llama-8b-convnext-large"},
    "small": {"tiny": "small"},
}
WAYS = {"full": 0, "LoRA": 16}  # rank of LoRA, 0 for none
GRID = (2, 2)
GIB = 2**30
aten = torch.ops.aten
# Attention on the CPU, which FlopCounterMode does not know.
ATTENTION_FLOPS = {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *args, **kwargs: (
        sdpa_backward_flop_count(grad, q, k, v)
    ),
}


class PeakMemory(TorchDispatchMode):
    """The most bytes that what is made under this mode holds at one time, as `peak`."""

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self.storages = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage())._cdata not in self.storages:
                self.storages.add(storage._cdata)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())
        return result

    def _release(self, address, size):
        self.storages.remove(address)
        self.held -= size


def make_model(preset, lora_r, dtype):
    """A FILA as train.py sets it up for stage 2, without data. FakeTensorMode must be off."""
    with torch.device("meta"):
        model = make_training_model(preset, "meta", DTYPES[dtype]).train()
        model.set_training_stage(2)
        if lora_r:
            add_lora(model, ModelArguments(lora_r=lora_r))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def run_step(model, text_length):
    """Forward, loss and backward of one page, under FakeTensorMode.

    Returns:
        `tuple[int, int, int]`: tokens, FLOPs and peak bytes.
    """
    model.to_empty(device="cpu")
    inputs = make_training_batch(model.config, 1, GRID, text_length, "cpu", torch.float32)
    input_ids, labels = inputs["input_ids"], inputs.pop("labels")
    del inputs["attention_mask"]  # all ones
    # What forward reads from data, in which there is none: sizes, and which tokens are those of images.
    size = model.config.vision_config.image_size
    inputs |= {"image_sizes": [(GRID[0] * size, GRID[1] * size)], "image_grids": [GRID]}
    is_image = torch.empty(*input_ids.shape, 1, dtype=torch.bool)
    model.model.get_placeholder_mask = lambda *args, **kwargs: is_image
    counted = text_length // 2  # the answer, of which make_training_batch has labels
    memory, flops = PeakMemory(), FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS)
    with memory, flops:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**inputs, logits_to_keep=counted + 1, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[0, :-1].float(), labels[0, -counted:]).backward()
    return input_ids.shape[1], flops.get_total_flops(), memory.peak


def measure(options, decoder, way):
    """One row of the table: a decoder, and what of the model is trained."""
    model = make_model(DECODERS[options.preset][decoder], WAYS[way], options.dtype)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tokens, flops, step = run_step(model, options.text_length)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    states = sum(p.nbytes for p in model.parameters()) + 2 * sum(p.nbytes for p in trained)
    seconds = options.pages * flops / options.flops_per_second
    return {
        "name": f"{decoder}, {way}",
        "batch": 1,
        "size": f"{GRID[0]}x{GRID[1]}, {tokens} tokens",
        "parameters": count_parameters(model),
        "trained": sum(parameter.numel() for parameter in trained),
        "teraflops": flops / 1e12,
        "states_gib": states / GIB,
        "step_gib": step / GIB,
        "peak_gib": (states + step) / GIB,
        "hours": seconds / 3600,
    }


def main(arguments=None):
    parser = make_parser(__doc__, DECODERS, repeats=None, device=False)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the weights (default: float32)")
    parser.add_argument("--text-length", type=int, default=128, help="text tokens after the image (default: 128)")
    parser.add_argument("--pages", type=int, default=100_000, help="pages that hours are for (default: 100000)")
    rate = {"type": float, "metavar": "RATE", "help": "of the GPU, in training (default: 3e14)"}
    parser.add_argument("--flops-per-second", default=3e14, **rate)
    options = parse(parser, arguments)
    rows = [measure(options, decoder, way) for decoder in DECODERS[options.preset] for way in WAYS]
    report("finetune", options, rows, {})


if __name__ == "__main__":
    main()
