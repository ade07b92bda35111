# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
import torch


@pytest.fixture(autouse=True)
def _reproducible():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny tensors; several test processes share the machine
