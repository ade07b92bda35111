# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a FILA model folder from a CLIP, a ConvNeXt and a Llama checkpoint, tensor by tensor.

    python convert_weights.py --vision openai/clip-vit-large-patch14-336 \\
        --convnext convnext_large_mlp.clip_laion2b_ft_soup_320 \\
        --text meta-llama/Meta-Llama-3-8B-Instruct --output fila-llama3-8b

    python convert_weights.py recipes/fila-llama3-8b.yaml --dry-run

Each source is a Hub id or a local path; `none:PRESET` gives a part random weights. A recipe is a YAML file of the options
below, and options on the command line override it. The fusion and the projector start untrained: the fusion as the
identity, so the new model's visual tokens are exactly those of its CLIP.
"""

import copy
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import psutil
import timm
import torch
import transformers
import yaml
from accelerate import init_empty_weights
from huggingface_hub import (
    HfApi,
    ModelCard,
    hf_hub_download,
    parse_local_safetensors_file_metadata,
    parse_safetensors_file_metadata,
    snapshot_download,
    split_state_dict_into_shards_factory,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPVisionModel,
    GenerationConfig,
    HfArgumentParser,
    PreTrainedTokenizerFast,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor

ROOT = Path(__file__).resolve().parent
REMOTE_CODE = ("configuration_fila.py", "image_processing_fila.py", "modeling_fila.py", "processing_fila.py")
IMAGE_TOKEN = "<image>"
# The chat template writes a literal "<image>" in a message with a word joiner inside; the tokenizer's normalizer takes the
# joiner out again after the special tokens have been found. So it is read as plain text, letter by letter.
JOINED_IMAGE_TOKEN = "<\u2060image>"
# Decoders whose checkpoints carry the names that transformers' classes have, and that the tests assemble.
TEXT_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
SAFETENSORS_DTYPES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<pad>", "<|endoftext|>", "<|end_of_text|>", "<unk>")
VISION_PREFIX, CONVNEXT_PREFIX = "model.vision_tower.vit.", "model.vision_tower.convnext."
FUSION_PREFIX, PROJECTOR_PREFIX = "model.vision_tower.fusion.", "model.multi_modal_projector."
TEXT_PREFIX = "model.language_model."
EMBEDDINGS = ("model.language_model.embed_tokens.weight", "lm_head.weight")

VISION_PRESETS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6, "num_attention_heads": 2}
    | {"image_size": 56, "patch_size": 14},
    "small": {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 12, "num_attention_heads": 3}
    | {"image_size": 336, "patch_size": 14},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    | {"image_size": 336, "patch_size": 14},
}
# Any ConvNeXt of timm is a preset as well.
CONVNEXT_PRESETS = {
    "tiny": {
        "architecture": "convnext_atto",
        "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20], "ls_init_value": 0.1},
    }
}
# They use the tokenizer of this repository.
TEXT_PRESETS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "tie_word_embeddings": True},
}

# Used where the decoder has no chat template of its own: the format of LLaVA-1.5.
PLAIN_CHAT_TEMPLATE = """\
{{- bos_token or "" -}}
{%- for message in messages -%}
{%- if message["role"] == "user" -%}
{{- "USER: " ~ message["content"] ~ " " -}}
{%- elif message["role"] == "assistant" -%}
{{- "ASSISTANT: " ~ message["content"] ~ eos_token -}}
{%- else -%}
{{- message["content"] ~ " " -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "ASSISTANT:" -}}
{%- endif -%}
"""
# Runs the decoder's own template on messages whose content has become a string, with the answers between two marks, and
# then turns the marks into `generation` blocks. An answer's end-of-turn token is part of what is generated.
ANSWER_START, ANSWER_END = "<\u2060answer>", "<\u2060/answer>"
CHAT_TEMPLATE_HEAD = """\
{%- macro escape(text) -%}
{{- (text or "") | replace("<image>", "<\\u2060image>") -}}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string -%}
{{- escape(content) -}}
{%- else -%}
{%- set run = namespace(text="") -%}
{%- for item in content -%}
{%- if item["type"] == "image" -%}
{{- escape(run.text) ~ "<image>" -}}
{%- set run.text = "" -%}
{%- elif item["type"] == "text" -%}
{%- set run.text = run.text ~ (item["text"] or "") -%}
{%- else -%}
{{- raise_exception("FILA reads items of type 'text' and 'image', not '" ~ item["type"] ~ "'.") -}}
{%- endif -%}
{%- endfor -%}
{{- escape(run.text) -}}
{%- endif -%}
{%- endmacro -%}
{%- set fila = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = message["content"] -%}
{%- if content is not none and content is defined -%}
{%- set content = render(content) TRIM -%}
{%- if message["role"] == "assistant" -%}
{%- set content = "<\\u2060answer>" ~ content ~ "<\\u2060/answer>" -%}
{%- endif -%}
{%- endif -%}
{%- set fila.messages = fila.messages + [dict(message, content=content)] -%}
{%- endfor -%}
{%- set messages = fila.messages -%}
{%- set rendered -%}
"""
CHAT_TEMPLATE_TAIL = """
{%- endset -%}
{%- for turn in rendered.split("<\\u2060answer>") -%}
{%- if loop.first -%}
{{- turn -}}
{%- else -%}
{%- set answer = turn.split("<\\u2060/answer>") -%}
{%- set end_token = END_TOKEN -%}
{%- generation -%}
{{- answer[0] ~ (end_token if answer[1].startswith(end_token) else "") -}}
{%- endgeneration -%}
{{- answer[1][end_token | length:] if answer[1].startswith(end_token) else answer[1] -}}
{%- endif -%}
{%- endfor -%}
"""


class ConversionError(ValueError):
    """What is wrong with a source or an option, and what to do about it; shown without a traceback."""


@dataclass
class ConvertArguments:
    """Options of the command line and of recipes."""

    vision: str | None = field(
        default=None,
        metadata={"help": f"CLIP checkpoint of transformers: Hub id or folder; or none:{{{','.join(VISION_PRESETS)}}}"},
    )
    convnext: str | None = field(
        default=None,
        metadata={
            "help": "ConvNeXt: timm name with tag, Hub id or folder of timm, OpenCLIP or transformers; or none:NAME with "
            f"a timm name or {', '.join(CONVNEXT_PRESETS)}. Not used with --fusion-type none."
        },
    )
    text: str | None = field(
        default=None,
        metadata={
            "help": f"decoder: Hub id, folder or .gguf file of Llama architecture; or none:{{{','.join(TEXT_PRESETS)}}}"
        },
    )
    output: str | None = field(default=None, metadata={"help": "model folder to write"})
    vision_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub id"})
    convnext_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub id"})
    text_revision: str | None = field(default=None, metadata={"help": "branch, tag or commit of a Hub id"})
    fusion_type: str = field(default="cvfm", metadata={"help": "cvfm, none, cross_attention or channel_concat"})
    fusion_layers: list[int] | None = field(
        default=None,
        metadata={"help": "ViT layers after which to fuse (default: 2 6 12 20, scaled to the depth of the ViT)"},
    )
    fusion_align: str = field(default="conv", metadata={"help": "conv or interpolate"})
    dtype: str = field(
        default="auto",
        metadata={"help": "bfloat16, float16, float32, or auto: the decoder's own (bfloat16 for GGUF and none:)"},
    )
    max_shard_size: str = field(default="5GB", metadata={"help": "largest weights file"})
    seed: int = field(default=0, metadata={"help": "seed of the weights that are not taken from a source"})
    verify: bool = field(default=True, metadata={"help": "compare the output with the sources"})
    overwrite: bool = field(default=False, metadata={"help": "replace a model folder at the output"})
    dry_run: bool = field(default=False, metadata={"help": "print the plan and the sizes; read and write no weights"})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub id to upload the result to"})


def parse_arguments(arguments=None):
    """Reads the command line; a first argument that ends in .yaml is a recipe whose values the others override.

    Returns:
        [`ConvertArguments`]

    Raises:
        ConversionError: unreadable recipe, unknown key in it, or a part or the output not given.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = HfArgumentParser(ConvertArguments, description=__doc__)
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        path = Path(arguments.pop(0))
        try:
            recipe = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ConversionError(f"The recipe {path} cannot be read: {error}") from error
        known = {option.name for option in fields(ConvertArguments)}
        if not isinstance(recipe, dict) or set(recipe) - known:
            unknown = sorted(set(recipe) - known) if isinstance(recipe, dict) else recipe
            raise ConversionError(
                f"The recipe {path} has {unknown}; allowed are the options {', '.join(sorted(known))}."
            )
        parser.set_defaults(**recipe)
    (options,) = parser.parse_args_into_dataclasses(arguments)
    needed = ["vision", "text", "output"] + ["convnext"] * (options.fusion_type != "none")
    missing = [f"--{name}" for name in needed if getattr(options, name) is None]
    if missing:
        raise ConversionError(f"Not given: {', '.join(missing)}. `--help` explains the options.")
    if options.dtype not in ("auto", *DTYPES):
        raise ConversionError(f"--dtype {options.dtype} is not one of auto, {', '.join(DTYPES)}.")
    return options


