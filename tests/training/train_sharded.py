# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py as `accelerate launch` starts it, on CPUs. Run by torch.distributed.run with the variables that
`accelerate launch` sets and, for FSDP, with the option `use_configured_state`."""

import os
import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from fila import train
from helpers import leave

if __name__ == "__main__":
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards on every kind of device but the CPU: here two CPUs are said to be of another kind.
        PartialState(cpu=True, backend="gloo").distributed_type = DistributedType.MULTI_XPU
    train.main(sys.argv[1:])
    leave()
