# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py as `accelerate launch` starts it, on CPUs, where accelerate does not shard by FSDP of itself.
Run by torch.distributed.run with the variables that `accelerate launch` sets."""

import sys

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from fila import train
from helpers import leave

init = PartialState.__init__


def shard_on_cpu(self, *args, **kwargs):
    init(self, *args, **kwargs)
    if self._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_XPU  # any kind for which accelerate shards


if __name__ == "__main__":
    torch.set_num_threads(1)
    PartialState.__init__ = shard_on_cpu
    train.main(sys.argv[1:])
    leave()
