# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""One step under DDP and one under FSDP for the tests: rank 0 has images, rank 1 only text."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from fila import FilaDataCollator
from helpers import chat, leave, random_image, tiny_config, tiny_model, tiny_processor


def check_ddp(batch):
    """Every process ends up with the same gradient of each parameter that trains."""
    for stage in (1, 2):
        model = tiny_model().train()
        model.set_training_stage(stage)
        model = DistributedDataParallel(model)
        model(**batch).loss.backward()
        for name, parameter in model.module.named_parameters():
            if parameter.requires_grad:
                total = parameter.grad.clone()
                dist.all_reduce(total)
                assert torch.allclose(total / 2, parameter.grad, atol=1e-7), name


def check_fsdp(batch):
    """Sharded over processes, the model has the gradients that it has in one process, averaged over the batches."""
    expected, model = tiny_model().train(), tiny_model().train()
    expected(**batch).loss.backward()
    for module in reversed(list(model.modules())):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module)
    fully_shard(model)
    model(**batch).loss.backward()
    for (name, reference), parameter in zip(expected.named_parameters(), model.parameters()):
        mean = torch.zeros_like(reference) if reference.grad is None else reference.grad.clone()
        dist.all_reduce(mean)
        torch.testing.assert_close(parameter.grad.full_tensor(), mean / 2, atol=1e-6, rtol=1e-4, msg=name)


def step(rank, meeting_place):
    """What each of two processes does, which find each other at a file that does not exist yet."""
    init = {"init_method": f"file://{meeting_place}", "rank": rank, "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=60), **init)
    # Three images on two canvases, so that one process runs the ConvNeXt more often than the other.
    images = [random_image(100, 90, 1), random_image(50, 150, 2), random_image(90, 100, 3)]
    content = [*images, "What is it?"] if rank == 0 else ["Hello."]
    processor = tiny_processor().for_model(tiny_config())  # whose images are uint8
    batch = FilaDataCollator(processor)([{"messages": chat(*content, answer="A cup.")}])
    check_ddp(batch)
    check_fsdp(batch)
    dist.destroy_process_group()
    leave()
