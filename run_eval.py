# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a vision-language model on questions about images: how many answers are right, overall and by group.

python evaluate.py --model_name_or_path stage2 --data build/fineprint --output_dir results/stage2 \\
    --group_by position kind text_height:8,10,12,16 'position*text_height:12'

The model is a folder or a Hub id: a FILA, or any model of transformers that `AutoModelForImageTextToText` loads and that
has a processor with a chat template. Code that comes with it is run.

The data is what train.py takes: a .json, .jsonl or .parquet file, a folder of `save_to_disk`, or a dataset on the Hub; rows of
LLaVA or chats. The first question of a row is asked, with what comes before it, and decoded greedily. Its reference is
the assistant's answer, or any of the texts in the column `answers` if the row has one.

Scores of an answer, from the library anls_star; case and the amount of white space do not count, all else does:

- ANLS: 1 - edit distance / length of the longer text, of the closest reference; 0 if below 0.5;
- exact match: 1 if the ANLS is 1, else 0.

Means come with intervals of 95 % confidence, from scipy's percentile bootstrap over the questions. Scores that are all equal
give an interval without width, which does not mean certainty.

The output folder is complete or absent: `results.json`, `results.md` (tables), `predictions.jsonl` (an answer each line, in the order of the
data) and `mistakes.png` (unless there are none). With a column `box`, eight numbers that are the corners (x, y) of the answer
in pixels of the image, the mistakes are shown with a close-up of that place.

