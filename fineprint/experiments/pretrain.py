# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretrains the networks of a small FILA on generated pages, where no CLIP, ConvNeXt and Llama can be had.

Two trainings, which need nothing of each other and may run at the same time. The hybrid encoder with its projector learns
which characters stand in the cell of each visual token, and to say it as a [`CellEmbedding`]. The decoder copies
scribbles, then answers questions about pages and repeats them from that same embedding in place of visual tokens, as if
it had a perfect encoder. No page comes twice, so that the losses are those of unseen pages.
"""

import json
import math
import shutil
import time

import torch
from accelerate.utils import broadcast
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback, TrainingArguments

from fila.common.arguments import UserError, make_options
from fila.fineprint.experiments.cells import CHARACTERS, IGNORED, SLOTS
from fila.training.callbacks import FilaTrainer, find_checkpoint

EMPTY_SHARE = 0.1  # of the slots without a character, which are most, so many are learnt
LOG = "log_history.json"


class CellEmbedding(nn.Module):
    """What a decoder sees of a cell in pretraining, and an encoder learns to say: the sum of vectors of its characters, one
    for each slot; for an empty cell, a vector. All are fixed.

    Args:
        table (`torch.Tensor` of shape (SLOTS, 1 + characters, width)): the vectors of characters; of index 0, zeros.
        empty (`torch.Tensor` of shape (width,)): the vector of an empty cell.
        common (`torch.Tensor` of shape (width,)): what is added in all others.
        spread (`torch.Tensor` of shape (width,)): how far from its vector a cell may be, as a standard deviation.
    """

    def __init__(self, table, empty, common, spread):
        super().__init__()
        for name, value in {"table": table, "empty": empty, "common": common, "spread": spread}.items():
            self.register_buffer(name, value, persistent=False)

    @classmethod
    def random(cls, width, std):
        """Random vectors of numbers with this standard deviation, turned as their slots say; the same wherever they are
        made."""
        generator = torch.Generator().manual_seed(0)
        vectors = torch.randn(2 + len(CHARACTERS), width, generator=generator) * std
        turns = [torch.linalg.qr(torch.randn(width, width, generator=generator))[0] for _ in range(SLOTS)]
        table = torch.stack([vectors[1:] @ turn for turn in turns])
        table[:, 0] = 0
        return cls(table, vectors[0], torch.zeros(width), torch.full((width,), std))

    @classmethod
    @torch.no_grad()
    def fit(cls, model, batches):
        """Vectors that are as near as can be, in the mean of squares, to what a trained FILA makes of cells.

        Args:
            model (`FilaForConditionalGeneration`)
            batches (iterable of `dict`): of [`Pages.make_images`].
        """
        num, width = 1 + len(CHARACTERS), model.config.text_config.hidden_size
        starts, num_cells, empties = torch.arange(SLOTS) * num, 0, []
        products, sums, squares = torch.eye(SLOTS * num), torch.zeros(SLOTS * num, width), torch.zeros(width)
        for batch in batches:
            cells, images = batch["labels"], {key: batch[key] for key in batch if "labels" not in key}
            features = torch.cat(model.get_image_features(**images).pooler_output)
            empties.append(features[(cells == 0).all(dim=-1)].mean(dim=0))
            is_used = cells[:, 0] > 0
            cells, features = cells[is_used], features[is_used]
            held = torch.zeros(len(cells), SLOTS * num).scatter_(1, cells + starts, 1.0)
            held[:, starts] = 0
            held[:, 0] = 1  # in all of them
            products, sums, num_cells = products + held.T @ held, sums + held.T @ features, num_cells + len(cells)
            squares += features.square().sum(dim=0)
        table = torch.linalg.solve(products, sums)
        spread = ((squares - (table * sums).sum(dim=0)) / num_cells).clamp(min=0).sqrt()
        table, common = table.unflatten(0, (SLOTS, num)), table[0].clone()
        table[:, 0] = 0
        return cls(table, torch.stack(empties).mean(dim=0), common, spread)

    def forward(self, cells):
        """`torch.Tensor` of shape (visual tokens, width), for `cells` of shape (visual tokens, SLOTS); of those that are
        `IGNORED` nothing is known, and they are random."""
        vectors = sum(self.table[slot][cells[:, slot].clamp(min=0)] for slot in range(SLOTS)) + self.common
        vectors = torch.where((cells == 0).all(dim=-1, keepdim=True), self.empty, vectors)
        noise = self.common + torch.randn_like(vectors) * (self.table[0].var(dim=0) + self.spread.square()).sqrt()
        return torch.where((cells == IGNORED).all(dim=-1, keepdim=True), noise, vectors)


class EncoderPretraining(nn.Module):
    """Hybrid encoder and projector of a FILA. Linear heads name the characters of each visual token, and, for what is not
    tiled, of each cell of the last two stages of the ConvNeXt. With a [`CellEmbedding`], the visual tokens become like it.
    Nothing is copied."""

    def __init__(self, model, cell_embedding=None):
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.model.vision_tower, model.model.multi_modal_projector
        self.model, width = [model], model.config.text_config.hidden_size  # in a list: its decoder is not trained
        self.cell_embedding = cell_embedding
        widths, num_classes = [width], SLOTS * (1 + len(CHARACTERS))
        if self.vision_tower.convnext is not None:
            widths += [stage["num_chs"] for stage in self.vision_tower.convnext.feature_info[-2:]]
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, num_classes)) for size in widths)

    def forward(self, labels, fine_labels=None, **images):
        """`dict` with the `loss` for a batch of [`Pages.make_images`]: cross-entropy of the characters, and, with a
        [`CellEmbedding`], the squared error of the visual tokens as a share of its mean square."""
        stages = [] if fine_labels is None or len(self.heads) == 1 else self.vision_tower.convnext.stages[-2:]
        maps = []
        hooks = [stage.register_forward_hook(lambda module, inputs, output: maps.append(output)) for stage in stages]
        features = torch.cat(self.model[0].get_image_features(**images).pooler_output)
        for hook in hooks:
            hook.remove()
        seen, targets = [features, *(stage_map.flatten(2).mT.flatten(0, 1) for stage_map in maps)], [labels]
        if maps:
            targets += [fine_labels.flatten(0, 1), labels]
        loss = sum(self.name_characters(*entry) for entry in zip(self.heads, seen, targets))
        if self.cell_embedding is None:
            return {"loss": loss}
        vectors, is_empty = self.cell_embedding(labels), (labels == 0).all(dim=-1)
        is_known = (labels[:, 0] > 0) | is_empty & (torch.rand(len(labels), device=labels.device) < EMPTY_SHARE)
        errors = (features.float() - vectors)[is_known].square().mean() / vectors[is_known].square().mean()
        return {"loss": loss + errors}

    def name(self, **images):
        """`torch.Tensor` of shape (visual tokens, SLOTS): the characters that the visual tokens of images most likely hold."""
        features = torch.cat(self.model[0].get_image_features(**images).pooler_output)
        return 1 + self.heads[0](features).unflatten(-1, (SLOTS, -1))[..., 1:].argmax(dim=-1)

    @staticmethod
    def name_characters(head, features, labels):
        is_empty = (labels == 0) & (torch.rand(labels.shape, device=labels.device) < EMPTY_SHARE)
        is_learnt = is_empty | (labels > 0)
        is_used = is_learnt.any(dim=-1)
        logits = head(features[is_used]).unflatten(-1, (SLOTS, -1))
        return nn.functional.cross_entropy(logits[is_learnt[is_used]].float(), labels[is_learnt])


class WholeTraining(nn.Module):
    """A FILA that answers questions, and whose encoder goes on naming characters. Nothing is copied."""

    accepts_loss_kwargs = False  # the loss of a batch is a mean of its own

    def __init__(self, model):
        super().__init__()
        self.model = model.model  # so that parameters have the names that they have there; the head is tied
        encoder = EncoderPretraining(model)
        self.heads, self.whole, self.encoder = encoder.heads, [model], [encoder]  # in lists: their modules are here
        for head in self.heads:  # so that they learn before the encoder learns from them
            nn.init.zeros_(head[1].weight)

    def forward(self, **batch):
        """The output of the model, or for a batch without `input_ids`, of [`EncoderPretraining`]."""
        return self.whole[0](**batch) if "input_ids" in batch else self.encoder[0](**batch)


class DecoderPretraining(nn.Module):
    """The decoder of a FILA, which sees noisy [`CellEmbedding`]s in place of visual tokens. Nothing is copied."""

    def __init__(self, model, cell_embedding):
        super().__init__()
        self.language_model = model.model.language_model  # its embedding is the head, too
        self.model = [model]  # in a list: its vision is not trained
        self.image_token_id, self.cell_embedding = model.config.image_token_id, cell_embedding

    def begin_as_cells(self, tokenizer):
        """Makes the embeddings of bytes those of the first characters in a cell, which the decoder can copy therefore."""
        with torch.no_grad():
            for character, index in reversed(CHARACTERS.items()):
                token_id = tokenizer.encode(character)[-1]
                self.language_model.get_input_embeddings().weight[token_id] = self.cell_embedding.table[0, index]

    def forward(self, input_ids, labels, cells, noise, num_items_in_batch=None, **inputs):
        """`dict` with the `loss` for a batch of [`Pages.make_cells`]."""
        vectors = self.cell_embedding(cells)
        vectors = vectors + noise * self.cell_embedding.spread * torch.randn_like(vectors)
        embeds = self.language_model.get_input_embeddings()(input_ids)
        is_image = (input_ids == self.image_token_id).unsqueeze(-1)
        embeds = embeds.masked_scatter(is_image, vectors.to(embeds.dtype))
        states = self.language_model(inputs_embeds=embeds, use_cache=False, **inputs).last_hidden_state[:, :-1]
        is_learnt = labels[:, 1:] != IGNORED
        logits = self.model[0].lm_head(states[is_learnt])
        return {"loss": nn.functional.cross_entropy(logits.float(), labels[:, 1:][is_learnt])}


class Clock(TrainerCallback):
    """Ends a training after some seconds, and says which share of them it has waited for data. Of several processes, the
    first one's clock counts, so that all have the same learning rate and the same end."""

    def __init__(self, seconds):
        self.seconds, self.waited, self.elapsed, self.start = seconds, 0.0, 0.0, None

    def on_train_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def progress(self):
        """`float`: the share of the time that was over after the last step."""
        return min(1.0, self.elapsed / self.seconds)

    def on_step_begin(self, args, state, control, **kwargs):
        self.waited += time.perf_counter() - self.start - self.elapsed

    def on_step_end(self, args, state, control, **kwargs):
        elapsed = torch.tensor(time.perf_counter() - self.start, dtype=torch.float64, device=args.device)
        self.elapsed = broadcast(elapsed).item()
        control.should_training_stop = control.should_training_stop or self.progress() == 1


