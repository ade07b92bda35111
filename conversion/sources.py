# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the Hub or on the disk: which files hold the weights, and their tensors by name."""

import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import filter as match_names
from functools import partial
from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCard, errors, is_offline_mode, snapshot_download
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

from fila.common.arguments import UserError, library_errors

LICENSE_FILES = ["LICENSE*", "USE_POLICY*", "NOTICE*"]
SMALL_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "*.md", *LICENSE_FILES]
# What holds the weights; the first that is there is read.
WEIGHTS_FILES = ["model.safetensors.index.json", "pytorch_model.bin.index.json"]
WEIGHTS_FILES += ["model.safetensors", "pytorch_model.bin", "*.gguf", "*.safetensors"]


@dataclass
class StoredTensor:
    """A tensor of a checkpoint: where it is, its shape, and a function that reads it."""

    origin: Path | str
    shape: tuple
    read: Callable


@dataclass
class Source:
    """A checkpoint: its name, the folder of its small files, the files of its weights, and the commit of a Hub id."""

    name: str
    folder: Path
    files: list
    revision: str | None = None

    @property
    def license(self):
        """`str`: from the header of the checkpoint's model card, or "unknown"."""
        card = self.folder / "README.md"
        data = ModelCard.load(card, ignore_metadata_errors=True).data if card.exists() else {}
        return data.get("license") or "unknown"

    @property
    def gguf_file(self):
        """`dict`: the argument with which transformers reads a GGUF file; empty for other weights."""
        return {"gguf_file": self.files[0].name} if self.files[0].suffix == ".gguf" else {}

    def read_config(self):
        """The config of transformers, which is never code of the checkpoint."""
        return AutoConfig.from_pretrained(self.folder, trust_remote_code=False, **self.gguf_file)

    def read_json(self, *names):
        """The first of the files that exists, as a dict; empty if there is none."""
        file = next((self.folder / name for name in names if (self.folder / name).exists()), None)
        return json.loads(file.read_text(encoding="utf-8")) if file else {}


def resolve_source(name):
    """Finds a checkpoint, a folder, file or Hub id, perhaps with `@` and a revision, as a [`Source`]; downloads it to the
    Hub's cache. Raises [`UserError`] if it is neither on the disk nor on the Hub, or has no weights, or several."""
    path, remote = Path(name).expanduser(), set()
    if path.is_file():
        return Source(name, path.parent, [path])
    source = Source(name, path, [])
    if not path.is_dir():
        with library_errors(f"{name!r} is not a file or folder here, and the Hub does not give it"):
            source.name, _, revision = name.partition("@")
            options = {"revision": revision or None, "local_files_only": is_offline_mode()}
            path = Path(snapshot_download(source.name, allow_patterns=SMALL_FILES, **options))
            source.folder, source.revision = path, path.name
            with suppress(errors.DryRunError, errors.OfflineModeIsEnabled):  # no network: the cache is all there is
                files = snapshot_download(source.name, revision=path.name, dry_run=True)
                remote = {file.filename for file in files if "/" not in file.filename}
    names = remote | {file.name for file in path.iterdir()}
    found = next(filter(None, (match_names(names, pattern) for pattern in WEIGHTS_FILES)), [])
    if len(found) != 1:
        listed = ", ".join(sorted(found or names)[:12])
        raise UserError(f"{name} has {'several' if found else 'no'} weights: {listed}. Give one file that has them.")
    if found[0].endswith(".json"):
        found = sorted(set(source.read_json(found[0])["weight_map"].values()))
    if remote:
        snapshot_download(source.name, revision=source.revision, allow_patterns=found)
    source.files = [path / file for file in found]
    return source


def open_tensors(source, dtype="auto"):
    """The tensors of a checkpoint as `dict[str, StoredTensor]`. Those of safetensors are read when they are asked for,
    others at once; GGUF is dequantized to `dtype`. Raises [`UserError`] for a damaged file, or a pickle with code."""
    tensors = {}
    for file in source.files:
        with library_errors(f"{file} cannot be read"):
            if file.suffix == ".gguf":
                found = hold_tensors(_read_gguf(file, "bfloat16" if dtype == "auto" else dtype), file)
            elif file.suffix != ".safetensors":
                found = hold_tensors(_read_pickle(file), file)
            else:
                with safe_open(file, framework="pt") as opened:  # checks that the file has the length it states
                    shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118
                found = {name: StoredTensor(file, tuple(shapes[name]), partial(_read, file, name)) for name in shapes}
        tensors |= found
    return tensors


def _read(file, name):
    # The file is opened for each tensor, so that its mapping is freed and memory does not grow with the file.
    with safe_open(file, framework="pt") as opened:
        return opened.get_tensor(name)


def hold_tensors(tensors, origin):
    """Tensors in memory, or mapped into it, as [`StoredTensor`]s. `origin` is for errors."""
    tensors = {name: tensor.detach() for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    return {name: StoredTensor(origin, tuple(value.shape), lambda v=value: v) for name, value in tensors.items()}


def _read_pickle(file):
    try:  # the format before PyTorch 1.6 is no zip file, and cannot be mapped
        content = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
        content = content.get("state_dict", content)
    except Exception as error:  # torch's message says how to run the code
        advice = "If you trust it, save its weights with `safetensors.torch.save_file(tensors, 'model.safetensors')`."
        raise UserError(f"{file} is damaged or holds more than a dict of tensors, and was not run. {advice}") from error
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def _read_gguf(file, dtype):
    # Older versions always dequantize, and do not have the class.
    config = getattr(transformers, "GgufConfig", None)
    options = {"gguf_file": file.name, "dtype": dtype, "output_loading_info": True}
    options |= {"quantization_config": config(dequantize=True)} if config else {}
    model, info = AutoModelForCausalLM.from_pretrained(file.parent, **options)
    problems = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]
    if problems:
        raise ValueError(f"it does not have the tensors that its header announces: {problems[:4]}.")
    return model.state_dict()