For TextVQA, DocVQA, ChartQA and others see lmms_eval_fila.py.
"""

import json
import os
import platform
import sys
import tempfile
import textwrap
import time
import warnings
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anls_star import anls_score
from datasets import ClassLabel, Value
from matplotlib.figure import Figure
from scipy.stats import bootstrap
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser

from fila.train import DTYPES, UserError as TrainingError
from fila.training.data import decode_image, get_image_size, load_source, read_row

MAX_DISTINCT_VALUES = 8  # a numeric column with more is cut into quartiles
VERSIONS = ("transformers", "torch", "datasets", "anls_star", "scipy")


class EvaluationError(Exception):
    """Something that the user can mend; the message says how."""


@dataclass
class EvaluationArguments:
    """What is evaluated, on what, and where the results go."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "The model: a folder or Hub id."})
    data: str | None = field(default=None, metadata={"help": "A file, a folder of save_to_disk or a Hub dataset."})
    name: str | None = field(default=None, metadata={"help": "Configuration of a Hub dataset."})
    split: str = field(default="test", metadata={"help": "Split of the dataset; a file has none."})
    image_folder: str | None = field(default=None, metadata={"help": "Where relative paths of images start."})
    output_dir: str = field(default="results", metadata={"help": "A folder to make."})
    group_by: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Columns, or COLUMN:EDGE,EDGE,... for numbers; those without edges are cut into quartiles. With * between "
            "them, every combination."
        },
    )
    limit: int | None = field(default=None, metadata={"help": "Ask the first so many rows."})
    batch_size: int = field(default=8, metadata={"help": "Questions that are answered together."})
    max_new_tokens: int = field(default=32, metadata={"help": "Longest answer, in tokens."})
    num_workers: int = field(default=0, metadata={"help": "Processes that read the images."})
    num_mistakes: int = field(default=12, metadata={"help": "Mistakes in the picture, worst first; 0: no picture."})
    dtype: str = field(default="auto", metadata={"help": f"Of the weights: {', '.join(DTYPES)}."})
    device: str | None = field(default=None, metadata={"help": "Such as cuda or cpu; an accelerator if there is one."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Such as sdpa or flash_attention_2."})


def check_arguments(options):
    """Raises an `EvaluationError` for values that are not allowed."""
    for name in ("model_name_or_path", "data"):
        if getattr(options, name) is None:
            raise EvaluationError(f"Not given: --{name}. `--help` says what it may be.")
    for name, least in (
        ("limit", 1),
        ("batch_size", 1),
        ("max_new_tokens", 1),
        ("num_workers", 0),
        ("num_mistakes", 0),
    ):
        value = getattr(options, name)
        if value is not None and value < least:
            raise EvaluationError(f"--{name} {value} is too small: give {least} or more.")
    if options.dtype not in DTYPES:
        raise EvaluationError(f"--dtype {options.dtype} is not one of {', '.join(DTYPES)}.")
    if Path(options.output_dir).exists():
        raise EvaluationError(f"--output_dir {options.output_dir} exists already. Choose another one, or remove it.")
    parent = next(folder for folder in Path(options.output_dir).absolute().parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise EvaluationError(f"--output_dir {options.output_dir} cannot be made in {parent}. Choose another one.")


def load_data(options):
    """Opens the dataset.

    Returns:
        [`~fila.train.Source`]: with the rows that are asked.

    Raises:
        EvaluationError: it cannot be opened, or is empty.
    """
    entry = {key: getattr(options, key) for key in ("name", "split", "image_folder")}
    try:
        source = load_source(0, {"path": options.data, **entry})
    except TrainingError as error:
        raise EvaluationError(f"--data {error}") from error
    if options.limit is not None:
        source.dataset = source.dataset.select(range(min(options.limit, len(source.dataset))))
    if len(source.dataset) == 0:
        raise EvaluationError(f"--data {source.name} has no rows: there is nothing to ask.")
    return source


def load_model(options):
    """Loads model and processor.

    Returns:
        `tuple[PreTrainedModel, ProcessorMixin]`: the model in eval mode, on its device.

    Raises:
        EvaluationError: it is no vision-language model, or the device cannot hold it.
    """
    name = options.model_name_or_path
    kwargs = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=True)
        # A folder without one gives a tokenizer or an image processor alone.
        if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
            raise ValueError("it has no processor of images and text.")
        if processor.chat_template is None:
            raise ValueError("its processor has no chat template.")
        model = AutoModelForImageTextToText.from_pretrained(
            name, trust_remote_code=True, dtype=options.dtype, **kwargs
        ).eval()
    except (OSError, ValueError, ImportError) as error:
        raise EvaluationError(
            f"--model_name_or_path {name} is no vision-language model that can be loaded: {error}"
        ) from error
    device = options.device or torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"--device {device} cannot be used for this model: {reason}") from error
    model.generation_config.update(do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None)
    return model, processor


def read_question(row, image_folder=""):
    """The first question of a row.

    Args:
        row (`dict`): of any kind that [`~fila.train.read_row`] takes, perhaps with `answers`.
        image_folder (`str`, *optional*): what relative paths start from.

    Returns:
        `dict`: `messages` before the first answer, `images` of these, unopened, and `references`, a list of texts.

    Raises:
        ValueError: the row breaks the rules, or has no answer; says how.
    """
    example = read_row(row, image_folder)
    roles = [message["role"] for message in example["messages"]]
    messages, answer = example["messages"][: roles.index("assistant")], example["messages"][roles.index("assistant")]
    references = row.get("answers") or [_get_text(answer)]
    if not isinstance(references, list) or not all(isinstance(text, str) and text.strip() for text in references):
        raise ValueError(f"has the 'answers' {references!r}; allowed is a list of texts that are not empty")
    num_images = sum(item["type"] == "image" for message in messages for item in message["content"])
    return {"messages": messages, "images": example["images"][:num_images], "references": references}


def _get_text(message):
    return "".join(item["text"] for item in message["content"] if item["type"] == "text").strip()


def make_index(source, processor):
    """Reads every question, without pixels.

    Args:
        source ([`~fila.train.Source`]): the data.
        processor (`ProcessorMixin`): of the model.

    Returns:
        `list[dict]`: `row`, `question`, `references`, `num_images` and `size`, which is large where the prompt is long:
        the number of image tokens for a FILA, of pixels for other models.

    Raises:
        EvaluationError: a row breaks the rules, or misses its image.
    """
    measure = getattr(processor.image_processor, "get_number_of_image_tokens", lambda height, width: height * width)
    index = []
    for number, row in enumerate(source.dataset):
        try:
            question = read_question(row, source.image_folder)
            size = sum(measure(*get_image_size(image)) for image in question["images"])
        except ValueError as error:
            raise EvaluationError(f"--data {source.describe(number)} {error}. Mend or remove this row.") from error
        entry = {"row": number, "question": _get_text(question["messages"][-1]), "references": question["references"]}
        index.append({**entry, "num_images": len(question["images"]), "size": size})
    return index


def make_inputs(processor, conversations):
    """`BatchFeature`: model inputs of conversations that wait for an answer, padded on the left."""
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


def generate(model, processor, inputs, **kwargs):
    """Answers a batch.

    Args:
        model (`PreTrainedModel`), processor (`ProcessorMixin`): from [`load_model`].
        inputs (`BatchFeature`): from [`make_inputs`], on any device.
        kwargs: of the model's `generate`; greedy if they do not say otherwise.

    Returns:
        `list[str]`: the answers without special tokens, stripped.
    """
    inputs = inputs.to(model.device, dtype=model.dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, **kwargs)
    new_tokens = output[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in processor.batch_decode(new_tokens, skip_special_tokens=True)]


@dataclass
class QuestionCollator:
    """Reads questions and their images, in the worker, and makes model inputs of them.

    Args:
        processor (`ProcessorMixin`): of the model.
        source ([`~fila.train.Source`]): the data.
    """

    processor: object
    source: object

    def __call__(self, rows):
        """
        Returns:
            `tuple`: the rows, and the model's inputs. In place of inputs an `EvaluationError` if an
            image is broken: raised in a worker, it would arrive with a traceback for a message.
        """
        try:
            conversations = [self.read(row) for row in rows]
        except EvaluationError as error:
            return rows, error
        return rows, make_inputs(self.processor, conversations)

    def read(self, row):
        """`list[dict]`: the conversation of a row, whose image items carry the decoded images."""
        question = read_question(self.source.dataset[row], self.source.image_folder)
        try:
            images = iter([decode_image(image) for image in question["images"]])
        except ValueError as error:
            raise EvaluationError(f"--data {self.source.describe(row)} {error}. Mend or remove this row.") from error
        return [
            {
                "role": message["role"],
                "content": [
                    {"type": "image", "image": next(images)} if item["type"] == "image" else item
                    for item in message["content"]
                ],
            }
            for message in question["messages"]
        ]


def answer(model, processor, source, index, options):
    """Asks all questions, those of like size together and the largest first, so that memory runs out early or not at all.

    Returns:
        `list[str]`: the answers in the order of `index`, stripped.
    """
    order = sorted(index, key=lambda entry: (entry["size"], len(entry["question"])), reverse=True)
    loader = DataLoader(
        [entry["row"] for entry in order],
        batch_size=options.batch_size,
        collate_fn=QuestionCollator(processor, source),
        num_workers=options.num_workers,
    )
    answers = [""] * len(index)
    with tqdm(total=len(index), unit=" questions") as progress:
        for rows, inputs in loader:
            if isinstance(inputs, EvaluationError):
                raise inputs
            texts = generate(model, processor, inputs, max_new_tokens=options.max_new_tokens)
            for row, text in zip(rows, texts):
                answers[row] = text
            progress.update(len(rows))
    return answers


def score(prediction, references):
    """`dict`: `em` (0 or 1) and `anls` (0 to 1) of an answer, for the closest of the references; see the top of this file."""
    anls = anls_score(tuple(references), prediction)  # a tuple holds alternatives
    return {"em": int(anls == 1), "anls": anls}


def mean_with_interval(values):
    """Mean with a 95 % confidence interval, from a percentile bootstrap.

    Args:
        values (`np.ndarray` of shape `(n,)`): one for each question.

    Returns:
        `tuple[float, list[float] | None]`: the mean, and both bounds unless there is just one value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), None
    batch = max(1, 2**22 // len(values))  # resamples that are in memory together
    found = bootstrap((values,), np.mean, method="percentile", batch=batch, rng=np.random.default_rng(0))
    return float(values.mean()), [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def summarize(scores):
    """Means with 95 % confidence intervals.

    Args:
        scores (`pd.DataFrame`): columns `em` and `anls`.

    Returns:
        `dict`: `n`, and for each score its mean, and under `em_ci` and `anls_ci` a list of both bounds, or `None` for a
        single question.
    """
    summary = {"n": len(scores)}
    for name in ("em", "anls"):
        summary[name], summary[f"{name}_ci"] = mean_with_interval(scores[name])
    return summary


def parse_groups(names, features):
    """Reads `--group_by`.

    Args:
        names (`list[str]`): columns, perhaps with `:EDGE,EDGE,...`, and several of them with `*` between.
        features (`Features`): of the dataset.

    Returns:
        `dict[str, dict[str, list[float] | None]]`: for each grouping, named after its columns, their edges.

    Raises:
        EvaluationError: a column that does not exist or holds no plain values, or edges that make no bins.
    """
    allowed = [name for name, feature in features.items() if isinstance(feature, Value | ClassLabel)]
    groups = {}
    for name in names:
        columns = {}
        for given in [name] if name in allowed else name.split("*"):
            column, _, edges = (given, "", "") if given in allowed else given.rpartition(":")
            column = column or edges
            if column not in allowed:
                raise EvaluationError(
                    f"--group_by {name}: no column {column!r} with plain values. Choose from "
                    f"{', '.join(allowed) or 'none'}."
                )
            columns[column] = None
            if column != given:
                try:
                    columns[column] = [float(edge) for edge in edges.split(",")]
                except ValueError:
                    columns[column] = []
                is_number = features[column].dtype.startswith(("int", "uint", "float"))
                if not columns[column] or not is_number or not (np.diff(columns[column]) > 0).all():
                    raise EvaluationError(
                        f"--group_by {name}: edges are rising numbers with commas between, for a column of numbers, such "
                        "as text_height:8,10,12."
                    )
        groups["*".join(columns)] = columns
    return groups


def read_columns(dataset, groups):
    """`pd.DataFrame`: the columns of `groups` for every row; labels of classes are texts."""
    table = pd.DataFrame(index=range(len(dataset)))
    for column in dict.fromkeys(column for columns in groups.values() for column in columns):
        table[column] = dataset.select_columns(column).to_pandas()[column]
        feature = dataset.features[column]
        if isinstance(feature, ClassLabel):
            names = dict(enumerate(feature.names))
            table[column] = table[column].map(names)
    return table


def make_groups(table, columns):
    """The group that each row belongs to, for one grouping.

    Args:
        table (`pd.DataFrame`): from [`read_columns`].
        columns (`dict[str, list[float] | None]`): the edges of each column.

    Returns:
        `pd.Series` of names, those of several columns with commas between; ordered categories.
    """
    bins = [make_bins(table[column], edges) for column, edges in columns.items()]
    names = [", ".join(parts) for parts in product(*(part.cat.categories for part in bins))]
    return pd.Series(pd.Categorical(map(", ".join, zip(*bins)), categories=names, ordered=True), index=table.index)


def make_bins(values, edges=None):
    """The group that each value belongs to.

    Args:
        values (`pd.Series`): of a column.
        edges (`list[float]`, *optional*): rising; an edge begins its bin. Numbers without edges are cut into quartiles,
            unless there are few different ones.

    Returns:
        `pd.Series` of names, `"none"` where a value is missing; ordered categories.
    """
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if edges is None and is_number and values.nunique() > MAX_DISTINCT_VALUES:
        edges = sorted({float(f"{edge:.3g}") for edge in values.quantile([0.25, 0.5, 0.75])})
    if edges is None:
        distinct = sorted(values.dropna().unique())
        names = {value: f"{value:g}" if is_number else str(value) for value in distinct}
        bins = pd.Categorical(values.map(names), categories=list(dict.fromkeys(names.values())), ordered=True)
    else:
        between = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:])]
        labels = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and above"]
        bins = pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=labels).array
    bins = bins.set_categories(list(dict.fromkeys([*bins.categories, "none"])))
    return pd.Series(bins.fillna("none"), index=values.index)


def draw_mistakes(mistakes, source, path):
    """Saves a picture of questions with what was expected and answered.

    Args:
        mistakes (`list[dict]`): lines of predictions.jsonl.
        source ([`~fila.train.Source`]): the data.
        path (`Path`): a PNG file to write.
    """
    num_columns = min(3, len(mistakes))
    num_rows = -(-len(mistakes) // num_columns)
    figure = Figure(figsize=(4.5 * num_columns, 5.5 * num_rows), layout="constrained")
    panels = figure.subfigures(num_rows, num_columns, squeeze=False).flat
    for panel, mistake in zip(panels, mistakes):
        row = source.dataset[mistake["row"]]
        images = [decode_image(image) for image in read_question(row, source.image_folder)["images"][:1]]
        box = row.get("box")
        corners = np.reshape(box, (4, 2)) if images and isinstance(box, list) and len(box) == 8 else None
        heights = [2] if corners is None else [2, 1]  # the image, and the close-up below
        axes = panel.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        texts = {"asked": mistake["question"], "expected": " | ".join(mistake["references"])}
        texts["answered"] = mistake["prediction"]
        lines = [f"row {mistake['row']}, ANLS {mistake['anls']:.2f}"]
        for label, text in texts.items():
            lines += textwrap.wrap(textwrap.shorten(f"{label}: {text}", 150, placeholder=" ..."), 55)
        # Dollars in an answer are no formula.
        axes[0].set_title("\n".join(lines), fontsize=8, loc="left", parse_math=False)
        for axis in axes:
            axis.set(xticks=[], yticks=[])  # a frame is left, for white paper
        for image in images:
            _show(axes[0], image)
            if corners is not None:
                axes[0].fill(*corners.T, fill=False, edgecolor="red", linewidth=1)
                low, high = corners.min(0), corners.max(0)
                margin = max(high - low) * 0.5
                region = np.clip([low - margin, high + margin], 0, image.size).round().astype(int)
                if (region[1] > region[0]).all():
                    _show(axes[1], image.crop(region.flatten().tolist()), region[0])
                    axes[1].fill(*corners.T, fill=False, edgecolor="red", linewidth=1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # models write in any script, the font does not
        figure.savefig(path, dpi=110)


def _show(axis, image, corner=(0, 0)):
    """Draws an image, or a part of one whose left top is `corner` (x, y), in pixels of the whole."""
    (left, top), (width, height) = corner, image.size
    small = image.copy()
    small.thumbnail((1000, 1000))
    axis.imshow(small, extent=(left, left + width, top + height, top))


def make_tables(results):
    """`str`: the results in Markdown."""

    def cells(summary):
        for name in ("em", "anls"):
            interval = summary[f"{name}_ci"]
            bounds = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
            yield f"{100 * summary[name]:.1f}{bounds}"

    settings, environment = results["settings"], results["environment"]
    lines = [
        f"# {settings['model_name_or_path']} on {settings['data']}, {settings['split']}",
        "",
        f"Greedy answers of up to {settings['max_new_tokens']} tokens; {environment['dtype']} on {environment['processor']}, "
        f"transformers {environment['transformers']}. In percent, with 95 % confidence intervals (percentile bootstrap over "
        "questions). Case and the amount of white space do not count.",
        "",
        "| grouping | group | questions | exact match | ANLS |",
        "|---|---|---:|---:|---:|",
    ]
    rows = [("all", "", results["overall"])]
    rows += [(grouping, name, part) for grouping, parts in results["groups"].items() for name, part in parts.items()]
    for grouping, name, summary in rows:
        shown = name.replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {grouping} | {shown} | {summary['n']} | {' | '.join(cells(summary))} |")
    return "\n".join(lines) + "\n"


def evaluate(options):
    """Does what the options say.

    Args:
        options ([`EvaluationArguments`]): the options.

    Returns:
        `dict`: the content of results.json: `settings`, `environment` (versions, device), `overall` and, for each
        grouping of `--group_by` and each group, `groups` (each from [`summarize`]), `seconds` from the first batch to the last and
        `seconds_per_image`, reading included; `None` without images.

    Raises:
        EvaluationError: anything that a user can mend. No output is left then.
    """
    check_arguments(options)
    source = load_data(options)
    groups = parse_groups(options.group_by, source.dataset.features)
    model, processor = load_model(options)
    index = make_index(source, processor)
    start = time.perf_counter()
    predictions = answer(model, processor, source, index, options)
    seconds = time.perf_counter() - start

    scores = pd.DataFrame([score(text, entry["references"]) for text, entry in zip(predictions, index)])
    table = read_columns(source.dataset, groups)
    values = table.astype(object).where(table.notna(), None).to_dict("records")  # a missing number is null in JSON
    device, num_images = model.device, sum(entry["num_images"] for entry in index)
    is_cuda = device.type == "cuda"
    results = {
        "settings": asdict(options),
        "environment": {
            **{name: version(name) for name in VERSIONS},
            "device": device.type,
            "processor": torch.cuda.get_device_name(device) if is_cuda else platform.processor() or platform.machine(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "model_type": model.config.model_type,
        },
        "overall": summarize(scores),
        "groups": {
            grouping: {
                name: summarize(part)
                for name, part in scores.groupby(make_groups(table, columns), observed=True, sort=True)
            }
            for grouping, columns in groups.items()
        },
        "seconds": seconds,
        "seconds_per_image": seconds / num_images if num_images else None,
    }
    lines = [
        {
            **{key: entry[key] for key in ("row", "question", "references")},
            "prediction": text,
            **found,
            "groups": row_groups,
        }
        for entry, text, found, row_groups in zip(index, predictions, scores.to_dict("records"), values)
    ]
    mistakes = sorted((line for line in lines if not line["em"]), key=lambda line: line["anls"])
    write_results(Path(options.output_dir), results, lines, mistakes[: options.num_mistakes], source)
    return results


def write_results(output, results, lines, mistakes, source):
    """Writes the output folder, whole or not at all.

    Raises:
        EvaluationError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
            folder = Path(temporary) / output.name  # unlike `temporary` with the permissions that users expect
            folder.mkdir()
            (folder / "results.json").write_text(json.dumps(results, indent=2, default=str) + "\n")
            (folder / "results.md").write_text(make_tables(results))
            text = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
            (folder / "predictions.jsonl").write_text(text, encoding="utf-8")
            if mistakes:
                draw_mistakes(mistakes, source, folder / "mistakes.png")
            os.rename(folder, output)
    except OSError as error:
        raise EvaluationError(f"--output_dir {output} cannot be written: {error}") from error


def main(arguments=None):
    parser = HfArgumentParser(EvaluationArguments, description=__doc__)
    try:
        (options,) = parser.parse_args_into_dataclasses(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        evaluate(options)
    except EvaluationError as error:
        sys.exit(f"error: {error}")
    print((Path(options.output_dir) / "results.md").read_text())


if __name__ == "__main__":
    main()
