# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The four fusion strategies side by side: same documents, steps, ViT, decoder and seeds, both stages, one test.

    python fineprint/experiments/compare.py fineprint/recipes/small.yaml --output_dir build/compare

The recipe says everything else: the documents (`data`, options of generate.py), the networks (`base`, any FILA, or
`model`, changes to the default checkpoint's config, random or with `pretraining` and then, for each strategy,
`alignment`; see pretrain.py), what train.py does (`stage1`, `stage2`) and run_eval.py (`evaluation`), `seeds` and
`fusion_types`. A seed sets the first weights of the fusion (without `base` and `pretraining`, those of all networks)
and the order of the documents.

`stage2` may be a list of legs. Each starts from the weights of the one before, with a learning rate schedule and an
order of its own (that of seed + number - 1) and, if it has `data` (changes to the options of the documents), on
documents of its own.

Started again, it continues where it was: what is whole is kept, and a training continues from its last checkpoint.
Where time is limited, `timeout --signal INT 3000 python ...` stops it.

The output folder then holds `results.json`, `results.md` (the tables) and `results.png` (the plot). Accuracies are
exact match, and in one column ANLS, averaged over the seeds; another column is the share of the accuracy inside a tile
that is lost across a cut, where the questions are others. Intervals of 95 % come from a bootstrap over the questions,
and do not cover what other seeds would give.
"""

import argparse
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from scipy.stats import DegenerateDataWarning, bootstrap
from transformers import AutoProcessor, GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor
from fila.common.arguments import UserError, read_yaml, run_command
from fila.common.files import new_files, new_folder
from fila.common.layout import ROOT, image_grid_pinpoints
from fila.configuration_fila import FUSION_TYPES
from fila.evaluation.metrics import make_bins, mean_with_interval
from fila.fineprint.experiments.pretrain import CELLS, load_fila

DEFAULTS = dict.fromkeys(("base", "pretraining", "alignment", "stage1", "stage2"))
DEFAULTS |= {"data": {}, "model": {}, "evaluation": {}, "seeds": [0]}
DEFAULTS |= {"fusion_types": list(FUSION_TYPES), "text_height_edges": [10, 12, 16]}
POSITIONS = ("inside", "across")
NAMES = {
    "none": "tiles alone (LLaVA-NeXT)",
    "cross_attention": "cross-attention (Mini-Gemini)",
    "channel_concat": "channel concatenation",
    "cvfm": "CVFM (FILA)",
}


def read_recipe(path):
    """`dict`: a recipe, with `DEFAULTS` for what it leaves out. Raises a `UserError` if it cannot be read or has
    unknown keys or values."""
    content = read_yaml(path)
    if unknown := sorted(map(str, content.keys() - DEFAULTS.keys())):
        raise UserError(f"The recipe {path} has the unknown options {unknown}; allowed are {', '.join(DEFAULTS)}.")
    recipe = {**DEFAULTS, **content}
    for problem in find_problems(recipe):
        raise UserError(f"The recipe {path} is invalid: {problem}")
    return recipe


def find_problems(recipe):
    """Yields a sentence for each value of a recipe that is not allowed."""
    for key in ("data", "model", "evaluation"):
        if not isinstance(recipe[key], dict):
            yield f"{key} is {recipe[key]!r}; it must be a mapping of options to values."
    config_fields = FilaConfig.sub_configs.keys() | {"fusion_layers", "fusion_align"}
    for key, allowed in (("fusion_types", FUSION_TYPES), ("model", config_fields)):
        if unknown := set(recipe[key]) - set(allowed):
            yield f"{key} has {sorted(unknown)}; allowed are {', '.join(sorted(allowed))}."
    seeds, steps, alignment = recipe["seeds"], recipe["pretraining"], recipe["alignment"]
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        yield f"seeds is {seeds!r}; it must be a list of whole numbers, such as [0, 1, 2]."
    for name, _, options in list_stages(recipe):
        if not isinstance(options, dict) or "max_steps" not in options:
            yield f"there is no max_steps in {name}; all strategies get equal steps."
        elif "data" in options and not (isinstance(options["data"], dict) and options["data"]):
            yield f"data of {name} is {options['data']!r}; it must be a mapping of changes, such as {{num_train: 24000}}."
    if steps and not (
        isinstance(steps, dict) and {"vision", "decoder"} <= steps.keys() <= {"vision", "vit", "decoder"}
    ):
        yield f"pretraining is {steps!r}; it must have vision and decoder, and may have vit."
    if alignment and not steps:
        yield "it has an `alignment`, which needs `pretraining`: it aligns with its decoder."
    if alignment:
        rates = alignment.get("learning_rate") if isinstance(alignment, dict) else None
        rates = rates if isinstance(rates, list) else [rates]
        if not rates or not all(type(rate) in (int, float) for rate in rates):
            yield f"alignment is {alignment!r}; its learning_rate must be a number, or a list of numbers to try."
    if recipe["base"] is not None and (recipe["model"] or steps):
        yield "it has a base, whose networks leave nothing to `model` and `pretraining`."


def list_stages(recipe):
    """`list[tuple[str, int, dict]]`: name, stage and options of a strategy's trainings, in their order."""
    legs = recipe["stage2"] if isinstance(recipe["stage2"], list) and recipe["stage2"] else [recipe["stage2"]]
    names = ["stage2", *(f"stage2-leg{number}" for number in range(2, len(legs) + 1))]
    return [("stage1", 1, recipe["stage1"]), *((name, 2, options) for name, options in zip(names, legs))]