@dataclass(frozen=True)
class TensorSpec:
    """Where a tensor of a checkpoint is, and its shape; nothing has been read."""

    file: Path | str
    shape: tuple[int, ...]
    location: tuple | None = None


class SafetensorsFiles:
    """Tensors of safetensors files, read one at a time."""

    def __init__(self, files, headers=None):
        self.specs = {}
        for file in files:
            try:
                header = headers[file] if headers else parse_local_safetensors_file_metadata(file)
                if not headers:
                    with safe_open(file, framework="pt"):  # also checks that the file is as long as it says
                        pass
            except (SafetensorError, SafetensorsParsingError, ValueError, OSError, KeyError) as error:
                raise ConversionError(
                    f"{file} is not a whole safetensors file ({error}). Download it again, and check its size."
                ) from error
            for name, info in header.tensors.items():
                if name in self.specs:
                    raise ConversionError(f"The tensor {name!r} is in {self.specs[name].file} and again in {file}.")
                self.specs[name] = TensorSpec(file, tuple(info.shape))

    def read(self, name):
        # Opened for each tensor: the mapping ends with it, and memory does not grow with the file.
        with safe_open(self.specs[name].file, framework="pt") as file:
            return file.get_tensor(name)


class PickleFiles:
    """Tensors of `torch.save` files, read without running any code in them."""

    def __init__(self, files):
        self.specs, self._whole = {}, {}
        for file in files:
            for name, tensor in self._load(file).items():
                if isinstance(tensor, torch.Tensor):
                    self.specs[name] = TensorSpec(file, tuple(tensor.shape))

    def _load(self, file):
        if file in self._whole:
            return self._whole[file]
        try:
            with open(file, "rb") as stream:
                is_zip = stream.read(2) == b"PK"  # the older format cannot be mapped
            content = torch.load(file, map_location="cpu", mmap=is_zip, weights_only=True)
        except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError and more for a bad file
            raise ConversionError(
                f"{file} holds more than tensors, or is damaged, and was not run: {str(error).splitlines()[0]} If you trust "
                "it, load it where it was made, and save its weights with `safetensors.torch.save_file(state_dict, "
                "'model.safetensors')`."
            ) from error
        content = content.get("state_dict", content) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise ConversionError(f"{file} holds a {type(content).__name__}, not a dict of tensors.")
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
        if not is_zip:
            self._whole[file] = content
        return content

    def read(self, name):
        return self._load(self.specs[name].file)[name].detach()


class GgufFile:
    """Tensors of a GGUF file of Llama architecture, dequantized, under the names that transformers uses."""

    def __init__(self, file, config):
        try:
            import gguf
        except ImportError as error:
            raise ConversionError(f"{file} is a GGUF file: `pip install gguf` to read it.") from error
        self._config, self._dequantize = config, gguf.quants.dequantize
        try:
            reader = gguf.GGUFReader(file)
        except (ValueError, OSError, IndexError) as error:
            raise ConversionError(f"{file} is not a whole GGUF file ({error}). Download it again.") from error
        size = os.path.getsize(file)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        self.specs = {}
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        for tensor in tensors.values():
            if tensor.data_offset + tensor.n_bytes > size:
                raise ConversionError(f"{file} ends before its tensor {tensor.name!r}. Download it again.")
        # transformers' names of what this decoder has, found under the names of GGUF; what is left keeps GGUF's name.
        with init_empty_weights():
            expected = list(AutoModelForCausalLM.from_config(config).state_dict())
        for name in expected:
            stem, _, suffix = name.rpartition(".")
            tensor = tensors.pop(f"{names.get_name(stem)}.{suffix}", None)
            if tensor is not None:
                self.specs[name] = self._spec(file, tensor)
        self.specs.update((name, self._spec(file, tensor)) for name, tensor in tensors.items())

    def _spec(self, file, tensor):
        location = (tensor.data_offset, tensor.data.shape, tensor.data.dtype, tensor.tensor_type)
        return TensorSpec(file, tuple(int(size) for size in reversed(tensor.shape)), location)

    def read(self, name):
        spec = self.specs[name]
        offset, shape, dtype, tensor_type = spec.location
        data = np.fromfile(spec.file, dtype=dtype, count=int(np.prod(shape)), offset=offset).reshape(shape)
        weights = torch.from_numpy(np.array(self._dequantize(data, tensor_type), dtype=np.float32)).reshape(spec.shape)
        # GGUF stores the rows of a head's rotary halves interleaved.
        heads = {"q_proj": self._config.num_attention_heads, "k_proj": self._config.num_key_value_heads}
        heads = heads.get(name.split(".")[-2]) if "." in name else None
        if heads is None:
            return weights
        return weights.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)


@dataclass
class Source:
    """A resolved source: a folder with its small files, and where its weights are.

    Args:
        name (`str`): as the user gave it; for a Hub id without the local path.
        folder (`Path`): holds config and tokenizer files.
        files (`list[Path]`): the weights; for a dry run of a Hub id that is not in the cache, not there yet.
        revision (`str`, *optional*): commit of a Hub id.
        headers (`dict`, *optional*): safetensors headers read from the Hub, for weights that are not there.
        download_size (`int`): bytes of weights still to be downloaded.
    """

    name: str
    folder: Path
    files: list
    revision: str | None = None
    headers: dict | None = None
    download_size: int = 0

    @property
    def license(self):
        """`str`: from the header of the source's model card."""
        try:
            return ModelCard.load(self.folder / "README.md").data.license or "unknown"
        except (OSError, ValueError, AttributeError):
            return "unknown"

    def read_json(self, *names):
        """The first of the files that exists, as a dict; empty if there is none."""
        for name in names:
            try:
                return json.loads((self.folder / name).read_text())
            except FileNotFoundError:
                continue
            except ValueError as error:
                raise ConversionError(f"{self.folder / name} is not JSON: {error}") from error
        return {}

    def open(self, config=None):
        """The tensors of the weights, or `None` if nothing is known of them yet."""
        if self.headers is not None:
            return SafetensorsFiles(self.files, self.headers)
        if not all(Path(file).exists() for file in self.files):
            if self.download_size:
                return None
            missing = next(file for file in self.files if not Path(file).exists())
            raise ConversionError(f"{missing} is missing, though the index of {self.name} names it. Download it again.")
        if self.files[0].suffix == ".safetensors":
            return SafetensorsFiles(self.files)
        return GgufFile(self.files[0], config) if self.files[0].suffix == ".gguf" else PickleFiles(self.files)


