# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""A training step of both stages, beside transformers' LLaVA-NeXT of the same ViT and decoder.

    python benchmarks/train_step.py [--preset smollm2] [--gradient-checkpointing] [--dtype bfloat16] [--output results.json]

A step is what the Trainer does with one batch of images and text: forward, loss, backward, AdamW. Stage 1 trains FILA's
fusion and projector, of LLaVA-NeXT the projector, on low-resolution images; stage 2 trains everything on images of 2x2
tiles. LLaVA-NeXT sees the same tiles and the same text. Its smallest canvas is one tile, which it encodes beside the global
view: where FILA does not tile, grid (0, 0), it has two views and twice the visual tokens. Otherwise it has a few tokens
more, one for each row of the canvas.

FILA does more than LLaVA-NeXT, since it runs a ConvNeXt as well. `speed_ratio` compares samples per second; `flop_ratio` is
what that would be if both did as many operations per second; `speed_per_flop_ratio` is the one over the other. Operations
are those of torch's FlopCounterMode in one step of one sample without checkpointing. `mfu` is the share of a GPU's peak that
they reach.

`peak` is the most memory that a step held at one time on top of what was there before it, measured as train_memory.py
does; `peak_with_state` adds the parameters and what AdamW remembers of those that are trained.
"""

from functools import partial

import torch
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from fila.benchmarks.counters import MIB, count_flops, peak_bytes
from fila.benchmarks.harness import make_parser, median_in_turn, parse, report
from fila.benchmarks.models import IMAGE_TOKEN_ID, MODELS, count_parameters, make_model, make_training_batch

# Dense operations per second in half precision, from NVIDIA's data sheets.
PEAKS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}


def make_peer(config, grid):
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
    return LlavaNextForConditionalGeneration(peer_config)


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


def learn(model, inputs):
    """The gradients of the loss."""
    model(**inputs).loss.backward()


def make_step(model, inputs):
    """A function that trains `model` on `inputs` once, and its optimizer. The optimizer has its state already."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step():
        learn(model, inputs)
        optimizer.step()
        optimizer.zero_grad()

    step()
    return step, optimizer


def measure(options, stage):
    """One row of the table: a stage, both sides."""
    grid = tuple(options.stage1_grid if stage == 1 else options.stage2_grid)
    batch = options.batch_size
    torch.manual_seed(0)
    model = make_model(**MODELS[options.preset], **options.factory).train()
    model.set_training_stage(stage)
    inputs = make_training_batch(model.config, batch, grid, options.text_length, **options.factory)
    peer = make_peer(model.config, grid).to(**options.factory).train()
    if stage == 1:
        peer.requires_grad_(False)
        peer.model.multi_modal_projector.requires_grad_(True)
    sides = {"fila": (model, inputs), "llava_next": (peer, make_peer_inputs(peer, inputs, grid))}
    flops, steps, peaks, states = {}, {}, {}, {}
    for name, (network, batch_inputs) in sides.items():
        flops[name] = count_flops(partial(learn, network, {key: value[:1] for key, value in batch_inputs.items()}))
        if options.gradient_checkpointing:
            network.gradient_checkpointing_enable({"use_reentrant": False})
        steps[name], optimizer = make_step(network, batch_inputs)
        peaks[name] = peak_bytes(steps[name], options.device) / MIB
        moments = [v for state in optimizer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        states[name] = sum(tensor.nbytes for tensor in [*network.parameters(), *moments]) / MIB
    seconds = median_in_turn(steps, options.repeats, options.device)
    processor = torch.cuda.get_device_name(options.device) if torch.device(options.device).type == "cuda" else ""
    peak = next((value for name, value in PEAKS.items() if name in processor), None)
    row = {"stage": stage, "batch": batch, "size": f"{grid[0]}x{grid[1]}", "parameters": count_parameters(model)}
    for name, (_, batch_inputs) in sides.items():
        row[f"{name}_tokens"] = batch_inputs["input_ids"].shape[1]
        row[f"{name}_tflop"] = flops[name] / 1e12
        row[f"{name}_samples_per_s"] = batch / seconds[name]
        row[f"{name}_mfu"] = flops[name] * row[f"{name}_samples_per_s"] / peak if peak else None
        row[f"{name}_peak_mib"] = peaks[name]
        row[f"{name}_peak_with_state_mib"] = peaks[name] + states[name]
    row["checkpointed"] = options.gradient_checkpointing
    row["speed_ratio"] = row["fila_samples_per_s"] / row["llava_next_samples_per_s"]
    row["flop_ratio"] = flops["llava_next"] / flops["fila"]
    row["speed_per_flop_ratio"] = row["speed_ratio"] / row["flop_ratio"]
    row["memory_ratio"] = row["fila_peak_with_state_mib"] / row["llava_next_peak_with_state_mib"]
    return row


def main(arguments=None):
    sizes = {"batch_size": 1, "stage1_grid": [0, 0], "stage2_grid": [2, 2], "text_length": 128}
    parser = make_parser(__doc__, {"quarter": None, **MODELS}, repeats=3, **sizes)
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="of both sides, as in recipes/stage1.yaml and stage2.yaml"
    )
    options = parse(parser, arguments)
    report("train_step", options, [measure(options, stage) for stage in (1, 2)])


if __name__ == "__main__":
    main()
