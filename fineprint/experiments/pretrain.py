# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pretrains the networks of a small FILA on generated pages, where no CLIP, ConvNeXt and Llama can be had.

ViT and ConvNeXt learn, each for itself, which characters stand in the cell of each visual token. The decoder copies
scribbles, then answers questions about pages and repeats them from those same labels in place of visual tokens, as if it
had a perfect encoder. In the alignment, fusion and projector learn, between frozen networks, to give the decoder for each
cell what it has learnt to read. No page comes twice in a training, so that its loss is one of unseen pages.
"""

import json
import shutil
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoProcessor, Trainer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from fila import FilaForConditionalGeneration
from fila.common.arguments import UserError, make_options
from fila.common.files import new_folder
from fila.fineprint.experiments.cells import CHARACTERS, IGNORED, SLOTS, make_cell_batch, make_page_batch, tile_cells
from fila.training.callbacks import find_checkpoint
from fila.training.finetuning import FilaTrainingArguments

PARTS = ("vision", "vit", "decoder")
EMPTY_SHARE = 0.1  # of the slots without a character, which are most, so many are learnt
EMPTY_STD = 0.1  # of the vector of an empty cell in the beginning
MAX_NOISE = 0.7  # of cells, as a share of their root mean square
STATISTICS_BATCH = 1_000_002  # of four tiles, and beyond those that are trained on
NUM_FINAL_LOSSES = 3  # of a log, whose mean says how an alignment ends
CELLS = "cells.safetensors"  # beside the pretrained decoder: the CellEmbedding it was trained with
LOG = "log_history.json"  # named as train.py names it


def load_fila(folder):
    """`tuple[FilaForConditionalGeneration, FilaProcessor]` of a folder, in float32."""
    model = FilaForConditionalGeneration.from_pretrained(folder, dtype="float32")
    return model, AutoProcessor.from_pretrained(folder, trust_remote_code=True)


class CharacterPretraining(nn.Module):
    """ViT and ConvNeXt of a FILA, or the ViT alone, each with a linear head that names the characters of each cell. The
    third stage of the ConvNeXt, whose cells are half as large, has a head of its own. Nothing is copied."""

    def __init__(self, model, with_convnext=True):
        super().__init__()
        self.vit = model.model.vision_tower.vit
        self.convnext = model.model.vision_tower.convnext if with_convnext else None
        widths = [self.vit.config.hidden_size]
        if with_convnext:
            widths += [stage["num_chs"] for stage in self.convnext.feature_info[:-3:-1]]
        num_classes = SLOTS * (1 + len(CHARACTERS))
        self.heads = nn.ModuleList(nn.Sequential(nn.LayerNorm(size), nn.Linear(size, num_classes)) for size in widths)

    def forward(self, pixel_values, image_grids, labels, fine_labels, global_labels, high_res_pixel_values, **others):
        """`dict` with the `loss` for a batch of [`make_page_batch`]."""
        rows, columns = image_grids[0].tolist()
        hidden_states = self.vit.pre_layernorm(self.vit.embeddings(pixel_values[:, 1:].flatten(0, 1)))
        for layer in self.vit.layers:
            hidden_states = layer(hidden_states, None)
        seen = [hidden_states[:, 1:]]  # tile, token, width
        targets = [tile_cells(labels, global_labels.shape[1]).flatten(0, 1).flatten(1, 2)]
        if self.convnext is not None:
            # page, row, column, channel, y, x -> page, channel, row y, column x
            canvas = high_res_pixel_values.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5)
            canvas = canvas.flatten(4, 5).flatten(2, 3).contiguous(memory_format=torch.channels_last)
            *_, fine, coarse = self.convnext.forward_intermediates(canvas, intermediates_only=True)
            seen += [stage.permute(0, 2, 3, 1) for stage in (coarse, fine)]
            targets += [labels, fine_labels]
        loss = 0.0
        for head, features, target in zip(self.heads, seen, targets):
            is_empty = (target == 0) & (torch.rand(target.shape, device=target.device) < EMPTY_SHARE)
            is_learnt = is_empty | (target > 0)
            logits = head(features).unflatten(-1, (SLOTS, -1))
            loss = loss + nn.functional.cross_entropy(logits[is_learnt].float(), target[is_learnt])
        return {"loss": loss}


class CellEmbedding(nn.Module):
    """What a decoder of a `width` sees of a cell in pretraining: the sum of the embeddings of its characters (the last of
    the tokens of each), turned as their places in the cell say; for an empty cell, a vector."""

    def __init__(self, tokenizer, width):
        super().__init__()
        token_ids = [0, *(tokenizer.encode(character)[-1] for character in CHARACTERS)]
        self.register_buffer("token_ids", torch.tensor(token_ids), persistent=False)
        turns = [torch.eye(width), *(torch.linalg.qr(torch.randn(width, width))[0] for _ in range(SLOTS - 1))]
        self.turns = nn.Parameter(torch.stack(turns))
        self.empty = nn.Parameter(torch.randn(width) * EMPTY_STD)

    def forward(self, cells, embeddings):
        """`torch.Tensor` of shape (visual tokens, width), for `cells` of shape (visual tokens, SLOTS) and the
        `nn.Embedding` of the decoder's tokens."""
        characters = embeddings(self.token_ids[cells]) * (cells > 0).unsqueeze(-1)
        is_empty = (cells == 0).all(dim=-1).unsqueeze(-1)
        return torch.einsum("nsd,sde->ne", characters, self.turns) + is_empty * self.empty


