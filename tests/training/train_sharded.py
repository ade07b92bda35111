# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of train.py as `accelerate launch` starts them, on CPUs, one after the other. Started by torch.distributed.run
with the variables that `accelerate launch` sets and, for FSDP, with the option `use_configured_state`.

The argument is JSON: for each run its command line, and its output folder and a checkpoint that is moved there
before."""

import json
import os
import shutil
import sys

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from fila import train
from helpers import leave

if __name__ == "__main__":
    torch.set_num_threads(1)
    Accelerator.end_training = lambda self: None  # would end the process group, which the next run needs
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        import deepspeed

        deepspeed.ops.__compatible_ops__.clear()  # compiles none, for minutes: gloo does the same
    for arguments, output, checkpoint in json.loads(sys.argv[1]):
        AcceleratorState._reset_state()
        if os.environ.get("ACCELERATE_USE_FSDP") == "true":
            # accelerate shards on every kind of device but the CPU: here two CPUs are said to be of another kind.
            PartialState(cpu=True, backend="gloo").distributed_type = DistributedType.MULTI_XPU
        if checkpoint and os.environ["RANK"] == "0":
            os.makedirs(output)
            shutil.move(checkpoint, output)
        if checkpoint:
            torch.distributed.barrier()
        train.main([*arguments, "--output_dir", output])
    leave()