def make_random(recipe, seed):
    """`tuple[FilaForConditionalGeneration, FilaProcessor]`: a random FILA of the default checkpoint's config with the
    recipe's changes, and a processor of its geometry."""
    size = recipe["data"].get("tile_size", 336)
    fields = FilaConfig.from_pretrained(ROOT).to_dict()
    fields["vision_config"]["image_size"] = size
    for key, value in recipe["model"].items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**fields, "dtype": "float32"}))
    model.generation_config = GenerationConfig.from_pretrained(ROOT)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    processor.image_processor = FilaImageProcessor(size=size, image_grid_pinpoints=image_grid_pinpoints(size))
    return model, processor


def make_start(recipe, base, fusion_type, seed, output):
    """Writes the folder of the model that training starts from, unless it is there: the networks of a `base`, or random
    ones, and an untrained fusion. But for the fusion, a seed gives all strategies the same."""
    if output.exists():
        return
    shared, processor = make_random(recipe, seed) if base is None else load_fila(base)
    if fusion_type != "none" and shared.config.fusion_type == "none":
        raise UserError(f"The base {base} has no ConvNeXt: its fusion_type is 'none'. Choose another one.")
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**shared.config.to_dict(), "fusion_type": fusion_type}))
    weights = shared.state_dict()
    own = model.state_dict().items()
    model.load_state_dict({name: value if ".fusion." in name else weights[name] for name, value in own})
    model.generation_config = shared.generation_config
    processor.image_processor.do_high_res = fusion_type != "none"
    with new_folder(output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)


def run(script, *arguments, **options):
    """Runs a script of this repository with arguments and `--option value`, as a user would.

    Raises:
        UserError: it failed.
    """
    arguments = list(map(str, arguments))
    for key, value in options.items():
        arguments += [f"--{key}", *map(str, value if isinstance(value, list) else [value])]
    print(f"> python {script} {' '.join(arguments)}", flush=True)
    if subprocess.run([sys.executable, str(ROOT / script), *arguments]).returncode:
        raise UserError(f"{script} failed, see above. When that is fixed, start again: what is whole is kept.")


def run_strategy(recipe, base, fusion_type, seed, output):
    """Trains and evaluates one strategy with one seed, as far as it has not been done. It starts from the networks of
    the `base`, which is the pretrained FILA if there is an alignment."""
    folder = output / f"{fusion_type}-seed{seed}"
    model = folder / "start"
    make_start(recipe, base, fusion_type, seed, model)
    if recipe["alignment"]:
        start, model = model, folder / "alignment" / "model"
        if not model.exists():
            places = {"model_name_or_path": start, "output_dir": model.parent, "align": base.parent / CELLS}
            run("fineprint/experiments/pretrain.py", output / "recipe.yaml", **places)
    for number, (name, stage, options) in enumerate(list_stages(recipe)):
        start, model = model, folder / name
        if not (model / "config.json").exists():
            options = {"report_to": "none", "save_total_limit": 1, **options, "stage": stage}
            options["seed"] = seed + max(0, number - 1)  # another order of the same documents
            options["train_data"] = [str(output / (f"data-{name}" if options.pop("data", None) else "data"))]
            options |= {"model_name_or_path": str(start), "output_dir": str(model)}
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(options))
            run("train.py", folder / f"{name}.yaml")
        for checkpoint in model.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    if not (folder / "evaluation").exists():
        options = {"batch_size": 16, **recipe["evaluation"], "output_dir": folder / "evaluation"}
        groups = ["position", "kind", "text_height:" + ",".join(map(str, recipe["text_height_edges"]))]
        run("run_eval.py", model_name_or_path=model, data=output / "data", group_by=groups, **options)


def read_answers(output, recipe):
    """`pd.DataFrame`: `fusion_type`, `seed`, `row`, `em`, `anls`, `position`, `text_height` and `kind` of every
    answer."""
    parts = []
    for fusion_type in recipe["fusion_types"]:
        for seed in recipe["seeds"]:
            path = output / f"{fusion_type}-seed{seed}" / "evaluation" / "predictions.jsonl"
            part = pd.read_json(path, lines=True, convert_dates=False, dtype=False)
            part = part[["row", "em", "anls"]].join(pd.DataFrame(part["groups"].tolist()))
            parts.append(part.assign(fusion_type=fusion_type, seed=seed))
    return pd.concat(parts, ignore_index=True)


