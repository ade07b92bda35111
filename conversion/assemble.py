# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a model folder: a plan of every tensor, then shards, JSON files and code, complete or absent."""

import copy
import json
import shutil
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm
from transformers import GenerationConfig

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor
from fila.common.arguments import UserError, library_errors
from fila.common.files import new_folder
from fila.common.hub import create_repo, make_model_card, upload_folder
from fila.common.layout import REMOTE_CODE_FILES, ROOT, image_grid_pinpoints
from fila.configuration_fila import NORMALIZATION_FIELDS
from fila.conversion.mapping import INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS, PREFIXES, map_tensors
from fila.conversion.parts import load_parts
from fila.conversion.sources import LICENSE_FILES, hold_tensors
from fila.conversion.tokenizer import IMAGE_TOKEN, add_image_token, load_tokenizer, make_chat_template
from fila.conversion.verify import compare_with_clip


def make_config(parts, tokenizer, options):
    """The [`FilaConfig`] of the parts. Raises `ValueError` for a combination that it refuses."""
    configs = {part.title: part.config for part in parts}
    text_config = copy.deepcopy(configs["decoder"])
    if len(tokenizer) > text_config.vocab_size:
        text_config.vocab_size = -(-len(tokenizer) // 64) * 64
    text_config.name_or_path, text_config.pad_token_id = "", tokenizer.pad_token_id
    # FILA fuses after these layers of a ViT with 24; other depths take the same fractions.
    layers = [max(1, round(layer * configs["ViT"].num_hidden_layers / 24)) for layer in (2, 6, 12, 20)]
    normalization = {
        f"{prefix}image_{key}": list(map(float, part.normalization[key]))
        for part, prefix in zip(parts, ("", "high_res_", ""))
        for key in part.normalization or ()
    }
    return FilaConfig(
        vision_config=configs["ViT"],
        convnext_config=configs.get("ConvNeXt"),
        text_config=text_config,
        fusion_type=options.fusion_type,
        fusion_layers=options.fusion_layers or layers,
        fusion_align=options.fusion_align,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        dtype=options.dtype if options.dtype != "auto" else text_config.dtype or "bfloat16",
        architectures=["FilaForConditionalGeneration"],
        **normalization,
    )


def make_image_processor(config):
    """The image processor for the geometry of the ViT and the normalizations of both encoders."""
    size, patch_size = config.vision_config.image_size, config.vision_config.patch_size
    options = {name: getattr(config, name) for name in NORMALIZATION_FIELDS}
    options |= {"do_high_res": config.fusion_type != "none", "image_grid_pinpoints": image_grid_pinpoints(size)}
    return FilaImageProcessor(size=size, patch_size=patch_size, **options)


def make_generation_config(text, config, tokenizer):
    """The decoder's generation config. An image token is never generated."""
    given = {} if text.source is None else text.source.read_json("generation_config.json")
    defaults = {name: getattr(tokenizer, name) for name in ("eos_token_id", "bos_token_id")}
    generation_config = GenerationConfig.from_dict(defaults | given)
    generation_config.pad_token_id = tokenizer.pad_token_id
    try:
        generation_config.validate(strict=True)
    except ValueError:  # some decoders have a temperature but no sampling, which cannot be saved
        generation_config.do_sample = True
    generation_config.suppress_tokens = [*(generation_config.suppress_tokens or []), config.image_token_id]
    return generation_config


def make_plan(config, parts):
    """Accounts for every tensor of the output and of the parts. Of safetensors, only the headers are read. Returns, by
    name, the output's tensors on the meta device, and the [`StoredTensor`]s that they are read from. Raises [`UserError`]
    for a tensor that is missing, unknown or of the wrong shape."""
    with torch.device("meta"):
        model = FilaForConditionalGeneration(config)
    for title in ("fusion", "projector"):
        model.get_submodule(PREFIXES[title].removesuffix(".")).to_empty(device="cpu")
    model.initialize_weights()  # does nothing to tensors on the meta device
    state = model.state_dict()
    if config.tie_word_embeddings:
        del state[OUTPUT_EMBEDDINGS]
    weights = {name: tensor.to("meta", config.dtype) for name, tensor in state.items()}
    origins = hold_tensors({name: tensor for name, tensor in state.items() if not tensor.is_meta}, "untrained")
    for part in parts:
        shapes = {name: tuple(place.shape) for name, place in weights.items() if name.startswith(PREFIXES[part.title])}
        embeddings = {INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS} & shapes.keys()
        added_rows = config.text_config.vocab_size - part.config.vocab_size if embeddings else 0
        shapes |= {name: (shapes[name][0] - added_rows, *shapes[name][1:]) for name in embeddings}
        used, dropped = map_tensors(part, shapes, config)
        head = part.tensors.get(OUTPUT_EMBEDDINGS) if config.tie_word_embeddings else None
        if head and not torch.equal(head.read(), used[INPUT_EMBEDDINGS].read()):
            problem = "lm_head differs from the input embeddings, though the config says that they are tied"
            raise UserError(f"{head.origin}: {problem}. Set tie_word_embeddings to false in its config.json.")
        for name in embeddings if added_rows else ():
            used[name] = replace(used[name], read=partial(_read_padded, used[name], added_rows))
        origins |= used
        for reason, count in dropped.items() if part.source is not None else ():
            print(f"dropped: {count} tensors of the {part.title}: {reason}")
        if added_rows:
            print(f"added: {added_rows} rows to the vocabulary, the mean of the others, one of them {IMAGE_TOKEN!r}")
    return weights, origins


def _read_padded(tensor, num_rows):
    """A tensor with more rows: the mean of the others, which disturbs a decoder least."""
    weights = tensor.read()
    mean = torch.stack([chunk.double().sum(0) for chunk in weights.split(4096)]).sum(0) / len(weights)
    return torch.cat([weights, mean.to(weights.dtype).expand(num_rows, -1)])


def write_weights(weights, origins, folder, options):
    """Writes safetensors files, one in memory at a time. Raises [`UserError`] for one that has other bytes."""
    split = split_torch_state_dict_into_shards(weights, max_shard_size=options.max_shard_size)
    with tqdm(total=sum(place.nbytes for place in weights.values()), unit="B", unit_scale=True) as progress:
        for filename, names in split.filename_to_tensors.items():
            tensors = {name: origins[name].read().to(weights[name].dtype).contiguous() for name in names}
            save_file(tensors, folder / filename, metadata={"format": "pt"})
            for name, tensor in tensors.items():
                progress.update(tensor.nbytes)
                with safe_open(folder / filename, framework="pt") as file:
                    if options.verify and not torch.equal(_view_bytes(file.get_tensor(name)), _view_bytes(tensor)):
                        raise UserError(f"{filename}: {name!r} differs from {origins[name].origin}. Check the disk.")
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _view_bytes(tensor):
    """As integers, so that a NaN equals itself; as long ones where that is possible, which is faster."""
    offset = tensor.storage_offset() * tensor.itemsize
    return tensor.reshape(-1).view(torch.uint8 if (tensor.nbytes | offset) % 8 else torch.int64)


def make_parts_table(weights, parts):
    """The parts of the output, where they come from and their sizes, as a Markdown table. `weights` may be on meta."""
    rows = ["| part | source | revision | licence | parameters | size |", "| --- " * 6 + "|"]
    origins = dict.fromkeys(PREFIXES, ("untrained", "", "")) | {part.title: part.origin for part in parts}
    for title, origin in [*origins.items(), ("all", ("", "", ""))]:
        chosen = [tensor for name, tensor in weights.items() if name.startswith(PREFIXES.get(title, ""))]
        if chosen:
            size = tqdm.format_sizeof(sum(tensor.nbytes for tensor in chosen), "B")
            count = f"{sum(tensor.numel() for tensor in chosen) / 1e6:,.1f} M"
            rows.append(f"| {' | '.join((title, *origin, count, size))} |")
    return "\n".join(rows)


def make_card_header(parts):
    """The licence and sources of the output, as a `dict` for [`~fila.common.hub.make_model_card`]."""
    sources = [part.source for part in parts if part.source is not None]
    licenses = {source.license for source in sources} or {"apache-2.0"}
    license_id = licenses.pop() if len(licenses) == 1 and "unknown" not in licenses else "other"
    return {"license": license_id, "base_model": [source.name for source in sources if source.revision] or None}


def convert(options):
    """Assembles a FILA as [`ConvertArguments`] say. Returns the model folder as a `Path`. It is complete, or this raises
    and nothing has changed: [`UserError`] for anything that the user can fix."""
    with library_errors(f"--output {options.output}"):
        output = Path(options.output).expanduser().resolve()
        if output.is_file() or (output.exists() and any(output.iterdir())):
            raise UserError(f"--output {output} exists already. Choose another one, or remove it.")
    torch.manual_seed(options.seed)
    parts = load_parts(options)
    with library_errors("The parts do not make a FILA"):
        source_tokenizer = load_tokenizer(parts[-1].source)
        tokenizer = add_image_token(source_tokenizer, parts[-1].config.max_position_embeddings)
        chat_template = make_chat_template(source_tokenizer, tokenizer)
        config = make_config(parts, tokenizer, options)
        processor = FilaProcessor(make_image_processor(config), tokenizer, chat_template=chat_template)
        generation_config = make_generation_config(parts[-1], config, tokenizer)
        weights, origins = make_plan(config, parts)
    table = make_parts_table(weights, parts)
    print(table)
    name = create_repo(options.push_to_hub) if options.push_to_hub else output.name
    with library_errors(f"--output {output}"), new_folder(output) as folder:
        write_weights(weights, origins, folder, options)
        for item in (config, generation_config, processor):
            item.save_pretrained(folder)
        make_model_card(name, make_card_header(parts), parts=table, config=config).save(folder / "README.md")
        files = [(ROOT / name, folder) for name in REMOTE_CODE_FILES]
        for part, pattern in product([part for part in parts if part.source], LICENSE_FILES):
            files += [(file, folder / "licenses" / part.title) for file in part.source.folder.glob(pattern)]
        for file, target in files:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
        if options.verify:
            compare_with_clip(folder, config, parts[0])
            print("tensors: as in the sources, bit by bit", "visual tokens: as of the CLIP, bit by bit", sep="\n")
    print(f"{output}: ready. The fusion and the projector are untrained.")
    if options.push_to_hub:
        upload_folder(output, name, commit_message="Assemble FILA")
    return output