def find_weights(name, files, read_index):
    """Which of a folder's files hold the weights: safetensors before pickles, sharded before single.

    Args:
        name (`str`): of the source, for the error.
        files (`list[str]`): names in the folder.
        read_index (`Callable`): from the name of an index to its content.

    Returns:
        `list[str]`

    Raises:
        ConversionError: no weights, or weights of another framework alone.
    """
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if index in files:
            return sorted(set(read_index(index).get("weight_map", {}).values()))
    for pattern in (
        r"model\.safetensors",
        r"open_clip_model\.safetensors",
        r"pytorch_model\.bin",
        r"open_clip_pytorch_model\.bin",
        r"[^/]*\.gguf",
        r"[^/]*\.safetensors",
    ):
        found = [file for file in files if re.fullmatch(pattern, file)]
        if len(found) == 1:
            return found
        if found:
            raise ConversionError(
                f"{name} has several weights: {', '.join(sorted(found))}. Name one of them as the source."
            )
    raise ConversionError(
        f"{name} has no weights that can be read (model.safetensors, its shards with an index, pytorch_model.bin or a "
        f".gguf file). It has: {', '.join(sorted(files)[:12]) or 'no files'}."
    )


def resolve_source(name, revision=None, weights_file=None, dry_run=False):
    """Finds a source on the disk, or downloads it to the Hub's cache.

    Args:
        name (`str`): folder, file or Hub id.
        revision (`str`, *optional*): branch, tag or commit of a Hub id.
        weights_file (`str`, *optional*): name of the weights, where it is not one of the usual.
        dry_run (`bool`): do not download weights.

    Returns:
        [`Source`]

    Raises:
        ConversionError: neither on the disk nor on the Hub, or not accessible.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix not in (".gguf", ".safetensors", ".bin", ".pt", ".pth"):
            raise ConversionError(f"{path} is not a .safetensors, .bin, .pt, .pth or .gguf file, nor a folder.")
        return Source(name, path.parent, [path])
    if path.is_dir():
        source = Source(name, path, [])
        files = sorted(file.name for file in path.iterdir() if file.is_file())
        source.files = [path / file for file in find_weights(name, files, source.read_json)]
        return source
    small_files = ["*.json", "*.model", "*.jinja", "*.txt", "*.md", "LICENSE*", "USE_POLICY*", "NOTICE*"]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=small_files))
        source = Source(name, folder, [], revision=folder.name)
        commit = source.revision
        try:
            infos = HfApi().model_info(name, revision=commit, files_metadata=True).siblings
            sizes = {info.rfilename: info.size or 0 for info in infos}
        except HfHubHTTPError:
            raise
        except (
            Exception
        ):  # offline or out of reach, which each HTTP client says in its own way: the cache is all there is
            sizes = {file.name: 0 for file in folder.iterdir()}
        files = [weights_file] if weights_file else find_weights(name, list(sizes), source.read_json)
        cached = {file: try_to_load_from_cache(name, file, revision=commit) for file in files}
        absent = [file for file in files if not isinstance(cached[file], str)]
        source.download_size = sum(sizes.get(file, 0) for file in absent)
        if not dry_run:
            free = shutil.disk_usage(folder).free
            if source.download_size > free:
                raise ConversionError(
                    f"{name}: {_size(source.download_size)} to download, and the Hub's cache has {_size(free)} free. Make "
                    "room, or set HF_HUB_CACHE to another disk."
                )
            for file in absent:
                hf_hub_download(name, file, revision=commit)
            source.download_size = 0
        source.files = [folder / file for file in files]
        if absent and dry_run and all(file.endswith(".safetensors") for file in files):
            source.headers = {
                folder / file: parse_safetensors_file_metadata(name, file, revision=commit) for file in files
            }
        return source
    except HFValidationError as error:
        raise ConversionError(f"{name!r} is neither a file or folder here nor a Hub id such as 'org/name'.") from error
    except GatedRepoError as error:
        raise ConversionError(
            f"{name} is gated: accept its licence at https://huggingface.co/{name}, then `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ConversionError(
            f"{name!r} is no file or folder here, and the Hub has no such repository{at} that you may read. Check the "
            "spelling; for a private one, `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ConversionError(
            f"{name!r} is no file or folder here, and its files are not in the Hub's cache while the Hub is offline "
            "or out of reach. Download it where there is a network (`hf download`), or unset HF_HUB_OFFLINE."
        ) from error
    except HfHubHTTPError as error:
        raise ConversionError(f"The Hub refused {name!r}: {error}") from error


@dataclass
class Part:
    """One of the three backbones: its configuration, and its tensors under FILA's names.

    Args:
        title (`str`): for tables and errors.
        prefix (`str`): what its parameters' names in FILA start with.
        source ([`Source`], *optional*): `None` for random weights.
        label (`str`): what the user gave.
        config: sub-config of [`FilaConfig`].
        checkpoint: [`SafetensorsFiles`], [`PickleFiles`] or [`GgufFile`].
        rename (`Callable`): a tensor's name -> (its name in FILA, `None`) or (`None`, why it is dropped).
        mean, std (`list[float]`, *optional*): the normalisation its images had.
    """

    title: str
    prefix: str
    label: str
    config: object
    source: Source | None = None
    checkpoint: object = None
    rename: Callable | None = None
    mean: list | None = None
    std: list | None = None
    layout: str = "random"

    @property
    def shown(self):
        """`str`: the source without the folders of this machine."""
        is_local = self.source is not None and self.source.revision is None
        return Path(self.label).name if is_local else self.label


def _preset(option, label, presets):
    name = label.removeprefix("none:")
    if name not in presets:
        raise ConversionError(
            f"--{option} {label}: the presets are {', '.join('none:' + preset for preset in presets)}."
        )
    return copy.deepcopy(presets[name])


def _wrong_architecture(source, found, allowed):
    return ConversionError(
        f"{source.name} is {found}; needed is {allowed}. See config.json in {source.folder}, or name another source."
    )


def rename_vision(name):
    """A tensor of a CLIP checkpoint (full or tower alone, transformers 4 or 5) -> its name in FILA's ViT."""
    if re.match(r"(text_model|text_projection|visual_projection|logit_scale)\b", name):
        return None, "CLIP's text tower and its joint space"
    name = name.removeprefix("vision_model.")
    if name.startswith("post_layernorm."):
        return None, "after the feature layer"
    if name.endswith("position_ids"):
        return None, "a buffer that is computed"
    return VISION_PREFIX + name.removeprefix("encoder.").replace("pre_layrnorm.", "pre_layernorm."), None


def load_vision(options):
    """The CLIP vision tower.

    Returns:
        [`Part`]

    Raises:
        ConversionError: not a CLIP of transformers.
    """
    if options.vision.startswith("none:"):
        config = {"model_type": "clip_vision_model", **_preset("vision", options.vision, VISION_PRESETS)}
        return Part("ViT", VISION_PREFIX, options.vision, config, mean=OPENAI_CLIP_MEAN, std=OPENAI_CLIP_STD)
    source = resolve_source(options.vision, options.vision_revision, dry_run=options.dry_run)
    raw = source.read_json("config.json")
    if raw.get("model_type") not in ("clip", "clip_vision_model"):
        raise _wrong_architecture(source, f"of model_type {raw.get('model_type')!r}", "a CLIP in transformers' format")
    config = AutoConfig.from_pretrained(source.folder)
    config = getattr(config, "vision_config", config)
    preprocessor = source.read_json("preprocessor_config.json", "processor_config.json")
    preprocessor = preprocessor.get("image_processor", preprocessor)
    return Part(
        title="ViT",
        prefix=VISION_PREFIX,
        label=options.vision,
        config=config,
        source=source,
        checkpoint=source.open(),
        rename=rename_vision,
        mean=preprocessor.get("image_mean", OPENAI_CLIP_MEAN),
        std=preprocessor.get("image_std", OPENAI_CLIP_STD),
        layout="transformers CLIP",
    )


def rename_timm(name):
    """A tensor of a timm ConvNeXt -> its name in FILA."""
    if name.startswith(("head.", "norm_pre.")):
        return None, "head of the classifier"
    return CONVNEXT_PREFIX + name, None


