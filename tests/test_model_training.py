# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Gradients, frozen parts, checkpointing, the loss and the stock `Trainer`."""

import logging
from contextlib import contextmanager

import pytest
import torch
from distributed_step import step
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LabelSmoother

from fila import FilaDataCollator
from helpers import (
    FUSION_TYPES,
    chat,
    random_image,
    tiny_image_processor,
    tiny_model,
    tiny_processor,
)

FUSED = [fusion_type for fusion_type in FUSION_TYPES if fusion_type != "none"]


def gradients(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def modes_and_flags(model):
    """For each module whether it trains and whether it checkpoints, by transformers' flag and by timm's."""
    flags = ("training", "gradient_checkpointing", "grad_checkpointing")
    return {name: [getattr(module, flag, None) for flag in flags] for name, module in model.named_modules()}


@contextmanager
def count_saved_tensors(module, method):
    """Counts the tensors that autograd saves while `module.method` runs."""
    saved, original = [], getattr(module, method)

    def counting(*args, **kwargs):
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda x: x):
            return original(*args, **kwargs)

    setattr(module, method, counting)
    try:
        yield saved
    finally:
        setattr(module, method, original)


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
@pytest.mark.parametrize("stage", [1, 2])
def test_gradient_checkpointing_changes_no_gradient_and_saves_less(training_batch, fusion_type, stage):
    results = []
    for checkpointing in (False, True):
        model = tiny_model(fusion_type).train()
        model.set_training_stage(stage)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with count_saved_tensors(model, "forward") as saved:
            model(**training_batch).loss.backward()
        results.append((gradients(model), len(saved)))
    (expected, num_saved), (actual, num_saved_checkpointed) = results
    assert expected.keys() == actual.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)
    assert num_saved_checkpointed < 0.6 * num_saved


@pytest.mark.parametrize("fusion_type", FUSED)
def test_gradient_checkpointing_reaches_the_convnext(training_batch, fusion_type):
    saved_counts = []
    for checkpointing in (False, True):
        model = tiny_model(fusion_type).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        with count_saved_tensors(model.model.vision_tower.convnext, "forward_intermediates") as saved:
            model(**training_batch).loss.backward()
        saved_counts.append(len(saved))
    assert saved_counts[1] < 0.7 * saved_counts[0]


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("part", ["model", "model.vision_tower", "model.vision_tower.vit", "model.language_model"])
def test_gradient_checkpointing_can_be_switched_on_and_off_in_a_sub_model(training_batch, part, stage):
    model = tiny_model()
    model.set_training_stage(stage)
    runs = []  # of a module in each layer that a gradient passes: a layer that checkpoints runs again in the backward pass
    layers = [*model.model.vision_tower.vit.layers[1:], *model.model.language_model.layers]
    for layer in layers:
        layer.mlp.register_forward_pre_hook(lambda module, *_: runs.append(module))
    in_part = set(model.get_submodule(part).modules())
    for is_on in (True, False):
        switch = "gradient_checkpointing_enable" if is_on else "gradient_checkpointing_disable"
        getattr(model.get_submodule(part), switch)()
        model.train()
        runs.clear()
        model(**training_batch).loss.backward()
        assert [runs.count(layer.mlp) for layer in layers] == [
            2 if is_on and layer in in_part else 1 for layer in layers
        ]


