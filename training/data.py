# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Training data: rows of any supported kind become conversations; datasets are checked, indexed and mixed."""

import io
import json
import os
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import PIL.Image
import torch
from datasets import Dataset, Image, List, concatenate_datasets, interleave_datasets, load_dataset
from datasets import config as datasets_config
from datasets import load_from_disk as load_saved_dataset
from datasets.fingerprint import Hasher
from transformers.image_utils import load_image

from fila import FilaDataCollator
from fila.common.arguments import UserError
from fila.processing_fila import SequenceTooLongError

VALIDATED_ROWS = 64
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
DATA_KEYS = ("path", "name", "split", "image_folder", "weight")
EXIF_ORIENTATION = 0x0112


@dataclass
class Source:
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


def load_source(number, entry, streaming=False):
    """Opens a dataset.

    Args:
        number (`int`): its place among all datasets of the run.
        entry (`str` or `dict`): a path or Hub id, or a mapping with the keys `DATA_KEYS`.
        streaming (`bool`, *optional*): read it as it comes.

    Returns:
        [`Source`]

    Raises:
        UserError: it cannot be opened.
    """
    entry = {"path": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict) or "path" not in entry or set(entry) - set(DATA_KEYS):
        raise UserError(f"{entry!r} is no dataset: give a path, or a mapping with the keys {', '.join(DATA_KEYS)}.")
    path, split = Path(entry["path"]).expanduser(), entry.get("split", "train")
    try:
        if path.is_file():
            kind = {".jsonl": "json"}.get(path.suffix, path.suffix[1:])
            dataset = load_dataset(kind, data_files=str(path), split="train")
        elif (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
            dataset = load_saved_dataset(str(path))
            dataset = dataset[split] if isinstance(dataset, dict) else dataset
        else:
            cache = _cache_of_folder(path) if path.is_dir() and not streaming else None
            options = {"split": split, "streaming": streaming, "cache_dir": cache}
            dataset = load_dataset(entry["path"], entry.get("name"), **options)
    except Exception as error:  # each loader of datasets has exceptions of its own
        raise UserError(f"{entry['path']} cannot be read as a dataset: {error}") from error
    for column, feature in (dataset.features or {}).items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(column, Image(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, Image):
            dataset = dataset.cast_column(column, List(Image(decode=False)))
    if streaming and isinstance(dataset, Dataset):
        dataset = dataset.to_iterable_dataset(num_shards=max(1, min(dataset.num_rows // 1000, 64)))
    image_folder = entry.get("image_folder") or str(path.parent if path.is_file() else path)
    return Source(number, str(entry["path"]), dataset, image_folder, entry.get("weight"))


def _cache_of_folder(path):
    """A cache for a folder as it is now: datasets would take another folder of the same name, or what this one once held,
    for it where a README.md names the files."""
    files = [file for file in sorted(path.resolve().rglob("*")) if file.is_file()]
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return os.path.join(datasets_config.HF_DATASETS_CACHE, Hasher.hash(state))


def read_row(row, image_folder=""):
    """Brings a row of any supported kind to one form, without opening its images.

    Args:
        row (`dict`): `image` and `conversations` (LLaVA), or `messages` and `images` or `image`.
        image_folder (`str`, *optional*): what relative paths start from.

    Returns:
        `dict`: `messages`, whose contents are lists of text and image items, and `images`, each a dict of `bytes` and `path`.

    Raises:
        ValueError: the row breaks the rules; says how.
    """
    if row.get("messages") is None and row.get("conversations") is None:
        raise ValueError(f"has neither 'messages' nor 'conversations', only the columns {sorted(row)}")
    is_llava = row.get("messages") is None
    turns = row["conversations"] if is_llava else row["messages"]
    given = row.get("images") if row.get("images") is not None else row.get("image")
    given = [] if given is None else given if isinstance(given, list) else [given]
    role_key, content_key = ("from", "value") if is_llava else ("role", "content")
    messages, carried = [], []
    for turn in turns:
        role = ROLES.get(turn.get(role_key))
        if role is None:
            raise ValueError(f"has a turn of {turn.get(role_key)!r}; allowed are {', '.join(ROLES)}")
        content = turn.get(content_key)
        if isinstance(content, list):
            items = []
            for item in content:
                kind = item.get("type")
                if kind not in ("text", "image"):
                    raise ValueError(f"has an item of type {kind!r}; allowed are 'text' and 'image'")
                items.append({"type": kind, "text": (item.get("text") or "") if kind == "text" else None})
                if kind == "image":
                    carried += [item[key] for key in ("image", "url", "path") if item.get(key) is not None][:1]
        else:
            items = [{"type": "text", "text": content or ""}]
        messages.append({"role": role, "content": items})
    _check_roles([message["role"] for message in messages])
    images = carried + given
    if not any(item["type"] == "image" for message in messages for item in message["content"]):
        _place_images(messages, len(images), is_llava)
    num_items = sum(item["type"] == "image" for message in messages for item in message["content"])
    if num_items != len(images):
        raise ValueError(
            f"has {num_items} places for images (<image>, or items of type 'image'), but {len(images)} images"
        )
    for message in messages:
        if message["role"] == "assistant" and not any((item["text"] or "").strip() for item in message["content"]):
            raise ValueError("has an empty answer")
    return {"messages": messages, "images": [_to_image_dict(image, image_folder) for image in images]}


def _check_roles(roles):
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or any(role != ("user", "assistant")[n % 2] for n, role in enumerate(turns)):
        raise ValueError(
            f"has the roles {', '.join(roles) or 'none'}; user and assistant must take turns, the user first and the "
            "assistant last, perhaps after a system turn"
        )


def _place_images(messages, num_images, is_llava):
    """Turns each `<image>` in the text of users into an image item. A chat without any gets its images at the start of the
    first user's turn, which is what TRL does."""
    users = [message for message in messages if message["role"] == "user"]
    texts = ["".join(item["text"] for item in message["content"]) for message in users]
    if num_images and not is_llava and not any("<image>" in text for text in texts):
        users[0]["content"][:0] = [{"type": "image", "text": None}] * num_images
    elif is_llava or sum(text.count("<image>") for text in texts) == num_images > 0:
        for message, text in zip(users, texts):
            items = []
            for number, part in enumerate(text.split("<image>")):
                items += [{"type": "image", "text": None}] * (number > 0)
                items += [{"type": "text", "text": part.strip("\n")}] * bool(part.strip())
            message["content"] = items


def _to_image_dict(image, image_folder):
    if isinstance(image, dict) and (image.get("bytes") is not None or image.get("path")):
        data, path = image.get("bytes"), image.get("path")
    elif isinstance(image, str):
        data, path = None, image
    else:
        raise ValueError(f"has an image of {type(image).__name__}, which is no path and no encoded image")
    return {"bytes": data, "path": path if data is not None else os.path.join(image_folder, path)}


def open_image(image):
    """Opens an encoded image; its pixels are not read yet.

    Raises:
        ValueError: it is missing, or no image.
    """
    try:
        return PIL.Image.open(io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"])
    except FileNotFoundError as error:
        raise ValueError(f"misses its image {image['path']}") from error
    except OSError as error:
        raise ValueError(
            f"has an image that cannot be read ({image['path'] or 'encoded in the row'}: {error})"
        ) from error


def decode_image(image):
    """`PIL.Image`: RGB and upright. Raises a `ValueError` if it is broken."""
    try:
        return load_image(open_image(image))
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"has a broken image ({image['path'] or 'encoded in the row'}: {error})") from error


def get_image_size(image):
    """`tuple[int, int]`: height and width as the processor will see them, read from the header."""
    with open_image(image) as opened:
        # A PNG without EXIF before its pixels would be read whole in search of it.
        exif = opened.getexif() if opened.format != "PNG" or "exif" in opened.info else {}
        return opened.size if exif.get(EXIF_ORIENTATION, 1) > 4 else opened.size[::-1]


def check_row(row, collator, image_folder="", decode=False):
    """What stands against training on a row.

    Args:
        row (`dict`): as it is stored.
        collator ([`FilaDataCollator`]): knows the processor and the longest sequence.
        image_folder (`str`, *optional*): what relative paths start from.
        decode (`bool`, *optional*): read the images whole, not their headers alone.

    Returns:
        `dict`: `length` in tokens, 0 if the row is too long to be trained on and -1 if it is wrong, and `problem`.
    """
    try:
        example = read_row(row, image_folder)
        if decode:
            image_sizes = [decode_image(image).size[::-1] for image in example["images"]]
        else:
            image_sizes = [get_image_size(image) for image in example["images"]]
        return {"length": len(collator.encode(example["messages"], image_sizes)["input_ids"]), "problem": ""}
    except SequenceTooLongError as error:
        return {"length": 0, "problem": str(error)}
    except ValueError as error:
        return {"length": -1, "problem": str(error)}


def _raise_on_bad_rows(source, problems):
    """Raises for `problems`, a list of (row, reason)."""
    if problems:
        shown = "\n".join(f"  {source.describe(row)} {reason}" for row, reason in problems[:5])
        raise UserError(
            f"The data cannot be trained on:\n{shown}\nMend these rows, or leave such rows out with --skip_bad_samples."
        )


def make_index(source, collator, data, training):
    """Checks every row of a dataset.

    Returns:
        `Dataset`: `source`, `row` and `length` of the rows that can be trained on.

    Raises:
        UserError: a row is wrong, or none is left.
    """
    dataset, kwargs = source.dataset, {"collator": collator, "image_folder": source.image_folder}
    if not data.skip_bad_samples:
        first = (check_row(dataset[row], decode=True, **kwargs) for row in range(min(VALIDATED_ROWS, len(dataset))))
        _raise_on_bad_rows(source, [(row, found["problem"]) for row, found in enumerate(first) if found["length"] < 0])
    # Not cached: the files that the rows name may have changed.
    checked = dataset.map(
        check_row,
        fn_kwargs={**kwargs, "decode": data.skip_bad_samples},
        remove_columns=dataset.column_names,
        num_proc=data.dataset_num_proc,
        load_from_cache_file=False,
        desc=f"Checking {source.name}",
    ).to_dict()
    lengths, problems = checked["length"], checked["problem"]
    bad = [(row, problems[row]) for row, length in enumerate(lengths) if length < 0]
    if not data.skip_bad_samples:
        _raise_on_bad_rows(source, bad)
    num_long = sum(length == 0 for length in lengths)
    if training.process_index == 0 and (num_long or bad):
        _report_bad_rows(training.output_dir, source, bad)
        print(
            f"{source.name}: {len(lengths) - num_long - len(bad)} samples; {num_long} left out as too long for "
            f"max_length={data.max_length}, {len(bad)} as bad (bad_samples.jsonl)"
        )
    rows = [row for row, length in enumerate(lengths) if length > 0]
    if not rows:
        raise UserError(f"{source.name} has {len(lengths)} rows, and none of them can be trained on.")
    columns = {"source": [source.number] * len(rows), "row": rows, "length": [lengths[row] for row in rows]}
    return Dataset.from_dict(columns)


def _report_bad_rows(output_dir, source, problems):
    if problems:
        os.makedirs(output_dir, exist_ok=True)
        lines = [{"data": source.name, "row": row, "problem": problem} for row, problem in problems]
        with open(Path(output_dir) / "bad_samples.jsonl", "a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))


def _check_streamed(row, collator, source, skip, output_dir):
    found = check_row({key: row[key] for key in row if key != "_row"}, collator, source.image_folder)
    if found["length"] < 0:
        problem = [(row["_row"], found["problem"])]
        if not skip:
            _raise_on_bad_rows(source, problem)
        _report_bad_rows(output_dir, source, problem)
    example = read_row(row, source.image_folder) if found["length"] > 0 else {"messages": [], "images": []}
    return {**example, "source": source.number, "row": row["_row"], "length": found["length"]}


def make_dataset(sources, collator, data, training, streaming=False):
    """The samples of one or more datasets.

    Args:
        sources (`list[Source]`): the datasets. With weights, samples are drawn by them until each dataset has been seen
            whole; without, each sample comes once.
        collator ([`FilaDataCollator`]): knows the processor and the longest sequence.
        data ([`DataArguments`]), training (`TrainingArguments`): the options.
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
    make = _make_stream if streaming else make_index
    parts = [make(source, collator, data, training) for source in sources]
    if len(parts) == 1:
        return parts[0]
    if not is_weighted and not streaming:
        return concatenate_datasets(parts)
    weights = weights if is_weighted else [1] * len(parts)
    probabilities = [weight / sum(weights) for weight in weights]
    options = {"seed": training.seed, "stopping_strategy": "all_exhausted"}
    return interleave_datasets(parts, probabilities=probabilities, **options)


def _make_stream(source, collator, data, training):
    first = list(islice(source.dataset, VALIDATED_ROWS))
    if not data.skip_bad_samples:
        found = [check_row(row, collator, source.image_folder, decode=True) for row in first]
        _raise_on_bad_rows(source, [(row, f["problem"]) for row, f in enumerate(found) if f["length"] < 0])
    options = {"collator": collator, "skip": data.skip_bad_samples, "output_dir": training.output_dir}
    check = partial(_check_streamed, source=Source(source.number, source.name, None, source.image_folder), **options)
    stream = source.dataset.map(lambda row, index: {"_row": index}, with_indices=True)
    stream = stream.shuffle(seed=training.seed, buffer_size=data.shuffle_buffer_size)
    return stream.map(check, remove_columns=list(first[0])).filter(lambda sample: sample["length"] > 0)


@dataclass
class SampleCollator:
    """Reads samples and their images, in the worker, and collates them; says which sample is to blame.

    Args:
        collator ([`FilaDataCollator`]): makes the batch.
        sources (`list[Source]`): what `source` is a number of.
    """

    collator: FilaDataCollator
    sources: list

    def __call__(self, samples):
        """
        Returns:
            `dict`: the model's inputs and `sample_ids` of shape (batch_size, 2), which [`LossGuard`] takes out again.

        Raises:
            UserError: an image that cannot be decoded.
        """
        batch = self.collator([self.read(sample) for sample in samples])
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
                f"{source.describe(sample['row'])} {error}. Mend it; --skip_bad_samples leaves such rows out."
            ) from error


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
    preview: int = field(default=0, metadata={"help": "Print so many samples, save their tiles, and stop."})
