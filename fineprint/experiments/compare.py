# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The fusion strategies side by side: how many words their visual tokens hold, inside the tiles and across the cuts.

    python fineprint/experiments/compare.py fineprint/recipes/comparison.yaml --output_dir build/comparison

For each strategy and seed an encoder with its projector learns to name the characters in the cell of each visual token (see
pretrain.py): all on the same pages, in the same order, for the same steps. Fusion and projector begin untrained, ViT and ConvNeXt
as those of the FILA named by `start`, or untrained, too. Then the encoder names the characters of test pages, whose fonts and
texts it has not seen. A word counts as read if all its characters are named right. It lies across a cut if its box does. Beside
the four strategies stands the ConvNeXt alone: its features take the place of the ViT's.

Started again, it continues where it was. The output folder then holds `comparison.json`, `comparison.md` (a table) and
`comparison.png` (a plot). Intervals are over pages; they do not cover what other seeds would give, which the table shows.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_files
from fila.evaluation.metrics import mean_with_interval
from fila.fineprint.experiments.cells import locate_characters, place_characters
from fila.fineprint.experiments.pretrain import EncoderPretraining, train_network
from fila.fineprint.experiments.train_checkpoint import WEIGHTS, CheckpointArguments, make_model, make_pages
from fila.fineprint.pages import PageOptions, make_page
from fila.fineprint.tiles import Canvas

NAMES = {
    "none": "tiles alone (LLaVA-NeXT)",
    "convnext": "ConvNeXt alone",
    "cross_attention": "cross-attention (Mini-Gemini)",
    "channel_concat": "channel concatenation",
    "cvfm": "CVFM (FILA)",
}


@dataclass
class ComparisonArguments(CheckpointArguments):
    """What is compared. Of the training of a checkpoint, the pages, the model and the part `encoder` are used."""

    fusion_types: list[str] = HfArg(default_factory=lambda: list(NAMES), help=", ".join(NAMES))
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Each is one training of each strategy."})
    num_pages: int = HfArg(default=200, help="Test pages.")

    def __post_init__(self):
        super().__post_init__()
        for name in set(self.fusion_types) - set(NAMES):
            raise UserError(f"fusion_types has {name!r}; allowed are {', '.join(NAMES)}.")
        if self.num_pages < 2:
            raise UserError(f"--num_pages is {self.num_pages}; it must be at least 2.")


def make_encoder(options, fusion_type, seed):
    """`tuple[EncoderPretraining, FilaProcessor]`: the encoder of a strategy, its fusion and projector untrained."""
    is_alone = fusion_type == "convnext"
    changes = {**options.model, "fusion_type": "channel_concat" if is_alone else fusion_type}
    model, processor = make_model(replace(options, model=changes, seed=seed, start=None))
    processor.image_processor.do_high_res, tower = fusion_type != "none", model.model.vision_tower
    if options.start:
        start = make_model(options)[0].model.vision_tower
        for name in ("vit", "convnext")[: 1 + (fusion_type != "none")]:
            getattr(tower, name).load_state_dict(getattr(start, name).state_dict())
    if is_alone:  # nothing of the ViT reaches the projector
        tower.fusion[0].register_forward_pre_hook(lambda module, inputs: (torch.zeros_like(inputs[0]), *inputs[1:]))
        tower.vit.requires_grad_(False)
    return EncoderPretraining(model), processor


@torch.inference_mode()
def read_words(network, processor, options):
    """`pd.DataFrame`: for each word of the test pages, its `page`, its `position` ("inside" a tile or "across" a cut), and
    whether it is `read`."""
    image_processor, rows, device = processor.image_processor, [], next(network.parameters()).device
    side, patch_size = image_processor.size["height"], image_processor.patch_size
    num_cells, page_options = side // patch_size, PageOptions("test", options.tile_size, assets=options.assets)
    for number in tqdm(range(options.num_pages), unit="page", leave=False):
        page = make_page(options.seed, number, page_options)
        characters, canvas = locate_characters(page), Canvas(page.image.size[::-1], side)
        shape = canvas.grid[0] * num_cells, canvas.grid[1] * num_cells
        _, places = place_characters(characters, canvas.scale, canvas.offset, patch_size, shape)
        found = network.name(**image_processor(page.image, return_tensors="pt").to(device))[num_cells**2 :].cpu()
        found = found.view(*canvas.grid, num_cells, num_cells, -1).transpose(1, 2).reshape(*shape, -1).numpy()
        points, half = canvas.to_canvas(characters.points), characters.sizes * canvas.scale / 2
        low, high = (points - half) // side, (points + half) // side
        words = pd.DataFrame({"word": characters.words, "x": low[:, 0], "y": low[:, 1], "right": high[:, 0]})
        words["bottom"], words["place"] = high[:, 1], [place is not None for place in places]
        words["read"] = [bool(place and found[place] == index) for place, index in zip(places, characters.indices)]
        for _, word in words.groupby("word"):
            if word["place"].all():  # its cells hold no more than can be named
                is_inside = word["x"].min() == word["right"].max() and word["y"].min() == word["bottom"].max()
                position = "inside" if is_inside else "across"
                rows.append({"page": number, "position": position, "read": bool(word["read"].all())})
    return pd.DataFrame(rows)


