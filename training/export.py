# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What a training leaves behind: a model folder with its card, ready for the Hub."""

import json
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard, ModelCardData
from matplotlib.figure import Figure
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from fila.common.files import new_files


def plot_losses(history, path, title):
    """Draws the losses of `TrainerState.log_history` over the steps into a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for key, label in (("loss", "training"), ("eval_loss", "evaluation")):
        points = [(entry["step"], entry[key]) for entry in history if key in entry]
        if points:
            axis.plot(*zip(*points), label=label, marker="o" if len(points) < 20 else None, markersize=3)
    axis.set(xlabel="step", ylabel="loss", title=title)
    if axis.lines:
        axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def _make_header(base):
    """`ModelCardData`: license and base models of the model that training started from are kept."""
    header = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "license": "other"}
    header["tags"] = ["vision-language-model", "custom_code", "fila"]
    if (Path(base) / "README.md").exists():
        known = ModelCard.load(Path(base) / "README.md").data.to_dict()
        header |= {key: known[key] for key in ("license", "base_model") if key in known}
    elif not Path(base).exists():
        header["base_model"] = base
    return ModelCardData(**header)


def make_card(name, model_arguments, data_arguments, trainer, metrics):
    """The model card of a trained FILA. It names local files without their folders.

    Returns:
        `ModelCard`
    """
    args, base = trainer.args, model_arguments.model_name_or_path
    shown = [entry["path"] if isinstance(entry, dict) else entry for entry in (base, *data_arguments.train_data)]
    shown = [f"`{Path(entry).name if Path(entry).exists() else entry}`" for entry in shown]
    rates = {"learning rate": args.learning_rate, "of the vision": model_arguments.vision_lr}
    rates["of the fusion"] = model_arguments.fusion_lr
    losses = {"training loss": metrics.get("train_loss"), "evaluation loss": metrics.get("eval_loss")}
    rows = {
        "stage": {1: "1 (fusion and projector)", 2: "2 (everything)"}[model_arguments.stage],
        "start": shown[0],
        "data": ", ".join(shown[1:]),
        "steps": trainer.state.global_step,
        "batch size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        **{key: f"{value:g}" for key, value in rates.items() if value is not None},
        "schedule": f"{getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)}, warm-up {args.warmup_steps:g}",
        "LoRA rank": model_arguments.lora_r or None,
        "longest sequence": data_arguments.max_length,
        "tokens seen": f"{int(trainer.state.num_input_tokens_seen):,}",
        **{key: f"{value:.4f}" for key, value in losses.items() if value is not None},
        "seed": args.seed,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    return ModelCard(f"""---
{_make_header(base).to_yaml()}
---

# {name}

A FILA vision-language model, trained with `train.py` and the Trainer of transformers.

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
""")


def rebuild_model(model_class, config, state_dict, add_lora=None):
    """A plain model of trained weights, which it shares: whatever wrapped, sharded or adapted the trained one is gone.

    Args:
        model_class (`type`), config ([`FilaConfig`]): of the model before training.
        state_dict (`dict[str, Tensor]`): whole weights, with those of LoRA if there was one.
        add_lora (`Callable`, *optional*): wraps a model as it was wrapped for training; see PEFT's `get_peft_model`.

    Returns:
        [`FilaForConditionalGeneration`]
    """
    # While ZeRO-3's configuration is set, new models are sharded too, which waits for all processes.
    unset_hf_deepspeed_config()
    with torch.device("meta"):
        model = model_class(config)
        adapted = add_lora(model) if add_lora else None
    model.load_state_dict(state_dict, assign=True)
    model.tie_weights()
    return adapted.merge_and_unload() if adapted else model


def export(trainer, model, processor, model_arguments, data_arguments, metrics):
    """Writes a trained model with its card and its losses into the output folder: whole or not at all.

    Args:
        trainer (`Trainer`): after training.
        model ([`FilaForConditionalGeneration`]): from [`rebuild_model`].
        processor ([`FilaProcessor`]): of the training.
        model_arguments ([`ModelArguments`]), data_arguments ([`DataArguments`]): the options.
        metrics (`dict`): for the model card.
    """
    name, history = Path(trainer.args.output_dir).resolve().name, trainer.state.log_history
    with new_files(trainer.args.output_dir) as folder:
        # Under ZeRO-3 transformers would undo renamings that it never did.
        model.save_pretrained(folder, save_original_format=False)
        processor.save_pretrained(folder)
        if history:
            (folder / "log_history.json").write_text(json.dumps(history, indent=2) + "\n")
            plot_losses(history, folder / "loss.png", f"{name}: stage {model_arguments.stage}")
        card = make_card(name, model_arguments, data_arguments, trainer, metrics)
        (folder / "README.md").write_text(str(card))


def upload(args):
    """Uploads the finished output folder, without checkpoints. (The Trainer's own upload would write weights as they were
    trained, and a card of its own, over what [`export`] has written.)

    Args:
        args (`TrainingArguments`): `hub_model_id` and its like say where to.
    """
    api, output = HfApi(token=args.hub_token), Path(args.output_dir)
    name = args.hub_model_id or output.resolve().name
    repository = api.create_repo(name, private=args.hub_private_repo, exist_ok=True).repo_id
    ignored = ["checkpoint-*", "bad_*", "runs/*"]
    api.upload_folder(
        repo_id=repository, folder_path=output, ignore_patterns=ignored, commit_message="Trained with train.py"
    )
    print(f"uploaded to https://huggingface.co/{repository}")
