# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a FILA in the two stages of the article, with the stock Trainer.

python train.py recipes/stage1.yaml --model_name_or_path fila-llama3-8b --train_data pretrain.json --output_dir stage1
python train.py recipes/stage2.yaml --model_name_or_path stage1 --train_data instruct.json --output_dir stage2
python train.py recipes/stage2.yaml --model_name_or_path stage1 --train_data instruct.json --preview 4
accelerate launch --config_file recipes/accelerate/fsdp2.yaml train.py recipes/stage2.yaml ...

A first argument that ends in .yaml is a recipe: values for any option, which the command line overrides. All options of
TrainingArguments are there. A run that was interrupted goes on from its last whole checkpoint when it is started again.

Data (`--train_data`, `--eval_data`; several are allowed): a .json, .jsonl or .parquet file, a folder of
`save_to_disk`, or a dataset on the Hub. In a recipe an entry may also be a mapping of `path`, `name`, `split`, `image_folder` and
`weight`. Rows are LLaVA's (`image`, `conversations` with `<image>`) or chats (`messages`, and `images` or `image`).
"""

import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from itertools import groupby, islice
from pathlib import Path

import PIL.Image
import torch
import yaml
from datasets import Dataset, Image, List, concatenate_datasets, interleave_datasets, load_dataset
from datasets import config as datasets_config
from datasets import load_from_disk as load_saved_dataset
from datasets.fingerprint import Hasher
from huggingface_hub import HfApi, ModelCard, ModelCardData
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    HfArgumentParser,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
    set_seed,
)
from transformers.image_utils import load_image
from transformers.trainer_callback import ExportableState

from fila import FilaDataCollator
from fila.training.data import SampleCollator, load_source, make_dataset
from fila.processing_fila import SequenceTooLongError

VALIDATED_ROWS = 64
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
DATA_KEYS = ("path", "name", "split", "image_folder", "weight")
DTYPES = ("auto", "bfloat16", "float16", "float32")
EXIF_ORIENTATION = 0x0112
VISION_PREFIXES = ("model.vision_tower.vit.", "model.vision_tower.convnext.")
FUSION_PREFIXES = ("model.vision_tower.fusion.", "model.multi_modal_projector.")


class UserError(Exception):
    """Something that the user can mend; the message says how."""


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
class DataArguments:
    """What it is trained on."""

    train_data: list[str] = field(default_factory=list, metadata={"help": "Files, folders or Hub datasets."})
    eval_data: list[str] = field(default_factory=list, metadata={"help": "The same, for evaluation."})
    max_length: int = field(default=4096, metadata={"help": "Longest sequence, image tokens included; text is cut."})
    streaming: bool = field(default=False, metadata={"help": "Read the training data as it comes; needs --max_steps."})
    shuffle_buffer_size: int = field(default=1000, metadata={"help": "Samples that are shuffled when streaming."})
    skip_bad_samples: bool = field(default=False, metadata={"help": "Leave out rows that are wrong, and list them."})
    dataset_num_proc: int | None = field(default=None, metadata={"help": "Processes that check the data."})
    preview: int = field(default=0, metadata={"help": "Print so many samples, save their tiles, and stop."})


def parse_arguments(arguments=None):
    """Reads the command line and the recipe.

    Returns:
        `tuple[ModelArguments, DataArguments, TrainingArguments]`

    Raises:
        UserError: an unreadable recipe, an unknown key in it, or a value that is not allowed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    kinds = (ModelArguments, DataArguments, TrainingArguments)
    parser = HfArgumentParser(kinds, description=__doc__)
    # The collator reads columns that the model's forward has not; the model's batches cannot be cut along one dimension.
    parser.set_defaults(
        remove_unused_columns=False,
        prediction_loss_only=True,
        accelerator_config={"dispatch_batches": False},
    )
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        path = Path(arguments.pop(0))
        try:
            recipe = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"The recipe {path} cannot be read: {error}") from error
        known = {option.name for kind in kinds for option in fields(kind)}
        if not isinstance(recipe, dict) or set(recipe) - known:
            unknown = sorted(set(recipe) - known) if isinstance(recipe, dict) else recipe
            raise UserError(f"The recipe {path} has {unknown}, which no option is called. `--help` lists them all.")
        parser.set_defaults(**recipe)
    try:
        model, data, training = parser.parse_args_into_dataclasses(arguments)
    except ValueError as error:
        raise UserError(str(error)) from error
    training.include_num_input_tokens_seen = (
        "non_padding"  # for tokens per second; the parser takes this option as a flag
    )
    if model.model_name_or_path is None:
        raise UserError("Not given: --model_name_or_path. `convert_weights.py` assembles a FILA to start from.")
    if not data.train_data:
        raise UserError("Not given: --train_data. `--help` says what it may be.")
    if model.stage not in (1, 2):
        raise UserError(f"--stage {model.stage} is not 1 (fusion and projector) or 2 (everything).")
    if model.dtype not in DTYPES:
        raise UserError(f"--dtype {model.dtype} is not one of {', '.join(DTYPES)}.")
    if model.lora_r and model.stage == 1:
        raise UserError("--lora_r trains the decoder, which stage 1 freezes. Use it in stage 2.")
    if data.streaming and training.max_steps <= 0:
        raise UserError("--streaming data has no length: say how long to train with --max_steps.")
    return model, data, training


