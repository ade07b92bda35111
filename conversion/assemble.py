# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a model folder: a plan of every tensor, then shards, JSON files and code, complete or absent."""

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import HfApi, split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor
from fila.common.arguments import UserError
from fila.common.files import new_folder
from fila.common.layout import DTYPES, FUSION_PREFIX, PROJECTOR_PREFIX, REMOTE_CODE_FILES, ROOT, image_grid_pinpoints
from fila.conversion.card import make_model_card, make_parts_table
from fila.conversion.mapping import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, map_tensors
from fila.conversion.parts import load_parts
from fila.conversion.sources import hold_tensors, library_errors
from fila.conversion.tokenizer import IMAGE_TOKEN, add_image_token, load_tokenizer, make_chat_template
from fila.conversion.verify import compare_with_sources


def make_config(parts, tokenizer, options):
    """FILA's configuration for the parts. Raises `ValueError` for a combination that [`FilaConfig`] refuses."""
    configs = {part.title: part.config for part in parts}
    vision_config, text_config = configs["ViT"], copy.deepcopy(configs["decoder"])
    if len(tokenizer) > text_config.vocab_size:
        text_config.vocab_size = -(-len(tokenizer) // 64) * 64
    text_config.name_or_path, text_config.pad_token_id = "", tokenizer.pad_token_id
    dtype = str(text_config.dtype).removeprefix("torch.") if options.dtype == "auto" else options.dtype
    # FILA fuses after these layers of a ViT with 24; other depths take the same fractions.
    depth = vision_config.num_hidden_layers
    return FilaConfig(
        vision_config=vision_config,
        convnext_config=configs.get("ConvNeXt"),
        text_config=text_config,
        fusion_type=options.fusion_type,
        fusion_layers=options.fusion_layers or [max(1, round(layer * depth / 24)) for layer in (2, 6, 12, 20)],
        fusion_align=options.fusion_align,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        dtype=dtype if dtype in DTYPES else "bfloat16",
        architectures=["FilaForConditionalGeneration"],
    )


def make_image_processor(config, parts):
    """The image processor for the geometry of the ViT and the normalizations of both encoders."""
    normalizations = {part.title: part.normalization for part in parts}
    options = {"do_high_res": "ConvNeXt" in normalizations}
    for title, prefix in (("ViT", ""), ("ConvNeXt", "high_res_")):
        if title in normalizations:
            options |= {f"{prefix}image_{key}": list(normalizations[title][key]) for key in ("mean", "std")}
    size, patch_size = config.vision_config.image_size, config.vision_config.patch_size
    pinpoints = image_grid_pinpoints(size)
    return FilaImageProcessor(size=size, patch_size=patch_size, image_grid_pinpoints=pinpoints, **options)


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


def _read_padded(tensor, num_rows):
    """A tensor with more rows: the mean of the others, which disturbs a decoder least."""
    weights = tensor.read()
    mean = torch.stack([chunk.double().sum(0) for chunk in weights.split(4096)]).sum(0) / len(weights)
    return torch.cat([weights, mean.to(weights.dtype).expand(num_rows, -1)])


def make_plan(config, parts):
    """Where every tensor of the output comes from. Of safetensors, only the headers are read.

    Args:
        config ([`FilaConfig`]): of the output.
        parts (`list[Part]`): the backbones.

    Returns:
        `tuple[dict[str, torch.Tensor], dict[str, StoredTensor]]`: the output's tensors on the meta device, and where they
        come from.

    Raises:
        UserError: a tensor is missing, unknown or of the wrong shape.
    """
    with torch.device("meta"):
        model = FilaForConditionalGeneration(config)
    for prefix in (FUSION_PREFIX, PROJECTOR_PREFIX):
        model.get_submodule(prefix.removesuffix(".")).to_empty(device="cpu")
    model.initialize_weights()  # does nothing to tensors on the meta device
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state[OUTPUT_EMBEDDINGS]
    dtype = DTYPES[str(config.dtype).removeprefix("torch.")]
    weights = {name: tensor.to("meta", dtype) for name, tensor in state.items()}
    origins = hold_tensors({name: tensor for name, tensor in state.items() if not tensor.is_meta}, "untrained")
    for part in parts:
        shapes = {name: tuple(place.shape) for name, place in weights.items() if name.startswith(part.prefixes)}
        added_rows = config.text_config.vocab_size - part.config.vocab_size if part.title == "decoder" else 0
        embeddings = [name for name in (INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS) if name in shapes]
        for name in embeddings:
            shapes[name] = (shapes[name][0] - added_rows, shapes[name][1])
        used, dropped = map_tensors(part, shapes, config)
        for name in embeddings if added_rows else ():
            used[name] = replace(used[name], read=partial(_read_padded, used[name], added_rows))
        origins |= used
        for reason, count in dropped.items() if part.source is not None else ():
            print(f"dropped: {count} tensors of the {part.title}: {reason}")
        if added_rows:
            print(f"added: {added_rows} rows to the vocabulary, the mean of the others, one of them {IMAGE_TOKEN!r}")
    return weights, origins


def check_tied_embeddings(text):
    """Raises [`UserError`] for a decoder whose embeddings are tied by its config but not by its weights."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    head, embeddings = (text.tensors.get(name) for name in names)
    if head and embeddings and not torch.equal(head.read(), embeddings.read()):
        raise UserError(
            f"{head.origin}: {names[0]!r} differs from {names[1]!r}, though the config says that they are tied. Set "
            "tie_word_embeddings to false in its config.json."
        )


def write_weights(weights, origins, folder, max_shard_size, verify):
    """Writes safetensors files, one of them in memory at a time.

    Args:
        weights (`dict[str, torch.Tensor]`): what to write, on the meta device.
        origins (`dict[str, StoredTensor]`): where it comes from.
        folder (`Path`): where to write.
        max_shard_size (`str`): largest file, such as "2GB".
        verify (`bool`): compare every file with what it was written from, byte by byte.

    Raises:
        UserError: a file has other bytes.
    """
    split = split_torch_state_dict_into_shards(weights, max_shard_size=max_shard_size)
    with tqdm(
        total=sum(place.nbytes for place in weights.values()), unit="B", unit_scale=True, desc="weights"
    ) as progress:
        for filename, names in split.filename_to_tensors.items():
            tensors = {name: origins[name].read().to(weights[name].dtype).contiguous() for name in names}
            save_file(tensors, folder / filename, metadata={"format": "pt"})
            for name, tensor in tensors.items():
                with safe_open(folder / filename, framework="pt") as file:
                    if verify and not torch.equal(_view_bytes(file.get_tensor(name)), _view_bytes(tensor)):
                        raise UserError(
                            f"{filename}: {name!r} differs from {origins[name].origin}. Check disk and memory, and run again."
                        )
                progress.update(tensor.nbytes)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _view_bytes(tensor):
    """As integers, so that a NaN equals itself; as long ones where that is possible, which is faster."""
    offset = tensor.storage_offset() * tensor.itemsize
    return tensor.reshape(-1).view(torch.uint8 if (tensor.nbytes | offset) % 8 else torch.int64)


def check_output(options):
    """The folder to write, as a `Path`. Raises [`UserError`] if there is something in it that may not be replaced."""
    output = Path(options.output).expanduser().resolve()
    precious = {"the repository of FILA": ROOT, "the current folder": Path.cwd()}
    precious |= {
        name: Path(name).expanduser().resolve() for name in (options.vision, options.convnext, options.text) if name
    }
    for title, path in precious.items():
        if path.exists() and path.is_relative_to(output):
            raise UserError(f"--output {output} is or holds {title}. Name another folder.")
    if output.is_file() or (output.exists() and any(output.iterdir()) and not options.overwrite):
        raise UserError(
            f"--output {output} is a file or a folder that is not empty. Name another, or replace a folder with --overwrite."
        )
    return output


def write_folder(folder, weights, origins, processor, config, generation_config, parts, options):
    """Writes all files of a model repository into an empty folder, the licences of the parts among them."""
    write_weights(weights, origins, folder, options.max_shard_size, options.verify)
    for item in (config, generation_config, processor):
        item.save_pretrained(folder)
    for file in REMOTE_CODE_FILES:
        shutil.copyfile(ROOT / file, folder / file)
    make_model_card(Path(options.output).name, weights, parts, config, options.seed).save(folder / "README.md")
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
    output = check_output(options)
    torch.manual_seed(options.seed)
    parts = load_parts(options)
    text = parts[-1]
    with library_errors("The parts do not make a FILA"):
        source_tokenizer = load_tokenizer(text)
        tokenizer = add_image_token(source_tokenizer, text.config.max_position_embeddings)
        chat_template = make_chat_template(source_tokenizer, tokenizer)
        config = make_config(parts, tokenizer, options)
        processor = FilaProcessor(make_image_processor(config, parts), tokenizer, chat_template=chat_template)
        generation_config = make_generation_config(text, config, tokenizer)
        weights, origins = make_plan(config, parts)
    if config.tie_word_embeddings and not options.dry_run:
        check_tied_embeddings(text)
    size = sum(place.nbytes for place in weights.values())
    free = shutil.disk_usage(next(parent for parent in output.parents if parent.exists())).free
    sizes = f"{tqdm.format_sizeof(size, 'B')} needed at {output}, {tqdm.format_sizeof(free, 'B')} free"
    if size > free:
        raise UserError(f"Not enough room: {sizes}. Make room, or name a folder on another disk.")
    print(make_parts_table(weights, parts))
    if options.dry_run:
        print(f"disk: {sizes}. Nothing was written.")
        return output
    with new_folder(output) as folder:
        write_folder(folder, weights, origins, processor, config, generation_config, parts, options)
        if options.verify:
            print(*compare_with_sources(folder, config, parts), sep="\n")
    print(f"{output}: ready. The fusion and the projector are untrained.")
    if options.push_to_hub:
        HfApi().create_repo(options.push_to_hub, exist_ok=True)
        HfApi().upload_folder(repo_id=options.push_to_hub, folder_path=output, commit_message="Assemble FILA")
        print(f"uploaded to https://huggingface.co/{options.push_to_hub}")
    return output
