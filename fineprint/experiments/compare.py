# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The four fusion strategies side by side: same documents, steps, ViT, decoder and seeds, both stages, one test.

    python fineprint/experiments/compare.py fineprint/recipes/small.yaml --output_dir build/compare

The recipe says everything else. All networks are pretrained together, then aligned for each strategy (see pretrain.py).
Each leg of stage 2 goes on with the weights of the one before, with an order of its own (that of seed + number - 1) and,
if it has `data` (changes to the options of generate.py), on documents of its own. A seed sets the first weights of the
fusion (without pretraining, those of all networks) and the order of the documents.

Started again, it continues where it was: what is whole is kept, and a training continues from its last checkpoint. The
output folder then holds `results.json`, `results.md` (a table) and `results.png` (a plot). Intervals do not cover what
other seeds would give.
"""

import json
import shutil
from copy import copy
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import get_origin

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from transformers import AutoProcessor, GenerationConfig
from transformers.hf_argparser import HfArg

from fila import FilaConfig, FilaForConditionalGeneration, run_eval, train
from fila.common.arguments import UserError, make_options, parse_arguments, read_yaml, run_command
from fila.common.files import new_files, new_folder
from fila.common.layout import ROOT
from fila.configuration_fila import FUSION_TYPES
from fila.evaluation.metrics import make_bins, mean_with_interval
from fila.fineprint import generate
from fila.fineprint.experiments.pretrain import CELLS, PARTS, align, load_fila, train_part
from fila.fineprint.pages import Options, image_processor

NAMES = {
    "none": "tiles alone (LLaVA-NeXT)",
    "cross_attention": "cross-attention (Mini-Gemini)",
    "channel_concat": "channel concatenation",
    "cvfm": "CVFM (FILA)",
}


@dataclass
class ComparisonArguments:
    """A comparison. Most options are mappings, which only a recipe can give."""

    output_dir: str = HfArg(help="Folder of the comparison, new or begun.")
    data: dict = HfArg(default_factory=dict, help="Options of generate.py.")
    model: dict = HfArg(default_factory=dict, help="Changes to the config of the default checkpoint.")
    pretraining: dict = HfArg(default_factory=dict, help=f"Options of each part: {', '.join(PARTS)}.")
    alignment: dict = HfArg(default_factory=dict, help="Its options; learning_rate may be a list, to take the best.")
    stage1: dict = HfArg(default_factory=dict, help="Options of train.py.")
    stage2: list[dict] = HfArg(default_factory=list, help="Options of train.py for each leg, and data.")
    evaluation: dict = HfArg(default_factory=dict, help="Options of run_eval.py.")
    fusion_types: list[str] = HfArg(default_factory=lambda: list(FUSION_TYPES), help=", ".join(FUSION_TYPES))
    seeds: list[int] = HfArg(default_factory=lambda: [0], help="Each strategy is trained with each of them.")
    text_height_edges: list[float] = HfArg(default_factory=lambda: [10, 12, 16], help="Edges of classes, in pixels.")

    def __post_init__(self):
        for field in fields(self):
            value, kind = getattr(self, field.name), get_origin(field.type) or field.type
            if not isinstance(value, kind) or (field.name == "stage2" and not value):
                name = "mapping" if kind is dict else kind.__name__
                raise UserError(f"{field.name} is {value!r}; it must be a {name}.")
        config_fields = (*FilaConfig.sub_configs, "fusion_layers", "fusion_align")
        for name, allowed in (("fusion_types", FUSION_TYPES), ("model", config_fields), ("pretraining", PARTS)):
            if unknown := set(getattr(self, name)) - set(allowed):
                raise UserError(f"{name} has {sorted(unknown)}; allowed are {', '.join(allowed)}.")
        if self.alignment and not ("decoder" in self.pretraining and "learning_rate" in self.alignment):
            raise UserError("An alignment needs a learning_rate, or a list to try, and the decoder in `pretraining`.")
        names = ["stage2", *(f"stage2-leg{number + 1}" for number in range(1, len(self.stage2)))]
        # Name, stage and options of each training of a strategy.
        self.stages = [("stage1", 1, self.stage1), *((name, 2, leg) for name, leg in zip(names, self.stage2))]
        self.documents = {}  # their `Options` in each training
        for name, _, settings in self.stages:
            if not isinstance(settings, dict) or "max_steps" not in settings:
                raise UserError(f"There is no max_steps in {name}; all strategies get equal steps.")
            changes = settings.get("data", {})
            place = {"output_dir": str(Path(self.output_dir) / (f"data-{name}" if changes else "data"))}
            values = {**self.data, **changes, **place} if isinstance(changes, dict) else changes
            self.documents[name] = make_options(Options, values, f"data of {name}")


def make_random(data, changes, seed):
    """`tuple[FilaForConditionalGeneration, FilaProcessor]`: a random FILA of the default checkpoint's config with
    `changes`, for documents of the options `data`, and its processor."""
    config = FilaConfig.from_pretrained(ROOT).to_dict()
    config["vision_config"]["image_size"] = data.tile_size
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**config, "dtype": "float32"}))
    model.generation_config = GenerationConfig.from_pretrained(ROOT)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    processor.image_processor = copy(image_processor(data.tile_size))
    return model, processor


def make_start(shared, processor, fusion_type, seed, output):
    """Writes the folder of a model to start from, unless it is there: the networks of the FILA `shared`, and an untrained
    fusion, whose weights the seed gives."""
    if output.exists():
        return
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**shared.config.to_dict(), "fusion_type": fusion_type}))
    weights, own = shared.state_dict(), model.state_dict()
    model.load_state_dict({name: own[name] if ".fusion." in name else weights[name] for name in own})
    model.generation_config = shared.generation_config
    processor.image_processor.do_high_res = fusion_type != "none"
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def pretrain(options):
    """`Path`: the folder of the FILA whose networks all strategies start from, with the fusion of the paper."""
    output, data, seed = Path(options.output_dir), options.documents["stage1"], options.seeds[0]
    start = output / "random"
    make_start(*make_random(data, options.model, seed), "cvfm", seed, start)
    for part in (part for part in PARTS if part in options.pretraining):
        train_part(part, data, options.pretraining[part], start, output / "pretrained" / part)
        start = output / "pretrained" / part / "model"
    return start


def run_strategy(options, base, fusion_type, seed):
    """Trains and evaluates one strategy with one seed, as far as it has not been done, from the networks of the FILA in
    the folder `base`, or from random ones."""
    folder, data = Path(options.output_dir) / f"{fusion_type}-seed{seed}", options.documents["stage1"]
    model, shared = folder / "start", make_random(data, options.model, seed) if base is None else load_fila(base)
    make_start(*shared, fusion_type, seed, model)
    if options.alignment:
        model = align(data, options.alignment, model, base / CELLS, folder / "alignment")
    for number, (name, stage, settings) in enumerate(options.stages):
        start, model = model, folder / name
        if not (model / "config.json").exists():
            settings = {"report_to": "none", "save_total_limit": 1, **settings, "stage": stage}
            settings["seed"] = seed + max(0, number - 1)  # another order of the same documents
            settings |= {"model_name_or_path": str(start), "output_dir": str(model)}
            settings["train_data"] = [options.documents[name].output_dir]
            settings.pop("data", None)
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
            train.train(*train.parse([folder / f"{name}.yaml"]))
        for checkpoint in model.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    if not (folder / "evaluation").exists():
        settings = {"batch_size": 16, "group_by": ["position", "kind", "text_height"], **options.evaluation}
        settings |= {
            "model_name_or_path": str(model),
            "data": data.output_dir,
            "output_dir": str(folder / "evaluation"),
        }
        run_eval.evaluate(make_options(run_eval.EvaluationArguments, settings, "evaluation"))


def to_percent(values):
    """`list[float]`: mean of `values` and both bounds of its interval of 95 %, in percent."""
    mean, bounds = mean_with_interval(values)
    return [100 * value for value in (mean, *(bounds or (mean, mean)))]


def summarize_answers(answers, edges):
    """`dict[str, dict]`: for each strategy exact match, ANLS, exact match by group and by seed, and how much more of it than
    each other strategy has, question by question; in percent, see [`to_percent`]. `answers` is a `pd.DataFrame` with
    `fusion_type`, `seed`, `row`, `em`, `anls`, `position`, `text_height` and `kind`, `edges` are those of the classes of
    text heights, in pixels of the ViT's canvas."""
    groups = ["position", "text_height", "kind"]
    answers = answers.assign(text_height=make_bins(answers["text_height"], edges))
    # One value for a question, the mean over the seeds.
    keys = ["fusion_type", "row", *groups]
    items = answers.groupby(keys, sort=False, observed=True)[["em", "anls"]].mean().reset_index()
    read = items.pivot(index="row", columns="fusion_type", values="em")
    summary = {}
    for name, part in items.groupby("fusion_type", sort=False):
        values = {"exact match": part["em"], "ANLS": part["anls"]}
        for group in groups:
            values |= {f"{group} {key}": rows["em"] for key, rows in part.groupby(group, observed=True)}
        values |= {f"more than {other}": read[name] - read[other] for other in read if other != name}
        seeds = answers[answers["fusion_type"] == name].groupby("seed")["em"].mean()
        summary[name] = {key: to_percent(value) for key, value in values.items()}
        summary[name] |= {f"seed {seed}": 100 * value for seed, value in seeds.items()}
    return summary


