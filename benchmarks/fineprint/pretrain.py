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
"""Pretrains the networks of a small FILA on generated documents, where no CLIP, ConvNeXt and Llama are to be had.

    python benchmarks/fineprint/pretrain.py recipes/fineprint/small.yaml --model_name_or_path start --output_dir pretrained

ViT and ConvNeXt learn, each for itself, which characters stand in each cell of a visual token: thousands of labels for
a page, where a question about it has a few. The pages are drawn as training goes, and none comes twice. The decoder learns
to answer questions about the text of pages, without an image, through train.py. Fusion and projector are left as they are: the
stages of the article train them.

The recipe is that of compare.py; `pretraining` in it has `vision` (options of TrainingArguments) and `text` (options of train.py,
and `num_pages`). Started again, it goes on where it was.
"""

import argparse
import json
import os
import shutil
import string
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import yaml
from fineprint_sources import load_font
from make_fineprint import GRIDS, Options, image_processor, lay_out, make_page
from torch import nn
from torch.utils.data import IterableDataset, get_worker_info
from transformers import AutoProcessor, Trainer, TrainingArguments

from fila import FilaForConditionalGeneration
from fila.train import find_checkpoint

ROOT = Path(__file__).resolve().parents[2]
# Index 0 is for no character.
CHARACTERS = {c: n for n, c in enumerate(string.digits + string.ascii_letters + string.punctuation + "€£", start=1)}
SLOTS = 4  # characters that a cell may hold; what is more is not learnt
EMPTY_WEIGHT = 0.1  # of slots without a character, which are most
IGNORED = -100
READ = "Read the page."
FIRST_PAGE = 10_000_000  # pages are numbered from here, so that none is one of the dataset, which begins with 0


def _advances(font, size, text):
    """Where each character of a text begins and the last one ends, in pixels from the start."""
    return np.array([load_font(font, size).getlength(text[:count]) for count in range(len(text) + 1)])


