# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a FILA in the two stages of the paper: options, preview, LoRA, the run, and its model folder."""

import re
import shutil
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, TrainingArguments
from transformers.hf_argparser import HfArg
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from fila import FilaDataCollator
from fila.common.arguments import library_errors
from fila.common.devices import has_fast_bfloat16
from fila.common.files import new_files
from fila.common.hub import create_repo, make_model_card, upload_folder
from fila.common.layout import DTYPES, TEXT_PREFIX, DtypeName
from fila.common.views import draw_views
from fila.training.callbacks import FilaTrainer, find_checkpoint
from fila.training.data import SampleCollator, load_data_source, make_dataset


@dataclass
class ModelArguments:
    """Which model is trained, and what of it."""

    model_name_or_path: str | None = HfArg(default=None, help="FILA to start from: a folder or Hub id.")
    stage: Literal[1, 2] = HfArg(default=2, help="1: fusion and projector, low resolution. 2: everything, tiled.")
    dtype: DtypeName = HfArg(default="float32", help="Weights in training; with --bf16, computed with in bfloat16.")
    attn_implementation: str | None = HfArg(default=None, help="Such as sdpa or flash_attention_2.")
    vision_lr: float | None = HfArg(default=None, help="Learning rate of ViT and ConvNeXt.")
    fusion_lr: float | None = HfArg(default=None, help="Learning rate of fusion and projector.")
    lora_r: int = HfArg(default=0, help="Rank of LoRA on the decoder, merged at the end; 0: none.")
    lora_alpha: float | None = HfArg(default=None, help="LoRA's alpha; twice the rank if not given.")


@dataclass
class FilaTrainingArguments(TrainingArguments):
    """The Trainer's options. On a CPU without bfloat16 instructions, `bf16` has no effect."""

    def __post_init__(self):
        if self.bf16 and self.use_cpu and not has_fast_bfloat16("cpu"):
            print("This CPU has no bfloat16 instructions: --bf16 is ignored, training is in float32.")
            self.bf16 = False
        super().__post_init__()
        self.include_num_input_tokens_seen = "non_padding"  # for tokens per second; the parser takes it as a flag


def add_lora(model, model_arguments):
    """Puts LoRA on the linear layers of the decoder and freezes the rest of the decoder. Everything else stays as it
    is. Returns the `PeftModel` around `model`, which is changed in place and can be trained as it is: then its
    checkpoints hold all that is trained, not the adapter alone."""
    from peft import LoraConfig, get_peft_model

    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    config = LoraConfig(
        r=model_arguments.lora_r,
        lora_alpha=model_arguments.lora_alpha or 2 * model_arguments.lora_r,
        target_modules="all-linear",
        exclude_modules=f"(?!{re.escape(TEXT_PREFIX)}).*",
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)  # sharding wants one dtype in a unit
    for name, parameter in trained.items():
        parameter.requires_grad_(not name.startswith((TEXT_PREFIX, "lm_head.")))
    return adapted


