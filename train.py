# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a FILA in the two stages of the paper, with the Trainer of transformers.

python train.py recipes/stage1.yaml --model_name_or_path fila-llama3-8b --train_data pretrain.json --output_dir stage1
accelerate launch --config_file recipes/accelerate/fsdp2.yaml train.py recipes/stage2.yaml ...

A first argument that ends in .yaml is a recipe: values for any option, which the command line overrides. All options of
TrainingArguments are there. An interrupted run, started again, continues from its last whole checkpoint.

Data (`--train_data`, `--eval_data`; several are allowed): a .json, .jsonl or .parquet file, a folder of `save_to_disk`,
or a dataset on the Hub. In a recipe an entry may also be a mapping of `path`, `name`, `split`, `image_folder` and
`weight`. Rows are LLaVA's (`image`, `conversations` with `<image>`) or chats (`messages`, and `images` or `image`).
"""

from pathlib import Path

import torch

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.training.data import DataArguments
from fila.training.finetuning import FilaTrainingArguments, ModelArguments, train


def parse(arguments=None):
    """`tuple[ModelArguments, DataArguments, FilaTrainingArguments]`: from the command line and its recipe. Raises a
    `UserError` for values that are not allowed."""
    classes = (ModelArguments, DataArguments, FilaTrainingArguments)
    defaults = {"remove_unused_columns": False, "prediction_loss_only": True}  # the collator reads all columns
    defaults["use_cpu"] = not torch.accelerator.is_available()
    model, data, training = parse_arguments(classes, __doc__, arguments, **defaults)
    if model.model_name_or_path is None:
        raise UserError("Not given: --model_name_or_path. `convert_weights.py` assembles a FILA to start from.")
    if not data.train_data:
        raise UserError("Not given: --train_data. `--help` says what it may be.")
    if model.lora_r and model.stage == 1:
        raise UserError("--lora_r trains the decoder, which stage 1 freezes. Use it in stage 2.")
    if smoothing := training.label_smoothing_factor:
        reason = "the Trainer would compare labels that are not shifted. Leave it at 0."
        raise UserError(f"--label_smoothing_factor {smoothing} is not supported: {reason}")
    if training.n_gpu > 1:
        raise UserError("Several GPUs in one process are not supported: start with `accelerate launch train.py ...`.")
    if Path(training.output_dir, "config.json").exists():
        raise UserError(f"{training.output_dir} holds a model already. Choose another --output_dir, or remove it.")
    return model, data, training


def main(arguments=None):
    run_command(lambda: train(*parse(arguments)))


if __name__ == "__main__":
    main()