def label_cells(page, patch_size):
    """The characters in each cell of the canvas, by their middle.

    Args:
        page ([`~make_fineprint.Page`]): a page.
        patch_size (`int`): side of a cell in pixels of the ViT's canvas.

    Returns:
        `np.ndarray` of shape (rows of cells, columns of cells, SLOTS): indices of `CHARACTERS` in reading order, then 0; all
        `IGNORED` where there are more, or one that is not among them.
    """
    rows, columns = (side * page.placement.tile_size // patch_size for side in page.placement.grid)
    labels = np.zeros((rows, columns, SLOTS), dtype=np.int64)
    count = np.zeros((rows, columns), dtype=int)
    for run in page.runs:
        edges = _advances(run.font, run.size, run.text)
        middles = np.stack(
            [run.x + (edges[:-1] + edges[1:]) / 2, np.full(len(run.text), run.y - run.capital_height / 2)], 1
        )
        canvas = page.placement.to_canvas(page.placement.to_image(middles))
        for character, (x, y) in zip(run.text, canvas // patch_size):
            row, column = int(y), int(x)
            if character == " " or not (0 <= row < rows and 0 <= column < columns):
                continue
            index = CHARACTERS.get(character)
            if index is None or count[row, column] == SLOTS or labels[row, column, 0] == IGNORED:
                labels[row, column] = IGNORED
            else:
                labels[row, column, count[row, column]] = index
                count[row, column] += 1
    return labels


class PageBatches(IterableDataset):
    """Endless batches of new pages, all pages of a batch on the same canvas, canvases in turn.

    Args:
        options ([`~make_fineprint.Options`]): of the documents.
        split (`str`): whose fonts, templates and values are used.
        batch_size (`int`): pages.
        first (`int`, *optional*): number of the first batch.
        count (`int`, *optional*): batches until the end, if there is one.
    """

    def __init__(self, options, split, batch_size, first=0, count=None):
        self.options, self.split, self.batch_size, self.first, self.count = options, split, batch_size, first, count

    def __iter__(self):
        worker = get_worker_info()
        start, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        number = self.first + start
        while self.count is None or number < self.first + self.count:
            yield self.make_batch(number)
            number += step

    def make_batch(self, number):
        """
        Returns:
            `dict` of tensors: the inputs of the vision tower, and `labels` of shape (pages, rows, columns, SLOTS).
        """
        # Sample i has the kind i % kinds and the grid i // kinds % 5, so these have one grid, and all kinds.
        num_kinds, grid = len(self.options.kinds), number % len(GRIDS)
        first = FIRST_PAGE // num_kinds // len(GRIDS)
        pages = []
        for place in range(self.batch_size):
            turn, kind = divmod(number // len(GRIDS) * self.batch_size + place, num_kinds)
            turn = (first + turn) * len(GRIDS) + grid
            pages.append(make_page(self.options, self.split, turn * num_kinds + kind))
        processor = image_processor(self.options.tile_size)
        inputs = processor([image for image, _ in pages], return_tensors="pt")
        labels = np.stack([label_cells(page, processor.patch_size) for _, page in pages])
        return {**inputs, "labels": torch.from_numpy(labels)}


class CharacterPretraining(nn.Module):
    """ViT and ConvNeXt of a FILA side by side, each with a linear head that names the characters of each cell.

    Args:
        model ([`FilaForConditionalGeneration`]): its vision tower is trained; nothing of it is copied.
    """

    def __init__(self, model):
        super().__init__()
        self.vit, self.convnext = model.model.vision_tower.vit, model.model.vision_tower.convnext
        widths = (self.vit.config.hidden_size, self.convnext.feature_info[-1]["num_chs"])
        num_classes = SLOTS * (1 + len(CHARACTERS))
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, num_classes)) for width in widths
        )
        self.register_buffer("weight", torch.tensor([EMPTY_WEIGHT] + [1.0] * len(CHARACTERS)), persistent=False)

    def forward(self, pixel_values, high_res_pixel_values, image_grids, labels, image_sizes=None):
        """
        Args:
            pixel_values (`torch.Tensor` of shape `(N, 1 + R*C, 3, S, S)`), high_res_pixel_values (`torch.Tensor` of shape
                `(N, R*C, 3, s, s)`), image_grids (`torch.Tensor` of shape `(N, 2)`): of images on the same canvas.
            labels (`torch.Tensor` of shape `(N, rows, columns, SLOTS)`): from [`label_cells`].

        Returns:
            `dict`: `loss`, and `accuracies` of shape (2,): the share of characters that the ViT and the ConvNeXt name.
        """
        rows, columns = image_grids[0].tolist()
        hidden_states = self.vit.pre_layernorm(self.vit.embeddings(pixel_values[:, 1:].flatten(0, 1)))
        for layer in self.vit.layers:
            hidden_states = layer(hidden_states, None)
        side = labels.shape[1] // rows
        # (N * R * C, tokens, width) -> page, row, column, y, x, width -> page, row y, column x, width
        patches = hidden_states[:, 1:].unflatten(0, (-1, rows, columns)).unflatten(3, (side, side))
        patches = patches.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)
        # page, row, column, channel, y, x -> page, channel, row y, column x
        canvas = (
            high_res_pixel_values.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        )
        canvas = canvas.contiguous(memory_format=torch.channels_last)
        cells = self.convnext.forward_intermediates(canvas, intermediates_only=True)[-1].permute(0, 2, 3, 1)
        loss, accuracies = 0.0, []
        for head, features in zip(self.heads, (patches, cells)):
            logits = head(features).unflatten(-1, (SLOTS, -1)).float()
            loss = loss + nn.functional.cross_entropy(
                logits.flatten(0, -2), labels.flatten(), weight=self.weight, ignore_index=IGNORED
            )
            is_character = labels > 0
            accuracies.append((logits.argmax(-1) == labels)[is_character].float().mean())
        return {"loss": loss, "accuracies": torch.stack(accuracies)}


@torch.no_grad()
def measure_accuracies(network, batches):
    """`dict`: the share of the characters of `batches` that ViT and ConvNeXt name, batches weighing the same."""
    network.eval()
    device = next(network.parameters()).device
    found = [network(**{key: value.to(device) for key, value in batch.items()})["accuracies"] for batch in batches]
    return dict(zip(("vit", "convnext"), torch.stack(found).nanmean(dim=0).tolist()))


