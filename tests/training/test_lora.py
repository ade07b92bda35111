# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py with LoRA."""

import pytest
import torch
from safetensors.torch import load_file
from trainings import QUESTION, parse, run

from fila.training.finetuning import add_lora, rebuild_model
from helpers import chat, chat_inputs, random_image, tiny_model


def test_lora_trains_the_decoder_through_its_adapters_and_the_rest_whole():
    options, _, _ = parse("--lora_r", 4)
    model = tiny_model()
    model.set_training_stage(2)
    outside = {
        name for name, _ in model.named_parameters() if not name.startswith(("model.language_model.", "lm_head"))
    }
    add_lora(model, options)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert outside < trained
    assert {name.split(".")[-3] for name in trained - outside} == {"lora_A", "lora_B"}
    layers = {name.split(".")[-4] for name in trained - outside}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize("tie_word_embeddings", [False, True])
def test_rebuilt_model_with_lora_computes_what_the_trained_one_does(processor, tie_word_embeddings):
    options, _, _ = parse("--lora_r", 4, "--lora_alpha", 6)
    model = tiny_model(tie_word_embeddings=tie_word_embeddings)
    names = set(model.state_dict())
    add_lora(model, options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    inputs = chat_inputs(processor, [chat(random_image(60, 90), QUESTION)])
    with torch.no_grad():
        expected = model(**inputs).logits
    state_dict = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rebuilt = rebuild_model(type(model), model.config, state_dict, options)
    assert set(rebuilt.state_dict()) == names
    assert (rebuilt.lm_head.weight is rebuilt.get_input_embeddings().weight) == tie_word_embeddings
    plain = tiny_model(seed=1, tie_word_embeddings=tie_word_embeddings)
    plain.load_state_dict(rebuilt.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, expected, rtol=1e-4, atol=1e-5)


def test_lora_run_exports_a_plain_model(model_folder, documents, tmp_path):
    arguments = ["--lora_r", 4, "--max_steps", 2, "--learning_rate", 1e-2, "--per_device_train_batch_size", 2]
    run(model_folder, documents, tmp_path / "output", *arguments, "--save_strategy", "no")
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path / "output"))
    assert before.keys() == after.keys()
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.linalg.matrix_rank(after[name] - before[name], rtol=1e-4) <= 4
    assert not torch.equal(after[name], before[name])
    embeddings = "model.language_model.embed_tokens.weight"
    assert torch.equal(after[embeddings], before[embeddings])


def test_resumed_lora_run_ends_with_the_same_weights(model_folder, documents, tmp_path):
    arguments = ["--lora_r", 4, "--max_steps", 3, "--save_steps", 1, "--per_device_train_batch_size", 2]
    arguments += ["--learning_rate", 1e-2]
    run(model_folder, documents, tmp_path / "straight", *arguments)
    (tmp_path / "resumed").mkdir()
    (tmp_path / "straight" / "checkpoint-1").rename(tmp_path / "resumed" / "checkpoint-1")
    run(model_folder, documents, tmp_path / "resumed", *arguments)
    assert not (tmp_path / "resumed" / "checkpoint-1" / "adapter_config.json").exists()  # holds all that is trained
    before, straight, resumed = (
        load_file(folder / "model.safetensors")
        for folder in (model_folder, tmp_path / "straight", tmp_path / "resumed")
    )
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    assert not torch.equal(
        resumed["model.language_model.layers.0.mlp.up_proj.weight"],
        before["model.language_model.layers.0.mlp.up_proj.weight"],
    )
