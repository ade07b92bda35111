# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the default checkpoint at the root of this repository from a FILA that was trained with its config.

    python fineprint/experiments/make_checkpoint.py --weights build/default/cvfm-seed0/stage2-leg8

The weights are written in bfloat16. Config, tokenizer, chat template and canvases are those that stand at the root. The
geometry is the paper's at a third of the scale: tiles of 112 pixels, patch 14, five canvases. The tokenizer knows bytes
alone: what a small model reads, it spells letter by letter.
"""

from dataclasses import dataclass

import torch
from transformers import AutoProcessor, GenerationConfig
from transformers.hf_argparser import HfArg

from fila import FilaConfig, FilaForConditionalGeneration
from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_files
from fila.common.layout import ROOT


@dataclass
class CheckpointArguments:
    """Where the weights come from and go to."""

    weights: str = HfArg(help="FILA folder whose weights are taken.")
    output_dir: str = HfArg(default=str(ROOT), help="Model folder to write; this repository if not given.")


def main(arguments=None):
    (options,) = parse_arguments(CheckpointArguments, __doc__, arguments)
    model = FilaForConditionalGeneration(FilaConfig.from_pretrained(ROOT))
    try:
        model.load_state_dict(FilaForConditionalGeneration.from_pretrained(options.weights).state_dict())
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"--weights {options.weights} is no FILA with the config at the root: {error}") from error
    model.to(torch.bfloat16)
    model.generation_config = GenerationConfig.from_pretrained(ROOT)
    with new_files(options.output_dir) as folder:
        model.save_pretrained(folder)
        AutoProcessor.from_pretrained(ROOT, trust_remote_code=True).save_pretrained(folder)
        for path in folder.glob("*.py") if options.output_dir == str(ROOT) else ():
            path.unlink()  # they are the files that this process runs
    print(f"{options.output_dir}: {model.num_parameters() / 1e6:.1f} M parameters of {options.weights}")


if __name__ == "__main__":
    run_command(main)
