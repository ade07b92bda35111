# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Which dtype a device computes fast in."""

import torch


def has_fast_bfloat16(device):
    """Whether a device has instructions for bfloat16. Without them a CPU emulates it, several times slower than float32."""
    if torch.device(device).type != "cpu":
        return True
    if not hasattr(torch.cpu, "get_capabilities"):  # before PyTorch 2.12
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def resolve_dtype(dtype, device):
    """What `"auto"` means on a device: float32 on a CPU without bfloat16 instructions, the checkpoint's own elsewhere.

    Args:
        dtype (`str`): `"auto"` or the name of a dtype, which is returned as it is.
        device (`str` or `torch.device`): where the model will run.

    Returns:
        `str`: for `from_pretrained(dtype=...)`.
    """
    return "float32" if dtype == "auto" and not has_fast_bfloat16(device) else dtype