class LossGuard:
    """Stops a run whose loss is not finite, and leaves behind what reproduces it.

    Args:
        model ([`FilaForConditionalGeneration`]): the model; hooks are put on it.
        sources (`list[Source]`): of the training data.
        output_dir (`str`): where the batch is saved.
    """

    def __init__(self, model, sources, output_dir):
        self.sources, self.output_dir, self.sample_ids, self.trainer = sources, Path(output_dir), None, None
        model.register_forward_pre_hook(self._take_sample_ids, with_kwargs=True)
        model.register_forward_hook(self._check_loss, with_kwargs=True)

    def _take_sample_ids(self, module, args, kwargs):
        self.sample_ids = kwargs.pop("sample_ids", None)
        return args, kwargs

    def _check_loss(self, module, args, kwargs, outputs):
        loss = outputs.loss if hasattr(outputs, "loss") else None
        if not module.training or loss is None or self.sample_ids is None or torch.isfinite(loss).all():
            return
        step, rank = self.trainer.state.global_step, self.trainer.args.process_index
        samples = [self.sources[source].describe(row) for source, row in self.sample_ids.tolist()]
        inputs = {key: value.cpu() for key, value in kwargs.items() if isinstance(value, torch.Tensor)}
        path = self.output_dir / f"bad_batch_step{step}_rank{rank}.pt"
        self.output_dir.mkdir(parents=True, exist_ok=True)
        torch.save({"step": step, "samples": samples, "inputs": inputs}, path)
        raise UserError(
            f"The loss of step {step} is {loss.item()}. The batch is saved in {path}; it holds {'; '.join(samples)}. Lower "
            "the learning rate, or look at these samples; the last checkpoint is from before."
        )


class TrainingProgress(TrainerCallback, ExportableState):
    """Logs samples per second, and gives each epoch an order that an interrupted run finds again. Checkpoints note how many
    processes made them, for [`find_checkpoint`].

    Args:
        world_size (`int`): number of processes.
    """

    def __init__(self, world_size):
        self.world_size = world_size

    def state(self):
        return {"args": {"world_size": self.world_size}, "attributes": {}}

    def on_train_begin(self, args, state, control, **kwargs):
        self.start_time, self.start_step = time.perf_counter(), state.global_step

    def on_epoch_begin(self, args, state, control, **kwargs):
        # Length-grouped samplers draw from the global generator.
        set_seed(args.seed + round(state.epoch or 0))

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs is not None and "loss" in logs:
            samples = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            steps = state.global_step - self.start_step
            logs["samples_per_second"] = round(steps * samples / (time.perf_counter() - self.start_time), 3)
            state.log_history[-1].update(samples_per_second=logs["samples_per_second"])