def make_table(header, rows):
    """`str`: a table in Markdown. Cells are texts, numbers or lists of a mean and both bounds of its interval."""

    def show(cell):
        if isinstance(cell, list):
            return "{:.1f} [{:.1f}, {:.1f}]".format(*cell)
        return f"{cell:.1f}" if isinstance(cell, float) else str(cell)

    lines = (header, ["---"] * len(header), *rows)
    return "".join(f"| {' | '.join(map(show, cells))} |\n" for cells in lines)


def write_results(options, name, title, text, table, results, labels):
    """Writes NAME.json, NAME.md (a text with a table) and NAME.png into the output folder. The plot has a bar for each
    strategy and each key of `labels`, under which are a mean and both bounds of its interval."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.add_subplot(ylabel="%", title=title)
    places = np.arange(len(results))
    for index, (key, label) in enumerate(labels.items()):
        mean, low, high = np.array([result.get(key, [np.nan] * 3) for result in results.values()]).T
        axis.bar(places + (index - 0.5) * 0.38, mean, 0.36, yerr=[mean - low, high - mean], capsize=3, label=label)
    axis.set_xticks(places, [NAMES[name].replace(" (", "\n(") for name in results], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)
    with new_files(options.output_dir, last=f"{name}.json") as folder:
        figure.savefig(folder / f"{name}.png", dpi=110)
        (folder / f"{name}.md").write_text(f"# {title}\n\n{text}\n\n{table}")
        content = {"recipe": asdict(options), "results": results}
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    print(table)


def write_comparison(options):
    """Gathers what the evaluations of all strategies and seeds have found."""
    parts = []
    for name, seed in product(options.fusion_types, options.seeds):
        path = Path(options.output_dir) / f"{name}-seed{seed}" / "evaluation" / "predictions.jsonl"
        part = pd.read_json(path, lines=True, dtype=False)
        part = part[["row", "em", "anls"]].join(pd.DataFrame(part["groups"].tolist()))
        parts.append(part.assign(fusion_type=name, seed=seed))
    summary = summarize_answers(pd.concat(parts, ignore_index=True), options.text_height_edges)
    keys = dict.fromkeys(key for values in summary.values() for key in values)
    rows = [(key, *(values.get(key, "") for values in summary.values())) for key in keys]
    table = make_table(("", *(NAMES[name] for name in summary)), rows)
    text = "In percent, with 95 % intervals over the questions. Text heights are those of capitals, in pixels of the canvas."
    labels = {"position inside": "inside a tile", "position across": "across a cut"}
    write_results(options, "results", "The four fusion strategies: exact match", text, table, summary, labels)


def compare(options):
    """Does what the options say, as far as it has not been done."""
    saved, recipe = Path(options.output_dir) / "recipe.yaml", asdict(options)
    del recipe["output_dir"]  # a folder may move
    if not saved.exists():
        with new_files(options.output_dir) as folder:
            (folder / saved.name).write_text(yaml.safe_dump(recipe, sort_keys=False))
    if read_yaml(saved) != recipe:
        raise UserError(f"{options.output_dir} was begun with another recipe. Choose another --output_dir.")
    for data in options.documents.values():
        if not Path(data.output_dir).exists():
            generate.write(data)
    base = pretrain(options) if options.pretraining else None
    for seed in options.seeds:
        for fusion_type in options.fusion_types:
            run_strategy(options, base, fusion_type, seed)
    write_comparison(options)


def main(arguments=None):
    (options,) = parse_arguments(ComparisonArguments, __doc__, arguments)
    compare(options)


if __name__ == "__main__":
    run_command(main)
