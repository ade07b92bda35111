# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py: both stages, what they leave behind, and TRL on the same folder."""

import json
import shutil

import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from hub import TOKEN
from safetensors.torch import load_file
from trainings import KINDS, QUESTION, llava, parse, run, write_documents, write_json
from transformers import AutoModelForImageTextToText, AutoProcessor

from fila import train
from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, FUSION_PREFIX, PROJECTOR_PREFIX, VIT_PREFIX
from fila.training.callbacks import FilaTrainer
from helpers import chat, chat_inputs, random_image, tiny_model


def test_parts_have_their_learning_rates(tmp_path, processor):
    options, _, args = parse(
        "--vision_lr", 1e-6, "--fusion_lr", 1e-3, "--learning_rate", 1e-5, "--weight_decay", 0.1, "--max_steps", 1,
        output=tmp_path,
    )  # fmt: skip
    model = tiny_model()
    rates = {"vision_lr": options.vision_lr, "fusion_lr": options.fusion_lr}
    trainer = FilaTrainer(model, args, processing_class=processor, **rates)
    trainer.create_optimizer_and_scheduler(1)
    rates = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    expected = {
        "model.vision_tower.vit.layers.0.mlp.fc1.weight": (1e-6, 0.1),
        "model.vision_tower.vit.layers.0.layer_norm1.weight": (1e-6, 0.0),
        "model.vision_tower.convnext.stem.0.weight": (1e-6, 0.1),
        "model.vision_tower.fusion.0.linear_1.weight": (1e-3, 0.1),
        "model.multi_modal_projector.linear_1.bias": (1e-3, 0.0),
        "model.language_model.layers.0.mlp.up_proj.weight": (1e-5, 0.1),
    }
    parameters = dict(model.named_parameters())
    assert {name: rates[id(parameters[name])] for name in expected} == expected
    assert len(rates) == len(parameters)


def answer_documents(folder, documents, count):
    """The share of documents whose kind the model in `folder` names, word for word."""
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    images = [PIL.Image.open(documents.parent / f"{number}.png") for number in range(count)]
    inputs = chat_inputs(processor, [chat(image, QUESTION) for image in images])
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answers = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(answer == KINDS[number % len(KINDS)] for number, answer in enumerate(answers)) / count


def read_losses(folder, key):
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry[key] for entry in log if key in entry]


def test_images_are_bytes_in_training_and_floats_from_the_processor_it_writes(
    model_folder, documents, tmp_path, monkeypatch
):
    dtypes, compute_loss = set(), FilaTrainer.compute_loss

    def note_dtypes(self, model, inputs, *args, **kwargs):
        dtypes.update(inputs[key].dtype for key in ("pixel_values", "high_res_pixel_values"))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(FilaTrainer, "compute_loss", note_dtypes)
    run(model_folder, documents, tmp_path / "output", "--max_steps", 1, "--save_steps", 1, "--max_length", 512)
    assert dtypes == {torch.uint8}
    for folder in (tmp_path / "output", tmp_path / "output" / "checkpoint-1"):
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
        inputs = processor.image_processor(random_image(50, 90), return_tensors="pt")
        assert inputs["pixel_values"].dtype == torch.float32


@pytest.mark.slow
def test_both_stages_from_the_recipes_learn_to_tell_documents_apart(model_folder, tmp_path):
    data = write_documents(tmp_path / "train", 256)
    held_out = write_documents(tmp_path / "test", 64, first_seed=10_000)
    stage1, stage2 = tmp_path / "stage1", tmp_path / "stage2"
    evaluation = ("--eval_data", held_out, "--eval_strategy", "steps", "--eval_steps", 1000, "--eval_on_start", "true")
    run(model_folder, data, stage1, *evaluation, recipe="tiny-stage1.yaml")
    metrics = run(stage1, data, stage2, *evaluation, recipe="tiny-stage2.yaml")
    at_start, after_stage1 = (read_losses(folder, "eval_loss")[0] for folder in (stage1, stage2))
    after_stage2 = metrics["eval_loss"]
    assert after_stage1 < at_start - 0.03  # the decoder is random and frozen: there is little that stage 1 can do
    assert after_stage2 < after_stage1 / 10
    untrained, trained = (answer_documents(folder, held_out, 64) for folder in (model_folder, stage2))
    assert untrained == 0
    assert trained >= 0.35  # 0.5 where it was written; chance is 0.25, and processors differ in the last bits

    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, stage1))
    trains = ("model.vision_tower.fusion.", "model.multi_modal_projector.")
    assert all(
        torch.equal(before[name], after[name]) != name.startswith(trains) for name in before if "bias" not in name
    )
    card = (stage2 / "README.md").read_text()
    assert "| `stage` | 2 |" in card
    assert f"| `eval_loss` | {after_stage2} |" in card
    assert len(list(stage2.glob("checkpoint-*"))) == 1  # save_total_limit
    assert read_losses(stage2, "train_tokens_per_second")[5] > 0


