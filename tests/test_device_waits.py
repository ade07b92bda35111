# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How often the CPU waits for the device. No device is needed: tensors on `meta` pass for tensors on one."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fila.modeling_fila import _normalize
from helpers import FUSION_TYPES, tiny_model


class RefuseWaits(TorchDispatchMode):
    """Fails at operations that make the CPU wait for a device that has work to do."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        is_on_device = {
            tensor.device.type == "meta" for tensor in tensors if tensor.ndim or tensor.device.type == "meta"
        }
        copies = {"_to_copy": str(kwargs.get("device")) == "meta", "copy_": is_on_device == {True, False}}
        if copies.get(func.__name__.split(".")[0]) and False in is_on_device:
            assert kwargs.get("non_blocking") or True in args[2:], f"{func} waits"
        else:
            assert len(is_on_device) < 2, f"{func} copies an argument, and waits"
        assert True not in is_on_device or "_local_scalar_dense" not in func.__name__
        return func(*args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_encoder_never_waits_for_the_device(fusion_type, dtype):
    model = tiny_model(fusion_type).to("meta")
    inputs = {"image_sizes": [(100, 90), (50, 150), (90, 100)], "image_grids": [(2, 2), (1, 3), (2, 2)]}
    inputs["pixel_values"] = torch.zeros(3, 5, 3, 56, 56, device="meta", dtype=dtype)
    inputs["high_res_pixel_values"] = torch.zeros(3, 4, 3, 128, 128, device="meta", dtype=dtype)
    with torch.no_grad(), RefuseWaits():
        tokens = model.model.vision_tower(**inputs).last_hidden_state
    assert tokens.shape == (14, 17, 32)


class NoteCopies(TorchDispatchMode):
    """Notes whether each copy to another device waits."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__.startswith("_to_copy") and kwargs.get("device") not in (None, args[0].device):
            self.waits.append(not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_copies_wait_on_mps_alone(device):
    """There, a copy that does not wait may read memory that is free already. No such device is needed: tensors are fake."""
    with FakeTensorMode(), NoteCopies() as copies:
        pixels = _normalize(torch.empty(1, 3, 56, 56, dtype=torch.uint8, device=device), 1 / 255, 0.5, [0.2, 0.3, 0.4])
    assert pixels.device.type == device and pixels.dtype == torch.float32
    assert copies.waits == [device == "mps"] * 2