def add_lora(model, options):
    """Puts LoRA on the decoder's linear layers, and freezes the rest of the decoder. The model stays a FILA, so that
    checkpoints hold everything that is trained.

    Raises:
        UserError: PEFT is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise UserError("--lora_r needs PEFT: `pip install peft`.") from error
    config = LoraConfig(r=options.lora_r, lora_alpha=_lora_alpha(options), target_modules="all-linear")
    model.model.language_model.requires_grad_(False)
    model.lm_head.requires_grad_(False)
    # The decoder alone has no output embeddings, by which PEFT would know it.
    config.target_modules = {
        name.rpartition(".")[2]
        for name, module in model.model.language_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    inject_adapter_in_model(config, model.model.language_model)


def _lora_alpha(options):
    return options.lora_alpha or 2 * options.lora_r


def merge_lora(state_dict, options):
    """A state dict with LoRA's products added to the weights under their own names, as PEFT merges them; this way works
    on what sharded training gathers as well."""
    merged = {}
    for name, weights in state_dict.items():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        if name.endswith(".base_layer.weight"):
            stem = name.removesuffix("base_layer.weight")
            down, up = (state_dict[f"{stem}lora_{side}.default.weight"].float() for side in "AB")
            scale = _lora_alpha(options) / options.lora_r
            weights = (weights.float() + scale * (up @ down)).to(weights.dtype)
        merged[name.replace(".base_layer.", ".")] = weights
    return merged


def set_learning_rates(trainer, options):
    """Gives ViT and ConvNeXt, and fusion and projector, learning rates of their own, through the Trainer's
    `optimizer_cls_and_kwargs`."""
    args, model = trainer.args, trainer.model
    decayed = set(trainer.get_decay_parameter_names(model))
    groups = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        learning_rate = args.learning_rate
        if name.startswith(VISION_PREFIXES) and options.vision_lr is not None:
            learning_rate = options.vision_lr
        elif name.startswith(FUSION_PREFIXES) and options.fusion_lr is not None:
            learning_rate = options.fusion_lr
        groups.setdefault((learning_rate, args.weight_decay if name in decayed else 0.0), []).append(parameter)
    optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args, model)
    kwargs["params"] = [{"params": group, "lr": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]
    trainer.optimizer_cls_and_kwargs = (optimizer_class, kwargs)


def find_checkpoint(output_dir):
    """The newest whole checkpoint of a run. The Trainer's first process writes `trainer_state.json` last, so what was being
    written when a run was killed has none, or half of one; or it misses the random state of another process, which is the
    last that the others write.

    Returns:
        `tuple[Path | None, list[Path]]`: the checkpoint, and the unfinished ones. A whole one that no run can go on from,
        of `--save_only_model`, is neither.
    """
    found, unfinished = [], []
    for folder in Path(output_dir).glob("checkpoint-*"):
        step = folder.name.removeprefix("checkpoint-")
        if not step.isdigit():
            continue
        try:
            state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
            is_whole = state.global_step == int(step)
        except (OSError, ValueError, TypeError):
            is_whole = False
        if not is_whole:
            unfinished.append((int(step), folder))
            continue
        random_states = sorted(folder.glob("rng_state*.pth"))
        if not random_states:
            continue
        progress = state.stateful_callbacks.get(TrainingProgress.__name__)
        world_size = len(random_states) if progress is None else progress["args"]["world_size"]
        if len(random_states) == world_size and all(map(zipfile.is_zipfile, random_states)):
            found.append((int(step), folder))
        else:
            unfinished.append((int(step), folder))
    return max(found, default=(0, None))[1], [folder for _, folder in sorted(unfinished)]


def plot_losses(history, path, title):
    """Draws the losses of `TrainerState.log_history` over the steps into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    for key, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points), label=label, marker="o" if len(points) < 20 else None, markersize=3)
    axis.set(xlabel="step", ylabel="loss", title=title)
    if axis.lines:
        axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def make_card(name, model_options, data_options, trainer, base, metrics):
    """The model card of a trained FILA.

    Returns:
        `ModelCard`
    """
    args = trainer.args
    local = Path(base)
    header = {"library_name": "transformers", "pipeline_tag": "image-text-to-text"}
    header["tags"] = ["vision-language-model", "custom_code", "fila"]
    header["license"] = "other"
    if (local / "README.md").exists():
        known = ModelCard.load(local / "README.md").data.to_dict()
        header.update((key, known[key]) for key in ("license", "base_model") if key in known)
    elif not local.exists():
        header["base_model"] = base
    shown = local.name if local.exists() else base
    entries = [entry["path"] if isinstance(entry, dict) else entry for entry in data_options.train_data]
    datasets = ", ".join(f"`{Path(entry).name if Path(entry).exists() else entry}`" for entry in entries)
    batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    rates = {"learning rate": args.learning_rate, "of the vision": model_options.vision_lr}
    rates["of the fusion"] = model_options.fusion_lr
    rows = {
        "stage": f"{model_options.stage} " + ("(fusion and projector)", "(everything)")[model_options.stage - 1],
        "start": f"`{shown}`",
        "data": datasets,
        "steps": trainer.state.global_step,
        "batch size": batch_size,
        **{key: f"{value:g}" for key, value in rates.items() if value is not None},
        "schedule": f"{getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)}, warm-up {args.warmup_steps:g}",
        "LoRA rank": model_options.lora_r or None,
        "longest sequence": data_options.max_length,
        "tokens seen": f"{int(trainer.state.num_input_tokens_seen):,}",
        "training loss": f"{metrics['train_loss']:.4f}" if "train_loss" in metrics else None,
        "evaluation loss": f"{metrics['eval_loss']:.4f}" if "eval_loss" in metrics else None,
        "seed": args.seed,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    text = f"""---
{ModelCardData(**header).to_yaml()}
---

# {name}

A FILA vision-language model, trained with `train.py` and the stock Trainer.

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
model = AutoModel.from_pretrained("{name}", trust_remote_code=True, dtype="auto")
```

## Training

| | |
|---|---|
{table}

![loss](loss.png)

Method: *FILA: Fine-Grained Vision Language Models* ([arXiv 2412.08378](https://arxiv.org/abs/2412.08378)).
"""
    return ModelCard(text)


def export(trainer, model_class, processor, model_options, data_options, dtype, metrics):
    """Writes the trained model, ready for the Hub, into the output folder: whole or not at all, `config.json` last.

    Args:
        trainer (`Trainer`): after training.
        model_class (`type`): the model's own, before training was sharded.
        processor ([`FilaProcessor`]): of the training.
        model_options ([`ModelArguments`]), data_options ([`DataArguments`]): the options.
        dtype (`torch.dtype`): what the weights are saved in.
        metrics (`dict`): for the model card.
    """
    state_dict = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathers what is sharded, on all processes
    if not trainer.is_world_process_zero():
        return
    output = Path(trainer.args.output_dir)
    model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    if model_options.lora_r:
        state_dict = merge_lora(state_dict, model_options)
    state_dict = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state_dict.items()}
    if model.config.tie_word_embeddings:
        state_dict.pop("lm_head.weight", None)  # a copy by now, which would be saved beside the embeddings
    model.config.dtype = dtype
    with _temporary_folder(output) as folder:
        # FSDP2 put a class of its own in front, and the folder would carry that class's code.
        wrapped_class, model.__class__ = type(model), model_class
        try:
            # Under ZeRO-3 transformers would undo renamings that it never did.
            model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
        finally:
            model.__class__ = wrapped_class
        processor.save_pretrained(folder)
        if trainer.state.log_history:
            (folder / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=2) + "\n")
            plot_losses(trainer.state.log_history, folder / "loss.png", f"{output.name}: stage {model_options.stage}")
        base = model_options.model_name_or_path
        card = make_card(output.resolve().name, model_options, data_options, trainer, base, metrics)
        (folder / "README.md").write_text(str(card))
        for path in sorted(folder.iterdir(), key=lambda path: path.name == "config.json"):
            os.replace(path, output / path.name)


