# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The four fusion strategies side by side: same data, steps, ViT, decoder and seeds, both stages, one test.

    python benchmarks/fineprint/compare.py recipes/fineprint/small.yaml --output_dir build/compare
    python benchmarks/fineprint/compare.py recipes/fineprint/small.yaml --output_dir build/compare --budget 500

The recipe says everything else: the documents (`data`, options of make_fineprint.py), the networks (`base`, any FILA, or `model`,
changes to the default checkpoint's config, random or with `pretraining` and then, for each strategy, `alignment`; see pretrain.py),
what train.py does (`stage1`, `stage2`) and evaluate.py (`evaluation`), `seeds` and `fusion_types`. Each strategy and seed trains in
a folder of its own, `cvfm-seed0`, through train.py itself. A seed sets the first weights of the fusion (without `base` and
`pretraining`, those of all networks) and the order of the documents in both stages: leg n of seed s has order s + n - 1. All
seeds share the pretraining, the pages of the alignment and the projector that it starts with.

`alignment` may have a list of learning rates: each strategy aligns with all of them, and goes on with the one that ends with the
lowest loss. Its pages are new in each step, so that this loss is one of pages never trained on.

`stage2` may be a list of legs. Each goes on with the weights of the one before, with a learning rate schedule and a seed of its own
and, if it has `data` (changes to the options of the documents), on documents of its own.

Started again, it goes on where it was: what is whole is kept, a stage that was interrupted goes on from its last checkpoint.
With `--budget` it stops by itself after so many seconds, for machines with a time limit. Only training goes on from a checkpoint:
the documents, an evaluation and the first `save_steps` of a stage must each fit into one budget.

The output folder then holds `results.json`, `results.md` (the tables), `results.png` (the plot) and `curves.png` (the losses).
Accuracies are exact match, and in one column ANLS, averaged over the seeds; another column is the share of the accuracy inside
a tile that is lost across a cut, where the questions are others. Intervals of 95 % come from a bootstrap over the questions, and
do not cover what other seeds would give.
"""

import argparse
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from make_fineprint import image_processor
from matplotlib.figure import Figure
from pretrain import CELLS, PRETRAINING
from scipy.stats import DegenerateDataWarning, bootstrap
from transformers import AutoProcessor, GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration
from fila.configuration_fila import FUSION_TYPES
from fila.evaluate import make_bins, mean_with_interval

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"data", "model", "base", "pretraining", "alignment", "stage1", "stage2", "evaluation"}
KEYS |= {"seeds", "fusion_types", "text_height_edges"}
COLUMNS = ("position", "text_height", "kind")  # of the dataset, by which accuracies are given
POSITIONS = ("inside", "across")
MAX_PANELS = 4  # of the losses, side by side
NUM_FINAL_LOSSES = 3  # of a log, that say how an alignment ends
NAMES = {
    "none": "tiles alone (LLaVA-NeXT)",
    "cross_attention": "cross-attention (Mini-Gemini)",
    "channel_concat": "channel concatenation",
    "cvfm": "CVFM (FILA)",
}


class ComparisonError(Exception):
    """Something that the user can mend; the message says how."""


def read_recipe(path):
    """Reads a recipe and fills in what it leaves out.

    Returns:
        `dict` with the keys `KEYS`.

    Raises:
        ComparisonError: it cannot be read, or has unknown keys or values.
    """
    try:
        recipe = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ComparisonError(f"The recipe {path} cannot be read: {error}") from error
    if not isinstance(recipe, dict) or set(recipe) - KEYS:
        raise ComparisonError(f"The recipe {path} is no mapping with the keys {', '.join(sorted(KEYS))}.")
    recipe = {"data": {}, "model": {}, "base": None, "evaluation": {}, "seeds": [0], **recipe}
    recipe = {"fusion_types": list(FUSION_TYPES), "text_height_edges": [10, 12, 16], **recipe}
    for key, allowed in (
        ("fusion_types", FUSION_TYPES),
        ("model", FilaConfig.sub_configs.keys() | {"fusion_layers", "fusion_align"}),
    ):
        if unknown := set(recipe[key]) - set(allowed):
            raise ComparisonError(f"{key} has {sorted(unknown)}; allowed are {', '.join(sorted(allowed))}.")
    if not isinstance(recipe["seeds"], list) or not all(type(seed) is int for seed in recipe["seeds"]):
        raise ComparisonError(f"seeds is {recipe['seeds']!r}; it must be a list of whole numbers, such as [0, 1, 2].")
    for name, _, options in list_legs(recipe):
        if not isinstance(options, dict) or "max_steps" not in options:
            raise ComparisonError(
                f"The recipe {path} does not say max_steps in {name}: all strategies get equal steps."
            )
        if "data" in options and not (isinstance(options["data"], dict) and options["data"]):
            raise ComparisonError(
                f"data of {name} is {options['data']!r}; it must be a mapping of changes, such as {{num_train: 24000}}."
            )
    steps = recipe.get("pretraining")
    if steps and not (isinstance(steps, dict) and {"vision", "decoder"} <= steps.keys() <= PRETRAINING.keys()):
        raise ComparisonError(f"pretraining is {steps!r}; it must have vision and decoder, and may have vit.")
    if aligning := recipe.get("alignment"):
        if not steps:
            raise ComparisonError(
                "The recipe has an `alignment`, which needs `pretraining`: it aligns with its decoder."
            )
        is_mapping = isinstance(aligning, dict)
        rates = [options.get("learning_rate") for _, options in list_alignments(recipe)] if is_mapping else []
        if not rates or not all(type(rate) in (int, float) for rate in rates):
            raise ComparisonError(
                f"alignment is {aligning!r}; its learning_rate must be a number, or a list of numbers to try."
            )
    if recipe["base"] is not None and (recipe["model"] or steps):
        raise ComparisonError("The recipe has a base: its networks leave nothing to `model` and `pretraining`.")
    return recipe


def list_legs(recipe):
    """The trainings of a strategy, in their order.

    Args:
        recipe (`dict`): from [`read_recipe`].

    Returns:
        `list[tuple[str, int, dict]]`: name, stage and options of each: "stage1", then "stage2", "stage2-leg2" and so on.
    """
    legs = recipe.get("stage2")
    legs = legs if isinstance(legs, list) and legs else [legs]
    names = ["stage2", *(f"stage2-leg{number}" for number in range(2, len(legs) + 1))]
    return [("stage1", 1, recipe.get("stage1")), *((name, 2, options) for name, options in zip(names, legs))]


def list_alignments(recipe):
    """The alignments that each strategy tries.

    Args:
        recipe (`dict`): from [`read_recipe`].

    Returns:
        `list[tuple[str, dict]]`: name and options of each: "alignment", or "alignment-0.004" and so on for several rates.
    """
    options = recipe.get("alignment")
    if not options:
        return []
    rates = options.get("learning_rate")
    if not isinstance(rates, list):
        return [("alignment", options)]
    return [(f"alignment-{rate}", {**options, "learning_rate": rate}) for rate in rates]


def read_alignment_losses(recipe, folder):
    """How the alignments of a strategy and seed end.

    Args:
        recipe (`dict`): from [`read_recipe`].
        folder (`Path`): of the strategy and seed.

    Returns:
        `dict[str, float]`: by the name of the alignment, the mean of the last losses in its log.
    """
    ends = {}
    for name, _ in list_alignments(recipe):
        log = json.loads((folder / name / "alignment.json").read_text())["log"]
        losses = [loss for _, loss in _read_losses(log)] or [math.nan]  # `logging_steps` may be too many
        ends[name] = float(np.mean(losses[-NUM_FINAL_LOSSES:]))
    return ends


def load_model(folder):
    """`FilaForConditionalGeneration`: from a folder, in float32."""
    return FilaForConditionalGeneration.from_pretrained(folder, dtype="float32")


def make_random(recipe, seed):
    """A random FILA of the default checkpoint's config with the recipe's changes, and a processor of its geometry.

    Returns:
        `tuple[FilaForConditionalGeneration, FilaProcessor]`
    """
    size = recipe["data"].get("tile_size", 336)
    fields = FilaConfig.from_pretrained(ROOT).to_dict()
    fields["vision_config"]["image_size"] = size
    for key, value in recipe["model"].items():
        fields[key] = {**fields[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**fields, "dtype": "float32"}))
    model.generation_config = GenerationConfig.from_pretrained(ROOT)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    for name in ("size", "image_grid_pinpoints"):  # those of the documents
        setattr(processor.image_processor, name, getattr(image_processor(size), name))
    return model, processor


def make_start(recipe, base, fusion_type, seed, folder):
    """Writes the model that training starts from: the networks of a base, or random ones, and an untrained fusion. But for
    the fusion, a seed gives all strategies the same.

    Args:
        recipe (`dict`): from [`read_recipe`].
        base (`str` or `Path`, *optional*): a FILA.
        fusion_type (`str`): the strategy.
        seed (`int`): of all that is random.
        folder (`Path`): to write.
    """
    if base is None:
        shared, processor = make_random(recipe, seed)
    else:
        shared, processor = load_model(base), AutoProcessor.from_pretrained(base, trust_remote_code=True)
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(FilaConfig(**{**shared.config.to_dict(), "fusion_type": fusion_type}))
    weights = shared.state_dict()
    if fusion_type != "none" and shared.config.fusion_type == "none":
        raise ComparisonError(f"The base {base} has no ConvNeXt: it is of fusion_type 'none'. Choose another one.")
    model.load_state_dict(
        {name: weights[name] if ".fusion." not in name else own for name, own in model.state_dict().items()}
    )
    model.generation_config = shared.generation_config
    processor.image_processor.do_high_res = fusion_type != "none"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


class Runner:
    """Runs scripts one after the other, as long as the budget lasts.

    Args:
        budget (`float`, *optional*): seconds from now on.
    """

    def __init__(self, budget=None):
        self.end = None if budget is None else time.monotonic() + budget

    def __call__(self, script, *arguments):
        """
        Raises:
            subprocess.TimeoutExpired: the budget is used up; the script was stopped.
            ComparisonError: the script failed.
        """
        left = None if self.end is None else max(self.end - time.monotonic(), 0.1)
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        print(f"> {script} {' '.join(map(str, arguments))}", flush=True)
        # A session of its own: a script that is stopped takes along what it has started.
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(left)
        except BaseException:
            os.killpg(process.pid, signal.SIGINT)  # lets them remove what is unfinished
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        if process.returncode:
            raise ComparisonError(
                f"{script} failed, see above. When that is mended, start again: what is whole is kept."
            )


def _data_folder(data, name):
    return data.with_name(f"{data.name}-{name}")


def write_start(folder, *arguments):
    """Calls [`make_start`] for a folder that is whole or not there."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            make_start(*arguments, Path(temporary) / folder.name)
            os.rename(Path(temporary) / folder.name, folder)


def run_strategy(recipe, base, fusion_type, seed, data, folder, run):
    """Trains and evaluates one strategy with one seed, as far as it has not been done.

    Args:
        recipe (`dict`): from [`read_recipe`].
        base (`str` or `Path`, *optional*): a FILA whose networks it starts from; the pretrained one, for an alignment.
        fusion_type (`str`), seed (`int`): the strategy and what its chance comes from.
        data (`Path`): the documents, beside which are those of the legs.
        folder (`Path`): of this strategy and seed.
        run ([`Runner`]): runs train.py and evaluate.py.
    """
    model = folder / "start"
    write_start(model, recipe, base, fusion_type, seed)
    for name, options in list_alignments(recipe):
        if not (folder / name / "model").exists():
            part = folder / f"{name}.json"
            part.write_text(json.dumps({**recipe, "alignment": options}))
            arguments = ("--model_name_or_path", model, "--output_dir", folder / name, "--align", base.parent / CELLS)
            run("benchmarks/fineprint/pretrain.py", part, *arguments)
    if losses := read_alignment_losses(recipe, folder):
        model = folder / min(losses, key=losses.get) / "model"
    for number, (name, stage, options) in enumerate(list_legs(recipe)):
        output = folder / name
        if not (output / "config.json").exists():
            options = {"report_to": "none", "save_total_limit": 1, **options, "stage": stage}
            options["seed"] = seed + max(0, number - 1)  # another order of the same documents
            options |= {"model_name_or_path": str(model), "output_dir": str(output)}
            options["train_data"] = [str(_data_folder(data, name) if options.pop("data", None) else data)]
            leg_recipe = folder / f"{name}.yaml"
            leg_recipe.write_text(yaml.safe_dump(options))
            run("train.py", leg_recipe)
        for checkpoint in output.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        model = output
    if not (folder / "evaluation").exists():
        options = {"batch_size": 16, **recipe["evaluation"], "model_name_or_path": model, "data": data}
        options["output_dir"] = folder / "evaluation"
        flags = [text for key, value in options.items() for text in (f"--{key}", value)]
        edges = ",".join(map(str, recipe["text_height_edges"]))
        run("evaluate.py", *flags, "--group_by", "position", "kind", f"text_height:{edges}")


def read_predictions(output, recipe):
    """`pd.DataFrame`: `fusion_type`, `seed`, `row`, `em`, `anls` and the columns `COLUMNS` of every answer of every run."""
    parts = []
    for fusion_type in recipe["fusion_types"]:
        for seed in recipe["seeds"]:
            text = (output / f"{fusion_type}-seed{seed}" / "evaluation" / "predictions.jsonl").read_text("utf-8")
            lines = [json.loads(line) for line in text.splitlines()]
            part = pd.DataFrame(
                [{**{key: line[key] for key in ("row", "em", "anls")}, **line["groups"]} for line in lines]
            )
            parts.append(part.assign(fusion_type=fusion_type, seed=seed))
    return pd.concat(parts, ignore_index=True)


def _percent(values):
    """`list[float]`: mean of `values` and both bounds of its interval of 95 %, in percent; `None` without values."""
    if len(values) == 0:
        return None
    mean, bounds = mean_with_interval(values)
    return [100 * value for value in (mean, *(bounds or (mean, mean)))]


def _percent_lost(is_inside, read, other=None):
    """The share of what is read inside a tile that is lost across a cut; with `other`, how much more of it than there.

    Args:
        is_inside (`pd.Series`): of each question.
        read, other (`pd.Series`): its exact match.

    Returns:
        `list[float]`: that and both bounds of its interval of 95 %, in percent; `None` where so little is read inside that
        a resample may have none of it.
    """

    def share(read, is_inside, axis):
        inside = (read * is_inside).sum(axis) / is_inside.sum(axis)
        across = (read * (1 - is_inside)).sum(axis) / (1 - is_inside).sum(axis)
        return 1 - across / inside

    def lost(is_inside, read, other=None, axis=-1):
        with np.errstate(divide="ignore", invalid="ignore"):
            return share(read, is_inside, axis) - (0 if other is None else share(other, is_inside, axis))

    samples = [values.to_numpy(float) for values in (is_inside, read, other) if values is not None]
    value = lost(*samples)
    if not np.isfinite(value) or len(read) < 2:
        return None
    batch = max(1, 2**22 // len(read))  # resamples that are in memory together
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # speaks of a method that is not used
        found = bootstrap(
            samples, lost, paired=True, method="percentile", batch=batch, rng=np.random.default_rng(0)
        ).confidence_interval
    return [100 * float(x) for x in (value, *found)] if np.isfinite(found).all() else None


def summarize(predictions, edges):
    """Accuracies of every strategy.

    Args:
        predictions (`pd.DataFrame`): from [`read_predictions`].
        edges (`list[float]`): of the bins of text heights, in pixels of the ViT's canvas.

    Returns:
        `dict`: for each strategy `overall`, `inside`, `across`, `text_height` and `kind` (exact match: means with bounds), `anls`
        (the same of ANLS), `lost` (see [`_percent_lost`]), `seeds` (exact match of each) and, by the other strategies,
        `differences`, how much more exact match this one has, question by question, and `lost_differences`, how much more it loses.
    """
    cells = predictions.groupby(["fusion_type", "row"], sort=False)
    # One value for a question, the mean over the seeds.
    items = cells.agg({"em": "mean", "anls": "mean", **dict.fromkeys(COLUMNS, "first")}).reset_index()
    items["text_height"] = make_bins(items["text_height"], edges)
    answers = items.pivot(index="row", columns="fusion_type", values="em")
    is_inside = items.groupby("row")["position"].first() == "inside"
    summary = {}
    for fusion_type, part in items.groupby("fusion_type", sort=False):
        seeds = predictions[predictions["fusion_type"] == fusion_type].groupby("seed")["em"].mean()
        summary[fusion_type] = {
            "overall": _percent(part["em"]),
            "anls": _percent(part["anls"]),
            **{position: _percent(part["em"][part["position"] == position]) for position in POSITIONS},
            "lost": _percent_lost(is_inside, answers[fusion_type]),
            **{
                column: {str(name): _percent(rows["em"]) for name, rows in part.groupby(column, observed=True)}
                for column in ("text_height", "kind")
            },
            "seeds": {str(seed): 100 * value for seed, value in seeds.items()},
            "differences": {
                name: _percent(answers[fusion_type] - other) for name, other in answers.items() if name != fusion_type
            },
            "lost_differences": {
                name: _percent_lost(is_inside, answers[fusion_type], other)
                for name, other in answers.items()
                if name != fusion_type
            },
        }
    return summary


def describe_runs(output, recipe, summary):
    """Adds to the summary what the model folders and the evaluations know: parameters and time per image."""
    for fusion_type, values in summary.items():
        folders = [output / f"{fusion_type}-seed{seed}" for seed in recipe["seeds"]]
        results = [json.loads((folder / "evaluation" / "results.json").read_text()) for folder in folders]
        values["parameters"] = load_model(folders[0] / list_legs(recipe)[-1][0]).num_parameters()
        values["milliseconds_per_image"] = 1000 * float(np.median([result["seconds_per_image"] for result in results]))
        values["environment"] = results[0]["environment"]
        values["alignment_losses"] = [read_alignment_losses(recipe, folder) for folder in folders]


def make_tables(recipe, summary):
    """`str`: the results in Markdown."""

    def cell(values):
        return "" if values is None else f"{values[0]:.1f} [{values[1]:.1f}, {values[2]:.1f}]"

    heights = list(dict.fromkeys(name for values in summary.values() for name in values["text_height"]))
    kinds = list(dict.fromkeys(name for values in summary.values() for name in values["kind"]))
    lines = [
        "# The four fusion strategies",
        "",
        f"Exact match (and in one column ANLS) in percent, {len(recipe['seeds'])} seed(s), with 95 % intervals from a bootstrap "
        "over the questions. Lost is what is missing across a cut of the exact match inside a tile, as a share of it; below 0, "
        "more is right across. Text heights are those of capitals, in pixels of the ViT's canvas.",
        "",
        "| strategy | all | inside a tile | across a cut | lost across, % of inside | ANLS | parameters | ms per image |",
        "|---|---|---|---|---|---|---:|---:|",
    ]
    for fusion_type, values in summary.items():
        cells = [cell(values.get(key)) for key in ("overall", *POSITIONS, "lost", "anls")]
        cells += [f"{values['parameters'] / 1e6:.2f} M", f"{values['milliseconds_per_image']:.1f}"]
        lines.append(f"| {NAMES[fusion_type]} | {' | '.join(cells)} |")
    pairs = (("reads more", "differences"), ("loses more across", "lost_differences")) if len(summary) > 1 else ()
    for title, key in pairs:
        header = f"| {title} than the strategy of the column, in points | "
        lines += ["", header + " | ".join(NAMES[name] for name in summary) + " |", "|---|" + "---|" * len(summary)]
        for fusion_type, values in summary.items():
            cells = [cell(values[key].get(name)) for name in summary]
            lines.append(f"| {NAMES[fusion_type]} | {' | '.join(cells)} |")
    for title, names, key in (("text height", heights, "text_height"), ("kind", kinds, "kind")):
        lines += ["", f"| {title} | {' | '.join(NAMES[name] for name in summary)} |", "|---|" + "---|" * len(summary)]
        for name in names:
            lines.append(f"| {name} | {' | '.join(cell(values[key].get(name)) for values in summary.values())} |")
    lines += ["", "| seed | " + " | ".join(NAMES[name] for name in summary) + " |", "|---|" + "---|" * len(summary)]
    for seed in map(str, recipe["seeds"]):
        cells = [f"{values['seeds'][seed]:.1f}" for values in summary.values()]
        lines.append(f"| {seed} | {' | '.join(cells)} |")
    alignments = list_alignments(recipe)
    if len(alignments) > 1:
        header = "| loss at the end of the alignment, by its learning rate; the lowest is gone on with | "
        lines += ["", header + " | ".join(NAMES[name] for name in summary) + " |", "|---|" + "---|" * len(summary)]
        for name, options in alignments:
            ends = [[losses[name] for losses in values["alignment_losses"]] for values in summary.values()]
            cells = [", ".join(f"{loss:.3f}" for loss in losses) for losses in ends]
            lines.append(f"| {options['learning_rate']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_bars(axis, results, keys, labels):
    """Draws means with their intervals, a group of bars for each strategy.

    Args:
        axis (`matplotlib.axes.Axes`): where to draw.
        results (`dict[str, dict]`): for each strategy, a list of mean and both bounds, or `None`, under each key.
        keys (`tuple[str]`), labels (`tuple[str]`): two values, and what they are called.
    """
    places = np.arange(len(results))
    for index, (key, label) in enumerate(zip(keys, labels)):
        values = np.array([result[key] or [np.nan] * 3 for result in results.values()]).T
        errors = [values[0] - values[1], values[2] - values[0]]
        axis.bar(places + (index - 0.5) * 0.38, values[0], 0.36, yerr=errors, capsize=3, label=label)
    axis.set_xticks(places, [NAMES[name].replace(" (", "\n(") for name in results], fontsize=8)
    axis.grid(axis="y", alpha=0.3)


def plot(summary, path):
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
    for axis in (left, right):
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def read_curves(output, recipe):
    """`dict[str, dict[str, list]]`: for each step of the recipe, lists of [step, loss] of every run that has a log."""
    curves = {}
    for step in PRETRAINING:
        path = output / "pretrained" / step / f"{step}.json"
        if path.exists():
            curves[f"pretraining, {step}"] = {"all": _read_losses(json.loads(path.read_text())["log"])}
    logs = [(name, f"{name}/log_history.json") for name, *_ in list_legs(recipe)]
    alignments = [(name, f"{name}/alignment.json") for name, _ in list_alignments(recipe)]
    for step, name in (*alignments, *logs):
        for seed in recipe["seeds"]:
            for fusion_type in recipe["fusion_types"]:
                path = output / f"{fusion_type}-seed{seed}" / name
                if path.exists():
                    log = json.loads(path.read_text())
                    log = log["log"] if isinstance(log, dict) else log
                    curves.setdefault(step, {})[f"{fusion_type}, seed {seed}"] = _read_losses(log)
    return curves


def _read_losses(log):
    return [[entry["step"], float(entry["loss"])] for entry in log if "loss" in entry]


def plot_curves(curves, path):
    """Draws losses over steps, a panel for each step of the recipe, into a PNG."""
    columns = min(len(curves), MAX_PANELS)
    rows = math.ceil(len(curves) / columns)
    figure = Figure(figsize=(3.6 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(curves) :]:
        axis.remove()
    for axis, (title, runs) in zip(axes, curves.items()):
        for name, points in runs.items():
            axis.plot(*zip(*points), label=name, linewidth=1)
        axis.set(title=title, xlabel="step", yscale="log")
        axis.grid(alpha=0.3)
        if len(runs) > 1:
            axis.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def write_summary(output, recipe):
    """Writes results.json, results.md, results.png and, of the losses, curves.png."""
    summary = summarize(read_predictions(output, recipe), recipe["text_height_edges"])
    describe_runs(output, recipe, summary)
    with tempfile.TemporaryDirectory(dir=output) as temporary:
        folder = Path(temporary)
        plot(summary, folder / "results.png")
        curves = read_curves(output, recipe)
        plot_curves(curves, folder / "curves.png")
        (folder / "results.md").write_text(make_tables(recipe, summary))
        (folder / "results.json").write_text(
            json.dumps({"recipe": recipe, "results": summary, "curves": curves}, indent=2) + "\n"
        )
        for name in ("curves.png", "results.png", "results.md", "results.json"):
            os.replace(folder / name, output / name)
    print((output / "results.md").read_text())


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file, such as recipes/fineprint/small.yaml")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the comparison, new or begun")
    parser.add_argument("--budget", type=float, help="stop after so many seconds (default: when all is done)")
    options = parser.parse_args(arguments)
    try:
        compare(read_recipe(options.recipe), options.output_dir, Runner(options.budget))
    except ComparisonError as error:
        sys.exit(f"error: {error}")
    except subprocess.TimeoutExpired:
        print("The budget is used up. Start again to go on.")


def compare(recipe, output, run):
    """Does what the recipe says, as far as it has not been done.

    Args:
        recipe (`dict`): from [`read_recipe`].
        output (`Path`): the folder.
        run ([`Runner`]): runs the scripts.

    Raises:
        ComparisonError: the folder belongs to another recipe, or a script failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    written = output / "recipe.json"
    if written.exists() and json.loads(written.read_text()) != recipe:
        raise ComparisonError(f"{output} was begun with another recipe. Choose another --output_dir.")
    if not written.exists():
        (output / "recipe.part").write_text(json.dumps(recipe, indent=2) + "\n")
        os.replace(output / "recipe.part", written)
    data = output / "data"
    changes = [
        (_data_folder(data, name), options["data"]) for name, _, options in list_legs(recipe) if "data" in options
    ]
    for folder, change in [(data, {}), *changes]:
        if not folder.exists():
            flags = []
            for key, value in {**recipe["data"], **change}.items():
                flags += [f"--{key}", *(value if isinstance(value, list) else [value])]
            run("benchmarks/fineprint/make_fineprint.py", "--output_dir", folder, *flags)
    base = recipe["base"]
    if recipe.get("pretraining"):
        start, base = output / "random", output / "pretrained" / "decoder" / "model"
        write_start(start, recipe, None, "cvfm", recipe["seeds"][0])
        if not base.exists():
            arguments = ("--model_name_or_path", start, "--output_dir", output / "pretrained")
            run("benchmarks/fineprint/pretrain.py", written, *arguments)
    for seed in recipe["seeds"]:
        for fusion_type in recipe["fusion_types"]:
            run_strategy(recipe, base, fusion_type, seed, data, output / f"{fusion_type}-seed{seed}", run)
    write_summary(output, recipe)


if __name__ == "__main__":
    main()
