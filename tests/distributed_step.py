# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
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