class CellReading(nn.Module):
    """The decoder of a FILA, which sees a [`CellEmbedding`] in place of visual tokens. Both are trained; nothing is
    copied."""

    def __init__(self, model, cell_embedding):
        super().__init__()
        self.language_model, self.cell_embedding = model.model.language_model, cell_embedding
        if not model.config.tie_word_embeddings:  # otherwise it is the embedding of the former
            self.lm_head = model.lm_head
        self.model = [model]  # in a list, so that its vision is no part of this network

    def forward(self, cells, is_scribbled, num_items_in_batch=None, **inputs):
        """[`FilaCausalLMOutputWithPast`] for a batch of [`make_cell_batch`]. Empty cells of scribbles are zero: the many of
        them would drown the others. Pages are noisy, as what a vision tower sees will be."""
        features = self.cell_embedding(cells, self.model[0].get_input_embeddings())
        if is_scribbled:
            features = features * (cells > 0).any(dim=-1, keepdim=True)
        else:
            rms = features.detach().square().mean().sqrt()
            features = features + torch.rand(()) * MAX_NOISE * rms * torch.randn_like(features)
        features = BaseModelOutputWithPooling(pooler_output=(features,))
        return self.model[0](**inputs, mm_encoder_outputs={"image": features}, use_cache=False)


def encode_pages(model, batch):
    """`torch.Tensor` of shape (visual tokens, width): what a FILA of any strategy makes of the images in a batch."""
    names = ["pixel_values", "image_sizes", "image_grids"] + ["high_res_pixel_values"] * (
        model.config.fusion_type != "none"
    )
    return torch.cat(model.get_image_features(**{name: batch[name] for name in names}).pooler_output)


class CellAlignment(nn.Module):
    """A FILA whose visual tokens become what its decoder has learnt to read: the [`CellEmbedding`] of its pretraining.
    Vision tower and projector are trained, as far as they are not frozen; nothing is copied."""

    def __init__(self, model, cell_embedding):
        super().__init__()
        self.vision_tower, self.multi_modal_projector = model.model.vision_tower, model.model.multi_modal_projector
        self.model, self.cell_embedding = [model], [cell_embedding]  # in lists: they are not trained

    def forward(self, labels, global_labels, fine_labels=None, **images):
        """`dict` with the `loss` for a batch of [`make_page_batch`]: the squared error of the visual tokens, as a share of
        the mean square of what they should be."""
        cells = torch.cat([global_labels.unsqueeze(1), tile_cells(labels, global_labels.shape[1])], dim=1).flatten(0, 3)
        features = encode_pages(self.model[0], images)
        with torch.no_grad():
            targets = self.cell_embedding[0](cells.clamp(min=0), self.model[0].get_input_embeddings())
        is_known = (cells != IGNORED).all(dim=-1)
        errors = (features.float() - targets)[is_known].square().mean()
        return {"loss": errors / targets[is_known].square().mean()}


