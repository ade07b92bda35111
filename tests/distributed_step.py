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
"""One DDP step for the tests: rank 0 has images, rank 1 only text. Run by torch.distributed.run."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from fila import FilaDataCollator
from helpers import chat, leave, random_image, tiny_model, tiny_processor


def main():
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    content = [random_image(100, 90), "What is it?"] if rank == 0 else ["Hello."]
    batch = FilaDataCollator(tiny_processor())([{"messages": chat(*content, answer="A cup.")}])
    for stage in (1, 2):
        model = DistributedDataParallel(tiny_model().train())
        model.module.set_training_stage(stage)
        model = DistributedDataParallel(model.module)
        model(**batch).loss.backward()
        for name, parameter in model.module.named_parameters():
            if parameter.requires_grad:
                total = parameter.grad.clone()
                dist.all_reduce(total)
                assert torch.allclose(total / 2, parameter.grad, atol=1e-7), name
    print("gradients agree", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