def to_percent(values):
    """`list[float]`: mean of `values` and both bounds of its interval of 95 %, in percent; `None` without values."""
    if len(values) == 0:
        return None
    mean, bounds = mean_with_interval(values)
    return [100 * value for value in (mean, *(bounds or (mean, mean)))]


def share_lost(is_inside, read, axis=-1):
    """Share of what is read inside a tile (0 or 1 for each question, as `is_inside`) that is lost across a cut."""
    inside = (read * is_inside).sum(axis) / is_inside.sum(axis)
    return 1 - (read * (1 - is_inside)).sum(axis) / (1 - is_inside).sum(axis) / inside


def more_lost(is_inside, read, other, axis=-1):
    """How much more of it is lost than of `other`, what another strategy reads; see [`share_lost`]."""
    return share_lost(is_inside, read, axis) - share_lost(is_inside, other, axis)


def to_percent_lost(statistic, *samples):
    """`list[float]`: [`share_lost`] or [`more_lost`] of samples and both bounds of its interval of 95 %, in percent;
    `None` where so little is read inside that a resample may have none of it."""
    samples = [sample.to_numpy(float) for sample in samples]
    settings = {"paired": True, "method": "percentile", "rng": np.random.default_rng(0)}
    settings["batch"] = max(1, 2**22 // len(samples[0]))  # resamples that are in memory together
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # speaks of a method that is not used
        value = statistic(*samples)
        if not np.isfinite(value) or len(samples[0]) < 2:
            return None
        bounds = bootstrap(samples, statistic, **settings).confidence_interval
    return [100 * float(x) for x in (value, *bounds)] if np.isfinite(bounds).all() else None


def summarize_answers(answers, edges):
    """Accuracies of every strategy, from [`read_answers`]; `edges` are those of the bins of text heights, in pixels of
    the ViT's canvas.

    Returns:
        `dict`: for each strategy `overall`, `inside`, `across`, `text_height` and `kind` (exact match: means with
        bounds), `anls` (the same of ANLS), `lost` (see [`share_lost`]), `seeds` (exact match of each) and, by the other
        strategies, `differences`, how much more exact match this one has, question by question, and `lost_differences`,
        how much more it loses.
    """
    values = {"em": "mean", "anls": "mean", "position": "first", "text_height": "first", "kind": "first"}
    # One value for a question, the mean over the seeds.
    items = answers.groupby(["fusion_type", "row"], sort=False).agg(values).reset_index()
    items["text_height"] = make_bins(items["text_height"], edges)
    read = items.pivot(index="row", columns="fusion_type", values="em")
    is_inside = items.groupby("row")["position"].first() == "inside"
    summary = {}
    for fusion_type, part in items.groupby("fusion_type", sort=False):
        own, others = read[fusion_type], read.drop(columns=fusion_type).items()
        seeds = answers[answers["fusion_type"] == fusion_type].groupby("seed")["em"].mean()
        summary[fusion_type] = {
            "overall": to_percent(part["em"]),
            "anls": to_percent(part["anls"]),
            **{position: to_percent(part["em"][part["position"] == position]) for position in POSITIONS},
            "lost": to_percent_lost(share_lost, is_inside, own),
            **{
                column: {str(name): to_percent(rows["em"]) for name, rows in part.groupby(column, observed=True)}
                for column in ("text_height", "kind")
            },
            "seeds": {str(seed): 100 * value for seed, value in seeds.items()},
            "differences": {name: to_percent(own - other) for name, other in read.items() if name != fusion_type},
            "lost_differences": {name: to_percent_lost(more_lost, is_inside, own, other) for name, other in others},
        }
    return summary


def make_table(header, rows):
    """`str`: a table in Markdown. Cells are texts, numbers or lists of a mean and both bounds of its interval."""

    def show(cell):
        if isinstance(cell, list | tuple):
            return "{:.1f} [{:.1f}, {:.1f}]".format(*cell)
        return "" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell)

    lines = (header, ["---"] * len(header), *rows)
    return "".join(f"| {' | '.join(map(show, cells))} |\n" for cells in lines)


