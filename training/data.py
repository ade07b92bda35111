# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Training data: datasets of any supported kind are opened, checked once, indexed and mixed."""

import inspect
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import jinja2
import numpy as np
import torch
from datasets import Dataset, Image, List, concatenate_datasets, interleave_datasets, load_dataset
from datasets import config as datasets_config
from datasets import load_from_disk as load_saved_dataset
from datasets.fingerprint import Hasher
from datasets.utils import tqdm
from filelock import FileLock

from fila import FilaDataCollator
from fila.common.arguments import UserError
from fila.common.files import new_files
from fila.processing_fila import SequenceTooLongError
from fila.training.json_files import JSON_KIND, convert_json, decode_json
from fila.training.rows import decode_image, get_image_size, read_row

VALIDATED_ROWS = 64  # whose images are decoded before the rest is looked at
DATA_KEYS = ("path", "name", "split", "image_folder", "weight")
TOO_LONG, BAD, UNCHECKED = 0, -1, -2  # lengths of rows that have none


@dataclass
class DataArguments:
    """What it is trained on."""

    train_data: list[str] = field(default_factory=list, metadata={"help": "Files, folders or Hub datasets."})
    eval_data: list[str] = field(default_factory=list, metadata={"help": "The same, for evaluation."})
    max_length: int = field(default=4096, metadata={"help": "Longest sequence, image tokens included; text is cut."})
    streaming: bool = field(default=False, metadata={"help": "Read the training data as it comes; needs --max_steps."})
    shuffle_buffer_size: int = field(default=1000, metadata={"help": "Samples that are shuffled when streaming."})
    skip_bad_samples: bool = field(default=False, metadata={"help": "Leave out rows that are wrong, and list them."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that check the data."})
    overwrite_cache: bool = field(default=False, metadata={"help": "Check the data again, even if it was before."})
    preview: int = field(default=0, metadata={"help": "Print so many samples, save their tiles, and stop."})


@dataclass
class DataSource:
    """One dataset of a mixture.

    Args:
        number (`int`): its place among all datasets of the run.
        name (`str`): as the user gave it.
        dataset (`Dataset` or `IterableDataset`): rows as they are stored; images are not decoded.
        image_folder (`str`): what relative paths of images start from.
        weight (`float`, *optional*): how often it is drawn from, relative to the others.
    """

    number: int
    name: str
    dataset: object
    image_folder: str = ""
    weight: float | None = None

    def describe(self, row):
        return f"{self.name}, row {row}"


def load_data_source(number, entry, streaming=False):
    """Opens a dataset.

    Args:
        number (`int`): its place among all datasets of the run.
        entry (`str` or `dict`): a path or Hub id, or a mapping with the keys `DATA_KEYS`.
        streaming (`bool`, *optional*): read it as it comes.

    Returns:
        [`DataSource`]

    Raises:
        UserError: it cannot be opened.
    """
    entry = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or "path" not in entry or set(entry) - set(DATA_KEYS):
        raise UserError(f"{entry!r} is no dataset: give a path, or a mapping with the keys {', '.join(DATA_KEYS)}.")
    path, split = Path(entry["path"]).expanduser(), entry.get("split", "train")
    decode = None
    try:
        if path.suffix in (".json", ".jsonl") and path.is_file():
            dataset, decode = _load_json(path)
        elif path.is_file():
            dataset = load_dataset(path.suffix[1:], data_files=str(path), split="train")
        elif (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            dataset = load_saved_dataset(str(path))
            dataset = dataset[split] if isinstance(dataset, dict) else dataset
        else:
            # datasets would take another folder of the same name, or what this one once held, for a folder whose
            # README.md names its files.
            files = sorted(path.resolve().rglob("*")) if path.is_dir() and not streaming else []
            cache = str(_cache_path("folder", _file_states(files))) if files else None
            dataset = load_dataset(entry["path"], entry.get("name"), split=split, streaming=streaming, cache_dir=cache)
    except Exception as error:  # each loader of datasets has exceptions of its own, and hides the parser's behind them
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise UserError(f"{entry['path']} cannot be read as a dataset: {cause or type(cause).__name__}") from error
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            dataset = dataset.cast_column(column, List(Image(decode=False)))
    if streaming and isinstance(dataset, Dataset):
        num_shards = max(1, min(dataset.num_rows // 1000, 64))
        dataset = dataset.add_column("_row", np.arange(len(dataset))).to_iterable_dataset(num_shards=num_shards)
        dataset = dataset.map(decode, batched=True) if decode else dataset
    elif decode:
        dataset = dataset.with_transform(decode)
    image_folder = entry.get("image_folder") or str(path.parent if path.is_file() else path)
    return DataSource(number, str(entry["path"]), dataset, image_folder, entry.get("weight"))


def _file_states(files):
    states = [(str(file), Path(file).stat()) for file in files if Path(file).is_file()]
    return [(file, state.st_size, state.st_mtime_ns) for file, state in states]


def _cache_path(kind, state):
    return Path(datasets_config.HF_DATASETS_CACHE, "fila", f"{kind}-{Hasher.hash(state)}")


def _lock(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{path}.lock")


def _load_json(path):
    """A JSON file as a dataset, and the function that decodes its batches."""
    folder = _cache_path("json", _file_states([path.resolve()]))
    with _lock(folder):
        if not folder.exists():
            convert_json(path, folder)
    dataset = load_saved_dataset(str(folder))
    columns = [column for column, feature in dataset.features.items() if feature.dtype == JSON_KIND]
    return dataset, partial(decode_json, columns=columns)


def check_row(row, collator, image_folder="", decode=False):
    """Says whether a row can be trained on.

    Args:
        row (`dict`): as it is stored.
        collator ([`FilaDataCollator`]): knows the processor and the longest sequence.
        image_folder (`str`, *optional*): what relative paths start from.
        decode (`bool`, *optional*): read the images whole, not their headers alone.

    Returns:
        `dict`: `length` in tokens, `TOO_LONG` or `BAD`, and `problem`, a phrase that follows the name of the row.
    """
    try:
        example = read_row(row, image_folder)
        if decode:
            image_sizes = [decode_image(image).size[::-1] for image in example["images"]]
        else:
            image_sizes = [get_image_size(image) for image in example["images"]]
        return {"length": len(collator.encode(example["messages"], image_sizes)["input_ids"]), "problem": ""}
    except SequenceTooLongError as error:
        return {"length": TOO_LONG, "problem": str(error)}
    except ValueError as error:
        return {"length": BAD, "problem": str(error)}
    except jinja2.TemplateError as error:
        return {"length": BAD, "problem": f"has a conversation that the chat template refuses: {error}"}


def _raise_on_bad_rows(source, problems):
    """Raises for `problems`, a mapping of rows to reasons."""
    if problems:
        shown = [f"  {source.describe(row)} {reason}\n" for row, reason in islice(problems.items(), 5)]
        shown += [f"  and {len(problems) - 5} more\n"] * (len(problems) > 5)
        advice = "Fix these rows, or leave such rows out with --skip_bad_samples."
        raise UserError(f"The data cannot be trained on:\n{''.join(shown)}{advice}")


def _report_bad_rows(output_dir, source, problems):
    if problems:
        os.makedirs(output_dir, exist_ok=True)
        lines = [{"data": source.name, "row": row, "problem": problem} for row, problem in problems.items()]
        with open(Path(output_dir) / "bad_samples.jsonl", "a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def _start_checking(source, kwargs):
    global _checked_source, _check_options
    _checked_source, _check_options = source, kwargs


def _check_in_process(rows):
    return [check_row(_checked_source.dataset[row], **_check_options) for row in rows]


def _check_rows(source, rows, num_proc, **kwargs):
    """Yields what [`check_row`] says of each row, from several processes if `num_proc` is above 1."""
    if not num_proc or num_proc == 1 or len(rows) <= VALIDATED_ROWS:
        yield from (check_row(source.dataset[row], **kwargs) for row in rows)
        return
    # Forked processes inherit the processor. Its classes come from remote code, which cannot be pickled.
    context = multiprocessing.get_context("fork")
    parts = [rows[start : start + 256] for start in range(0, len(rows), 256)]
    with ProcessPoolExecutor(num_proc, context, _start_checking, (source, kwargs)) as pool:
        yield from chain.from_iterable(pool.map(_check_in_process, parts))


def _make_fingerprint(collator):
    """`str`: stands for all that the length of a sample depends on, but the data: processor, longest sequence and code."""
    with TemporaryDirectory() as folder:
        collator.processor.save_pretrained(folder)
        code = [__file__, inspect.getfile(read_row), inspect.getfile(type(collator))]
        files = [file for file in map(Path, [*sorted(Path(folder).rglob("*")), *code]) if file.is_file()]
        return Hasher.hash([collator.max_length, [(file.name, file.read_bytes()) for file in files]])


def _get_lengths(source, collator, data_arguments, training_arguments):
    """The length of every row, from the cache where it is there, and the problems of rows that were found bad just now."""
    skip, is_first = data_arguments.skip_bad_samples, training_arguments.local_process_index == 0
    files = _file_states(file["filename"] for file in source.dataset.cache_files)
    state = [files, len(source.dataset), os.path.abspath(source.image_folder), skip, _make_fingerprint(collator)]
    path = _cache_path("index", state).with_suffix(".npy")
    options, problems = {"collator": collator, "image_folder": source.image_folder}, {}
    with training_arguments.main_process_first(desc=f"checking {source.name}"), _lock(path):
        is_cached = path.exists() and not (is_first and data_arguments.overwrite_cache)
        lengths = np.load(path) if is_cached else np.full(len(source.dataset), UNCHECKED, dtype=np.int32)
        # Where bad rows are left out, all processes must leave out the same: an image may turn up meanwhile.
        rows = np.flatnonzero(lengths < 0 if is_first or not skip else lengths == UNCHECKED)
        for part, decode in ((rows[rows < VALIDATED_ROWS], True), (rows[rows >= VALIDATED_ROWS], skip)):
            if not len(part):
                continue
            checked = _check_rows(source, part.tolist(), data_arguments.dataset_num_proc, decode=decode, **options)
            for row, found in zip(part.tolist(), tqdm(checked, f"Checking {source.name}", len(part))):
                lengths[row] = found["length"]
                if found["length"] == BAD:
                    problems[row] = found["problem"]
            with new_files(path.parent) as folder:
                np.save(folder / path.name, lengths)
            if not skip:
                _raise_on_bad_rows(source, problems)
    return lengths, problems


def index_rows(source, collator, data_arguments, training_arguments):
    """Checks every row of a dataset. The first process of each machine does it, once, and keeps the lengths in the cache
    of datasets (`HF_DATASETS_CACHE`) for the others and for later runs.

    The data is checked again when its files, the processor or `max_length` have changed, or with `overwrite_cache`. Rows
    that were bad are checked again at each start. Images of good rows are not looked at again. Where the first check of
    several processes takes longer than `ddp_timeout` (half an hour), raise that, or use `dataset_num_proc`.

    Returns:
        `Dataset`: `source`, `row` and `length` of the rows that can be trained on.

    Raises:
        UserError: a row is bad, or none is left.
    """
    lengths, problems = _get_lengths(source, collator, data_arguments, training_arguments)
    rows = np.flatnonzero(lengths > 0)
    num_long, num_bad = int((lengths == TOO_LONG).sum()), int((lengths == BAD).sum())
    if training_arguments.process_index == 0 and (num_long or num_bad):
        _report_bad_rows(training_arguments.output_dir, source, problems)
        print(
            f"{source.name}: {len(rows)} samples; {num_long} left out as too long for "
            f"max_length={data_arguments.max_length}, {num_bad} as bad (bad_samples.jsonl)"
        )
    if not len(rows):
        raise UserError(f"{source.name} has {len(lengths)} rows, and none of them can be trained on.")
    return Dataset.from_dict({"source": np.full(len(rows), source.number), "row": rows, "length": lengths[rows]})


def _check_streamed(row, collator, source, skip, output_dir):
    number = row["_row"]
    found = check_row(row, collator, source.image_folder)
    if found["length"] == BAD:
        problems = {number: found["problem"]}
        if not skip:
            _raise_on_bad_rows(source, problems)
        _report_bad_rows(output_dir, source, problems)
    example = read_row(row, source.image_folder) if found["length"] > 0 else {"messages": [], "images": []}
    return {**example, "source": source.number, "row": number, "length": found["length"]}


def _make_stream(source, collator, data_arguments, training_arguments):
    stream, skip = source.dataset, data_arguments.skip_bad_samples
    first = list(islice(stream, VALIDATED_ROWS))
    if not first:
        raise UserError(f"{source.name} has no rows.")
    if "_row" not in first[0]:  # of the Hub: a number within a shard
        stream = stream.map(lambda row, index: {"_row": index}, with_indices=True)
    if not skip:
        found = [check_row(row, collator, source.image_folder, decode=True) for row in first]
        _raise_on_bad_rows(source, {row: f["problem"] for row, f in enumerate(found) if f["length"] == BAD})
    options = {"collator": collator, "skip": skip, "output_dir": training_arguments.output_dir}
    check = partial(_check_streamed, source=replace(source, dataset=None), **options)
    stream = stream.shuffle(seed=training_arguments.seed, buffer_size=data_arguments.shuffle_buffer_size)
    return stream.map(check, remove_columns=list(first[0])).filter(lambda sample: sample["length"] > 0)


def make_dataset(sources, collator, data_arguments, training_arguments, streaming=False):
    """The samples of one or more datasets.

    Args:
        sources (`list[DataSource]`): the datasets. With weights, samples are drawn by them until each dataset has been seen
            whole; without, each sample comes once.
        collator ([`FilaDataCollator`]): knows the processor and the longest sequence.
        data_arguments ([`DataArguments`]), training_arguments (`TrainingArguments`): the options.
        streaming (`bool`, *optional*): whether the datasets are read as they come; every row is then checked when it
            comes, and datasets are mixed evenly if they have no weights.

    Returns:
        `Dataset` or `IterableDataset` of samples: `source`, the number of their dataset, `row` and `length`; when
        streaming, also `messages` and `images`.

    Raises:
        UserError: data that cannot be trained on.
    """
    weights = [source.weight for source in sources]
    is_weighted = any(weight is not None for weight in weights)
    if is_weighted and any(not isinstance(weight, int | float) or weight <= 0 for weight in weights):
        raise UserError(f"The weights of the data are {weights}: give all of them, above 0, or none.")
    make = _make_stream if streaming else index_rows
    parts = [make(source, collator, data_arguments, training_arguments) for source in sources]
    if len(parts) == 1:
        return parts[0]
    if not is_weighted and not streaming:
        return concatenate_datasets(parts)
    weights = weights if is_weighted else [1] * len(parts)
    probabilities = [weight / sum(weights) for weight in weights]
    options = {"seed": training_arguments.seed, "stopping_strategy": "all_exhausted"}
    return interleave_datasets(parts, probabilities=probabilities, **options)


@dataclass
class SampleCollator:
    """Reads samples and their images, in the worker, and collates them; says which sample is to blame.

    Args:
        collator ([`FilaDataCollator`]): makes the batch.
        sources (`list[DataSource]`): what `source` is a number of.
    """

    collator: FilaDataCollator
    sources: list

    def __call__(self, samples):
        """
        Returns:
            `dict`: the model's inputs and `sample_ids` of shape (batch_size, 2): source and row of each sample.

        Raises:
            UserError: an image that cannot be decoded, or a sample that cannot be collated.
        """
        examples = [self.read(sample) for sample in samples]
        try:
            batch = self.collator(examples)
        except ValueError as error:
            names = "; ".join(self.sources[sample["source"]].describe(sample["row"]) for sample in samples)
            raise UserError(f"The batch of {names} cannot be trained on: {error}") from error
        return {**batch, "sample_ids": torch.tensor([[sample["source"], sample["row"]] for sample in samples])}

    def read(self, sample):
        """`dict`: `messages` and the decoded `images` of a sample from [`make_dataset`]."""
        source = self.sources[sample["source"]]
        try:
            example = sample
            if "messages" not in sample:
                example = read_row(source.dataset[sample["row"]], source.image_folder)
            return {"messages": example["messages"], "images": [decode_image(image) for image in example["images"]]}
        except ValueError as error:
            raise UserError(
                f"{source.describe(sample['row'])} {error}. Fix it, or leave such rows out with --skip_bad_samples."
            ) from error
