# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a FILA in the two stages of the paper: options, preview, LoRA, the run itself."""

import re
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainingArguments

from fila import FilaDataCollator
from fila.common.arguments import UserError
from fila.common.devices import has_fast_bfloat16
from fila.common.layout import TEXT_PREFIX
from fila.common.views import draw_views
from fila.training.callbacks import FilaTrainer, find_checkpoint
from fila.training.data import SampleCollator, load_data_source, make_dataset
from fila.training.export import export, rebuild_model, upload


@dataclass
class ModelArguments:
    """Which model is trained, and what of it."""

    model_name_or_path: str | None = field(default=None, metadata={"help": "FILA to start from: a folder or Hub id."})
    stage: int = field(default=2, metadata={"help": "1: fusion and projector, low resolution. 2: everything, tiled."})
    dtype: str = field(
        default="float32",
        metadata={"help": "Weights in training; with --bf16, float32 ones are computed with in bfloat16."},
    )
    attn_implementation: str | None = field(default=None, metadata={"help": "Such as sdpa or flash_attention_2."})
    vision_lr: float | None = field(default=None, metadata={"help": "Learning rate of ViT and ConvNeXt."})
    fusion_lr: float | None = field(default=None, metadata={"help": "Learning rate of fusion and projector."})
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA on the decoder, merged at the end; 0: none."})
    lora_alpha: float | None = field(default=None, metadata={"help": "LoRA's alpha; twice the rank if not given."})


@dataclass
class FilaTrainingArguments(TrainingArguments):
    """The Trainer's options, with defaults that fit a FILA and its data. Without an accelerator it trains on the CPU."""

    # The collator reads columns that the model's forward has not; the model's batches cannot be cut along one dimension.
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false."})
    prediction_loss_only: bool = field(default=True, metadata={"help": "Evaluate the loss alone."})
    accelerator_config: dict | str | None = field(
        default_factory=lambda: {"dispatch_batches": False}, metadata={"help": "Options of accelerate, as JSON."}
    )

    def __post_init__(self):
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        if self.bf16 and self.use_cpu and not has_fast_bfloat16("cpu"):
            print("This CPU has no bfloat16 instructions: --bf16 is ignored, training is in float32.")
            self.bf16 = False
        super().__post_init__()
        self.include_num_input_tokens_seen = "non_padding"  # for tokens per second; the parser takes it as a flag


