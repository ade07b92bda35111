# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains the default checkpoint, from nothing, on pages that are drawn as they are needed.

    python fineprint/experiments/train_checkpoint.py fineprint/recipes/checkpoint.yaml --output_dir build/checkpoint

Four parts: `encoder` and `decoder` are pretrained each for itself (see pretrain.py), then come both stages of the paper. With
`--parts encoder` and `--parts decoder` the first two run in two processes at once. Started again, it continues where it was:
what is whole is kept, and a training continues from its last checkpoint. The model is then in the folder `model`, in bfloat16,
in shards of at most 15 MB.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, GenerationConfig
from transformers.hf_argparser import HfArg

from fila import FilaConfig, FilaForConditionalGeneration
from fila.common.arguments import UserError, library_errors, make_options, parse_arguments, run_command
from fila.common.files import new_files
from fila.common.layout import ROOT, TEXT_PREFIX, image_grid_pinpoints
from fila.fineprint.experiments import pretrain
from fila.fineprint.experiments.cells import Kind, Pages

NUM_FITTED = 100  # batches
PARTS = ("encoder", "decoder", "stage1", "stage2")
WEIGHTS = "weights.safetensors"  # in float32, of what a part has trained


@dataclass
class CheckpointArguments:
    """What is trained, and where it is written. Mappings can only be given by a recipe."""

    output_dir: str = HfArg(help="Folder of the training, new or begun.")
    parts: list[str] = HfArg(default_factory=lambda: list(PARTS), help=f"Which to do: {', '.join(PARTS)}.")
    start: str | None = HfArg(default=None, help="FILA to start from; without it, random weights.")
    model: dict = HfArg(default_factory=dict, help="Changes to the config at the root, of random weights.")
    canvas_scales: list[int] = HfArg(
        default_factory=lambda: [1], help="How many times as large as the paper's at this tile size canvases are."
    )
    tile_size: int = HfArg(default=336, help="Side of the ViT's tiles in pixels.")
    assets: str | None = HfArg(default=None, help="Fonts and texts from `--pack`; without it, what is installed.")
    seed: int = HfArg(default=0, help="Of the first weights and of the pages.")
    encoder: dict = HfArg(default_factory=dict, help="Options of TrainingArguments and of `Pages`.")
    decoder: dict = HfArg(default_factory=dict, help="The same.")
    stage1: dict = HfArg(default_factory=dict, help="The same, and vision_lr and fusion_lr.")
    stage2: dict = HfArg(default_factory=dict, help="The same.")

    def __post_init__(self):
        for part in set(self.parts) - set(PARTS):
            raise UserError(f"parts has {part!r}; allowed are {', '.join(PARTS)}.")
        for part in PARTS:
            if getattr(self, part) and not getattr(self, part).get("kinds"):
                raise UserError(f"There are no kinds of pages in {part}.")
            for kind in getattr(self, part).get("kinds", []):
                make_options(Kind, kind, f"kinds of {part}")


def make_model(options):
    """`tuple[FilaForConditionalGeneration, FilaProcessor]`: the FILA to start from, in float32, and its processor."""
    config, side = FilaConfig.from_pretrained(ROOT).to_dict(), options.tile_size
    config["vision_config"]["image_size"] = side
    for key, value in options.model.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    torch.manual_seed(options.seed)
    if options.start is None:
        model = FilaForConditionalGeneration(FilaConfig(**{**config, "dtype": "float32"}))
    else:
        with library_errors(f"start {options.start} is no FILA that can be loaded"):
            model = FilaForConditionalGeneration.from_pretrained(options.start, dtype="float32")
    model.generation_config = GenerationConfig.from_pretrained(ROOT)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    processor.image_processor.size = {"height": side, "width": side}
    pinpoints = [point for scale in options.canvas_scales for point in image_grid_pinpoints(side * scale)]
    processor.image_processor.image_grid_pinpoints = pinpoints
    return model, processor


def make_pages(options, settings, processor, seed):
    """[`Pages`]: those of a part, whose own options are taken out of its `settings`."""
    names = ("kinds", "max_text", "num_scribbles", "max_questions", "transcribe", "min_text_height")
    own = {name: settings.pop(name) for name in names if name in settings}
    return Pages(seed, processor, **{"transcribe": True, "assets": options.assets, **own})


def make_cell_embedding(options, model, processor):
    """[`CellEmbedding`]: that of a trained model, on pages of the decoder, or a random one for a model of random weights."""
    if options.start is not None:
        pages = make_pages(options, dict(options.decoder), processor.for_model(model.config), options.seed)
        return pretrain.CellEmbedding.fit(model, map(pages.make_images, range(NUM_FITTED)))
    with torch.no_grad():  # so that the projector begins with vectors about as large as those to be learnt
        model.model.multi_modal_projector.linear_2.weight *= 0.1
    text_config = model.config.text_config
    return pretrain.CellEmbedding.random(text_config.hidden_size, text_config.initializer_range)


def load_parts(model, options, parts):
    """Loads what parts have trained, if they were done, the later over the earlier."""
    for path in (Path(options.output_dir) / part / WEIGHTS for part in parts):
        if path.exists():
            model.load_state_dict(load_file(path), strict=False)


def train_part(options, part):
    """Does a part, unless it is done."""
    number, folder, settings = PARTS.index(part), Path(options.output_dir) / part, dict(getattr(options, part))
    if (folder / WEIGHTS).exists():
        return
    model, processor = make_model(options)
    pages = make_pages(options, settings, processor.for_model(model.config), options.seed * len(PARTS) + number)
    if part == "encoder":
        network = pretrain.EncoderPretraining(model, make_cell_embedding(options, model, processor))
        make_batch = pages.make_images
    elif part == "decoder":
        network = pretrain.DecoderPretraining(model, make_cell_embedding(options, model, processor))
        make_batch = pages.make_cells
        if options.start is None:
            network.begin_as_cells(processor.tokenizer)
    else:
        load_parts(model, options, PARTS[:number])
        model.set_training_stage(number - 1)
        network, make_batch = pretrain.WholeTraining(model), pages.make_batch
    pretrain.train_network(network, make_batch, folder, **settings)
    weights = {
        name: value
        for name, value in model.model.state_dict(prefix="model.").items()  # without the head, which is tied
        if part.startswith("stage") or name.startswith(TEXT_PREFIX) == (part == "decoder")
    }
    if PartialState().is_main_process:
        with new_files(folder) as new:
            save_file(weights, new / WEIGHTS)
    PartialState().wait_for_everyone()


def write_model(options):
    """Writes the model that all parts have trained."""
    model, processor = make_model(options)
    load_parts(model, options, PARTS)
    model.to(torch.bfloat16)
    output = Path(options.output_dir) / "model"
    with new_files(output) as folder:
        model.save_pretrained(folder, max_shard_size="15MB")
        processor.save_pretrained(folder)
    print(f"{output}: {model.num_parameters() / 1e6:.1f} M parameters")


def main(arguments=None):
    (options,) = parse_arguments(CheckpointArguments, __doc__, arguments)
    for part in PARTS:
        if part in options.parts:
            train_part(options, part)
    if "stage2" in options.parts and PartialState().is_main_process:
        write_model(options)


if __name__ == "__main__":
    run_command(main)
