# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a model folder: a plan of every tensor, then shards, JSON files and code, complete or absent."""

import copy
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from huggingface_hub import HfApi, split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor
from fila.common.arguments import UserError
from fila.common.files import new_folder
from fila.common.layout import (
    DTYPES,
    FUSION_PREFIX,
    PROJECTOR_PREFIX,
    REMOTE_CODE_FILES,
    ROOT,
    TEXT_PREFIX,
    image_grid_pinpoints,
)
from fila.conversion.card import make_model_card, make_parts_table
from fila.conversion.mapping import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, map_tensors, rename
from fila.conversion.parts import load_convnext, load_text, load_vision
from fila.conversion.sources import LoadedTensors
from fila.conversion.tokenizer import IMAGE_TOKEN, add_image_token, load_tokenizer, make_chat_template
from fila.conversion.verify import compare_with_sources


@dataclass
class Entry:
    """A tensor of the output.

    Args:
        part (`str`): title of its part.
        read (`Callable`): returns the tensor in any dtype. It is called to write the tensor, and again to compare it.
        shape (`tuple[int, ...]`): its shape.
        dtype (`torch.dtype`): of the output.
        origin (`str`): where it comes from, for errors.
    """

    part: str
    read: Callable
    shape: tuple
    dtype: torch.dtype
    origin: str

    @property
    def num_bytes(self):
        """`int`: its size in the output."""
        return prod(self.shape) * self.dtype.itemsize