@pytest.mark.parametrize("fusion_type", ["none", "cvfm"])
@pytest.mark.parametrize("checkpointing", ["off", "before train()", "after train()"])
@pytest.mark.parametrize("stage", [None, 1, 2])
@pytest.mark.parametrize("mode", [True, False])
def test_forward_changes_no_mode_and_no_flag(training_batch, fusion_type, checkpointing, stage, mode):
    model = tiny_model(fusion_type)
    if stage is not None:
        model.set_training_stage(stage)
    if checkpointing == "before train()":
        model.gradient_checkpointing_enable()
    model.train(mode)
    if checkpointing == "after train()":
        model.gradient_checkpointing_enable()
    before = modes_and_flags(model)
    model(**training_batch).loss.backward()
    assert modes_and_flags(model) == before
    # And they are what they must be: `train()` has nothing left to do.
    model.train(mode)
    assert modes_and_flags(model) == before


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_every_parameter_gets_a_gradient_in_stage_2(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(2)
    model(**training_batch).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_stage_1_trains_only_fusion_and_projector(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(1)
    model(**training_batch).loss.backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    prefixes = ("model.vision_tower.fusion.", "model.multi_modal_projector.")
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize("fusion_type", FUSED)
def test_stage_1_stores_nothing_for_the_frozen_prefix(training_batch, fusion_type):
    model = tiny_model(fusion_type).train()
    model.set_training_stage(1)
    tower = model.model.vision_tower
    with (
        count_saved_tensors(tower.convnext, "forward_intermediates") as in_convnext,
        count_saved_tensors(tower.vit.layers[0], "forward") as in_first_layer,
        count_saved_tensors(tower.vit.layers[1], "forward") as in_second_layer,
    ):
        model(**training_batch).loss.backward()
    assert in_convnext == [] and in_first_layer == []
    assert bool(in_second_layer) is (fusion_type == "cvfm")  # fused after the first layer


def test_frozen_parts_are_in_eval_mode_and_stay_there():
    convnext = {"architecture": "convnext_atto", "model_args": {"dims": [8, 12, 16, 20], "drop_path_rate": 0.9}}
    model = tiny_model(convnext_config=convnext)
    model.set_training_stage(1)
    model.train()
    inputs = tiny_image_processor()(random_image(100, 100), return_tensors="pt")
    with torch.no_grad():
        first, second = (model.get_image_features(**inputs).pooler_output[0] for _ in range(2))
    assert torch.equal(first, second)
    active = [
        name for name, module in model.named_modules() if module.training and "drop" in type(module).__name__.lower()
    ]
    assert active == []
    model.set_training_stage(2)
    with torch.no_grad():
        assert not torch.equal(model.get_image_features(**inputs).pooler_output[0], first)


def test_frozen_decoder_with_dropout_is_deterministic_in_training(batch):
    text_config = {
        "model_type": "opt",
        "vocab_size": 2048,
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "dropout": 0.5,
        "tie_word_embeddings": False,
    }
    model = tiny_model(text_config=text_config)
    model.set_training_stage(1)
    model.train()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)


def test_stage_1_trains_on_a_batch_without_images(processor):
    batch = FilaDataCollator(processor)([{"messages": chat("Hi", answer="Hello")}])
    model = tiny_model().train()
    model.set_training_stage(1)
    model(**batch).loss.backward()
    assert all(not parameter.grad.any() for parameter in model.model.multi_modal_projector.parameters())


def test_trainer_evaluates_batches_with_and_without_images(processor, tmp_path):
    examples = [
        {"messages": chat(random_image(60, 90), "Read.", answer="x")},
        {"messages": chat("No image.", answer="y")},
        {"messages": chat(random_image(112, 112), "Read.", answer="z")},
    ]
    arguments = TrainingArguments(
        tmp_path,
        per_device_eval_batch_size=1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    shapes = []
    trainer = Trainer(
        tiny_model(),
        arguments,
        data_collator=FilaDataCollator(processor),
        eval_dataset=examples,
        compute_metrics=lambda prediction: shapes.append(prediction.predictions.shape) or {},
    )
    trainer.evaluate()
    assert shapes == [(3, shapes[0][1], 260)]


def test_frozen_tower_passes_gradients_to_its_inputs():
    model = tiny_model().requires_grad_(False)
    inputs = tiny_image_processor()(random_image(100, 90), return_tensors="pt")
    for key in ("pixel_values", "high_res_pixel_values"):
        inputs[key].requires_grad_()
    model.get_image_features(**inputs).pooler_output[0].sum().backward()
    assert inputs["pixel_values"].grad.any() and inputs["high_res_pixel_values"].grad.any()


def test_unknown_training_stage_is_an_error():
    with pytest.raises(ValueError, match="stage=3.*1.*2"):
        tiny_model().set_training_stage(3)


def test_training_loss_equals_the_loss_over_all_logits(training_batch):
    model = tiny_model()
    full = model(**training_batch)
    skipped = model(**training_batch, skip_logits=True)
    assert full.logits.shape[:2] == training_batch["input_ids"].shape and skipped.logits is None
    torch.testing.assert_close(skipped.loss, full.loss)
    full.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    model.train()
    output = model(**training_batch)
    output.loss.backward()
    assert output.logits is None
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4, msg=name)


def test_num_items_in_batch_reaches_the_loss(training_batch):
    model = tiny_model().train()
    num_items = int((training_batch["labels"] != -100).sum())
    loss = model(**training_batch).loss
    torch.testing.assert_close(model(**training_batch, num_items_in_batch=num_items * 4).loss, loss / 4)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_one_step_of_the_stock_trainer_lowers_the_loss(processor, tmp_path, fusion_type, stage):
    processor = tiny_processor(do_dynamic_tiling=stage == 2)
    examples = [
        {"messages": chat(random_image(60, 90, seed), "What is the total?", answer=f"{seed} EUR")} for seed in range(4)
    ]
    model, collator = tiny_model(fusion_type), FilaDataCollator(processor)
    model.set_training_stage(stage)
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    arguments = TrainingArguments(
        output_dir=tmp_path,
        max_steps=1,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        remove_unused_columns=False,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, data_collator=collator, train_dataset=examples, eval_dataset=examples)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    assert all(torch.equal(parameter, frozen[name]) for name, parameter in model.named_parameters() if name in frozen)
    assert bool(frozen) is (stage == 1)


def test_lora_on_the_text_model_trains_and_merges(training_batch):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    target = r".*language_model.*\.(q_proj|v_proj)"
    lora = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=target, init_lora_weights=False)).train()
    lora(**training_batch).loss.backward()
    trained = [name for name, parameter in lora.named_parameters() if parameter.grad is not None]
    assert trained and all("language_model" in name and "lora_" in name for name in trained)
    lora.eval()
    inputs = {key: value for key, value in training_batch.items() if key != "labels"}
    with torch.no_grad():
        expected = lora(**inputs).logits
        torch.testing.assert_close(lora.merge_and_unload()(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def smoothed_loss(logits, labels, epsilon):
    """Each token predicts the next one; the other tokens of the vocabulary share `epsilon`."""
    losses = []
    for row, row_labels in zip(logits.log_softmax(dim=-1), labels):
        for position, label in enumerate(row_labels[1:].tolist()):
            if label != -100:
                losses.append(-(1 - epsilon) * row[position, label] - epsilon * row[position].mean())
    return torch.stack(losses).mean()


def test_label_smoothing_shifts_labels_in_a_loss_function_and_warns_in_the_stock_trainer(
    training_batch, tmp_path, caplog
):
    model = tiny_model()
    expected = smoothed_loss(model(**training_batch).logits, training_batch["labels"], 0.1).item()
    options = {"max_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    options |= {"per_device_train_batch_size": 3, "remove_unused_columns": False, "learning_rate": 0.0}

    def train(compute_loss_func=None, **kwargs):
        arguments = TrainingArguments(tmp_path, **options, **kwargs)
        dataset, collator = [0] * 3, lambda _: dict(training_batch)
        trainer = Trainer(
            model, arguments, data_collator=collator, train_dataset=dataset, compute_loss_func=compute_loss_func
        )
        return trainer.train().training_loss

    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        train(label_smoothing_factor=0.1)
        # As docs/training.md says.
        loss = train(lambda outputs, labels, **kwargs: LabelSmoother(0.1)(outputs, labels, shift_labels=True))
    finally:
        logger.removeHandler(caplog.handler)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert "label_smoothing_factor does not shift labels for FILA" in caplog.text


@pytest.mark.slow
def test_text_only_batch_in_distributed_training_touches_every_vision_parameter(tmp_path):
    """Two processes, one with images on two canvases, the other with text only: DDP waits for the gradient of each parameter,
    FSDP for each call of a sharded part."""
    # Forked, they have the imports of this one.
    torch.multiprocessing.start_processes(step, (str(tmp_path / "meeting"),), nprocs=2, start_method="fork")