def upload(args):
    """Uploads the finished output folder, without checkpoints. (The Trainer's own upload would write weights as they were
    trained, and a card of its own, over what [`export`] has written.)

    Args:
        args (`TrainingArguments`): `hub_model_id` and its like say where to.
    """
    api, output = HfApi(token=args.hub_token), Path(args.output_dir)
    name = args.hub_model_id or output.resolve().name
    repository = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
    api.upload_folder(
        repo_id=repository,
        folder_path=output,
        ignore_patterns=["checkpoint-*", "bad_*", "runs/*"],
        commit_message="Trained with train.py",
    )
    print(f"uploaded to https://huggingface.co/{repository}")


@contextmanager
def _temporary_folder(parent):
    folder = Path(tempfile.mkdtemp(prefix=".final-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def preview(dataset, collator, count, output_dir):
    """Prints samples as the model will see them, with what is learnt highlighted, and saves the tiles of their images.

    Args:
        dataset (`Dataset` or `IterableDataset`): from [`make_dataset`].
        collator ([`SampleCollator`]): of the training.
        count (`int`): number of samples.
        output_dir (`str`): pictures go into its folder `preview`.
    """
    from fila.demo import draw_views

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


def train(model_options, data_options, args):
    """Does what the options say.

    Args:
        model_options ([`ModelArguments`]), data_options ([`DataArguments`]), args (`TrainingArguments`): the options.

    Returns:
        `dict`: metrics of the training and, with evaluation data, of the result.

    Raises:
        UserError: anything that a user can mend.
    """
    output, base = Path(args.output_dir), model_options.model_name_or_path
    if args.n_gpu > 1:
        raise UserError(
            "Several GPUs in one process are not supported: start with `accelerate launch train.py ...`."
        )
    if (output / "config.json").exists():
        raise UserError(f"{output} holds a model already. Choose another --output_dir, or remove it.")
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=True)
        processor = AutoProcessor.from_pretrained(base, trust_remote_code=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--model_name_or_path {base} is no FILA that can be loaded: {error}") from error
    if config.model_type != "fila":
        raise UserError(f"--model_name_or_path {base} is a {config.model_type!r} model, not a FILA.")
    processor.image_processor.do_dynamic_tiling = model_options.stage == 2
    collator = FilaDataCollator(processor, max_length=data_options.max_length)
    num_train, streaming = len(data_options.train_data), data_options.streaming
    sources = [load_source(number, entry, streaming) for number, entry in enumerate(data_options.train_data)]
    train_dataset = make_dataset(sources, collator, data_options, args, streaming)
    if data_options.preview:
        preview(train_dataset, SampleCollator(collator, sources), data_options.preview, output)
        return {}
    eval_dataset = None
    if data_options.eval_data:
        eval_sources = [load_source(num_train + number, entry) for number, entry in enumerate(data_options.eval_data)]
        sources += eval_sources
        eval_dataset = make_dataset(eval_sources, collator, data_options, args)

    kwargs = {"dtype": model_options.dtype}
    if model_options.attn_implementation is not None:
        kwargs["attn_implementation"] = model_options.attn_implementation
    model = AutoModelForImageTextToText.from_pretrained(base, trust_remote_code=True, **kwargs)
    model.set_training_stage(model_options.stage)
    if model_options.lora_r:
        add_lora(model, model_options)
    if args.use_liger_kernel:
        # The Trainer's own call knows only models by name; this is what it would do for the decoder.
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(
            model=model.model.language_model, cross_entropy=False, fused_linear_cross_entropy=False
        )
    guard, model_class = LossGuard(model, sources, output), type(model)
    # Once, when all is done: the Trainer would upload unfinished models, and copy them into the output folder for that.
    push_to_hub, args.push_to_hub = args.push_to_hub, False
    trainer = Trainer(
        model,
        args,
        data_collator=SampleCollator(collator, sources),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
    )
    # Before those that report what it adds.
    trainer.callback_handler.callbacks.insert(0, TrainingProgress(args.world_size))
    guard.trainer = trainer
    if model_options.vision_lr is not None or model_options.fusion_lr is not None:
        set_learning_rates(trainer, model_options)

    checkpoint, unfinished = find_checkpoint(output)
    if trainer.is_world_process_zero():
        for folder in unfinished:
            print(f"{folder} is not whole: removed.")
            shutil.rmtree(folder)
        if checkpoint is not None:
            print(f"Going on from {checkpoint}.")
    trainer.accelerator.wait_for_everyone()
    metrics = trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint)).metrics
    if eval_dataset is not None:
        metrics.update(trainer.evaluate())
    export(trainer, model_class, processor, model_options, data_options, _get_dtype(config), metrics)
    trainer.log_metrics("all", metrics)
    trainer.save_metrics("all", metrics, combined=False)
    trainer.accelerator.wait_for_everyone()  # none leaves while another still writes
    trainer.accelerator.end_training()
    if push_to_hub and trainer.is_world_process_zero():
        upload(args)
    return metrics


def _get_dtype(config):
    dtype = config.dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def main(arguments=None):
    try:
        train(*parse_arguments(arguments))
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
