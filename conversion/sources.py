# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the Hub or on the disk: which files hold the weights, and their tensors by name."""

import json
import re
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from huggingface_hub import (
    ModelCard,
    errors,
    hf_hub_download,
    parse_local_safetensors_file_metadata,
    parse_safetensors_file_metadata,
    snapshot_download,
)
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from fila.common.arguments import UserError

SMALL_FILES = ["*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "USE_POLICY*", "NOTICE*"]
WEIGHTS_FILES = ["*.safetensors", "*.bin", "*.gguf"]


@dataclass(frozen=True)
class TensorSpec:
    """Where a tensor of a checkpoint is, and its shape."""

    file: Path | str
    shape: tuple[int, ...]


class SafetensorsFiles:
    """Tensors of safetensors files. At first only the headers are read, then one tensor at a time.

    For files that have not been downloaded, `headers` has the header of each file. Raises [`UserError`] for a damaged file.
    """

    def __init__(self, files, headers=None):
        self.specs = {}
        for file in files:
            try:
                header = headers[file] if headers else parse_local_safetensors_file_metadata(file)
                if not headers:
                    with safe_open(file, framework="pt"):  # also checks that the file has the length it states
                        pass
            except (SafetensorError, errors.SafetensorsParsingError, ValueError, OSError, KeyError) as error:
                raise UserError(
                    f"{file} is not a complete safetensors file ({error}). Download it again, and check its size."
                ) from error
            for name, info in header.tensors.items():
                if name in self.specs:
                    raise UserError(f"The tensor {name!r} is in {self.specs[name].file} and again in {file}.")
                self.specs[name] = TensorSpec(file, tuple(info.shape))

    def read(self, name):
        """Reads one tensor."""
        # The file is opened for each tensor, so that its mapping is freed and memory does not grow with the file.
        with safe_open(self.specs[name].file, framework="pt") as file:
            return file.get_tensor(name)


class LoadedTensors:
    """The tensors of a dict, in memory or mapped into it. `origin` says where they come from, in error messages."""

    def __init__(self, tensors, origin):
        self.tensors = {name: value.detach() for name, value in tensors.items() if isinstance(value, torch.Tensor)}
        self.specs = {name: TensorSpec(origin, tuple(tensor.shape)) for name, tensor in self.tensors.items()}

    def read(self, name):
        """Returns one tensor."""
        return self.tensors[name]


def read_pickle(file):
    """The dict of tensors in a `torch.save` file. Code in it is never run: [`UserError`] for anything but tensors."""
    try:
        with open(file, "rb") as stream:
            is_zip = stream.read(2) == b"PK"  # the older format cannot be mapped
        content = torch.load(file, map_location="cpu", mmap=is_zip, weights_only=True)
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and more for a bad file
        raise UserError(
            f"{file} is damaged or holds more than tensors, and was not run: {str(error).partition(chr(10))[0]} If you "
            "trust it, load it where it was made, and save its weights with "
            "`safetensors.torch.save_file(state_dict, 'model.safetensors')`."
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}, not a dict of tensors.")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def read_gguf(file, dtype):
    """The decoder of a GGUF file, dequantized by transformers and all in memory. [`UserError`] for a damaged file."""
    # Older versions always dequantize, and do not have the class.
    gguf_config = getattr(transformers, "GgufConfig", None)
    dequantize = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, output_loading_info=True, **dequantize
        )
    except ImportError as error:
        raise UserError(f"{file} is a GGUF file: `pip install gguf` to read it.") from error
    except Exception as error:  # the reader raises whatever its parser meets in a damaged file
        raise UserError(f"{file} is not a complete GGUF file ({error}). Download it again.") from error
    problems = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]
    if problems:
        raise UserError(
            f"{file} does not have the tensors that its header announces: {problems[:4]}. Download it again."
        )
    return LoadedTensors(model.state_dict(), file)