def run_strategy(options, fusion_type, seed):
    """Trains an encoder and lets it read, as far as it has not been done. Returns what [`read_words`] does."""
    folder = Path(options.output_dir) / f"{fusion_type}-seed{seed}"
    if not (folder / "words.parquet").exists():
        network, processor = make_encoder(options, fusion_type, seed)
        if not (folder / WEIGHTS).exists():
            settings = dict(options.encoder)
            pages = make_pages(options, settings, processor.for_model(network.model[0].config), seed)
            train_network(network, pages.make_images, folder, **settings)
            with new_files(folder) as new:
                save_file(network.state_dict(), new / WEIGHTS)
        network.load_state_dict(load_file(folder / WEIGHTS))
        words = read_words(network.eval(), processor, options)
        with new_files(folder) as new:
            words.to_parquet(new / "words.parquet")
    return pd.read_parquet(folder / "words.parquet")


def to_percent(values):
    """`list[float]`: mean of `values` and both bounds of its interval of 95 %, in percent."""
    mean, bounds = mean_with_interval(values)
    return [100 * value for value in (mean, *(bounds or (mean, mean)))]


def summarize_words(words):
    """`dict[str, dict]`: for each strategy the share of words that are read, `inside` and `across`, their difference, `drop`,
    all with intervals, see [`to_percent`]; what is `lost` across a cut of what is read inside; and `seeds`. Averages are
    over the pages that have words of both kinds. `words` are those of [`read_words`], with `fusion_type` and `seed`."""
    shares = words.groupby(["fusion_type", "page", "position"], sort=False)["read"].mean().unstack().dropna()
    summary = {}
    for name, pages in shares.groupby("fusion_type", sort=False):
        seeds = words[words["fusion_type"] == name].groupby("seed")["read"].mean()
        values = {"inside": pages["inside"], "across": pages["across"], "drop": pages["inside"] - pages["across"]}
        summary[name] = {key: to_percent(value) for key, value in values.items()}
        inside, across = (pages[key].mean() for key in ("inside", "across"))
        summary[name]["lost"] = 100 * (1 - across / inside) if inside else 0.0
        summary[name] |= {f"seed {seed}": 100 * value for seed, value in seeds.items()}
    return summary


def write_results(options, summary):
    """Writes `comparison.json`, `comparison.md` and `comparison.png` into the output folder."""
    title, keys = "Words that visual tokens hold", list(next(iter(summary.values())))
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axis, places = figure.add_subplot(ylabel="%", title=title), np.arange(len(summary))
    for index, (key, label) in enumerate({"inside": "inside a tile", "across": "across a cut"}.items()):
        mean, low, high = np.array([values[key] for values in summary.values()]).T
        axis.bar(places + (index - 0.5) * 0.38, mean, 0.36, yerr=[mean - low, high - mean], capsize=3, label=label)
    axis.set_xticks(places, [NAMES[name].replace(" (", "\n(") for name in summary], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)

    def show(cell):
        return "{:.1f} [{:.1f}, {:.1f}]".format(*cell) if isinstance(cell, list) else f"{cell:.1f}"

    rows = [("strategy", *keys), ["---"] * (1 + len(keys))]
    rows += [(NAMES[name], *(show(values[key]) for key in keys)) for name, values in summary.items()]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    with new_files(options.output_dir, last="comparison.json") as folder:
        figure.savefig(folder / "comparison.png", dpi=110)
        (folder / "comparison.md").write_text(f"# {title}\n\nIn percent, with 95 % intervals over pages.\n\n{table}")
        content = {"recipe": asdict(options), "results": summary}
        (folder / "comparison.json").write_text(json.dumps(content, indent=2) + "\n")
    print(table)


def main(arguments=None):
    (options,) = parse_arguments(ComparisonArguments, __doc__, arguments)
    parts = []
    for seed, fusion_type in product(options.seeds, options.fusion_types):
        parts.append(run_strategy(options, fusion_type, seed).assign(fusion_type=fusion_type, seed=seed))
    write_results(options, summarize_words(pd.concat(parts, ignore_index=True)))


if __name__ == "__main__":
    run_command(main)
