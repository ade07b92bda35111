# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Training data: datasets of any supported kind are opened, checked once, indexed and mixed."""

import inspect
import json
import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import jinja2
import numpy as np
import torch
from datasets import Dataset, Features, Image, List, Value
from datasets.fingerprint import Hasher
from transformers.hf_argparser import HfArg

from fila import FilaDataCollator
from fila.common.arguments import UserError
from fila.common.images import decode_image, get_image_size
from fila.processing_fila import SequenceTooLongError
from fila.training.rows import read_row

DECODED_ROWS = 64  # whose images are read whole; of the others, the headers are
DATA_KEYS = ("path", "name", "split", "image_folder", "weight")
JSON_COLUMN = "_json"  # of a dataset from a JSON file: the whole row
TOO_LONG, BAD = 0, -1  # lengths of rows that have none


@dataclass
class DataArguments:
    """What it is trained on."""

    train_data: list[str] = HfArg(default_factory=list, help="Files, folders or Hub datasets.")
    eval_data: list[str] = HfArg(default_factory=list, help="The same, for evaluation.")
    max_length: int = HfArg(default=4096, help="Longest sequence, image tokens included; text is cut.")
    skip_bad_samples: bool = HfArg(default=False, help="Leave out rows that are wrong, and list them.")
    dataset_num_proc: int | None = HfArg(default=None, help="Processes that check the data.")
    overwrite_cache: bool = HfArg(default=False, help="Check the data again, even if it was before.")
    preview: int = HfArg(default=0, help="Print so many samples, save their tiles, and stop.")


@dataclass
class DataSource:
    """One dataset of a mixture."""

    number: int  # its place among all datasets of the run
    name: str  # as the user gave it
    dataset: Dataset  # rows as they are stored; images are not decoded
    image_folder: str = ""  # what relative paths of images start from
    weight: float | None = None  # how often it is drawn from, relative to the others

    def read(self, row):
        """A row by its number, for [`read_row`]."""
        row = self.dataset[row]
        return json.loads(row[JSON_COLUMN]) if JSON_COLUMN in row else row

    def describe(self, row):
        return f"{self.name}, row {row}"


def load_data_source(number, entry):
    """[`DataSource`]: the dataset of `entry`, which is a path, a Hub id, or a mapping with the keys `DATA_KEYS`. Raises a
    `UserError` if it cannot be opened or has no rows."""
    entry = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or "path" not in entry or set(entry) - set(DATA_KEYS):
        raise UserError(f"{entry!r} is no dataset: give a path, or a mapping with the keys {', '.join(DATA_KEYS)}.")
    path = Path(entry["path"]).expanduser()
    try:
        dataset = _open_dataset(path, entry)
        if not len(dataset):
            raise ValueError("it has no rows")
    except Exception as error:  # each loader of datasets has exceptions of its own, and hides the parser's behind them
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{entry['path']} cannot be read as a dataset: {cause or type(cause).__name__}") from error
    for column, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            dataset = dataset.cast_column(column, List(Image(decode=False)))
    image_folder = entry.get("image_folder") or str(path.parent if path.is_file() else path)
    return DataSource(number, str(entry["path"]), dataset, image_folder, entry.get("weight"))


def _open_dataset(path, entry):
    split = entry.get("split", "train")
    if path.suffix in (".json", ".jsonl") and path.is_file():
        # The loader of datasets refuses columns of several types, or puts quotes around their texts.
        kwargs = {"path": path, "state": _file_states([path.resolve()])}
        return Dataset.from_generator(_read_json, Features({JSON_COLUMN: Value("large_string")}), gen_kwargs=kwargs)
    if path.is_file():
        return datasets.load_dataset(path.suffix[1:], data_files=str(path), split="train")
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        dataset = datasets.load_from_disk(str(path))
        return dataset[split] if isinstance(dataset, dict) else dataset
    # datasets would take another folder of the same name, or what this one once held, for a folder whose README.md
    # names its files.
    files = sorted(path.resolve().rglob("*")) if path.is_dir() else []
    cache = str(_cache_path(_file_states(files))) if files else None
    return datasets.load_dataset(entry["path"], entry.get("name"), split=split, cache_dir=cache)


