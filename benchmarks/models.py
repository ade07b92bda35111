# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Models of random weights for the benchmarks, their inputs, and the repository's processor for them."""

import torch
from transformers import AutoProcessor

from fila import FilaConfig, FilaForConditionalGeneration
from fila.common.layout import ROOT, image_grid_pinpoints

IMAGE_TOKEN_ID = 3


def llama(vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_key_value_heads, tied=True):
    """The options of a decoder."""
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_key_value_heads,
        "tie_word_embeddings": tied,
    }


def vit(width, num_layers=24, image_size=336):
    """The options of a ViT with heads of 64 channels, or with two heads."""
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": num_layers}
    return {**sizes, "num_attention_heads": max(width // 64, 2), "image_size": image_size, "patch_size": 14}


def make_preset(vision, convnext, text, fusion_layers=(2, 6, 12, 20), dims=None, **convnext_args):
    """The arguments of [`make_model`]; `dims` are the widths of the ConvNeXt's stages."""
    convnext = {"architecture": convnext, "model_args": {"dims": dims, **convnext_args} if dims else {}}
    return {"vision": vision, "convnext": convnext, "text": text, "fusion_layers": list(fusion_layers)}


# Decoders of the shapes of Llama-3-8B, Llama-3.2-1B and SmolLM2-135M, and one for smoke tests.
LLAMA_8B = llama(128256, 4096, 14336, 32, 32, 8, tied=False)
LLAMA_1B = llama(128256, 2048, 8192, 16, 32, 8)
SMOLLM2 = llama(49152, 576, 1536, 30, 9, 3)
SMALL = llama(512, 64, 128, 2, 2, 1, tied=False)
# "smollm2" is the paper's vision branch (ViT-L/14-336, ConvNeXt-T) at its real size over a small decoder. "quarter" has a
# quarter of the widths of its vision branch and a fifth of its decoder's layers; a CPU trains it in seconds.
# "eighth" has the depths, head sizes and tokens of the paper's model (with LLaMA-3-8B) and an eighth of all its widths and of
# its vocabulary. There activations shrink with the width and gradients with its square, so one image stands for eight, and
# most of what stage 1 holds is the activations of the frozen decoder, through which the gradient passes. "ninth" has a ninth
# of the tokens and of the decoder's width, and as many layers: the share of attention is about that of the paper's model.
MODELS = {
    "smollm2": make_preset(vit(1024), "convnext_tiny", SMOLLM2),
    "llama-1b": make_preset(vit(1024), "convnext_tiny", LLAMA_1B),
    "llama-1b-convnext-large": make_preset(vit(1024), "convnext_large_mlp", LLAMA_1B),
    "llama-8b-convnext-large": make_preset(vit(1024), "convnext_large_mlp", LLAMA_8B),
    "quarter": make_preset(vit(256), "convnext_tiny", llama(16032, 576, 1536, 6, 9, 3), dims=[24, 48, 96, 192]),
    "eighth": make_preset(
        vit(128), "convnext_tiny", llama(16032, 512, 1792, 32, 4, 1, tied=False), dims=[12, 24, 48, 96]
    ),
    "ninth": make_preset(
        vit(128, image_size=112), "convnext_tiny", llama(16032, 448, 1568, 32, 7, 1, tied=False), dims=[12, 24, 48, 96]
    ),
    "small": make_preset(
        vit(32, 6, 56), "convnext_atto", SMALL, (1, 2, 3, 4), dims=[8, 16, 24, 32], depths=[1, 1, 1, 1]
    ),
}


def make_model(vision, convnext, text, fusion_layers, device="cpu", dtype=torch.float32, **options):
    """A FILA of random weights: its vision branch, the options of its ConvNeXt, its decoder, a Llama, and more of FilaConfig."""
    tokens = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
    config = FilaConfig(
        vision_config=vision,
        convnext_config=convnext,
        text_config={"model_type": "llama", "max_position_embeddings": 8192, **tokens, **text},
        fusion_layers=fusion_layers,
        image_token_id=IMAGE_TOKEN_ID,
        **options,
    )
    return FilaForConditionalGeneration(config).to(device, dtype)


def make_image_inputs(config, batch, grid, device="cpu", dtype=torch.float32):
    """Image inputs of noise: images that fill their canvas of `grid` rows and columns of tiles, (0, 0) for none."""
    rows, columns = grid
    size, high_res_size = config.vision_config.image_size, config.high_res_image_size
    factory = {"device": device, "dtype": dtype}
    return {
        "pixel_values": torch.randn(batch, 1 + rows * columns, 3, size, size, **factory),
        "high_res_pixel_values": torch.randn(batch, max(rows * columns, 1), 3, high_res_size, high_res_size, **factory),
        "image_sizes": torch.tensor([[max(rows, 1) * size, max(columns, 1) * size]] * batch),
        "image_grids": torch.tensor([grid] * batch),
    }


def make_prompts(config, batch, grid, text_length):
    """`torch.Tensor` of shape (batch, length): prompts of one image on `grid` and `text_length` tokens of random text."""
    rows, columns = grid
    visual = torch.full((batch, (1 + rows * columns) * config.grid_size**2), IMAGE_TOKEN_ID)
    text = torch.randint(IMAGE_TOKEN_ID + 1, config.text_config.vocab_size, (batch, text_length))
    return torch.cat([visual, text], dim=1)


def make_training_batch(config, batch, grid, text_length, device="cpu", dtype=torch.float32):
    """Samples of one image and text, of which the second half is learnt."""
    input_ids = make_prompts(config, batch, grid, text_length)
    labels = input_ids.clone()
    labels[:, : -(text_length // 2)] = -100
    texts = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {key: value.to(device) for key, value in texts.items()} | make_image_inputs(
        config, batch, grid, device, dtype
    )


def make_processor(tile_size=336, **images_kwargs):
    """The processor of the repository, for tiles of `tile_size` pixels."""
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    images_kwargs |= {"size": {"height": tile_size, "width": tile_size}}
    images_kwargs |= {"image_grid_pinpoints": image_grid_pinpoints(tile_size)}
    for name, value in images_kwargs.items():
        setattr(processor.image_processor, name, value)
    return processor


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())
