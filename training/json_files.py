# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""JSON files as datasets that keep every value as it is. (The loader of datasets refuses columns of several types, or puts
quotes around their texts.)"""

import json
from tempfile import TemporaryDirectory

from datasets import Dataset, Features, Value

from fila.common.files import new_folder

JSON_KIND = "large_string"  # the type of columns that hold JSON, which others do not use


def convert_json(path, folder):
    """Converts a JSON array or JSON Lines into a dataset of `save_to_disk`. Columns of one plain type have that type, others
    hold JSON, which [`decode_json`] decodes. What is no object becomes an empty row.

    Args:
        path (`Path`): the JSON file.
        folder (`Path`): the dataset; complete or absent.

    Raises:
        ValueError: what the parser says, and the line; or that there are no rows.
    """
    kinds = {}
    for row in _read_json(path):
        for column, value in row.items():
            kinds.setdefault(column, set()).update([_get_kind(value)] * (value is not None))
    if not kinds:
        raise ValueError("it has no rows")
    for column, found in kinds.items():
        kind = "float64" if found == {"int64", "float64"} else JSON_KIND
        kinds[column] = found.pop() if len(found) == 1 else kind
    features = Features({column: Value(kind) for column, kind in kinds.items()})
    with new_folder(folder) as new, TemporaryDirectory(dir=new.parent) as temporary:
        kwargs = {"features": features, "gen_kwargs": {"path": path, "kinds": kinds}, "cache_dir": temporary}
        Dataset.from_generator(_encode_rows, **kwargs).save_to_disk(new)


def decode_json(batch, columns):
    """A batch (`dict[str, list]`) with the JSON in `columns` decoded."""
    decoded = {column: [None if text is None else json.loads(text) for text in batch[column]] for column in columns}
    return {**batch, **decoded}


def _get_kind(value):
    if isinstance(value, str):
        return "string" if value == value.encode(errors="replace").decode() else JSON_KIND
    if type(value) is int:
        return "int64" if -(2**63) <= value < 2**63 else JSON_KIND
    return {bool: "bool", float: "float64"}.get(type(value), JSON_KIND)


def _encode_rows(path, kinds):
    for row in _read_json(path):
        yield {
            column: json.dumps(value) if kinds[column] == JSON_KIND and value is not None else value
            for column, value in row.items()
        }


def _read_json(path):
    with open(path, encoding="utf-8-sig") as file:
        is_array = file.read(4096).lstrip().startswith("[")
        file.seek(0)
        for row in json.load(file) if is_array else _read_json_lines(file):
            yield row if isinstance(row, dict) else {}


def _read_json_lines(file):
    for number, line in enumerate(file, 1):
        try:
            if line.strip():
                yield json.loads(line)
        except json.JSONDecodeError as error:
            reason = f"line {number}, column {error.colno}: {error.msg}"
            raise ValueError(f"it is neither a JSON array nor JSON Lines ({reason})") from None