def rename_open_clip(name):
    """A tensor of an OpenCLIP model with a timm ConvNeXt -> its name in FILA."""
    if not name.startswith("visual.trunk."):
        return None, "OpenCLIP's text tower and its joint space"
    return rename_timm(name.removeprefix("visual.trunk."))


def rename_transformers_convnext(name):
    """A tensor of transformers' ConvNextModel or ConvNextForImageClassification -> its name in FILA."""
    name = name.removeprefix("convnext.")
    if name.startswith(("layernorm.", "classifier.")):
        return None, "head of the classifier"
    for pattern, replacement in (
        (r"^embeddings\.patch_embeddings\.", "stem.0."),
        (r"^embeddings\.layernorm\.", "stem.1."),
        (r"^encoder\.stages\.", "stages."),
        (r"\.downsampling_layer\.", ".downsample."),
        (r"\.layers\.", ".blocks."),
        (r"\.dwconv\.", ".conv_dw."),
        (r"(\.blocks\.\d+)\.layernorm\.", r"\1.norm."),
        (r"\.pwconv1\.", ".mlp.fc1."),
        (r"\.pwconv2\.", ".mlp.fc2."),
        (r"\.layer_scale_parameter$", ".gamma"),
    ):
        name = re.sub(pattern, replacement, name)
    return CONVNEXT_PREFIX + name, None


def load_convnext(options):
    """The ConvNeXt, from whichever library.

    Returns:
        [`Part`]

    Raises:
        ConversionError: not a ConvNeXt, or one that timm cannot build.
    """
    label = options.convnext
    if label.startswith("none:"):
        names = timm.list_models(module="convnext")
        presets = CONVNEXT_PRESETS | {name: {"architecture": name} for name in names}
        if label.removeprefix("none:") not in presets:
            raise ConversionError(f"--convnext {label}: give a ConvNeXt of timm or {', '.join(CONVNEXT_PRESETS)}.")
        config = _preset("convnext", label, presets)
        return Part(
            "ConvNeXt", CONVNEXT_PREFIX, label, config, mean=list(IMAGENET_DEFAULT_MEAN), std=list(IMAGENET_DEFAULT_STD)
        )
    name, weights_file = label, None
    if not Path(label).expanduser().exists() and timm.is_model(label.split(".")[0]):
        pretrained = timm.get_pretrained_cfg(label)
        if pretrained is None or not pretrained.hf_hub_id:
            tags = ", ".join(timm.list_pretrained(f"{label.split('.')[0]}.*")) or "none"
            raise ConversionError(f"timm has no weights {label!r} on the Hub. It has: {tags}.")
        name, weights_file = pretrained.hf_hub_id, pretrained.hf_hub_filename
        if name.endswith("/"):
            name = f"{name}{pretrained.architecture}.{pretrained.tag}"
    source = resolve_source(name, options.convnext_revision, weights_file, options.dry_run)
    part = Part("ConvNeXt", CONVNEXT_PREFIX, label, None, source=source)
    raw, open_clip = source.read_json("config.json"), source.read_json("open_clip_config.json")
    if open_clip:
        part.layout, part.rename = "OpenCLIP", rename_open_clip
        architecture = open_clip.get("model_cfg", {}).get("vision_cfg", {}).get("timm_model_name")
        part.config = {"architecture": architecture}
        preprocess = open_clip.get("preprocess_cfg", {})
        part.mean, part.std = preprocess.get("mean", OPENAI_CLIP_MEAN), preprocess.get("std", OPENAI_CLIP_STD)
    elif "architecture" in raw:
        part.layout, part.rename = "timm", rename_timm
        architecture = raw["architecture"]
        ours = {"num_classes", "pretrained", "features_only", "in_chans", "output_stride"}
        model_args = {key: value for key, value in (raw.get("model_args") or {}).items() if key not in ours}
        part.config = {"architecture": architecture, "model_args": model_args}
        pretrained = raw.get("pretrained_cfg", raw)
        part.mean = pretrained.get("mean", IMAGENET_DEFAULT_MEAN)
        part.std = pretrained.get("std", IMAGENET_DEFAULT_STD)
    elif raw.get("model_type") == "convnext":
        part.layout, part.rename = "transformers ConvNext", rename_transformers_convnext
        config = AutoConfig.from_pretrained(source.folder)
        if config.patch_size != 4 or config.hidden_act != "gelu" or config.num_channels != 3:
            raise _wrong_architecture(
                source,
                f"a ConvNext with patch_size={config.patch_size}, hidden_act={config.hidden_act!r}, "
                f"num_channels={config.num_channels}",
                "one with 4, 'gelu' and 3",
            )
        architecture = "convnext_tiny"
        part.config = {
            "architecture": architecture,
            "model_args": {
                "depths": list(config.depths),
                "dims": list(config.hidden_sizes),
                "ls_init_value": config.layer_scale_init_value or None,
            },
        }
        preprocessor = source.read_json("preprocessor_config.json", "processor_config.json")
        preprocessor = preprocessor.get("image_processor", preprocessor)
        part.mean = preprocessor.get("image_mean", IMAGENET_DEFAULT_MEAN)
        part.std = preprocessor.get("image_std", IMAGENET_DEFAULT_STD)
    else:
        found = f"of model_type {raw.get('model_type')!r}" if raw else "a folder without config.json"
        raise _wrong_architecture(source, found, "a ConvNeXt of timm, OpenCLIP or transformers")
    if architecture not in timm.list_models(module="convnext"):
        raise _wrong_architecture(source, f"of the architecture {architecture!r}", "a ConvNeXt that timm knows")
    part.checkpoint = source.open()
    return part


def rename_text(name):
    """A tensor of a causal decoder -> its name in FILA."""
    if name.endswith("rotary_emb.inv_freq"):
        return None, "a buffer that is computed"
    if name == "rope_freqs.weight":
        return None, "long-context factors of a GGUF file, which transformers does not read"
    return (name if name == "lm_head.weight" else TEXT_PREFIX + name.removeprefix("model.")), None


def load_text(options):
    """The decoder.

    Returns:
        [`Part`]

    Raises:
        ConversionError: another architecture, or quantized weights other than GGUF.
    """
    if options.text.startswith("none:"):
        config = {"model_type": "llama", **_preset("text", options.text, TEXT_PRESETS)}
        return Part("decoder", TEXT_PREFIX, options.text, config)
    source = resolve_source(options.text, options.text_revision, dry_run=options.dry_run)
    if source.files[0].suffix == ".gguf":
        if not source.files[0].exists():
            raise ConversionError(f"{source.name}: a GGUF file on the Hub must be downloaded before a dry run.")
        try:
            config = AutoConfig.from_pretrained(source.folder, gguf_file=source.files[0].name)
        except Exception as error:  # the reader raises what its parser meets in a damaged file
            raise ConversionError(
                f"{source.files[0]} is not a GGUF file that can be read, or of an unknown architecture: {error}"
            ) from error
        allowed, layout = ("llama",), "GGUF"
    else:
        raw = source.read_json("config.json")
        if raw.get("quantization_config"):
            method = raw["quantization_config"].get("quant_method")
            raise _wrong_architecture(source, f"quantized ({method})", "a checkpoint in float, or a GGUF file")
        allowed, layout = TEXT_MODEL_TYPES, "transformers"
        config = AutoConfig.from_pretrained(source.folder) if raw.get("model_type") in allowed else None
    model_type = config.model_type if config is not None else raw.get("model_type")
    if model_type not in allowed:
        raise _wrong_architecture(source, f"of model_type {model_type!r}", f"one of {', '.join(allowed)}")
    return Part(
        "decoder",
        TEXT_PREFIX,
        options.text,
        config,
        source=source,
        checkpoint=source.open(config),
        rename=rename_text,
        layout=layout,
    )


