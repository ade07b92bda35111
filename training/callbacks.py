# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The Trainer of a FILA: what the stock one leaves open about losses, learning rates, the order of samples and checkpoints."""

import time
import zipfile
from pathlib import Path

import torch
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import LengthGroupedSampler

from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, FUSION_PREFIX, PROJECTOR_PREFIX, VIT_PREFIX


class TrainingProgress(TrainerCallback, ExportableState):
    """Orders the samples of each epoch such that an interrupted run finds the same order again, and notes in checkpoints
    how many processes made them, for [`find_checkpoint`].

    Args:
        world_size (`int`): number of processes.
    """

    def __init__(self, world_size):
        self.world_size = world_size

    def state(self):
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.start_time, self.start_step = time.perf_counter(), state.global_step

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        # The random sampler has a seed for each epoch. The length-grouped one would draw from the global generator, whose
        # state at the start of an epoch is lost when the run is resumed in the middle of it.
        batch_sampler = train_dataloader.batch_sampler
        batch_sampler = getattr(batch_sampler, "batch_sampler", batch_sampler)  # several processes share the batches
        sampler = getattr(batch_sampler, "sampler", None)
        if isinstance(sampler, LengthGroupedSampler):
            # state.epoch is epoch + (step + 1) / steps: exact at the start of an epoch, below the next one within it.
            sampler.generator = torch.Generator().manual_seed(args.seed + int(state.epoch or 0))

    def samples_per_second(self, args, state):
        """`float`: since training began or was resumed."""
        samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps = state.global_step - self.start_step
        return round(steps * samples / (time.perf_counter() - self.start_time), 3)


class FilaTrainer(Trainer):
    """A Trainer whose batches name their samples.

    Args:
        sources (`list[DataSource]`): the datasets that `sample_ids` refer to.
        vision_lr (`float`, *optional*): learning rate of ViT and ConvNeXt.
        fusion_lr (`float`, *optional*): learning rate of fusion and projector.
        args, kwargs: for the Trainer.
    """

    def __init__(self, *args, sources=(), vision_lr=None, fusion_lr=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.sources, self.part_rates = sources, {}
        self.part_rates |= dict.fromkeys((VIT_PREFIX, CONVNEXT_PREFIX), vision_lr)
        self.part_rates |= dict.fromkeys((FUSION_PREFIX, PROJECTOR_PREFIX), fusion_lr)
        self.progress = TrainingProgress(self.args.world_size)
        self.add_callback(self.progress)

    def create_optimizer(self, model=None):
        """The Trainer's optimizer, with a learning rate for each part that has one."""
        if self.optimizer is None and any(rate is not None for rate in self.part_rates.values()):
            self.optimizer_cls_and_kwargs = self._group_parameters(self.model if model is None else model)
        return super().create_optimizer(*(() if model is None else (model,)))

    def _group_parameters(self, model):
        decayed, groups = set(self.get_decay_parameter_names(model)), {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                rates = [rate for prefix, rate in self.part_rates.items() if name.startswith(prefix)]
                rate = self.args.learning_rate if rates in ([], [None]) else rates[0]
                decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        params = [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]
        optimizer_class, kwargs = self.get_optimizer_cls_and_kwargs(self.args, model)
        return optimizer_class, {**kwargs, "params": params}

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """The model's loss.

        Raises:
            UserError: in training, a loss that is not finite. The batch is saved in the output folder.
        """
        inputs = dict(inputs)
        sample_ids = inputs.pop("sample_ids")
        result = super().compute_loss(model, inputs, return_outputs=return_outputs, **kwargs)
        loss = result[0] if return_outputs else result
        if not model.training or torch.isfinite(loss).all():
            return result
        step, output = self.state.global_step, Path(self.args.output_dir)
        samples = [self.sources[source].describe(row) for source, row in sample_ids.tolist()]
        inputs = {key: value.cpu() for key, value in inputs.items() if isinstance(value, torch.Tensor)}
        path = output / f"bad_batch_step{step}_rank{self.args.process_index}.pt"
        output.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "samples": samples, "inputs": inputs}, path)
        raise UserError(
            f"The loss of step {step} is {loss.item()}. The batch is saved in {path}; it holds {'; '.join(samples)}. "
            "Lower the learning rate, or look at these samples. The last checkpoint was saved before this step."
        )

    def log(self, logs, *args, **kwargs):
        """Logs samples per second beside the loss."""
        if "loss" in logs:
            logs["samples_per_second"] = self.progress.samples_per_second(self.args, self.state)
        super().log(logs, *args, **kwargs)


def find_checkpoint(output_dir):
    """The newest whole checkpoint of a run. The Trainer's first process writes `trainer_state.json` last, so what was being
    written when a run was killed has none, or half of one; or it lacks the random state of another process, which is the
    last that the others write.

    Returns:
        `tuple[Path | None, list[Path]]`: the checkpoint, and the unfinished ones. A whole one that no run can continue
        from, of `--save_only_model`, is neither.
    """
    found, unfinished = [], []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if not step.isdigit():
            continue
        try:
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            is_whole = state.global_step == int(step)
        except (OSError, ValueError, TypeError):
            is_whole = False
        if not is_whole:
            unfinished.append((int(step), folder))
            continue
        random_states = sorted(folder.glob("rng_state*.pth"))
        if not random_states:
            continue
        progress = state.stateful_callbacks.get(TrainingProgress.__name__)
        world_size = len(random_states) if progress is None else progress["args"]["world_size"]
        if len(random_states) == world_size and all(map(zipfile.is_zipfile, random_states)):
            found.append((int(step), folder))
        else:
            unfinished.append((int(step), folder))
    return max(found, default=(0, None))[1], [folder for _, folder in sorted(unfinished)]
