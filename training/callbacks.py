# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer of a FILA: what the stock one leaves open about losses, learning rates, samples and checkpoints."""

import zipfile
from collections import defaultdict
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler

from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, FUSION_PREFIX, PROJECTOR_PREFIX, VIT_PREFIX


class TrainingProgress(TrainerCallback, ExportableState):
    """Orders the samples of each epoch such that an interrupted run finds the same order again, and notes in
    checkpoints how many processes made them, for [`find_checkpoint`]."""

    def __init__(self, world_size):
        self.world_size = world_size

    def state(self):
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # The random sampler has a seed for each epoch. The length-grouped one would draw from the global generator,
        # whose state at the start of an epoch is lost when the run is resumed in the middle of it.
        batches = train_dataloader.batch_sampler  # in one of several processes, its share of the batches
        sampler = getattr(getattr(batches, "batch_sampler", batches), "sampler", None)
        if isinstance(sampler, LengthGroupedSampler):
            # state.epoch is epoch + (step + 1) / steps: exact at the start of an epoch, below the next one within it.
            sampler.generator = torch.Generator().manual_seed(args.seed + int(state.epoch or 0))
            sampler.lengths = sampler.lengths[:]  # a list, where a column of datasets takes a minute for a million rows


class FilaTrainer(Trainer):
    """A Trainer for batches of [`SampleCollator`]. ViT and ConvNeXt may have a learning rate of their own, `vision_lr`,
    as may fusion and projector, `fusion_lr`."""

    def __init__(self, *args, vision_lr=None, fusion_lr=None, **kwargs):
        super().__init__(*args, **kwargs)
        rates = {(VIT_PREFIX, CONVNEXT_PREFIX): vision_lr, (FUSION_PREFIX, PROJECTOR_PREFIX): fusion_lr}
        self.part_rates = {prefixes: rate for prefixes, rate in rates.items() if rate is not None}
        self.add_callback(TrainingProgress(self.args.world_size))

    def create_optimizer(self, model=None):
        """The Trainer's optimizer, with a learning rate for each part that has one."""
        if self.optimizer is None and self.part_rates:
            network, groups = self.model if model is None else model, defaultdict(list)
            decayed = set(self.get_decay_parameter_names(network))
            for name, parameter in network.named_parameters():
                rates = [rate for prefixes, rate in self.part_rates.items() if name.startswith(prefixes)]
                if parameter.requires_grad:
                    rate = rates[0] if rates else self.args.learning_rate
                    groups[rate, self.args.weight_decay if name in decayed else 0.0].append(parameter)
            params = [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
            optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, network)
            self.optimizer_cls_and_kwargs = optimizer_class, {**kwargs, "params": params}
        return super().create_optimizer(model)

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """The model's loss. Raises a `UserError` that names the samples if it is not finite in training."""
        inputs = dict(inputs)
        sample_ids = inputs.pop("sample_ids")
        result = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss = result[0] if return_outputs else result
        if not model.training or torch.isfinite(loss).all():
            return result
        samples = [self.data_collator.sources[source].describe(row) for source, row in sample_ids.tolist()]
        advice = "Lower the learning rate, or look at these samples. The last checkpoint was saved before this step."
        raise UserError(
            f"The loss of step {self.state.global_step} is {loss.item()}, with {'; '.join(samples)}. {advice}"
        )


def find_checkpoint(output_dir):
    """The newest whole checkpoint of a run. The Trainer's first process writes `trainer_state.json` last, so what was
    being written when a run was killed has none, or half of one; or it lacks the random state of another process, which
    is the last that the others write.

    Returns a `tuple[Path | None, list[Path]]`: the checkpoint, and the unfinished ones. A whole one that no run can
    continue from, of `--save_only_model`, is neither."""
    folders = [folder for folder in Path(output_dir).glob("checkpoint-*") if folder.name[11:].isdigit()]
    checkpoint, unfinished = None, []
    for folder in sorted(folders, key=lambda folder: int(folder.name[11:])):
        random_states = list(folder.glob("rng_state*.pth"))
        try:
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            progress = state.stateful_callbacks.get(TrainingProgress.__name__)
            world_size = progress["args"]["world_size"] if progress and random_states else len(random_states)
            is_whole = state.global_step == int(folder.name[11:]) and len(random_states) == world_size
        except (OSError, ValueError, TypeError):
            is_whole = False
        if not is_whole or not all(map(zipfile.is_zipfile, random_states)):
            unfinished.append(folder)
        elif random_states:
            checkpoint = folder
    return checkpoint, unfinished