def load_tokenizer(part):
    """The decoder's tokenizer; for random weights this repository's own.

    Raises:
        ConversionError: none beside the weights.
    """
    try:
        if part.source is None:
            return AutoTokenizer.from_pretrained(ROOT)
        file = part.source.files[0]
        gguf_file = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
        tokenizer = AutoTokenizer.from_pretrained(part.source.folder, **gguf_file)
        if gguf_file:  # older transformers, such as 5.16, take other tokens of the file for these
            for name in ("bos_token", "eos_token"):
                token_id = getattr(part.config, f"{name}_id", None)
                if token_id is not None:
                    setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise ConversionError(f"{part.label} has no tokenizer that transformers can read: {error}") from error
    if not tokenizer.is_fast:
        raise ConversionError(f"{part.label}: its tokenizer has no fast version, which FILA needs (tokenizer.json).")
    return tokenizer


def make_tokenizer(source, max_length):
    """A copy of a tokenizer that knows `<image>` and reads the chat template's escape of it as text.

    A Llama-3 tokenizer gives one of its reserved tokens, so that no embedding is needed; any other gets a new token.

    Args:
        source (`PreTrainedTokenizerFast`): the decoder's tokenizer.
        max_length (`int`): the decoder's context, in tokens.

    Returns:
        `PreTrainedTokenizerFast`
    """
    state = json.loads(source.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    normalizers = [{"type": "Replace", "pattern": {"String": JOINED_IMAGE_TOKEN}, "content": IMAGE_TOKEN}]
    if state["normalizer"] != normalizers[0]:
        if state["normalizer"] is not None:
            normalizers.append(state["normalizer"])
        state["normalizer"] = {"type": "Sequence", "normalizers": normalizers} if normalizers[1:] else normalizers[0]
    contents = [token["content"] for token in state["added_tokens"]]
    reserved = next((text for text in contents if re.fullmatch(r"<\|reserved_special_token_\d+\|>", text)), None)
    if IMAGE_TOKEN not in contents and reserved is not None:
        state["added_tokens"][contents.index(reserved)]["content"] = IMAGE_TOKEN
        if reserved in state["model"]["vocab"]:
            state["model"]["vocab"][IMAGE_TOKEN] = state["model"]["vocab"].pop(reserved)
    known = set(source.get_vocab())
    special_tokens = {
        name: str(token)
        for name, token in source.special_tokens_map.items()
        if isinstance(token, str) and name != "image_token"
    }
    if "pad_token" not in special_tokens:
        special_tokens["pad_token"] = next((token for token in PAD_TOKENS if token in known), source.eos_token)
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=min(source.model_max_length, max_length),
        **special_tokens,
    )


def make_chat_template(source, tokenizer):
    """The decoder's chat template, made to take images and to mark the answers for training.

    Text-only chats render as before, character by character; that is checked.

    Args:
        source (`PreTrainedTokenizerFast`): the decoder's tokenizer, with or without a template.
        tokenizer (`PreTrainedTokenizerFast`): the one from [`make_tokenizer`].

    Returns:
        `str`: a Jinja template.

    Raises:
        ConversionError: the decoder's template cannot be carried over.
    """
    template = source.chat_template or PLAIN_CHAT_TEMPLATE
    if isinstance(template, dict):
        template = template["default"]
    if "<\\u2060image>" in template:  # FILA's own
        return template
    user = {"role": "user", "content": " What is 2 + 2? \n"}
    chats = [
        [user],
        [{"role": "system", "content": "Be brief."}, user],
        [user, {"role": "assistant", "content": " 4\n"}],
        [user, {"role": "assistant", "content": "4"}, user],
    ]

    def render(text, chat, **kwargs):
        try:
            return tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False, **kwargs)
        except Exception as error:  # some templates refuse a system turn; then ours has to refuse it as well
            return type(error).__name__

    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    # Some templates strip what they are given; the marks are in the way of that, so it is done before.
    for trim in ("", "| trim"):
        end_token = repr_jinja(find_end_token(template, source))
        head = CHAT_TEMPLATE_HEAD.replace(" TRIM", f" {trim}".rstrip())
        wrapped = head + plain + CHAT_TEMPLATE_TAIL.replace("END_TOKEN", end_token)
        if all(
            render(wrapped, chat, add_generation_prompt=prompt) == render(template, chat, add_generation_prompt=prompt)
            for chat in chats
            for prompt in (False, True)
        ):
            return wrapped
    raise ConversionError(
        f"The chat template of {source.name_or_path} changes its messages in a way that FILA cannot follow. Put a plainer "
        "chat_template.jinja beside its weights."
    )


def find_end_token(template, tokenizer):
    """The special token that ends an assistant's turn, as the template writes it; empty if there is none."""
    answer = "FILA's answer"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    rest = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False).rpartition(answer)[2]
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in tokens if rest.startswith(token)), key=len, default="")


def repr_jinja(text):
    return json.dumps(text, ensure_ascii=False)


