# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""A training step of both stages, beside transformers' LLaVA-NeXT of the same ViT and decoder.

    python benchmarks/train_step.py [--gradient-checkpointing] [--dtype bfloat16] [--output results.json]

A step is what the Trainer does with one batch of images and text: forward, loss, backward, AdamW. Stage 1 trains FILA's
fusion and projector, of LLaVA-NeXT the projector, on low-resolution images; stage 2 trains everything on images of 2x2
tiles. LLaVA-NeXT sees the same tiles and the same text. Its smallest canvas is one tile, which it encodes beside the global
view: where FILA does not tile, grid (0, 0), it has two views and twice the visual tokens. Otherwise it has a few tokens
more, one for each row of the canvas.

`peak` is the most memory that a step held at one time on top of what was there before it, measured as train_memory.py
does; `peak_with_state` adds the parameters and what AdamW remembers of those that are trained. Times are medians, and the
two sides take turns.
"""

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from fila.benchmarks.harness import IMAGE_TOKEN_ID, count_parameters, make_parser, median_in_turn, parse, report
from fila.benchmarks.train_memory import MIB, PRESETS, make_training_batch, make_training_model, peak_bytes
from fila.common.layout import DTYPES

# FILA does more: it runs a ConvNeXt as well. The bounds are what that may cost where the ViT is the paper's.
GOALS = {"speed_ratio (stage 2)": ">= 0.7", "memory_ratio (stage 2)": "<= 1.4"}


def make_peer(config, grid, device, dtype):
    """LLaVA-NeXT with the ViT and the decoder of a FILA, and a canvas of this grid."""
    size = config.vision_config.image_size
    canvas = [max(side, 1) * size for side in grid]
    peer_config = LlavaNextConfig(
        vision_config=config.vision_config.to_dict(),
        text_config=config.text_config.to_dict(),
        image_token_index=IMAGE_TOKEN_ID,
        image_grid_pinpoints=[canvas],
        tie_word_embeddings=config.tie_word_embeddings,
    )
    peer_config.image_token_id = IMAGE_TOKEN_ID
    return LlavaNextForConditionalGeneration(peer_config).to(device, dtype)


def make_peer_inputs(peer, inputs, grid):
    """FILA's batch as LLaVA-NeXT takes it: the same views and text, and its own number of visual tokens."""
    views = inputs["pixel_values"]
    num_views = 1 + max(grid[0] * grid[1], 1)
    pixels = {
        "pixel_values": views[:, [0] * num_views] if views.shape[1] == 1 else views,
        "image_sizes": inputs["image_sizes"],
    }
    with torch.no_grad():
        num_tokens = len(peer.get_image_features(**pixels, return_dict=True).pooler_output[0])
    text = inputs["input_ids"] != IMAGE_TOKEN_ID
    visual = torch.full((len(views), num_tokens), IMAGE_TOKEN_ID, device=views.device)
    input_ids = torch.cat([visual, inputs["input_ids"][text].view(len(views), -1)], dim=1)
    labels = torch.cat([torch.full_like(visual, -100), inputs["labels"][text].view(len(views), -1)], dim=1)
    return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels, **pixels}


def make_step(model, inputs):
    """A function that trains `model` on `inputs` once, and its optimizer. The optimizer has its state already."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step():
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step, optimizer


def measure(options, stage):
    """One row of the table: a stage, both sides."""
    grid = tuple(options.stage1_grid if stage == 1 else options.stage2_grid)
    dtype, batch = DTYPES[options.dtype], options.batch_size
    torch.manual_seed(0)
    model = make_training_model(options.preset, options.device, dtype).train()
    model.set_training_stage(stage)
    inputs = make_training_batch(model.config, batch, grid, options.text_length, options.device, dtype)
    peer = make_peer(model.config, grid, options.device, dtype).train()
    if stage == 1:
        peer.requires_grad_(False)
        peer.model.multi_modal_projector.requires_grad_(True)
    sides = {"fila": (model, inputs), "llava_next": (peer, make_peer_inputs(peer, inputs, grid))}
    if options.gradient_checkpointing:
        for network, _ in sides.values():
            network.gradient_checkpointing_enable({"use_reentrant": False})

    steps, peaks, states = {}, {}, {}
    for name, (network, batch_inputs) in sides.items():
        steps[name], optimizer = make_step(network, batch_inputs)
        peaks[name] = peak_bytes(steps[name], options.device) / MIB
        moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        states[name] = sum(tensor.nbytes for tensor in [*network.parameters(), *moments]) / MIB
    seconds = median_in_turn(steps, options.repeats, options.device)
    row = {"stage": stage, "batch": batch, "size": f"{grid[0]}x{grid[1]}", "parameters": count_parameters(model)}
    for name, (_, batch_inputs) in sides.items():
        row[f"{name}_tokens"] = batch_inputs["input_ids"].shape[1]
        row[f"{name}_samples_per_s"] = batch / seconds[name]
        row[f"{name}_peak_mib"] = peaks[name]
        row[f"{name}_peak_with_state_mib"] = peaks[name] + states[name]
    row["checkpointed"] = options.gradient_checkpointing
    row["speed_ratio"] = row["fila_samples_per_s"] / row["llava_next_samples_per_s"]
    row["memory_ratio"] = row["fila_peak_with_state_mib"] / row["llava_next_peak_with_state_mib"]
    return row


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=3)
    parser.add_argument("--batch-size", type=int, default=1, help="samples, with one image each (default: 1)")
    grid = {"type": int, "nargs": 2, "metavar": ("R", "C")}
    parser.add_argument(
        "--stage1-grid", default=[0, 0], help="rows and columns of tiles in stage 1 (default: 0 0)", **grid
    )
    parser.add_argument("--stage2-grid", default=[2, 2], help="the same in stage 2 (default: 2 2)", **grid)
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="of both sides, as in recipes/stage1.yaml and stage2.yaml"
    )
    parser.add_argument("--text-length", type=int, default=128, help="text tokens after the image (default: 128)")
    options = parse(parser, arguments)
    report("train_step", options, [measure(options, stage) for stage in (1, 2)], GOALS)


if __name__ == "__main__":
    main()