def make_report(summary):
    """`str`: the results in Markdown."""
    names = [NAMES[fusion_type] for fusion_type in summary]
    keys = ("overall", *POSITIONS, "lost", "anls")
    header = ("strategy", "all", "inside a tile", "across a cut", "lost across, % of inside", "ANLS", "M parameters")
    rows = [
        (NAMES[name], *map(values.get, keys), f"{values['parameters'] / 1e6:.2f}", values["milliseconds_per_image"])
        for name, values in summary.items()
    ]
    tables = [make_table((*header, "ms per image"), rows)]
    for title, key in (("reads more", "differences"), ("loses more across", "lost_differences")):
        rows = [(NAMES[name], *map(values[key].get, summary)) for name, values in summary.items()]
        tables += [make_table((f"{title} than the strategy of the column, in points", *names), rows)] * (len(names) > 1)
    for title, key in (("text height", "text_height"), ("kind", "kind"), ("seed", "seeds")):
        groups = dict.fromkeys(group for values in summary.values() for group in values[key])
        rows = [(group, *(values[key].get(group) for values in summary.values())) for group in groups]
        tables.append(make_table((title, *names), rows))
    text = (
        "# The four fusion strategies\n\nExact match (and in one column ANLS) in percent, with 95 % intervals from a "
        "bootstrap over the questions. Lost is what is missing across a cut of the exact match inside a tile, as a share "
        "of it; below 0, more is right across. Text heights are those of capitals, in pixels of the ViT's canvas.\n"
    )
    return "\n".join((text, *tables))


def draw_bars(axis, results, keys, labels):
    """Draws means with their intervals, two bars for each strategy: `results` has, under each of two keys, a list of
    mean and both bounds, or `None`."""
    places = np.arange(len(results))
    for index, (key, label) in enumerate(zip(keys, labels)):
        mean, low, high = np.array([result[key] or [np.nan] * 3 for result in results.values()]).T
        axis.bar(places + (index - 0.5) * 0.38, mean, 0.36, yerr=[mean - low, high - mean], capsize=3, label=label)
    axis.set_xticks(places, [NAMES[name].replace(" (", "\n(") for name in results], fontsize=8)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)


def plot_accuracies(summary, path):
    """Draws accuracy inside and across, and over text heights, into a PNG."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_bars(left, summary, POSITIONS, ("inside a tile", "across a cut"))
    left.set(ylabel="exact match, %", title="where the answer lies")
    for fusion_type, values in summary.items():
        heights = values["text_height"]
        right.plot(list(heights), [value[0] for value in heights.values()], marker="o", label=NAMES[fusion_type])
    right.set(xlabel="height of capitals, pixels of the ViT's canvas", title="size of the text")
    right.grid(axis="y", alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def write_comparison(output, recipe):
    """Writes results.json, results.md (the tables) and results.png (the plot)."""
    summary = summarize_answers(read_answers(output, recipe), recipe["text_height_edges"])
    for fusion_type, values in summary.items():
        folders = [output / f"{fusion_type}-seed{seed}" for seed in recipe["seeds"]]
        results = [json.loads((folder / "evaluation" / "results.json").read_text()) for folder in folders]
        values["parameters"] = load_fila(folders[0] / list_stages(recipe)[-1][0])[0].num_parameters()
        values["milliseconds_per_image"] = 1000 * float(np.median([result["seconds_per_image"] for result in results]))
        values["environment"] = results[0]["environment"]
    with new_files(output, last="results.json") as folder:
        plot_accuracies(summary, folder / "results.png")
        (folder / "results.md").write_text(make_report(summary))
        (folder / "results.json").write_text(json.dumps({"recipe": recipe, "results": summary}, indent=2) + "\n")
    print((output / "results.md").read_text())


def compare(recipe, output):
    """Does what the recipe says in the folder `output`, as far as it has not been done.

    Raises:
        UserError: the folder belongs to another recipe, or a script failed.
    """
    saved, base = output / "recipe.yaml", recipe["base"]
    if not saved.exists():
        with new_files(output) as folder:
            (folder / saved.name).write_text(yaml.safe_dump(recipe, sort_keys=False))
    if read_yaml(saved) != recipe:
        raise UserError(f"{output} was begun with another recipe. Choose another --output_dir.")
    changes = [(f"data-{name}", options["data"]) for name, _, options in list_stages(recipe) if "data" in options]
    for name, change in [("data", {}), *changes]:
        if not (output / name).exists():
            run("fineprint/generate.py", output_dir=output / name, **{**recipe["data"], **change})
    if recipe["pretraining"]:
        start, base = output / "random", output / "pretrained" / "decoder" / "model"
        make_start(recipe, None, "cvfm", recipe["seeds"][0], start)
        if not base.exists():
            places = {"model_name_or_path": start, "output_dir": output / "pretrained"}
            run("fineprint/experiments/pretrain.py", saved, **places)
    for seed in recipe["seeds"]:
        for fusion_type in recipe["fusion_types"]:
            run_strategy(recipe, base, fusion_type, seed, output)
    write_comparison(output, recipe)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file, such as fineprint/recipes/small.yaml")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the comparison, new or begun")
    options = parser.parse_args(arguments)
    compare(read_recipe(options.recipe), options.output_dir)


if __name__ == "__main__":
    run_command(main)
