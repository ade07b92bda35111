# Copyright 2026 The FILA authors.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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