def _file_states(files):
    states = [(str(file), Path(file).stat()) for file in files if Path(file).is_file()]
    return [(file, state.st_size, state.st_mtime_ns) for file, state in states]


def _cache_path(state):
    return Path(datasets.config.HF_DATASETS_CACHE, "fila", Hasher.hash(state))


def _read_json(path, state):
    """Yields the rows of a JSON array or of JSON Lines, each as JSON. `state` is for the cache alone."""
    with open(path, encoding="utf-8-sig") as file:
        is_array = file.read(4096).lstrip().startswith("[")
        file.seek(0)
        is_empty = True
        for row in json.load(file) if is_array else _read_json_lines(file):
            is_empty = False
            yield {JSON_COLUMN: json.dumps(row)}
    if is_empty:
        raise ValueError("it has no rows")


def _read_json_lines(file):
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"line {number}, column {error.colno}: {error.msg}"
            raise ValueError(f"it is neither a JSON array nor JSON Lines ({reason})") from None


def check_row(row, collator, image_folder="", decode=False):
    """`dict`: the `length` of a row in tokens, or `TOO_LONG` or `BAD`, and its `problem`, a phrase that follows the
    name of the row. With `decode`, images are read whole."""
    try:
        example = read_row(row, image_folder)
        get_size = (lambda image: decode_image(image).size[::-1]) if decode else get_image_size
        image_sizes = [get_size(image) for image in example["images"]]
        encoded = collator.encode(example["messages"], image_sizes)
        return {"length": len(encoded["input_ids"]), "problem": ""}
    except SequenceTooLongError as error:
        return {"length": TOO_LONG, "problem": str(error)}
    except ValueError as error:
        return {"length": BAD, "problem": str(error)}
    except jinja2.TemplateError as error:
        return {"length": BAD, "problem": f"has a conversation that the chat template refuses: {error}"}


def _list_bad_rows(output_dir, source, problems):
    """Adds `problems`, a mapping of rows to reasons, to bad_samples.jsonl, unless they are there from an earlier start."""
    os.makedirs(output_dir, exist_ok=True)
    lines = [json.dumps({"data": source.name, "row": row, "problem": text}) + "\n" for row, text in problems.items()]
    with open(Path(output_dir, "bad_samples.jsonl"), "a+") as file:
        file.seek(0)
        known = set(file)
        file.writelines(line for line in lines if line not in known)


def _make_fingerprint(collator):
    """`str`: stands for what the length of a sample depends on besides the data: processor, longest sequence and code."""
    with TemporaryDirectory() as folder:
        collator.processor.save_pretrained(folder)
        code = [__file__, *map(inspect.getfile, (read_row, get_image_size, type(collator)))]
        files = [file for file in map(Path, [*sorted(Path(folder).rglob("*")), *code]) if file.is_file()]
        return Hasher.hash([collator.max_length, [(file.name, file.read_bytes()) for file in files]])


def _check_row(sample, source, collator, skip):
    decode = skip or sample["row"] < DECODED_ROWS
    return check_row(source.read(sample["row"]), collator, source.image_folder, decode)


def _check_rows(source, collator, data_arguments, training_arguments):
    """The length of every row, and the problems of bad ones."""
    skip, is_first = data_arguments.skip_bad_samples, training_arguments.local_process_index == 0
    files = _file_states(file["filename"] for file in source.dataset.cache_files)
    rows = Dataset.from_dict({"row": range(len(source.dataset))})
    cache = _cache_path([files, len(rows), os.path.abspath(source.image_folder), skip, _make_fingerprint(collator)])
    options = {"fn_kwargs": {"source": source, "collator": collator, "skip": skip}, "desc": f"Checking {source.name}"}

    def check(rows, name, is_cached):
        options.update(cache_file_name=f"{cache}-{name}.arrow", new_fingerprint=f"{cache.name}-{name}")
        return rows.map(_check_row, load_from_cache_file=is_cached, num_proc=data_arguments.dataset_num_proc, **options)

    checked = check(rows, "all", not (is_first and data_arguments.overwrite_cache))
    lengths, problems = np.array(checked["length"]), {}
    bad = np.flatnonzero(lengths == BAD)
    if len(bad):  # perhaps no longer; all processes believe the first
        again = check(rows.select(bad), "bad", not is_first)
        lengths[bad] = again["length"]
        problems = {row["row"]: row["problem"] for row in again if row["length"] == BAD}
    return lengths, problems


