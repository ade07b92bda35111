# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Answers: batches, beams, caches."""

import logging
import warnings

import pytest
import torch
from torch import nn
from transformers import ContinuousBatchingConfig, GenerationConfig

from helpers import (
    CACHE,
    cache_of,
    chat,
    chat_inputs,
    image_inputs,
    random_image,
    tiny_config,
    tiny_model,
)


def test_padding_side_does_not_change_answers(processor, batch):
    model = tiny_model()
    left_prompts = batch["input_ids"], batch["attention_mask"].bool()
    rows = [ids[mask] for ids, mask in zip(*left_prompts)]
    right = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0)
    right_mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    with torch.no_grad():
        on_left = model(**batch).logits
        on_right = model(**{**batch, "input_ids": right, "attention_mask": right_mask}).logits
    for index, row in enumerate(rows):
        torch.testing.assert_close(on_left[index, -len(row) :], on_right[index, : len(row)], atol=1e-4, rtol=1e-4)


def test_batched_generation_equals_one_by_one(processor):
    model = tiny_model()
    images = [random_image(56, 112, 1), random_image(150, 60, 2)]
    conversations = [chat(images[0], "one"), chat("two", images[1], images[0])]
    together = model.generate(
        **chat_inputs(processor, conversations), max_new_tokens=6, do_sample=False, eos_token_id=-1
    )
    for conversation, ids in zip(conversations, together):
        alone = model.generate(
            **chat_inputs(processor, [conversation]), max_new_tokens=6, do_sample=False, eos_token_id=-1
        )
        assert torch.equal(alone[0, -6:], ids[-6:])


def test_beams_with_two_images_per_prompt_equal_the_search_without_images_inputs(processor):
    """Beam search over prompts with their images already embedded needs no expansion of images at all."""
    model = tiny_model()
    images = [random_image(56, 112, seed) for seed in range(4)]
    inputs = chat_inputs(processor, [chat(images[0], images[1]), chat(images[2], "and", images[3])])
    with torch.no_grad():
        features = model.get_image_features(**image_inputs(inputs)).pooler_output
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds[inputs["input_ids"] == 3] = torch.cat(features)
    kwargs = {"attention_mask": inputs["attention_mask"], "num_beams": 3, "max_new_tokens": 5, "eos_token_id": -1}
    expected = model.generate(inputs_embeds=embeds, num_return_sequences=3, **kwargs)
    actual = model.generate(**{**inputs, **kwargs}, num_return_sequences=3)
    assert torch.equal(actual[:, inputs["input_ids"].shape[1] :], expected)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    actual = model.generate(inputs_embeds=embeds, **image_inputs(inputs), **kwargs, num_return_sequences=3)
    assert torch.equal(actual, expected)


def test_images_are_encoded_once_in_generation(batch):
    model, calls = tiny_model(), []
    model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    for kwargs in ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        calls.clear()
        model.generate(**batch, max_new_tokens=4, eos_token_id=-1, **kwargs)
        assert len(calls) == 1


def test_generation_returns_the_decoders_hidden_states_and_attentions(batch):
    model = tiny_model()
    model.set_attn_implementation("eager")
    flags = {"return_dict_in_generate": True, "output_hidden_states": True, "output_attentions": True}
    output = model.generate(**batch, max_new_tokens=2, eos_token_id=-1, **flags)
    assert [len(step) for step in output.hidden_states] == [3, 3]
    assert [len(step) for step in output.attentions] == [2, 2]


@pytest.mark.parametrize("stage", [1, 2])
def test_generation_after_checkpointed_training_keeps_its_cache(batch, stage):
    model = tiny_model()
    kwargs = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(**batch, **kwargs)
    model.gradient_checkpointing_enable()
    model.set_training_stage(stage)
    model.train().eval()
    assert not any(module.training for module in model.modules())
    assert torch.equal(model.generate(**batch, **kwargs), expected)


def test_static_cache_generates_what_the_default_cache_does(batch):
    model = tiny_model()
    kwargs = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
    expected = model.generate(**batch, **kwargs)
    assert torch.equal(model.generate(**batch, **kwargs, cache_implementation="static"), expected)


def test_generation_without_cache_equals_with_cache(batch):
    model = tiny_model()
    kwargs = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": -1}
    assert torch.equal(model.generate(**batch, **kwargs, use_cache=False), model.generate(**batch, **kwargs))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_cache_continues_under_its_old_and_its_new_name(batch, name):
    """From transformers 5.24 on, models warn about the old name, and so does FILA."""
    model = tiny_model()
    token = torch.tensor([[7]] * len(batch["input_ids"]))
    mask = nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    with torch.no_grad():
        cache = cache_of(model(**batch, position_ids=positions[:, :-1], use_cache=True))
        length = cache.get_seq_length()
        step = {"input_ids": token, "attention_mask": mask, "position_ids": positions[:, -1:]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            output = model(**step, **{name: cache}, use_cache=True)
        whole = {**batch, "input_ids": torch.cat([batch["input_ids"], token], dim=1), "attention_mask": mask}
        expected = model(**whole, position_ids=positions).logits[:, -1:]
    assert cache.get_seq_length() == length + 1 and cache_of(output) is cache
    is_deprecated = name == "past_key_values" and CACHE == "cache"
    assert any("`past_key_values` is deprecated" in str(warning.message) for warning in caught) is is_deprecated
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=1e-4)


def test_logits_to_keep_are_the_last_ones(batch):
    model = tiny_model()
    with torch.no_grad():
        expected = model(**batch).logits
        torch.testing.assert_close(model(**batch, logits_to_keep=2).logits, expected[:, -2:])
        torch.testing.assert_close(model(**batch, logits_to_keep=torch.tensor([0, 5])).logits, expected[:, [0, 5]])


def test_generation_warns_beyond_the_positions_of_the_decoder(batch, caplog):
    text_config = {**tiny_config().text_config.to_dict(), "max_position_embeddings": batch["input_ids"].shape[1] + 4}
    model = tiny_model(text_config=text_config)
    assert model.config.max_position_embeddings == text_config["max_position_embeddings"]
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    caplog.set_level("WARNING", logger="transformers")
    try:
        for num_tokens, warns in ((4, False), (8, True)):
            model.generate(**batch, max_new_tokens=num_tokens, eos_token_id=-1)
            assert ("exceeded the model's predefined maximum length" in caplog.text) is warns
    finally:
        logger.removeHandler(caplog.handler)


@pytest.mark.slow
def test_continuous_batching_answers_texts_as_single_calls_do_and_refuses_images(processor, batch):
    model = tiny_model()
    prompts = processor(text=["Short.", "A longer prompt.", "Another one, still longer."])["input_ids"]
    options = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}
    # By default it takes most of the memory that is free.
    batching = ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64)
    outputs = model.generate_batch(
        prompts, generation_config=GenerationConfig(**options), continuous_batching_config=batching
    )
    answers = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    for prompt in prompts:
        expected = model.generate(torch.tensor([prompt]), **options)[0, len(prompt) :]
        assert answers[tuple(prompt)] == expected.tolist()
    with pytest.raises(ValueError, match="Prompt 0 has image tokens.*no images"):
        model.generate_batch(batch["input_ids"].tolist())
