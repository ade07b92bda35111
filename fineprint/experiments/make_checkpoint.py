# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the small default checkpoint at the root of this repository: config, processor, tokenizer and weights.

    python fineprint/experiments/make_checkpoint.py --weights build/default/cvfm-seed0/stage2-leg8
    python fineprint/experiments/make_checkpoint.py --output random

The weights are those of a trained FILA of this config, in bfloat16, or random. fineprint/recipes/default.yaml trained
the ones at the root. The geometry is the paper's at a third of the scale: tiles of 112 pixels, patch 14, five canvases.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from fila import FilaConfig, FilaForConditionalGeneration, FilaImageProcessor, FilaProcessor
from fila.common.files import new_files
from fila.common.layout import ROOT, image_grid_pinpoints
from fila.conversion.tokenizer import IMAGE_TOKEN, make_chat_macros, make_normalizer

TILE_SIZE = 112
PAD_TOKEN, START_TOKEN, END_TOKEN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = [PAD_TOKEN, START_TOKEN, END_TOKEN, IMAGE_TOKEN]

CHAT_TEMPLATE = (
    make_chat_macros(SPECIAL_TOKENS)
    + """\
{%- for message in messages -%}
{{- "<|im_start|>" ~ escape(message["role"]) ~ "\\n" -}}
{%- if message["role"] == "assistant" -%}
{%- generation -%}
{{- render(message["content"]) ~ "<|im_end|>" -}}
{%- endgeneration -%}
{{- "\\n" -}}
{%- else -%}
{{- render(message["content"]) ~ "<|im_end|>\\n" -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "<|im_start|>assistant\\n" -}}
{%- endif -%}
"""
)


def build_tokenizer():
    """A tokenizer of bytes, the ChatML tokens and `<image>`: what a small model reads, it spells letter by letter."""
    tokens = SPECIAL_TOKENS + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    tokenizer.normalizer = make_normalizer(SPECIAL_TOKENS)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=END_TOKEN,
        additional_special_tokens=[START_TOKEN],
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=16384,
    )


def build_config(tokenizer):
    """The small model."""
    vit = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 7, "num_attention_heads": 2}
    decoder = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3}
    return FilaConfig(
        vision_config=vit | {"image_size": TILE_SIZE, "patch_size": 14},
        convnext_config={
            "architecture": "convnext_atto",
            "model_args": {"depths": [1, 1, 6, 2], "dims": [16, 32, 96, 192], "ls_init_value": 0.1},
        },
        text_config={
            **decoder,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 3,
            "initializer_range": 0.065,  # of so narrow a network: with the usual 0.02, attention stays even for long
            "max_position_embeddings": tokenizer.model_max_length,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        fusion_layers=[1, 2, 4, 6],
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )


def build_processor():
    """Canvases, tokenizer and chat template of the small model."""
    image_processor = FilaImageProcessor(size=TILE_SIZE, image_grid_pinpoints=image_grid_pinpoints(TILE_SIZE))
    return FilaProcessor(image_processor, build_tokenizer(), chat_template=CHAT_TEMPLATE)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT, help="model folder to write (default: this repository)")
    parser.add_argument("--weights", type=Path, help="FILA folder whose weights are taken (default: random weights)")
    parser.add_argument("--seed", type=int, default=0, help="seed of random weights")
    options = parser.parse_args(arguments)
    processor = build_processor()
    tokenizer = processor.tokenizer
    torch.manual_seed(options.seed)
    model = FilaForConditionalGeneration(build_config(tokenizer))
    if options.weights is not None:
        model.load_state_dict(FilaForConditionalGeneration.from_pretrained(options.weights).state_dict())
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[model.config.image_token_id],  # an image is never an answer
        max_new_tokens=256,
    )
    with new_files(options.output) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        if options.output.resolve() == ROOT:
            for path in folder.glob("*.py"):
                path.unlink()  # they are the files that this process runs
    origin = "random" if options.weights is None else f"of {options.weights}"
    print(f"{options.output}: {model.num_parameters() / 1e6:.1f} M parameters, weights {origin}")


if __name__ == "__main__":
    main()