def index_rows(source, collator, data_arguments, training_arguments):
    """`Dataset`: `source`, `row` and `length` in tokens of the rows that can be trained on. Raises a `UserError` if a
    row is bad, or none is left. The first process of each machine checks every row, once, for the others and for later
    runs; and again when the files of the data, the processor or `max_length` have changed, or with `overwrite_cache`.
    Rows that were bad are checked again at each start; images of good ones are not looked at again."""
    with training_arguments.main_process_first(desc=f"checking {source.name}"):
        lengths, problems = _check_rows(source, collator, data_arguments, training_arguments)
    if problems and not data_arguments.skip_bad_samples:
        shown = [f"  {source.describe(row)} {reason}\n" for row, reason in islice(problems.items(), 5)]
        shown += [f"  and {len(problems) - 5} more\n"] * (len(problems) > 5)
        advice = "Fix these rows, or leave such rows out with --skip_bad_samples."
        raise UserError(f"The data cannot be trained on:\n{''.join(shown)}{advice}")
    rows, num_long = np.flatnonzero(lengths > 0), int((lengths == TOO_LONG).sum())
    if training_arguments.process_index == 0 and len(rows) < len(lengths):
        _list_bad_rows(training_arguments.output_dir, source, problems)
        too_long = f"{num_long} left out as too long for max_length={data_arguments.max_length}"
        print(f"{source.name}: {len(rows)} samples; {too_long}, {len(problems)} as bad (bad_samples.jsonl)")
    if not len(rows):
        raise UserError(f"{source.name} has {len(lengths)} rows, and none of them can be trained on.")
    return Dataset.from_dict({"source": np.full(len(rows), source.number), "row": rows, "length": lengths[rows]})


def make_dataset(sources, collator, data_arguments, training_arguments):
    """`Dataset`: the samples of one or more datasets, with `source`, the number of their dataset, `row` and `length` in
    tokens. With weights, samples are drawn by them until each dataset has been seen whole; without, each sample comes
    once. Raises a `UserError` for data that cannot be trained on."""
    weights = [source.weight for source in sources]
    is_weighted = weights != [None] * len(weights)
    if is_weighted and not all(isinstance(weight, int | float) and weight > 0 for weight in weights):
        raise UserError(f"The weights of the data are {weights}: give all of them, above 0, or none.")
    parts = [index_rows(source, collator, data_arguments, training_arguments) for source in sources]
    if not is_weighted:
        return datasets.concatenate_datasets(parts)
    shares = [weight / sum(weights) for weight in weights]
    return datasets.interleave_datasets(parts, shares, seed=training_arguments.seed, stopping_strategy="all_exhausted")


@dataclass
class SampleCollator:
    """Reads samples of [`make_dataset`] and their images, in the worker, and collates them."""

    collator: FilaDataCollator
    sources: list[DataSource]

    def __call__(self, samples):
        """`dict`: the model's inputs and `sample_ids` of shape (batch_size, 2), source and row of each sample. Raises a
        `UserError` for an image that can no longer be decoded."""
        examples = [self.read(sample) for sample in samples]
        sample_ids = torch.tensor([[sample["source"], sample["row"]] for sample in samples])
        return {**self.collator(examples), "sample_ids": sample_ids}

    def read(self, sample):
        """`dict`: `messages` and the decoded `images` of a sample from [`make_dataset`]."""
        source = self.sources[sample["source"]]
        try:
            example = read_row(source.read(sample["row"]), source.image_folder)
            images = [decode_image(image, self.collator.processor.image_processor) for image in example["images"]]
            return {"messages": example["messages"], "images": images}
        except ValueError as error:
            advice = "Fix it, or leave such rows out with --skip_bad_samples."
            raise UserError(f"{source.describe(sample['row'])} {error}. {advice}") from error