@dataclass
class CheckpointSource:
    """A checkpoint whose small files are on the disk.

    Args:
        name (`str`): as the user gave it.
        folder (`Path`): has the config and tokenizer files.
        files (`list[Path]`): the weights. In a dry run they may not have been downloaded.
        revision (`str`, *optional*): commit of a Hub id.
        headers (`dict`, *optional*): safetensors headers read from the Hub, for files that have not been downloaded.
        download_size (`int`): bytes of weights that are still to be downloaded.
    """

    name: str
    folder: Path
    files: list
    revision: str | None = None
    headers: dict | None = None
    download_size: int = 0

    @property
    def license(self):
        """`str`: from the header of the checkpoint's model card, or "unknown"."""
        try:
            return ModelCard.load(self.folder / "README.md").data.license or "unknown"
        except (OSError, ValueError, AttributeError):
            return "unknown"

    def read_json(self, *names):
        """The first of the files that exists, as a dict; empty if there is none."""
        for name in names:
            try:
                return json.loads((self.folder / name).read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise UserError(f"{self.folder / name} is not JSON: {error}") from error
        return {}

    def open(self, gguf_dtype=None):
        """Opens the weights.

        Args:
            gguf_dtype (`torch.dtype`, *optional*): for the tensors of a GGUF file, which is not read without it.

        Returns:
            [`SafetensorsFiles`] or [`LoadedTensors`]; `None` if nothing is known of the weights yet.

        Raises:
            UserError: a file is missing or damaged.
        """
        if self.headers is not None:
            return SafetensorsFiles(self.files, self.headers)
        missing = [file for file in self.files if not file.exists()]
        if missing:
            if self.download_size:
                return None
            raise UserError(f"{missing[0]} is missing, though {self.name} should have it. Download it again.")
        if self.files[0].suffix == ".safetensors":
            return SafetensorsFiles(self.files)
        if self.files[0].suffix == ".gguf":
            return read_gguf(self.files[0], gguf_dtype) if gguf_dtype else None
        tensors = {name: tensor for file in self.files for name, tensor in read_pickle(file).items()}
        return LoadedTensors(tensors, self.files[0] if len(self.files) == 1 else self.folder)


def find_weights(name, files, read_index):
    """Which of `files`, the files of the checkpoint `name`, hold the weights.

    Safetensors are preferred to pickles, and shards to a single file. Raises [`UserError`] if there are none, or several.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in files:
            return sorted(set(read_index(index).get("weight_map", {}).values()))
    stems = (
        r"model\.safetensors",
        r"open_clip_model\.safetensors",
        r"pytorch_model\.bin",
        r"open_clip_pytorch_model\.bin",
    )
    for pattern in (*stems, r"[^/]*\.gguf", r"[^/]*\.safetensors"):
        found = [file for file in files if re.fullmatch(pattern, file)]
        if len(found) == 1:
            return found
        if found:
            raise UserError(f"{name} has several weights: {', '.join(sorted(found))}. Give one of these files instead.")
    raise UserError(
        f"{name} has no weights that can be read (model.safetensors, shards with an index, pytorch_model.bin or a .gguf "
        f"file). It has: {', '.join(sorted(files)[:12]) or 'no files'}."
    )


@contextmanager
def _hub_errors(name, revision):
    try:
        yield
    except errors.HFValidationError as error:
        raise UserError(f"{name!r} is not a file or folder here, nor a Hub id such as 'org/name'.") from error
    except errors.GatedRepoError as error:
        raise UserError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then run `hf auth login`."
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"{name!r} is not a file or folder here, and the Hub has no such repository{at} that you may read. Check the "
            "spelling. If it is private, run `hf auth login`."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise UserError(
            f"{name!r} is not a file or folder here, and its files are not in the Hub's cache while the Hub is offline "
            "or out of reach. Run `hf download` where there is a network, or unset HF_HUB_OFFLINE."
        ) from error
    except errors.HfHubHTTPError as error:
        raise UserError(f"The Hub refused {name!r}: {error}") from error


def resolve_source(name, revision=None, weights_file=None, dry_run=False):
    """Finds a checkpoint on the disk, or downloads it to the Hub's cache.

    Args:
        name (`str`): folder, file or Hub id.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.
        weights_file (`str`, *optional*): name of the weights, if it is an unusual one.
        dry_run (`bool`): do not download weights.

    Returns:
        [`CheckpointSource`]

    Raises:
        UserError: it is neither on the disk nor on the Hub, it is not accessible, or the disk has no room for it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in (".gguf", ".safetensors", ".bin", ".pt", ".pth"):
            raise UserError(f"{path} is not a .safetensors, .bin, .pt, .pth or .gguf file, nor a folder.")
        return CheckpointSource(name, path.parent, [path])
    if path.is_dir():
        source = CheckpointSource(name, path, [])
        files = sorted(file.name for file in path.iterdir() if file.is_file())
        source.files = [path / file for file in find_weights(name, files, source.read_json)]
        return source
    with _hub_errors(name, revision):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=SMALL_FILES))
        source = CheckpointSource(name, folder, [], revision=folder.name)
        patterns = [weights_file] if weights_file else WEIGHTS_FILES
        try:
            remote = snapshot_download(name, revision=source.revision, allow_patterns=patterns, dry_run=True)
        except (errors.DryRunError, errors.OfflineModeIsEnabled):  # no network: the cache is all there is
            remote = []
        sizes = {info.filename: (info.file_size or 0) * info.will_download for info in remote}
        names = {file.name for file in folder.iterdir()} | set(sizes)
        files = [weights_file] if weights_file else find_weights(name, sorted(names), source.read_json)
        source.files = [folder / file for file in files]
        source.download_size = sum(sizes.get(file, 0) for file in files)
        if not dry_run:
            _download(source, files)
        elif source.download_size and all(file.endswith(".safetensors") for file in files):
            source.headers = {
                folder / file: parse_safetensors_file_metadata(name, file, revision=source.revision) for file in files
            }
    return source


def _download(source, files):
    free = shutil.disk_usage(source.folder).free
    if source.download_size > free:
        raise UserError(
            f"{source.name}: {tqdm.format_sizeof(source.download_size, 'B')} to download, and the Hub's cache has "
            f"{tqdm.format_sizeof(free, 'B')} free. Make room, or set HF_HUB_CACHE to another disk."
        )
    for file in files:
        hf_hub_download(source.name, file, revision=source.revision)
    source.download_size = 0