def make_config(vision, convnext, text, tokenizer, options):
    """FILA's configuration for the three parts.

    Returns:
        `tuple[FilaConfig, int]`: the config, and the rows that its vocabulary has more than the decoder's.

    Raises:
        ConversionError: a combination that [`FilaConfig`] refuses.
    """
    text_config = copy.deepcopy(text.config)
    if text.source is None:
        text_config |= {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length}
        text_config |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        text_config |= {"pad_token_id": tokenizer.pad_token_id}
        added_rows = 0
    else:
        old_size = text_config.vocab_size
        new_size = old_size if len(tokenizer) <= old_size else -(-len(tokenizer) // 64) * 64
        added_rows = new_size - old_size
        text_config.vocab_size = new_size
        text_config.name_or_path = ""
        text_config.pad_token_id = tokenizer.pad_token_id
    try:
        probe = FilaConfig(vision_config=vision.config, fusion_type="none", image_token_id=0, text_config=text_config)
        depth = probe.vision_config.num_hidden_layers
        # The article's layers for 24; for another depth at the same fractions of it.
        layers = options.fusion_layers or [max(1, round(layer * depth / 24)) for layer in (2, 6, 12, 20)]
        return FilaConfig(
            vision_config=vision.config,
            convnext_config=None if convnext is None else convnext.config,
            text_config=text_config,
            fusion_type=options.fusion_type,
            fusion_layers=layers,
            fusion_align=options.fusion_align,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            dtype=pick_dtype(text, options),
        ), added_rows
    except ValueError as error:
        raise ConversionError(str(error)) from error


def pick_dtype(text, options):
    """`str`: the dtype of the output."""
    if options.dtype != "auto":
        return options.dtype
    dtype = getattr(text.config, "dtype", None) if text.layout == "transformers" else None
    dtype = str(dtype or "bfloat16").removeprefix("torch.")
    return dtype if dtype in DTYPES else "bfloat16"


def make_image_processor(config, vision, convnext):
    """The image processor whose geometry is that of the ViT: canvases of 1x2, 2x1, 2x2, 3x1 and 1x3 tiles."""
    size = config.vision_config.image_size
    pinpoints = [[rows * size, columns * size] for rows, columns in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
    high_res = {"do_high_res": False}
    if convnext is not None:
        high_res = {"high_res_image_mean": list(convnext.mean), "high_res_image_std": list(convnext.std)}
    return FilaImageProcessor(
        size=size,
        patch_size=config.vision_config.patch_size,
        image_grid_pinpoints=pinpoints,
        image_mean=list(vision.mean),
        image_std=list(vision.std),
        **high_res,
    )


@dataclass
class Entry:
    """A tensor of the output: its shape, and how it comes about.

    Args:
        part (`str`): title of the part, for the table.
        read (`Callable`): makes the tensor in the output's dtype; called once to write it and once more to compare.
        shape (`tuple[int, ...]`): its shape.
        dtype (`torch.dtype`): of the output.
        origin (`str`): the file and the name it comes from, or how it starts.
    """

    part: str
    read: Callable
    shape: tuple
    dtype: torch.dtype
    origin: str

    @property
    def num_bytes(self):
        """`int`: its size in the output."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


class RandomWeights:
    """Weights that no source has, as the model's own rules start them: one block of the model at a time.

    Args:
        model ([`FilaForConditionalGeneration`]): on the meta device.
        seed (`int`): each block is seeded apart, so a block is the same whenever it is asked for.
    """

    def __init__(self, model, seed):
        self.model, self.seed = model, seed
        self._block, self._tensors = None, {}

    def read(self, name):
        block = self._find_block(name)
        if block != self._block:
            self._tensors = self._initialize(block)
            self._block = block
        return self._tensors[name]

    def _find_block(self, name):
        for prefix in (VISION_PREFIX, CONVNEXT_PREFIX, FUSION_PREFIX, TEXT_PREFIX):
            if name.startswith(prefix):
                return re.match(re.escape(prefix) + r"\d+|" + re.escape(prefix) + r"[^.]+(?:\.\d+)?", name)[0]
        return name.rpartition(".")[0]

    def _initialize(self, block):
        module = copy.deepcopy(self.model.get_submodule(block)).to_empty(device="cpu")
        owner = self.model
        for prefix in (VISION_PREFIX, TEXT_PREFIX):  # models of their own, with rules of their own
            if block.startswith(prefix):
                owner = self.model.get_submodule(prefix.removesuffix("."))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(zlib.crc32(block.encode()) + self.seed)
            for child in reversed(list(module.modules())):
                owner._init_weights(child)
        return {f"{block}.{name}": tensor.detach() for name, tensor in module.state_dict().items()}


def pad_rows(weights, num_rows):
    """Appends rows: the mean of all, the start that disturbs a decoder least."""
    mean = torch.stack([chunk.double().sum(0) for chunk in weights.split(4096)]).sum(0) / len(weights)
    return torch.cat([weights, mean.to(weights.dtype).expand(num_rows, -1)])


def make_plan(config, parts, added_rows, options):
    """What every tensor of the output will be, from headers alone.

    Args:
        config ([`FilaConfig`]): of the output.
        parts (`list[Part]`): the backbones.
        added_rows (`int`): new rows of the vocabulary.
        options ([`ConvertArguments`]): the options.

    Returns:
        `tuple[dict[str, Entry], dict[tuple[str, str], int]]`: entries by name in the order of the model; and how many
        tensors of a part were dropped for which reason.

    Raises:
        ConversionError: a tensor that is missing, not known, or of another shape.
    """
    dtype = DTYPES[str(config.dtype).removeprefix("torch.")]
    with torch.device("meta"):
        model = FilaForConditionalGeneration(config)
    targets = dict(model.state_dict())
    if config.tie_word_embeddings:
        del targets["lm_head.weight"]
    random_weights = RandomWeights(model, options.seed)
    entries, dropped = {}, {}
    for part in parts:
        expected = {name for name in targets if name.startswith(part.prefix)}
        if part.prefix == TEXT_PREFIX:
            expected |= {"lm_head.weight"} & set(targets)
        if part.source is None:
            for name in expected:
                entries[name] = _random_entry(part.title, random_weights, name, targets[name], dtype)
            continue
        if part.checkpoint is None:  # a dry run, and no header could be read
            for name in expected:
                tensor = targets[name]
                entries[name] = Entry(part.title, None, tuple(tensor.shape), dtype, part.label)
            continue
        tied_head = None
        for source_name, spec in part.checkpoint.specs.items():
            name, reason = part.rename(source_name)
            depth = re.match(re.escape(VISION_PREFIX) + r"layers\.(\d+)\.", name or "")
            if depth and config.num_vision_layers <= int(depth[1]) < config.vision_config.num_hidden_layers:
                reason = "after the feature layer"
            elif name == "lm_head.weight" and config.tie_word_embeddings:
                reason, tied_head = "tied to the input embeddings", source_name
            if reason is not None:
                dropped[part.title, reason] = dropped.get((part.title, reason), 0) + 1
                continue
            if name not in expected:
                raise ConversionError(
                    f"{spec.file} has the tensor {source_name!r}, for which {part.title} has no place. The weights "
                    "and the config.json beside them do not belong together, or the architecture is not supported."
                )
            if name in entries:
                raise ConversionError(f"{spec.file}: {source_name!r} and another tensor both are FILA's {name!r}.")
            shape = tuple(targets[name].shape)
            num_added = added_rows if name in EMBEDDINGS else 0
            needed = (shape[0] - num_added, *shape[1:])
            if spec.shape != needed:
                raise ConversionError(
                    f"{spec.file}: the tensor {source_name!r} has the shape {list(spec.shape)}, but the configuration of "
                    f"{part.label} says {list(needed)}. Use the config.json that belongs to these weights."
                )
            entries[name] = Entry(
                part.title,
                _make_reader(part.checkpoint, source_name, num_added, dtype),
                shape,
                dtype,
                f"{spec.file}: {source_name}",
            )
        missing = sorted(expected - set(entries))
        if missing:
            raise ConversionError(
                f"{part.label} lacks {len(missing)} tensors of the {part.title}, such as "
                f"{', '.join(name.removeprefix(part.prefix) for name in missing[:4])} (under the names of its layout, "
                f"{part.layout}). The checkpoint is incomplete, or its config.json is another's."
            )
        if tied_head is not None and not options.dry_run:
            embedding = next(name for name in part.checkpoint.specs if part.rename(name)[0] == EMBEDDINGS[0])
            if not torch.equal(part.checkpoint.read(tied_head), part.checkpoint.read(embedding)):
                raise ConversionError(
                    f"{part.checkpoint.specs[tied_head].file}: {tied_head!r} differs from {embedding!r}, though the config "
                    "says that they are tied. Set tie_word_embeddings to false in its config.json."
                )
    for name, tensor in targets.items():
        if name not in entries:
            title = "fusion" if name.startswith(FUSION_PREFIX) else "projector"
            entries[name] = _random_entry(title, random_weights, name, tensor, dtype)
    return {name: entries[name] for name in targets}, dropped


def _random_entry(title, random_weights, name, tensor, dtype):
    def read():
        return random_weights.read(name).to(dtype)

    return Entry(title, read, tuple(tensor.shape), dtype, "untrained")


def _make_reader(checkpoint, source_name, num_added, dtype):
    def read():
        weights = checkpoint.read(source_name)
        if num_added:
            weights = pad_rows(weights, num_added)
        return weights.to(dtype)

    return read


def write_weights(entries, folder, max_shard_size, verify):
    """Writes the tensors into safetensors files, one tensor in memory at a time, and compares each file when it is done.

    Args:
        entries (`dict[str, Entry]`): from [`make_plan`].
        folder (`Path`): where to write.
        max_shard_size (`str`): largest file, such as "5GB".
        verify (`bool`): read every tensor again, from the output and from its source.

    Raises:
        ConversionError: a source that changed while it was read, or an output that differs from it.
    """
    total = sum(entry.num_bytes for entry in entries.values())
    try:
        split = split_state_dict_into_shards_factory(
            entries,
            get_storage_size=lambda entry: entry.num_bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise ConversionError(f"--max-shard-size {max_shard_size}: {error}") from error
    with tqdm(total=total * (1 + verify), unit="B", unit_scale=True, unit_divisor=1000, desc="weights") as progress:
        for filename, names in split.filename_to_tensors.items():
            progress.set_postfix_str(f"writing {filename}")
            _write_shard(folder / filename, {name: entries[name] for name in names}, progress)
            if verify:
                progress.set_postfix_str(f"comparing {filename}")
                _compare_shard(folder / filename, {name: entries[name] for name in names}, progress)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write_shard(path, entries, progress):
    # safetensors' own writer wants the whole file in memory. The format: length of the header, header, tensors in order.
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, entry in entries.items():
        end = offset + entry.num_bytes
        header[name] = {
            "dtype": SAFETENSORS_DTYPES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for entry in entries.values():
            tensor = entry.read().contiguous()
            if tuple(tensor.shape) != entry.shape:
                raise ConversionError(f"{entry.origin} changed its shape to {list(tensor.shape)} while it was read.")
            file.write(tensor.reshape(-1).view(torch.uint8).numpy())
            progress.update(entry.num_bytes)


def _compare_shard(path, entries, progress):
    for name, entry in entries.items():
        expected = entry.read().contiguous()
        num_rows = len(expected) if expected.ndim else 0
        rows_at_once = max(1, num_rows * 2**26 // max(1, entry.num_bytes))  # 64 MiB, beside one whole tensor
        with safe_open(path, framework="pt") as file:
            written = file.get_slice(name)
            starts = range(0, num_rows, rows_at_once) if num_rows else [...]
            blocks = [start if start is ... else slice(start, start + rows_at_once) for start in starts]
            # As bytes, so that a NaN equals itself.
            is_equal = all(torch.equal(_as_bytes(written[block]), _as_bytes(expected[block])) for block in blocks)
        if not is_equal:
            raise ConversionError(
                f"{path.name}: {name!r} is not what {entry.origin} says. Check disk and memory, run again."
            )
        progress.update(entry.num_bytes)


def _as_bytes(tensor):
    return tensor.reshape(-1).view(torch.uint8)


def stream_weights(model, read, dtype):
    """Lets a model run whose weights are on the meta device: each module reads its own when its turn comes.

    Args:
        model (`nn.Module`): its buffers are real.
        read (`Callable`): from a parameter's name to the tensor.
        dtype (`torch.dtype`): of the weights; buffers such as rotary frequencies keep their own.
    """

    def attach(name, module, empty):
        def load(*_):
            for key in empty:
                weights = read(f"{name}.{key}").to(dtype)
                module._parameters[key] = torch.nn.Parameter(weights, requires_grad=False)

        def drop(*_):
            module._parameters.update(empty)

        module.register_forward_pre_hook(load)
        module.register_forward_hook(drop)

    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    for name, module in model.named_modules():
        empty = dict(module.named_parameters(recurse=False))
        if empty:
            attach(name, module, empty)
    model.eval()


@torch.no_grad()
def compare_models(folder, config, vision, text, source_tokenizer, tokenizer):
    """Runs the output beside its sources: the ViT on noise, the decoder on a short text.

    Args:
        folder (`Path`): the output.
        config ([`FilaConfig`]): of the output.
        vision, text ([`Part`]): the backbones.
        source_tokenizer, tokenizer (`PreTrainedTokenizerFast`): the decoder's, and the output's.

    Returns:
        `list[str]`: one line for each comparison.

    Raises:
        ConversionError: a difference.
    """
    dtype = DTYPES[str(config.dtype).removeprefix("torch.")]
    output = SafetensorsFiles(sorted(folder.glob("*.safetensors")))

    def read_output(name):
        is_tied = name == "lm_head.weight" and config.tie_word_embeddings
        return output.read(EMBEDDINGS[0] if is_tied else name)

    with init_empty_weights():
        model = FilaForConditionalGeneration(config)
    stream_weights(model, read_output, dtype)
    lines = []
    generator = torch.Generator().manual_seed(0)
    if vision.source is not None:
        size = config.vision_config.image_size
        views = torch.randn(1, 1, 3, size, size, generator=generator).to(dtype)
        pixels = {"pixel_values": views, "image_sizes": torch.tensor([[size, size]])}
        pixels["image_grids"] = torch.zeros(1, 2, dtype=torch.long)
        if config.fusion_type != "none":
            high_res_size = config.high_res_image_size
            high_res = torch.randn(1, 1, 3, high_res_size, high_res_size, generator=generator)
            pixels["high_res_pixel_values"] = high_res.to(dtype)
        clip, info = CLIPVisionModel.from_pretrained(
            vision.source.folder, config=config.vision_config, dtype=dtype, output_loading_info=True
        )
        if info["missing_keys"]:
            raise ConversionError(
                f"transformers' CLIPVisionModel misses {sorted(info['missing_keys'])[:4]} in the source."
            )
        expected = clip.eval()(views[0], output_hidden_states=True).hidden_states[config.num_vision_layers]
        _check_equal("visual tokens", model.model.vision_tower(**pixels).last_hidden_state, expected, lines)
        del clip
    if text.source is None:
        return lines
    sentence = "Fine print, line 3: total 1,284.50 EUR, due 2026-11-24 (see §7)."
    ids = source_tokenizer(sentence)["input_ids"]
    if tokenizer(sentence)["input_ids"] != ids:
        raise ConversionError(
            f"The tokenizer of the output splits {sentence!r} differently from the one of {text.label}."
        )
    ids = torch.tensor([ids])
    if text.layout == "GGUF":
        file = text.source.files[0]
        needed = 4 * sum(int(np.prod(spec.shape)) for spec in text.checkpoint.specs.values())
        available = psutil.virtual_memory().available
        if needed > available // 2:
            lines.append(
                f"logits: not compared, the source needs {_size(needed)} of memory in transformers' GGUF reader"
            )
            return lines
        # Older versions always dequantize, and do not know the class.
        gguf_config = getattr(transformers, "GgufConfig", None)
        dequantize = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
        decoder = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=dtype, **dequantize
        ).eval()
    else:
        with init_empty_weights():
            decoder = AutoModelForCausalLM.from_config(text.config)

        def read_source(name):
            is_tied = name == "lm_head.weight" and config.tie_word_embeddings
            return text.checkpoint.read("model.embed_tokens.weight" if is_tied else name)

        stream_weights(decoder, read_source, dtype)
    expected = decoder(input_ids=ids, use_cache=False).logits
    logits = model(input_ids=ids, use_cache=False).logits[..., : expected.shape[-1]]
    # A vocabulary with added rows may be summed in another order.
    tolerance = 0 if config.text_config.vocab_size == expected.shape[-1] else 4 * torch.finfo(dtype).eps
    _check_equal("logits of a text", logits, expected, lines, tolerance)
    return lines


def _check_equal(title, actual, expected, lines, tolerance=0.0):
    difference = (actual.float() - expected.float()).abs().max().item()
    bound = tolerance * expected.float().abs().max().item()
    if not difference <= bound:
        raise ConversionError(
            f"The {title} differ from the source's by up to {difference:.3g} (allowed {bound:.3g}): the output was not kept. "
            "`--no-verify` keeps it, to find out why; please report it."
        )
    lines.append(f"{title}: " + ("equal, bit by bit" if difference == 0 else f"equal within {difference:.2g}"))


def summarize(entries, parts, config):
    """Rows of the final table: part, source, parameters, dtype, size.

    Returns:
        `list[tuple[str, str, str, str, str]]`
    """
    labels = {part.title: part.shown for part in parts}
    dtype = str(config.dtype).removeprefix("torch.")
    rows = []
    for title in dict.fromkeys(["ViT", "ConvNeXt", "fusion", "projector", "decoder"]):
        chosen = [entry for entry in entries.values() if entry.part == title]
        if chosen:
            count = sum(int(np.prod(entry.shape)) for entry in chosen)
            size = sum(entry.num_bytes for entry in chosen)
            rows.append((title, labels.get(title, "untrained"), f"{count / 1e6:,.1f} M", dtype, _size(size)))
    size = sum(entry.num_bytes for entry in entries.values())
    count = sum(int(np.prod(entry.shape)) for entry in entries.values())
    return [*rows, ("all", "", f"{count / 1e6:,.1f} M", dtype, _size(size))]


def _size(num_bytes):
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000 or unit == "GB":
            return f"{num_bytes:.1f} {unit}" if unit != "B" else f"{num_bytes} B"
        num_bytes /= 1000


def print_table(rows):
    rows = [("part", "source", "parameters", "dtype", "size"), *rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:2], widths[:2]))
        print(left + "  " + "  ".join(cell.rjust(width) for cell, width in zip(row[2:], widths[2:])))


def make_model_card(name, rows, parts, config, options):
    """The README of the output: what went in, and what has not been trained.

    Args:
        name (`str`): title of the model.
        rows (`list`): from [`summarize`].
        parts (`list[Part]`): the backbones.
        config ([`FilaConfig`]): of the output.
        options ([`ConvertArguments`]): the options.

    Returns:
        `str`: Markdown with a YAML header.
    """
    sources = [part for part in parts if part.source is not None]
    licenses = {part.source.license for part in sources} or {"apache-2.0"}
    known = len(licenses) == 1 and "unknown" not in licenses
    header = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "license": licenses.pop() if known else "other",
        "tags": ["vision-language-model", "custom_code", "fila"],
    }
    base_models = [part.source.name for part in sources if part.source.revision is not None]
    if base_models:
        header["base_model"] = base_models
    size = config.vision_config.image_size
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {name}",
        "",
        "A FILA vision-language model, assembled from trained backbones by `convert_weights.py`. **Its fusion and projector "
        "are untrained: it cannot answer about images until stage 1 has been trained.** On text alone it is its decoder.",
        "",
        "| part | source | parameters | dtype | size |",
        "|---|---|---:|---|---:|",
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
        "| source | layout | revision | licence |",
        "|---|---|---|---|",
    ]
    for part in parts:
        if part.source is None:
            lines.append(f"| {part.shown} | random weights, seed {options.seed} | | |")
        else:
            lines.append(
                f"| {part.shown} | {part.layout} | {part.source.revision or 'local'} | {part.source.license} |"
            )
    lines += [
        "",
        f"Geometry: tiles of {size}x{size}, {config.grid_size}x{config.grid_size} tokens each, fusion `{config.fusion_type}`"
        + (f" after ViT layers {', '.join(map(str, config.fusion_layers))}." if config.fusion_type == "cvfm" else "."),
        "The licences of all sources apply together.",
        "",
        "```python",
        "from transformers import AutoModel, AutoProcessor",
        "",
        f'processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)',
        f'model = AutoModel.from_pretrained("{name}", trust_remote_code=True, dtype="auto")',
        "model.set_training_stage(1)",
        "```",
        "",
        "Method: *FILA: Fine-Grained Vision Language Models* ([arXiv 2412.08378](https://arxiv.org/abs/2412.08378)).",
        "",
    ]
    return "\n".join(lines)


def make_generation_config(text, config, tokenizer):
    """The decoder's generation config; an image token is never an answer."""
    generation_config = GenerationConfig()
    source = text.source
    if source is not None and (source.folder / "generation_config.json").exists():
        generation_config = GenerationConfig.from_pretrained(source.folder)
    if generation_config.eos_token_id is None:
        generation_config.eos_token_id = tokenizer.eos_token_id
    if generation_config.bos_token_id is None:
        generation_config.bos_token_id = tokenizer.bos_token_id
    generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        generation_config.validate(strict=True)
    except ValueError:  # some decoders come with a temperature that their own setting ignores, which cannot be saved
        generation_config.do_sample = True
    generation_config.suppress_tokens = [*(generation_config.suppress_tokens or []), config.image_token_id]
    return generation_config


def check_output(output, parts, overwrite):
    """Refuses an output that would destroy something.

    Raises:
        ConversionError: it exists and is not empty, or it holds a source, this repository or the current folder.
    """
    if not output.exists():
        return
    precious = {"the repository of FILA": ROOT, "the current folder": Path.cwd()}
    precious |= {part.label: part.source.folder.resolve() for part in parts if part.source is not None}
    for title, folder in precious.items():
        if folder == output or output in folder.parents:
            raise ConversionError(f"--output {output} is or holds {title}. Name another folder.")
    if not output.is_dir():
        raise ConversionError(f"--output {output} is a file. Name a folder.")
    if any(output.iterdir()) and not overwrite:
        raise ConversionError(f"--output {output} is not empty. Name another folder, or replace it with --overwrite.")


def check_disk(output, needed):
    """Refuses to start what the disk cannot hold.

    Returns:
        `int`: bytes that are free.

    Raises:
        ConversionError: with both sizes.
    """
    folder = next(parent for parent in output.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConversionError(
            f"--output {output} needs {_size(needed)}, and {folder} has {_size(free)} free. Make room or name another disk."
        )
    return free


def publish(folder, output):
    """Moves a finished folder to its place, in one step; what was there goes when the new one stands."""
    old = None
    if output.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=output.parent))
        os.rename(output, old / output.name)
    os.rename(folder, output)
    if old is not None:
        shutil.rmtree(old)


def convert(options):
    """Does what the command line says.

    Args:
        options ([`ConvertArguments`]): the options.

    Returns:
        `Path`: the model folder; it is complete, or this raises and it does not exist.

    Raises:
        ConversionError: anything that a user can mend.
    """
    output = Path(options.output).expanduser().resolve()
    check_output(output, [], options.overwrite)
    vision = load_vision(options)
    convnext = None if options.fusion_type == "none" else load_convnext(options)
    text = load_text(options)
    parts = [part for part in (vision, convnext, text) if part is not None]
    check_output(output, parts, options.overwrite)

    source_tokenizer = load_tokenizer(text)
    max_length = getattr(text.config, "max_position_embeddings", source_tokenizer.model_max_length)
    tokenizer = make_tokenizer(source_tokenizer, max_length)
    config, added_rows = make_config(vision, convnext, text, tokenizer, options)
    chat_template = make_chat_template(source_tokenizer, tokenizer)
    image_processor = make_image_processor(config, vision, convnext)
    generation_config = make_generation_config(text, config, tokenizer)
    entries, dropped = make_plan(config, parts, added_rows, options)

    rows = summarize(entries, parts, config)
    total = sum(entry.num_bytes for entry in entries.values())
    needed = total + 64_000_000  # tokenizer, code and card
    for (title, reason), count in dropped.items():
        print(f"dropped: {count} tensors of the {title}: {reason}")
    if added_rows:
        print(f"added: {added_rows} rows to the vocabulary, the mean of the others, one of them {IMAGE_TOKEN!r}")
    if options.dry_run:
        print_table(rows)
        for part in parts:
            if part.source is not None and part.source.download_size:
                checked = (
                    "headers checked" if part.checkpoint is not None else "not checked: its headers are not readable"
                )
                print(f"to download: {part.label}, {_size(part.source.download_size)} ({checked})")
        free = check_disk(output, needed)
        print(f"disk: {_size(needed)} needed at {output}, {_size(free)} free. Nothing was written.")
        return output
    check_disk(output, needed)

    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent))
    try:
        write_weights(entries, folder, options.max_shard_size, options.verify)
        config.architectures = ["FilaForConditionalGeneration"]
        config.save_pretrained(folder)
        generation_config.save_pretrained(folder)
        FilaProcessor(image_processor, tokenizer, chat_template=chat_template).save_pretrained(folder)
        for name in REMOTE_CODE:
            shutil.copyfile(ROOT / name, folder / name)
        (folder / "README.md").write_text(make_model_card(output.name, rows, parts, config, options))
        for part in parts:  # licences that must travel with the weights
            for file in part.source.folder.glob("*") if part.source is not None else ():
                if file.is_file() and file.name.startswith(("LICENSE", "USE_POLICY", "NOTICE")):
                    (folder / "licenses" / part.title).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(file, folder / "licenses" / part.title / file.name)
        if options.verify:
            for line in compare_models(folder, config, vision, text, source_tokenizer, tokenizer):
                print(line)
        folder.chmod(0o755)
        publish(folder, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print_table(rows)
    print(f"{output}: ready. Fusion and projector are untrained.")
    if options.push_to_hub:
        HfApi().create_repo(options.push_to_hub, exist_ok=True)
        HfApi().upload_folder(repo_id=options.push_to_hub, folder_path=output, commit_message="Assemble FILA")
        print(f"uploaded to https://huggingface.co/{options.push_to_hub}")
    return output


def main(arguments=None):
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished folder is removed
    try:
        convert(parse_arguments(arguments))
    except ConversionError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(f"error: {error}. Nothing was left at the output.")


if __name__ == "__main__":
    main()
