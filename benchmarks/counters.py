# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What does not depend on time: operations, and bytes that are held."""

import gc
import json
import tempfile
import weakref
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

MIB, GIB = 2**20, 2**30


def count_convolution_backward(grad, inputs, weight, *args, out_shape=None, **kwargs):
    """Each gradient of a convolution costs as much as the convolution. torch's own formula counts the gradient of a
    depthwise weight once for each channel."""
    transposed, output_mask = args[4], args[7]
    return conv_flop_count(inputs, weight, grad, transposed) * sum(output_mask[:2])


def count_attention(query, key, *args, num_products=2, **kwargs):
    """Attention as its products of matrices, two of them forward and four backward, without what a kernel recomputes."""
    batch, heads, length, channels = query
    return num_products * 2 * batch * heads * length * key[-2] * channels


def count_attention_backward(grad, query, key, *args, **kwargs):
    return count_attention(query, key, num_products=4)


def count_flops(function):
    """`int`: operations of what `function` computes, the same on all devices: matrix products, convolutions and attention
    (whole, though half of a causal one can be skipped)."""
    formulas = {torch.ops.aten.convolution_backward: count_convolution_backward}
    for kernel in ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention"):
        for ending, formula in {"": count_attention, "_backward": count_attention_backward}.items():
            formulas[getattr(torch.ops.aten, f"_scaled_dot_product_{kernel}{ending}")] = formula
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        function()
    return counter.get_total_flops()


def peak_bytes(step, device="cpu"):
    """`int`: the most bytes that `step` held at one time beyond those that were allocated before it. On CUDA this is
    `torch.cuda.max_memory_allocated`, on the CPU every allocation and release that torch's profiler records, added up,
    workspaces that oneDNN gets from torch included. What a library allocates for itself is in neither."""
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


def get_storages(tree):
    return [leaf.untyped_storage() for leaf in tree_iter(tree) if isinstance(leaf, torch.Tensor)]


class PeakMemory(TorchDispatchMode):
    """The most bytes that what is made under this mode holds at one time, as `peak`; of tensors without data, too. What an
    operator makes and releases within itself is not seen."""

    def __init__(self):
        super().__init__()
        self.held = self.peak = 0
        self.storages = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {storage._cdata for storage in get_storages((args, kwargs))}  # of parameters and inputs, too
        result = function(*args, **(kwargs or {}))
        for storage in get_storages(result):
            if storage._cdata not in given and storage._cdata not in self.storages:
                self.storages.add(storage._cdata)
                self.held += storage.nbytes()
                self.peak = max(self.peak, self.held)
                weakref.finalize(storage, self._release, storage._cdata, storage.nbytes())
        return result

    def _release(self, address, size):
        self.storages.remove(address)
        self.held -= size