def assemble_config(vision, convnext, text, tokenizer, options):
    """FILA's configuration for the three parts, and how many rows it adds to the decoder's vocabulary.

    Raises [`UserError`] for a combination that [`FilaConfig`] refuses.
    """
    text_config = copy.deepcopy(text.config)
    old_size = text_config.vocab_size
    if len(tokenizer) > old_size:
        text_config.vocab_size = -(-len(tokenizer) // 64) * 64
    text_config.name_or_path, text_config.pad_token_id = "", tokenizer.pad_token_id
    dtype = options.dtype
    if dtype == "auto":
        dtype = (
            str(getattr(text.config, "dtype", None)).removeprefix("torch.") if text.layout == "transformers" else None
        )
        dtype = dtype if dtype in DTYPES else "bfloat16"
    # FILA fuses after these layers of a ViT with 24; other depths take the same fractions.
    depth = vision.config.num_hidden_layers
    layers = options.fusion_layers or [max(1, round(layer * depth / 24)) for layer in (2, 6, 12, 20)]
    try:
        config = FilaConfig(
            vision_config=vision.config,
            convnext_config=None if convnext is None else convnext.config,
            text_config=text_config,
            fusion_type=options.fusion_type,
            fusion_layers=layers,
            fusion_align=options.fusion_align,
            image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            dtype=dtype,
            architectures=["FilaForConditionalGeneration"],
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return config, text_config.vocab_size - old_size


def make_image_processor(config, vision, convnext):
    """The image processor for the geometry of the ViT and the normalisations of both encoders."""
    high_res = {"do_high_res": False}
    if convnext is not None:
        high_res = {"high_res_image_mean": convnext.mean, "high_res_image_std": convnext.std}
    size = config.vision_config.image_size
    return FilaImageProcessor(
        size=size,
        patch_size=config.vision_config.patch_size,
        image_grid_pinpoints=image_grid_pinpoints(size),
        image_mean=vision.mean,
        image_std=vision.std,
        **high_res,
    )


def make_generation_config(text, config, tokenizer):
    """The decoder's generation config. An image token is never generated."""
    generation_config = GenerationConfig()
    if text.source is not None and (text.source.folder / "generation_config.json").exists():
        generation_config = GenerationConfig.from_pretrained(text.source.folder)
    for name in ("eos_token_id", "bos_token_id"):
        if getattr(generation_config, name) is None:
            setattr(generation_config, name, getattr(tokenizer, name))
    generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        generation_config.validate(strict=True)
    except ValueError:  # some decoders have a temperature but no sampling, which cannot be saved
        generation_config.do_sample = True
    generation_config.suppress_tokens = [*(generation_config.suppress_tokens or []), config.image_token_id]
    return generation_config


def initialize_new_parts(config):
    """The fusion and the projector as the model class initialises them, and the shapes of all tensors of the model."""
    with torch.device("meta"):
        model = FilaForConditionalGeneration(config)
    for prefix in (FUSION_PREFIX, PROJECTOR_PREFIX):
        model.get_submodule(prefix.removesuffix(".")).to_empty(device="cpu")
    model.initialize_weights()  # does nothing to tensors on the meta device
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[OUTPUT_EMBEDDINGS]
    new = {
        name: value for name, value in model.state_dict().items() if name.startswith((FUSION_PREFIX, PROJECTOR_PREFIX))
    }
    return LoadedTensors(new, "untrained"), shapes


def pad_rows(weights, num_rows):
    """Appends rows: the mean of the others, which disturbs a decoder least."""
    mean = torch.stack([chunk.double().sum(0) for chunk in weights.split(4096)]).sum(0) / len(weights)
    return torch.cat([weights, mean.to(weights.dtype).expand(num_rows, -1)])


def make_plan(config, parts, added_rows):
    """How every tensor of the output comes about. Of files, only the headers are read.

    Args:
        config ([`FilaConfig`]): of the output.
        parts (`list[Part]`): the backbones.
        added_rows (`int`): new rows of the vocabulary.

    Returns:
        `tuple[dict[str, Entry], Counter]`: entries by name in the order of the model; and how many tensors of a part
        were dropped for which reason.

    Raises:
        UserError: a tensor is missing, unknown or of the wrong shape.
    """
    dtype = DTYPES[str(config.dtype).removeprefix("torch.")]
    new, shapes = initialize_new_parts(config)
    entries, dropped = {}, Counter()

    def add(title, name, checkpoint, source_name):
        def read():
            weights = checkpoint.read(source_name)
            return pad_rows(weights, added_rows) if name in embeddings else weights

        embeddings = (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS) if added_rows else ()
        origin = f"{checkpoint.specs[source_name].file}: {source_name}" if checkpoint else title
        entries[name] = Entry(title, read, shapes[name], dtype, origin)

    for part in parts:
        prefixes = (part.prefix, OUTPUT_EMBEDDINGS) if part.prefix == TEXT_PREFIX else part.prefix
        expected = {name: shape for name, shape in shapes.items() if name.startswith(prefixes)}
        used = dict.fromkeys(expected)  # in a dry run that cannot read the headers
        if part.checkpoint is not None:
            used, unused = map_tensors(part, expected, config, added_rows)
            if part.source is not None:
                dropped.update((part.title, reason) for reason in unused.values())
        for name, source_name in used.items():
            add(part.title, name, part.checkpoint, source_name)
    for name in new.specs:
        add("fusion" if name.startswith(FUSION_PREFIX) else "projector", name, new, name)
    return {name: entries[name] for name in shapes}, dropped


def check_tied_embeddings(text):
    """Raises [`UserError`] for a decoder whose embeddings are tied by its config but not by its weights."""
    names = {rename(name, text.table): name for name in text.checkpoint.specs}
    head, embeddings = names.get(OUTPUT_EMBEDDINGS), names[INPUT_EMBEDDINGS]
    if head is not None and not torch.equal(text.checkpoint.read(head), text.checkpoint.read(embeddings)):
        raise UserError(
            f"{text.checkpoint.specs[head].file}: {head!r} differs from {embeddings!r}, though the config says that they are "
            "tied. Set tie_word_embeddings to false in its config.json."
        )


def write_weights(entries, folder, max_shard_size, verify):
    """Writes safetensors files, one of them in memory at a time.

    Args:
        entries (`dict[str, Entry]`): what to write, by name.
        folder (`Path`): where to write.
        max_shard_size (`str`): largest file, such as "2GB".
        verify (`bool`): read every tensor again, from the file and from its source, and compare them byte by byte.

    Raises:
        UserError: the size is invalid, or a file differs from its source.
    """
    try:
        split = split_state_dict_into_shards_factory(
            entries,
            get_storage_size=lambda entry: entry.num_bytes,
            filename_pattern="model{suffix}.safetensors",
            max_shard_size=max_shard_size,
        )
    except ValueError as error:
        raise UserError(f"--max_shard_size {max_shard_size}: {error}") from error
    total = sum(entry.num_bytes for entry in entries.values())
    with tqdm(total=total * (1 + verify), unit="B", unit_scale=True, desc="weights") as progress:
        for filename, names in split.filename_to_tensors.items():
            tensors = {}
            for name in names:
                tensors[name] = entries[name].read().to(entries[name].dtype).contiguous()
                progress.update(entries[name].num_bytes)
            save_file(tensors, folder / filename, metadata={"format": "pt"})
            del tensors
            for name in names if verify else ():
                _compare_tensor(folder / filename, name, entries[name])
                progress.update(entries[name].num_bytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _compare_tensor(path, name, entry):
    expected = entry.read().to(entry.dtype).contiguous()
    with safe_open(path, framework="pt") as file:
        written = file.get_tensor(name)
        # As bytes, so that a NaN equals itself.
        if not torch.equal(written.reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)):
            raise UserError(f"{path.name}: {name!r} differs from {entry.origin}. Check disk and memory, and run again.")


def check_output(output, parts, overwrite):
    """Raises [`UserError`] for an output that is not empty, or holds a source, this repository or the current folder."""
    if not output.exists():
        return
    precious = {"the repository of FILA": ROOT, "the current folder": Path.cwd()}
    precious |= {part.label: part.source.folder.resolve() for part in parts if part.source is not None}
    for title, folder in precious.items():
        if folder == output or output in folder.parents:
            raise UserError(f"--output {output} is or holds {title}. Name another folder.")
    if not output.is_dir():
        raise UserError(f"--output {output} is a file. Name a folder.")
    if any(output.iterdir()) and not overwrite:
        raise UserError(f"--output {output} is not empty. Name another folder, or replace it with --overwrite.")


def check_disk(output, needed):
    """How much of the disk is needed and free, for people. Raises [`UserError`] if there is no room."""
    folder = next(parent for parent in output.parents if parent.exists())
    free = shutil.disk_usage(folder).free
    sizes = f"{tqdm.format_sizeof(needed, 'B')} needed at {output}, {tqdm.format_sizeof(free, 'B')} free"
    if needed > free:
        raise UserError(f"Not enough room: {sizes}. Make room, or name a folder on another disk.")
    return sizes


def write_folder(folder, plan, processor, generation_config, parts, options, name):
    """Writes all files of a model repository into an empty folder, the licences of the parts among them."""
    config, entries = plan
    write_weights(entries, folder, options.max_shard_size, options.verify)
    for item in (config, generation_config, processor):
        item.save_pretrained(folder)
    for file in REMOTE_CODE_FILES:
        shutil.copyfile(ROOT / file, folder / file)
    (folder / "README.md").write_text(make_model_card(name, entries, parts, config, options.seed), encoding="utf-8")
    for part in parts:
        for file in part.source.folder.iterdir() if part.source is not None else ():
            if file.is_file() and file.name.startswith(("LICENSE", "USE_POLICY", "NOTICE")):
                (folder / "licenses" / part.title).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, folder / "licenses" / part.title / file.name)


def convert(options):
    """Assembles a FILA.

    Args:
        options ([`ConvertArguments`]): the options.

    Returns:
        `Path`: the model folder. It is complete, or this raises and nothing has changed.

    Raises:
        UserError: anything that the user can fix.
    """
    output = Path(options.output).expanduser().resolve()
    check_output(output, [], options.overwrite)
    torch.manual_seed(options.seed)
    vision = load_vision(options)
    convnext = None if options.fusion_type == "none" else load_convnext(options)
    text = load_text(options)
    parts = [part for part in (vision, convnext, text) if part is not None]
    check_output(output, parts, options.overwrite)

    source_tokenizer = load_tokenizer(text)
    tokenizer = add_image_token(source_tokenizer, text.config.max_position_embeddings)
    chat_template = make_chat_template(source_tokenizer, tokenizer)
    config, added_rows = assemble_config(vision, convnext, text, tokenizer, options)
    processor = FilaProcessor(make_image_processor(config, vision, convnext), tokenizer, chat_template=chat_template)
    generation_config = make_generation_config(text, config, tokenizer)
    entries, dropped = make_plan(config, parts, added_rows)
    if config.tie_word_embeddings and not options.dry_run:
        check_tied_embeddings(text)

    for (title, reason), count in dropped.items():
        print(f"dropped: {count} tensors of the {title}: {reason}")
    if added_rows:
        print(f"added: {added_rows} rows to the vocabulary, the mean of the others, one of them {IMAGE_TOKEN!r}")
    sizes = check_disk(
        output, sum(entry.num_bytes for entry in entries.values()) + 64_000_000
    )  # tokenizer and the rest
    if options.dry_run:
        print(make_parts_table(entries, parts))
        for part in parts:
            if part.source is not None and part.source.download_size:
                checked = (
                    "headers checked" if part.checkpoint is not None else "not checked: its headers cannot be read"
                )
                print(f"to download: {part.label}, {tqdm.format_sizeof(part.source.download_size, 'B')} ({checked})")
        print(f"disk: {sizes}. Nothing was written.")
        return output
    with new_folder(output) as folder:
        write_folder(folder, (config, entries), processor, generation_config, parts, options, output.name)
        if options.verify:
            print(*compare_with_sources(folder, config, vision, text, source_tokenizer, tokenizer), sep="\n")
    print(make_parts_table(entries, parts))
    print(f"{output}: ready. The fusion and the projector are untrained.")
    if options.push_to_hub:
        HfApi().create_repo(options.push_to_hub, exist_ok=True)
        HfApi().upload_folder(repo_id=options.push_to_hub, folder_path=output, commit_message="Assemble FILA")
        print(f"uploaded to https://huggingface.co/{options.push_to_hub}")
    return output