def add_lora(model, model_arguments):
    """Puts LoRA on the linear layers of the decoder and freezes the rest of the decoder. Everything else stays as it is.

    Returns:
        `PeftModel`: around `model`, which is changed in place and can be trained as it is. Its checkpoints then hold all
        that is trained, not the adapter alone.

    Raises:
        UserError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("--lora_r needs PEFT: `pip install peft`.") from error
    others = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith((TEXT_PREFIX, "lm_head."))
    ]
    config = LoraConfig(
        r=model_arguments.lora_r,
        lora_alpha=model_arguments.lora_alpha or 2 * model_arguments.lora_r,
        target_modules="all-linear",
        exclude_modules=f"(?!{re.escape(TEXT_PREFIX)}).*",
    )
    # Sharding wants one dtype in a unit.
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    for parameter in others:
        parameter.requires_grad_(True)
    return adapted


def preview(dataset, collator, count, output_dir):
    """Prints samples as the model will see them, with what is learnt highlighted, and saves the tiles of their images.

    Args:
        dataset (`Dataset` or `IterableDataset`): from [`make_dataset`].
        collator ([`SampleCollator`]): of the training.
        count (`int`): number of samples.
        output_dir (`str`): pictures go into its folder `preview`.
    """
    processor = collator.collator.processor
    marks = ("\033[1;32m", "\033[0m") if sys.stdout.isatty() else ("[[", "]]")
    for number, sample in enumerate(islice(dataset, count)):
        example = collator.read(sample)
        images = example["images"]
        encoded = collator.collator.encode(example["messages"], [image.size[::-1] for image in images])
        text = ""
        tokens = zip(encoded["input_ids"], encoded["labels"])
        kinds = groupby(tokens, key=lambda pair: (pair[0] == processor.image_token_id, pair[1] != -100))
        for (is_image, is_learnt), run in kinds:
            token_ids = [token for token, _ in run]
            part = processor.tokenizer.decode(token_ids) if not is_image else f"<image x {len(token_ids)}>"
            text += marks[0] + part + marks[1] if is_learnt else part
        print(
            f"--- sample {number}: {len(encoded['input_ids'])} tokens, {len(images)} images; learnt: {''.join(marks)}"
        )
        print(text)
        for position, image in enumerate(images):
            path = Path(output_dir) / "preview" / f"sample{number}-image{position}.png"
            draw_views(processor.image_processor, processor.image_processor(image, return_tensors="pt"), path)
            print(f"picture: {path}")


def load_config_and_processor(model_name_or_path):
    """
    Returns:
        `tuple[FilaConfig, FilaProcessor]`

    Raises:
        UserError: there is no FILA at `model_name_or_path`.
    """
    try:
        config = AutoConfig.from_pretrained(model_name_or_path, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(model_name_or_path, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--model_name_or_path {model_name_or_path} is no FILA that can be loaded: {error}") from error
    if config.model_type != "fila":
        raise UserError(f"--model_name_or_path {model_name_or_path} is a {config.model_type!r} model, not a FILA.")
    return config, processor


def train(model_arguments, data_arguments, training_arguments):
    """Trains a model and writes it into `output_dir`, or shows a preview of the data.

    Args:
        model_arguments ([`ModelArguments`]), data_arguments ([`DataArguments`]), training_arguments
            ([`FilaTrainingArguments`]): the options.

    Returns:
        `dict`: metrics of the training and, with evaluation data, of the result; empty for a preview.

    Raises:
        UserError: anything that the user can fix.
    """
    output = Path(training_arguments.output_dir)
    if training_arguments.n_gpu > 1:
        raise UserError("Several GPUs in one process are not supported: start with `accelerate launch train.py ...`.")
    if training_arguments.label_smoothing_factor:
        raise UserError(
            f"--label_smoothing_factor {training_arguments.label_smoothing_factor} is not supported: the Trainer would compare "
            "labels that are not shifted. Leave it at 0."
        )
    if (output / "config.json").exists():
        raise UserError(f"{output} holds a model already. Choose another --output_dir, or remove it.")
    config, processor = load_config_and_processor(model_arguments.model_name_or_path)
    processor.image_processor.do_dynamic_tiling = model_arguments.stage == 2
    collator = FilaDataCollator(processor, max_length=data_arguments.max_length)
    num_train, streaming = len(data_arguments.train_data), data_arguments.streaming
    sources = [load_data_source(number, entry, streaming) for number, entry in enumerate(data_arguments.train_data)]
    train_dataset = make_dataset(sources, collator, data_arguments, training_arguments, streaming)
    if data_arguments.preview:
        preview(train_dataset, SampleCollator(collator, sources), data_arguments.preview, output)
        return {}
    eval_sources = [load_data_source(num_train + n, entry) for n, entry in enumerate(data_arguments.eval_data)]
    eval_dataset = make_dataset(eval_sources, collator, data_arguments, training_arguments) if eval_sources else None
    datasets = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "sources": sources + eval_sources}
    return _run(model_arguments, data_arguments, training_arguments, config, collator, datasets)


def _run(model_arguments, data_arguments, training_arguments, config, collator, datasets):
    model = AutoModelForImageTextToText.from_pretrained(
        model_arguments.model_name_or_path,
        trust_remote_code=True,
        dtype=model_arguments.dtype,
        attn_implementation=model_arguments.attn_implementation,
    )
    model.set_training_stage(model_arguments.stage)
    model_class, lora = type(model), partial(add_lora, model_arguments=model_arguments)
    if model_arguments.lora_r:
        lora(model)
    # Once, when all is done: the Trainer would upload unfinished models, and copy them into the output folder for that.
    push_to_hub, training_arguments.push_to_hub = training_arguments.push_to_hub, False
    trainer = FilaTrainer(
        model,
        training_arguments,
        data_collator=SampleCollator(collator, datasets["sources"]),
        processing_class=collator.processor,
        vision_lr=model_arguments.vision_lr,
        fusion_lr=model_arguments.fusion_lr,
        **datasets,
    )
    metrics = trainer.train(resume_from_checkpoint=_prepare_checkpoint(trainer)).metrics
    if datasets["eval_dataset"] is not None:
        metrics.update(trainer.evaluate())
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathers what is sharded, on all processes
    if trainer.is_world_process_zero():
        trained = rebuild_model(model_class, config, state_dict, lora if model_arguments.lora_r else None)
        dtype = config.dtype or torch.float32
        trained = trained.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        export(trainer, trained, collator.processor, model_arguments, data_arguments, metrics)
    trainer.log_metrics("all", metrics)
    trainer.save_metrics("all", metrics, combined=False)
    trainer.accelerator.wait_for_everyone()  # none leaves while another still writes
    trainer.accelerator.end_training()
    if push_to_hub and trainer.is_world_process_zero():
        upload(training_arguments)
    return metrics


def _prepare_checkpoint(trainer):
    """Removes what an interrupted run left half written. Returns the path of the checkpoint to continue from, or None."""
    checkpoint, unfinished = find_checkpoint(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        for folder in unfinished:
            print(f"{folder} is not complete: removed.")
            shutil.rmtree(folder)
        if checkpoint is not None:
            print(f"Continuing from {checkpoint}.")
    trainer.accelerator.wait_for_everyone()
    return None if checkpoint is None else str(checkpoint)