@torch.no_grad()
def standardize_projector(model, batch):
    """Starts the projector of a FILA anew, in place, with a first layer that takes mean and scale out of the ViT's
    features of a batch of [`make_page_batch`]. A ViT that was pretrained for a short time adds nearly the same large
    vector to all tokens, which would drive a random projector out of the range in which it learns."""
    projector, features = model.model.multi_modal_projector, []
    hook = projector.linear_1.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    encode_pages(model, batch)
    hook.remove()
    std, mean = torch.std_mean(features[0].flatten(0, -2), dim=0)
    for layer in (projector.linear_1, projector.linear_2):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    projector.linear_1.weight /= std
    projector.linear_1.bias -= projector.linear_1.weight @ mean


def train_network(network, make_batch, output, settings):
    """Trains a network that returns its loss, on the batches that `make_batch` makes of the numbers from 0 on, from the
    last checkpoint in the folder `output` on. `settings` are options of TrainingArguments, of which `max_steps` is
    needed. Returns the log, a `list[dict]`."""
    fixed = {"per_device_train_batch_size": 1, "train_sampling_strategy": "sequential"}  # of whole batches, in order
    fixed |= {"output_dir": str(output), "report_to": "none", "save_total_limit": 1}
    arguments = make_options(FilaTrainingArguments, {**settings, **fixed}, output.name)
    arguments.include_num_input_tokens_seen = "no"
    if arguments.n_gpu > 1:
        raise UserError("Several GPUs in one process are not supported: show it one, with CUDA_VISIBLE_DEVICES=0.")
    checkpoint, unfinished = find_checkpoint(output)
    for folder in unfinished:
        shutil.rmtree(folder)
    numbers = range(arguments.max_steps * arguments.gradient_accumulation_steps * arguments.world_size)
    trainer = Trainer(network, arguments, train_dataset=numbers, data_collator=lambda numbers: make_batch(*numbers))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return trainer.state.log_history


def train_part(part, data, settings, start, output, cells=None):
    """Does one of `PARTS`, or the "alignment" with what the decoder read in its pretraining (`cells`, a file), unless it
    is done, from the FILA in the folder `start` to one in the folder `model` of the `output`. `data` are the
    [`~fila.fineprint.pages.Options`] of the documents, `settings` options of TrainingArguments, `batch_size` in pages
    and, for the decoder, `num_scribbles`."""
    if (output / "model").exists():
        return
    torch.manual_seed(0)  # of what is drawn before a Trainer sets its own
    model, processor = load_fila(start)
    settings = {"batch_size": 16, "num_scribbles": 0, **settings}
    num_scribbles, pages = settings.pop("num_scribbles"), (data, "train", settings.pop("batch_size"))
    make_batch = partial(make_page_batch, *pages)
    if part in ("vision", "vit"):
        network = CharacterPretraining(model, with_convnext=part == "vision")
    else:
        cell_embedding = CellEmbedding(processor.tokenizer, model.config.text_config.hidden_size)
    if part == "decoder":
        network = CellReading(model, cell_embedding)
        make_batch = partial(make_cell_batch, *pages, processor=deepcopy(processor), num_scribbles=num_scribbles)
    elif part == "alignment":
        network = CellAlignment(model, cell_embedding)
        cell_embedding.load_state_dict(load_file(cells))
        standardize_projector(model, make_batch(STATISTICS_BATCH))
        model.set_training_stage(1)  # a fresh projector would undo the pretraining of what lies before it
    log = train_network(network, make_batch, output, settings)
    with new_folder(output / "model") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / LOG).write_text(json.dumps(log, indent=2) + "\n")
        if part == "decoder":
            save_file(cell_embedding.state_dict(), folder / CELLS)
    for checkpoint in output.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)


def align(data, settings, start, cells, output):
    """Does the alignment with each of the learning rates in turn. Returns the folder of the FILA that ends with the
    lowest loss."""
    ends, rates = {}, settings["learning_rate"]
    for rate in rates if isinstance(rates, list) else [rates]:
        folder = output / str(rate)
        train_part("alignment", data, {**settings, "learning_rate": rate}, start, folder, cells)
        log = json.loads((folder / "model" / LOG).read_text())
        ends[folder / "model"] = np.mean([entry["loss"] for entry in log if "loss" in entry][-NUM_FINAL_LOSSES:])
    return min(ends, key=ends.get)
