# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The decoder's tokenizer with `<image>`, and its chat template with images and marked answers."""

import json
import os
import re
from functools import partial
from itertools import product
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Replace, Sequence
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fila.common.arguments import UserError
from fila.common.layout import ROOT

TEMPLATES = Path(__file__).parent / "templates"
IMAGE_TOKEN = "<image>"
# The chat template writes a special token that stands in a message with a word joiner after its first character; the
# tokenizer's normalizer takes the joiner out again after the special tokens have been found. So it is read as plain text.
JOINER = "\u2060"
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<pad>", "<|endoftext|>", "<|end_of_text|>", "<unk>")
repr_jinja = partial(json.dumps, ensure_ascii=False)
SENTENCE = "Fine print, line 3: total 1,284.50 EUR, due 2026-11-24 (see §7)."


def load_tokenizer(source):
    """The tokenizer of a decoder's [`Source`], or this repository's own. Raises `ValueError` if none is fast."""
    if source is None:  # the automatic class would ask whether to trust the code in the folder
        return PreTrainedTokenizerFast.from_pretrained(ROOT)
    tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, **source.gguf_file)
    if not tokenizer.is_fast:
        raise ValueError(f"{source.name}: its tokenizer has no fast version, which FILA needs (tokenizer.json).")
    if source.gguf_file:  # older transformers, such as 5.16, take other tokens of the file for these
        for name in ("bos_token", "eos_token"):
            if (token_id := getattr(source.read_config(), f"{name}_id", None)) is not None:
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    return tokenizer


def get_special_tokens(tokenizer):
    """`list[str]`: the tokens that text in a message must not become."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def get_starts(special_tokens):
    """`list[str]`: what each special token begins with, such as `<|` and `<image>`: two characters, or as many as those with
    the same two share. `replace` finds only occurrences that do not overlap, so what can overlap itself is cut to two."""
    groups = {}
    for token in special_tokens:
        groups.setdefault(token[:2], []).append(token)
    starts = [os.path.commonprefix(group) for first_two, group in groups.items() if first_two[1:]]
    return sorted(start[:2] if start[0] in start[1:] else start for start in starts)


def make_chat_macros(special_tokens):
    """`str`: the Jinja macros `escape`, which turns special tokens into text, and `render`, which makes one string of a
    message's content."""
    escape = ""
    for start in get_starts(special_tokens):
        joined = repr_jinja(start[0] + JOINER + start[1:]).replace(JOINER, "\\u2060")
        escape += f" | replace({repr_jinja(start)}, {joined})" * (2 if start[0] == start[1] else 1)
    return (TEMPLATES / "chat_macros.jinja").read_text(encoding="utf-8").replace(" ESCAPE", escape)


def make_normalizer(special_tokens):
    """`tokenizers.normalizers.Replace`: undoes `escape`."""
    starts = [tuple(map(re.escape, start[:2])) for start in get_starts(special_tokens)]
    return Replace(Regex("|".join(f"(?<={first}){JOINER}(?={second})" for first, second in starts)), "")


def add_image_token(source, max_length):
    """A copy of a `PreTrainedTokenizerFast` that knows `<image>` and reads what the chat template has escaped as text.
    A Llama-3 tokenizer gives one of its reserved tokens, so that no embedding is needed; any other gets a new token.
    `max_length` is the decoder's context, in tokens."""
    state = json.loads(source.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    for token in state["added_tokens"]:  # what is not looked for in the raw text would be found after the normalizer
        token["normalized"] = token["normalized"] and not token["special"]
    added = {token["content"]: token for token in state["added_tokens"]}
    reserved = next((text for text in added if re.fullmatch(r"<\|reserved_special_token_\d+\|>", text)), None)
    if IMAGE_TOKEN not in added and reserved is not None:
        added[reserved]["content"] = IMAGE_TOKEN
        if reserved in state["model"]["vocab"]:
            state["model"]["vocab"][IMAGE_TOKEN] = state["model"]["vocab"].pop(reserved)
    pad_token = next((token for token in PAD_TOKENS if token in source.get_vocab()), source.eos_token)
    special = {"pad_token": pad_token} | source.special_tokens_map
    special = {name: token for name, token in special.items() if isinstance(token, str) and name != "image_token"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=min(source.model_max_length, max_length),
        **special,
    )
    normalizer, backend = make_normalizer(get_special_tokens(tokenizer)), tokenizer.backend_tokenizer
    if backend.normalizer is None:
        backend.normalizer = normalizer
    elif backend.normalizer.__getstate__() != normalizer.__getstate__():
        backend.normalizer = Sequence([normalizer, backend.normalizer])
    if tokenizer(SENTENCE)["input_ids"] != source(SENTENCE)["input_ids"]:
        raise UserError(f"With <image>, the tokenizer of {source.name_or_path} would split {SENTENCE!r} otherwise.")
    return tokenizer


def make_chat_template(source, tokenizer):
    """The chat template of a decoder's tokenizer, made to take images and to mark the answers for training. `tokenizer`
    is the one of [`add_image_token`]. Text-only chats render as before, character by character; otherwise this raises
    [`UserError`]."""
    template = source.chat_template or (TEMPLATES / "chat_plain.jinja").read_text(encoding="utf-8")
    template = template["default"] if isinstance(template, dict) else template
    if "\\u2060" in template:  # FILA's own
        return template
    turns = {"system": "Be brief.", "user": " What is 2 + 2? \n", "assistant": " 4\n"}
    system, user, answer = ({"role": role, "content": content} for role, content in turns.items())
    chats = [[user], [system, user], [user, answer], [user, answer | {"content": "4"}, user]]

    def render(text, chat, prompt):
        try:
            return tokenizer.apply_chat_template(chat, chat_template=text, add_generation_prompt=prompt, tokenize=False)
        except Exception as error:  # some templates refuse a system turn; then ours has to refuse it as well
            return type(error).__name__

    wrapper = (TEMPLATES / "chat_wrapper.jinja").read_text(encoding="utf-8")
    wrapper = wrapper.replace("END_TOKEN", repr_jinja(_find_end_token(template, source)))
    wrapper = make_chat_macros(get_special_tokens(tokenizer)) + wrapper
    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    # Some templates strip what they are given; the marks are in the way of that, so it is done before.
    for trim in ("", " | trim"):
        wrapped = wrapper.replace(" TRIM", trim).replace("TEMPLATE", plain)
        if all(render(wrapped, *case) == render(template, *case) for case in product(chats, (False, True))):
            return wrapped
    name = source.name_or_path
    raise UserError(f"FILA cannot follow the chat template of {name}. Put a plainer one beside its weights.")


def _find_end_token(template, tokenizer):
    """The special token that ends an assistant's turn, as the template writes it; empty if there is none."""
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "FILA's answer"}]
    rest = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False).rpartition("FILA's answer")[2]
    return max((token for token in get_special_tokens(tokenizer) if rest.startswith(token)), key=len, default="")