class PageTrainer(FilaTrainer):
    """A Trainer of networks that return their loss, on pages, of which none can be at fault. With `max_seconds`, the learning
    rate falls with the time, along a cosine, and `max_steps` is only the most."""

    compute_loss = Trainer.compute_loss

    def __init__(self, *args, max_seconds=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.clock = None if max_seconds is None else Clock(max_seconds)
        if self.clock:
            self.add_callback(self.clock)

    def log(self, logs, *args, **kwargs):
        if self.clock:
            logs["waited_for_data"] = self.clock.waited / max(self.clock.elapsed, 1e-9)
        super().log(logs, *args, **kwargs)

    def create_scheduler(self, num_training_steps, optimizer=None):
        if self.clock is None:
            return super().create_scheduler(num_training_steps, optimizer)
        num_warmup, clock = max(1, self.args.get_warmup_steps(num_training_steps)), self.clock
        self.lr_scheduler = LambdaLR(
            optimizer or self.optimizer,
            lambda step: min(1.0, (step + 1) / num_warmup) * 0.5 * (1 + math.cos(math.pi * clock.progress())),
        )
        return self.lr_scheduler


def train_network(network, make_batch, output, max_seconds=None, vision_lr=None, fusion_lr=None, **settings):
    """Trains a network that returns its loss, on the batches that `make_batch` makes of the numbers from 0 on. Without
    `max_seconds`, it goes on from the last checkpoint in the folder `output`.

    Args:
        network (`nn.Module`)
        make_batch (`Callable`): from a number to a `dict` of tensors.
        output (`Path`): folder of the checkpoints and of the log.
        max_seconds, vision_lr, fusion_lr: see [`PageTrainer`].
        settings: options of TrainingArguments, of which `max_steps` is needed.
    """
    fixed = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}  # of whole batches, in order
    fixed |= {"output_dir": str(output), "report_to": "none", "save_total_limit": 1, "remove_unused_columns": False}
    fixed |= {"accelerator_config": {"dispatch_batches": False}, "disable_tqdm": False, **settings}
    if max_seconds is not None:
        fixed["save_strategy"] = "no"
    arguments = make_options(TrainingArguments, fixed, output.name)
    if arguments.n_gpu > 1:
        raise UserError("Several GPUs in one process are not supported: show it one, with CUDA_VISIBLE_DEVICES=0.")
    checkpoint, unfinished = find_checkpoint(output)
    for folder in unfinished:
        shutil.rmtree(folder)
    numbers = range(arguments.max_steps * arguments.gradient_accumulation_steps * arguments.world_size)
    data = {"train_dataset": numbers, "data_collator": lambda numbers: make_batch(*numbers)}
    own = {"max_seconds": max_seconds, "vision_lr": vision_lr, "fusion_lr": fusion_lr}
    trainer = PageTrainer(network, arguments, **data, **own)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    (output / LOG).write_text(json.dumps(trainer.state.log_history, indent=2) + "\n")
    for folder in output.glob("checkpoint-*"):
        shutil.rmtree(folder)