def preview(dataset, collator, count, output_dir):
    """Prints samples as the model will see them, with what is learnt in [[ ]], and saves the tiles of their images."""
    processor = collator.collator.processor
    for number, sample in enumerate(islice(dataset, count)):
        example = collator.read(sample)
        encoded = collator.collator.encode(example["messages"], [image.size[::-1] for image in example["images"]])
        tokens = list(zip(encoded["input_ids"], encoded["labels"]))
        print(f"--- sample {number}: {len(tokens)} tokens, {len(example['images'])} images; learnt: [[]]")
        kinds = groupby(tokens, key=lambda pair: (pair[0] == processor.image_token_id, pair[1] != -100))
        for (is_image, is_learnt), run in kinds:
            token_ids = [token for token, _ in run]
            part = f"<image x {len(token_ids)}>" if is_image else processor.tokenizer.decode(token_ids)
            print(f"[[{part}]]" if is_learnt else part, end="")
        print()
        for position, image in enumerate(example["images"]):
            path = Path(output_dir, "preview", f"sample{number}-image{position}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            inputs = processor.image_processor(image, return_tensors="pt")
            draw_views(processor, inputs).save(path)
            print(f"picture: {path}")


def train(model_arguments, data_arguments, training_arguments):
    """Trains a model and writes it into `output_dir`, or shows a preview of the data. Returns the metrics of the training
    and, with evaluation data, of the result, a `dict`. Raises a `UserError` for anything that the user can fix."""
    start, output = model_arguments.model_name_or_path, Path(training_arguments.output_dir)
    with library_errors(f"--model_name_or_path {start} is no FILA that can be loaded"):
        config = AutoConfig.from_pretrained(start, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(start, trust_remote_code=True)
        if config.model_type != "fila":
            raise ValueError(f"it is a {config.model_type!r} model.")
    processor.image_processor.do_dynamic_tiling = model_arguments.stage == 2
    if hasattr(processor, "for_model"):  # which the code of older folders lacks
        processor = processor.for_model(config)
    num_train, entries = len(data_arguments.train_data), [*data_arguments.train_data, *data_arguments.eval_data]
    sources = [load_data_source(number, entry) for number, entry in enumerate(entries)]
    collator = FilaDataCollator(processor, data_arguments.max_length)
    checking, collator = (collator, data_arguments, training_arguments), SampleCollator(collator, sources)
    train_dataset = make_dataset(sources[:num_train], *checking)
    if data_arguments.preview:
        preview(train_dataset, collator, data_arguments.preview, output)
        return {}
    eval_dataset = make_dataset(sources[num_train:], *checking) if sources[num_train:] else None
    options = {"dtype": model_arguments.dtype, "attn_implementation": model_arguments.attn_implementation}
    model = AutoModelForImageTextToText.from_pretrained(start, trust_remote_code=True, **options)
    model.set_training_stage(model_arguments.stage)
    if model_arguments.lora_r:
        add_lora(model, model_arguments)
    # The Trainer would upload unfinished models, and copy them into the output folder for that.
    push_to_hub, training_arguments.push_to_hub = training_arguments.push_to_hub, False
    rates = {"vision_lr": model_arguments.vision_lr, "fusion_lr": model_arguments.fusion_lr}
    trainer = FilaTrainer(model, training_arguments, collator, train_dataset, eval_dataset, processor, **rates)
    name, token = output.resolve().name, training_arguments.hub_token
    if push_to_hub and trainer.is_world_process_zero():
        name = create_repo(training_arguments.hub_model_id or name, token, private=training_arguments.hub_private_repo)
    metrics = trainer.train(resume_from_checkpoint=_prepare_checkpoint(trainer)).metrics
    if eval_dataset is not None:
        metrics.update(trainer.evaluate())
    files = _export(trainer, config, name, model_arguments, data_arguments, metrics)
    trainer.log_metrics("all", metrics)
    trainer.save_metrics("all", metrics, combined=False)
    trainer.accelerator.wait_for_everyone()  # none leaves while another still writes
    trainer.accelerator.end_training()
    if push_to_hub and trainer.is_world_process_zero():
        upload_folder(output, name, token, allow_patterns=files)
    return metrics


def _prepare_checkpoint(trainer):
    """Removes what an interrupted run left half written. Returns the path of the checkpoint to continue from."""
    checkpoint, unfinished = find_checkpoint(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        for folder in unfinished:
            print(f"{folder} is not complete: removed.")
            shutil.rmtree(folder)
        if checkpoint is not None:
            print(f"Continuing from {checkpoint}.")
    trainer.accelerator.wait_for_everyone()
    return None if checkpoint is None else str(checkpoint)


def rebuild_model(model_class, config, state_dict, model_arguments):
    """[`FilaForConditionalGeneration`]: a plain model of whole trained weights, those of LoRA among them, in the dtype
    of `config`. Whatever wrapped, sharded or adapted the trained model is gone."""
    # While ZeRO-3's configuration is set, new models are sharded too, which waits for all processes.
    unset_hf_deepspeed_config()
    with torch.device("meta"):
        model = model_class(config)
        adapted = add_lora(model, model_arguments) if model_arguments.lora_r else None
    model.load_state_dict(state_dict, assign=True)
    model.tie_weights()
    dtype = config.dtype or torch.float32
    return (adapted.merge_and_unload() if adapted else model).to(DTYPES.get(dtype, dtype))


def _export(trainer, config, name, model_arguments, data_arguments, metrics):
    """Writes the trained model with its card into the output folder, whole or not at all. `config` is the model's from
    before the training. Returns the names of the model's files, on the main process."""
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathers what is sharded, on all processes
    if trainer.is_world_process_zero():
        model = rebuild_model(type(trainer.model), config, state_dict, model_arguments)
        model.generation_config = trainer.model.generation_config
        with new_files(trainer.args.output_dir) as folder:
            # Under ZeRO-3 transformers would undo renamings that it never did.
            model.save_pretrained(folder, save_original_format=False)
            trainer.processing_class.save_pretrained(folder)
            _make_card(trainer, name, model_arguments, data_arguments, metrics).save(folder / "README.md")
            files = [path.name for path in folder.iterdir()]
            licenses = Path(model_arguments.model_name_or_path, "licenses")
            if licenses.is_dir():  # of the backbones: see conversion/
                shutil.copytree(licenses, Path(trainer.args.output_dir, "licenses"), dirs_exist_ok=True)
                files.append("licenses/*")
        trainer.save_state()
        return files


def _make_card(trainer, name, model_arguments, data_arguments, metrics):
    """`ModelCard`: with the options and metrics of the training. `name` is what the model is loaded by. Local files are
    named without their folders."""
    base = Path(model_arguments.model_name_or_path)
    header = {"license": "other", "base_model": None if base.exists() else str(base)}
    if (base / "README.md").exists():  # training does not change whose the weights are
        known = ModelCard.load(base / "README.md").data
        header = {key: known.get(key, value) for key, value in header.items()}
    data = [entry["path"] if isinstance(entry, dict) else entry for entry in data_arguments.train_data]
    options = trainer.args.to_dict()
    rows = vars(model_arguments) | {
        "model_name_or_path": base.name if base.exists() else base,
        "train_data": ", ".join(Path(path).name if Path(path).exists() else path for path in data),
        "max_length": data_arguments.max_length,
        "global_batch_size": trainer.get_total_train_batch_size(trainer.args),
        **{key: options[key] for key in ("learning_rate", "lr_scheduler_type", "warmup_steps", "weight_decay", "seed")},
        "steps": trainer.state.global_step,
        **metrics,
    }
    return make_model_card(name, header, options={key: value for key, value in rows.items() if value is not None})