def pretrain_vision(recipe, model, output, batch_size=16, num_eval_batches=10, **training):
    """Trains ViT and ConvNeXt of `model`, in place.

    Args:
        recipe (`dict`): of compare.py; its `data` says what the pages are.
        model ([`FilaForConditionalGeneration`]): the model.
        output (`Path`): folder of checkpoints and of `vision.json`, the log.
        batch_size (`int`, *optional*): pages of a step.
        num_eval_batches (`int`, *optional*): batches of pages of the validation split that the result is measured on.
        training: options of TrainingArguments; `max_steps` is needed.
    """
    options = Options(output_dir="", **recipe["data"])
    arguments = TrainingArguments(
        output_dir=str(output),
        per_device_train_batch_size=1,  # a batch of pages
        remove_unused_columns=False,
        report_to="none",
        save_total_limit=1,
        accelerator_config={"dispatch_batches": False},
        **training,
    )
    checkpoint, unfinished = find_checkpoint(output)
    for folder in unfinished:
        shutil.rmtree(folder)
    if arguments.n_gpu > 1:
        raise SystemExit(
            "error: several GPUs in one process are not supported: show it one, with CUDA_VISIBLE_DEVICES=0."
        )
    done = 0 if checkpoint is None else int(checkpoint.name.split("-")[1])
    # Pages that were seen are not drawn again to be skipped.
    arguments.ignore_data_skip = True
    first = done * arguments.gradient_accumulation_steps
    network = CharacterPretraining(model)
    train_dataset = PageBatches(options, "train", batch_size, first=first)
    trainer = Trainer(network, arguments, train_dataset=train_dataset, data_collator=lambda batches: batches[0])
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    accuracies = measure_accuracies(network, PageBatches(options, "validation", batch_size, count=num_eval_batches))
    print(f"characters named: ViT {accuracies['vit']:.1%}, ConvNeXt {accuracies['convnext']:.1%}")
    log = {"accuracies": accuracies, "log": trainer.state.log_history}
    (output / "vision.json").write_text(json.dumps(log, indent=2) + "\n")


def write_texts(options, num_pages, path):
    """Writes chats about the text of pages, without images, whose last turn repeats the text.

    Args:
        options ([`~make_fineprint.Options`]): of the documents.
        num_pages (`int`): pages, one chat each.
        path (`Path`): a .jsonl file.
    """
    with open(path, "w") as file:
        for index in range(num_pages):
            page = lay_out(options, "train", FIRST_PAGE + index)
            lines = []
            for run in sorted(page.runs, key=lambda run: run.y):
                if not lines or run.y - lines[-1][0].y > run.capital_height / 2:
                    lines.append([])
                lines[-1].append(run)
            text = "\n".join(" ".join(run.text for run in sorted(line, key=lambda run: run.x)) for line in lines)
            messages = []
            for run in page.asked:
                question = run.question if messages else f"{text}\n{run.question}"
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": run.text})
            # To copy is what answering takes, and whole pages teach it sooner than answers.
            messages += [{"role": "user", "content": READ}, {"role": "assistant", "content": text}]
            file.write(json.dumps({"messages": messages}) + "\n")


def pretrain(recipe, start, output):
    """Does what `recipe["pretraining"]` says, as far as it has not been done.

    Args:
        recipe (`dict`): of compare.py.
        start (`Path`): a FILA with `fusion_type="cvfm"` to start from.
        output (`Path`): a folder; the pretrained FILA is in `model` in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = recipe["pretraining"]
    vision = output / "vision"
    if not (vision / "model").exists():
        model = FilaForConditionalGeneration.from_pretrained(start, dtype="float32")
        pretrain_vision(recipe, model, vision, **settings["vision"])
        with tempfile.TemporaryDirectory(dir=vision) as temporary:
            folder = Path(temporary) / "model"
            model.save_pretrained(folder)
            AutoProcessor.from_pretrained(start, trust_remote_code=True).save_pretrained(folder)
            os.rename(folder, vision / "model")
        for checkpoint in vision.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    if not (output / "model" / "config.json").exists():
        texts = output / "texts.jsonl"
        options = dict(settings["text"])
        num_pages = options.pop("num_pages")
        if not texts.exists():
            write_texts(Options(output_dir="", **recipe["data"]), num_pages, output / "texts.part")
            os.replace(output / "texts.part", texts)
        options |= {"stage": 2, "report_to": "none", "save_total_limit": 1, "train_data": [str(texts)]}
        options |= {"model_name_or_path": str(vision / "model"), "output_dir": str(output / "model")}
        (output / "text.yaml").write_text(yaml.safe_dump(options))
        subprocess.run([sys.executable, str(ROOT / "train.py"), str(output / "text.yaml")], check=True)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/fineprint/small.yaml")
    parser.add_argument("--model_name_or_path", type=Path, required=True, help="FILA to start from")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to make, or to go on with")
    options = parser.parse_args(arguments)
    pretrain(yaml.safe_load(options.recipe.read_text()), options.model_name_or_path, options.output_dir)


if __name__ == "__main__":
    main()