@pytest.mark.slow
def test_trl_trains_a_fila_folder_unmodified(model_folder, tmp_path):
    from trl import SFTConfig, SFTTrainer

    rows = {"messages": [], "images": []}
    for number in range(8):
        answer = {"role": "assistant", "content": f"Picture {number}."}
        rows["messages"].append([{"role": "user", "content": "What is this?"}, answer])
        rows["images"].append([random_image(60 + 10 * number, 90, seed=number)] * (number % 4 < 3))  # some have none
    features = Features(
        {"messages": List({"role": Value("string"), "content": Value("string")}), "images": List(Image())}
    )
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        trust_remote_code=True,
        max_steps=8,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        assistant_only_loss=True,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(str(model_folder), arguments, train_dataset=Dataset.from_dict(rows, features=features))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.8
    trainer.save_model(tmp_path / "trained")
    trained = AutoModelForImageTextToText.from_pretrained(tmp_path / "trained", trust_remote_code=True)
    before = load_file(model_folder / "model.safetensors")
    changed = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    for part in (VIT_PREFIX, CONVNEXT_PREFIX, FUSION_PREFIX, PROJECTOR_PREFIX, "model.language_model."):
        assert any(name.startswith(part) for name in changed), part


def test_loss_that_is_no_number_stops_the_run_and_names_the_samples(model_folder, documents, tmp_path):
    arguments = ["--stage", 1, "--learning_rate", 1e30, "--per_device_train_batch_size", 2, "--max_steps", 8]
    arguments += ["--max_grad_norm", 0, "--lr_scheduler_type", "constant"]
    samples = r"documents\.json, row \d+; .*documents\.json, row \d+\. "
    with pytest.raises(UserError, match=rf"The loss of step \d is (nan|inf), with .*{samples}"):
        run(model_folder, documents, tmp_path / "output", *arguments)
    assert not (tmp_path / "output" / "config.json").exists()


def test_push_to_hub_uploads_the_files_of_the_model_alone(model_folder, documents, tmp_path, hub):
    start, output = tmp_path / "start", tmp_path / "output"
    shutil.copytree(model_folder, start)
    (start / "licenses" / "decoder").mkdir(parents=True)
    (start / "licenses" / "decoder" / "LICENSE").write_text("terms")
    arguments = ["--max_steps", 2, "--save_steps", 1, "--lora_r", 2, "--per_device_train_batch_size", 2]
    run(start, documents, output, *arguments, "--push_to_hub", "--hub_token", TOKEN)
    files = {path.name for path in model_folder.iterdir()} | {"README.md", "licenses/decoder/LICENSE"}
    assert hub.repos == {"me/output": {".gitattributes": b""} | {name: (output / name).read_bytes() for name in files}}
    assert load_file(output / "model.safetensors").keys() == load_file(model_folder / "model.safetensors").keys()
    card = (output / "README.md").read_text()
    assert "trained with `train.py`" in card and 'from_pretrained("me/output", ' in card
    generation_config = json.loads((output / "generation_config.json").read_text())
    assert (generation_config["suppress_tokens"], generation_config["max_new_tokens"]) == ([3], 9)


def test_push_to_hub_with_a_wrong_token_stops_before_the_first_step(model_folder, documents, tmp_path, hub):
    arguments = ["--max_steps", 2, "--save_steps", 1, "--push_to_hub", "--hub_token", "hf_wrong"]
    with pytest.raises(UserError, match="output cannot be made on the Hub.*hf auth login"):
        run(model_folder, documents, tmp_path / "output", *arguments)
    assert not list((tmp_path / "output").glob("checkpoint-*")) and not hub.repos


def test_mixture_of_a_recipe_trains(model_folder, documents, tmp_path):
    text = write_json(tmp_path / "text.json", [llava(f"What is {n}?", f"{n}, a number.") for n in range(9)])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model_name_or_path: {model_folder}\nmax_steps: 3\nper_device_train_batch_size: 4\n"
        f"train_data:\n- {{path: {documents}, weight: 1}}\n- {{path: {text}, weight: 1}}\n"
        f"report_to: none\nuse_cpu: true\noutput_dir: {tmp_path / 'output'}\nlogging_steps: 1\nsave_strategy: 'no'\n"
    )
    metrics = train.train(*train.parse([str(recipe)]))
    assert 5 < metrics["train_loss"] < 9
    assert (tmp_path / "output" / "model.safetensors").exists()
