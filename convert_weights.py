# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a FILA model folder from a CLIP, a ConvNeXt and a Llama checkpoint, tensor by tensor.

    python convert_weights.py --vision openai/clip-vit-large-patch14-336 \\
        --convnext convnext_large_mlp.clip_laion2b_ft_soup_320 \\
        --text meta-llama/Meta-Llama-3-8B-Instruct --output fila-llama3-8b

    python convert_weights.py recipes/fila-llama3-8b.yaml --output elsewhere

Each source is a local path or a Hub id, perhaps with a branch, tag or commit: `id@v1`; `none:tiny` gives a part random
weights. A recipe is a YAML file of the options below, and options on the command line override it. The fusion and the
projector start untrained: the fusion as the identity, so that the visual tokens of the new model are those of its CLIP.
"""

import signal
import sys
from dataclasses import dataclass

import transformers
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.layout import DtypeName
from fila.conversion.assemble import convert


@dataclass
class ConvertArguments:
    """Options of the command line and of recipes."""

    vision: str = HfArg(help="CLIP in the format of transformers: Hub id or folder; or none:tiny")
    text: str = HfArg(help="decoder of Llama's layout: Hub id, folder, .gguf file; or none:tiny")
    output: str = HfArg(help="model folder to write")
    convnext: str | None = HfArg(default=None, help="ConvNeXt of timm: name, Hub id, folder; or none:tiny, none:NAME")
    fusion_type: str = HfArg(default="cvfm", help="cvfm, none, cross_attention or channel_concat")
    fusion_layers: list[int] | None = HfArg(default=None, help="ViT layers to fuse after (default: 2 6 12 20 of 24)")
    fusion_align: str = HfArg(default="conv", help="conv or interpolate")
    dtype: DtypeName = HfArg(default="auto", help="of the weights; auto: the decoder's own, else bfloat16")
    max_shard_size: str = HfArg(default="1.5GB", help="largest weights file; so much is in memory at a time")
    seed: int = HfArg(default=0, help="seed of the weights that are not taken from a source")
    verify: bool = HfArg(default=True, help="compare the output with the sources")
    push_to_hub: str | None = HfArg(default=None, help="Hub id to upload the result to")


def parse_options(arguments=None):
    """The [`ConvertArguments`] of a command line. Raises [`UserError`] for a wrong or missing option."""
    (options,) = parse_arguments(ConvertArguments, __doc__, arguments)
    if options.convnext is None and options.fusion_type != "none":
        raise UserError("Not given: --convnext, which every fusion but --fusion_type none needs.")
    return options


def main(arguments=None):
    """Runs the command; errors that the user can fix end it with a message."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the unfinished folder is removed
    run_command(lambda: convert(parse_options(arguments)))


if __name__ == "__main__":
    main()
