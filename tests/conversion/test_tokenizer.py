# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The image token, the chat template, and what of it is trained."""

import json
import shutil
import sys

import pytest
import torch
from checkpoints import assemble, load, write_text
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from fila.conversion.tokenizer import add_image_token
from helpers import ROOT, random_image

FAMILIES = ["chatml", "llama3", "system", "plain"]


@pytest.fixture(scope="module")
def assembled_families(tmp_path_factory):
    """For each family of decoders, a folder with its "text" and the "output" that was assembled from it."""
    folders = {}
    for family in FAMILIES:
        folders[family] = tmp_path_factory.mktemp(family)
        write_text(folders[family] / "text", family=family)
        assemble(folders[family], vision="none:tiny", convnext="none:tiny")
    return folders


def test_llama_3_gives_a_reserved_token_and_no_row_is_added(sources):
    shutil.rmtree(sources / "text")
    source = write_text(sources / "text", family="llama3")
    output = assemble(sources)
    config, tokenizer = load(output).config, AutoTokenizer.from_pretrained(output)
    old = AutoTokenizer.from_pretrained(sources / "text")
    assert config.text_config.vocab_size == source.config.vocab_size
    assert config.image_token_id == old.convert_tokens_to_ids("<|reserved_special_token_0|>")
    assert tokenizer.convert_ids_to_tokens(config.image_token_id) == "<image>"
    assert len(tokenizer) == len(old)
    assert tokenizer.pad_token == "<|end_of_text|>"


@pytest.mark.parametrize("family", FAMILIES)
def test_chats_render_as_the_decoder_has_them(assembled_families, family):
    old = AutoTokenizer.from_pretrained(assembled_families[family] / "text")
    processor = AutoProcessor.from_pretrained(assembled_families[family] / "output", trust_remote_code=True)
    user = {"role": "user", "content": "Is <image> a tag? "}
    messages = [{"role": "system", "content": "Be brief."}, user, {"role": "assistant", "content": "Four. "}, user]
    for chat_messages in (messages, messages[1:], messages[1:3]):
        for prompt in (False, True):
            rendered = processor.apply_chat_template(chat_messages, add_generation_prompt=prompt)
            rendered = rendered.replace("<\u2060image>", "<image>")
            if old.chat_template:
                assert rendered == old.apply_chat_template(chat_messages, add_generation_prompt=prompt, tokenize=False)
            ids = processor.tokenizer(rendered.replace("<image>", "<\u2060image>"))["input_ids"]
            assert ids == old(rendered)["input_ids"]
    if family == "plain":
        assert (
            rendered
            == (old.bos_token or "") + "USER: Is <image> a tag?  ASSISTANT: Four. " + old.eos_token + "ASSISTANT:"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_and_their_end_are_what_is_trained(assembled_families, family):
    processor = AutoProcessor.from_pretrained(assembled_families[family] / "output", trust_remote_code=True)
    collator = type(processor).__module__
    collator = sys.modules[collator].FilaDataCollator(processor)
    messages = [
        *({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},),
        *({"role": "assistant", "content": "Four."}, {"role": "user", "content": "Sure?"}),
        {"role": "assistant", "content": [{"type": "text", "text": "Yes, <image>."}]},
    ]
    batch = collator([{"messages": messages, "images": [random_image(60, 90)]}])
    counted = batch["labels"] != -100
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted])
    end = processor.tokenizer.eos_token
    assert processor.decode(batch["labels"][counted]) == f"Four.{end}Yes, <image>.{end}"
    if (start := processor.tokenizer.bos_token_id) is not None:
        assert (batch["input_ids"] == start).sum() == 1


def test_tokenizer_of_fila_is_left_as_it_is():
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)
    again = add_image_token(add_image_token(tokenizer, 100), 100)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert json.loads(again.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())
