# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The decoder's tokenizer with `<image>`, and its chat template with images and marked answers."""

import json
import re

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fila.common.arguments import UserError
from fila.common.layout import ROOT
from fila.conversion.sources import library_errors

IMAGE_TOKEN = "<image>"
# The chat template writes a literal "<image>" in a message with a word joiner inside; the tokenizer's normalizer takes the
# joiner out again after the special tokens have been found. So it is read as plain text, letter by letter.
JOINED_IMAGE_TOKEN = "<\u2060image>"
SENTENCE = "Fine print, line 3: total 1,284.50 EUR, due 2026-11-24 (see §7)."
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<pad>", "<|endoftext|>", "<|end_of_text|>", "<unk>")

# Used where the decoder has no chat template of its own: the format of LLaVA-1.5.
PLAIN_CHAT_TEMPLATE = """\
{{- bos_token or "" -}}
{%- for message in messages -%}
{%- if message["role"] == "user" %}{{ "USER: " ~ message["content"] ~ " " }}
{%- elif message["role"] == "assistant" %}{{ "ASSISTANT: " ~ message["content"] ~ eos_token }}
{%- else %}{{ message["content"] ~ " " }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt %}{{ "ASSISTANT:" }}{% endif -%}
"""
# `escape` turns a literal "<image>" into text; `render` makes one string of a message's content.
CHAT_MACROS = """\
{%- macro escape(text) %}{{ (text or "") | replace("<image>", "<\\u2060image>") }}{% endmacro -%}
{%- macro render(content) -%}
{%- if content is string or content is none %}{{ escape(content) }}
{%- else -%}
{%- set run = namespace(text="") -%}
{%- for item in content -%}
{%- if item["type"] == "image" -%}
{{- escape(run.text) ~ "<image>" -}}
{%- set run.text = "" -%}
{%- elif item["type"] == "text" -%}
{%- set run.text = run.text ~ (item["text"] or "") -%}
{%- else -%}
{{- raise_exception("FILA reads items of type 'text' and 'image', not '" ~ item["type"] ~ "'.") -}}
{%- endif -%}
{%- endfor -%}
{{- escape(run.text) -}}
{%- endif -%}
{%- endmacro -%}
"""
# Runs the decoder's own template on messages whose content has become a string, with the answers between two marks, and
# then turns the marks into `generation` blocks. An answer's end-of-turn token is part of what is generated.
WRAPPED_CHAT_TEMPLATE = """\
MACROS{%- set fila = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = message["content"] -%}
{%- if content is not none and content is defined -%}
{%- set content = render(content) TRIM -%}
{%- if message["role"] == "assistant" -%}
{%- set content = "<\\u2060answer>" ~ content ~ "<\\u2060/answer>" -%}
{%- endif -%}
{%- endif -%}
{%- set fila.messages = fila.messages + [dict(message, content=content)] -%}
{%- endfor -%}
{%- set messages = fila.messages -%}
{%- set rendered -%}
TEMPLATE
{%- endset -%}
{%- for turn in rendered.split("<\\u2060answer>") -%}
{%- if loop.first %}{{ turn }}
{%- else -%}
{%- set answer = turn.split("<\\u2060/answer>") -%}
{%- set end_token = END_TOKEN if answer[1].startswith(END_TOKEN) else "" -%}
{%- generation %}{{ answer[0] ~ end_token }}{% endgeneration -%}
{{- answer[1][end_token | length:] -}}
{%- endif -%}
{%- endfor -%}
"""


def load_tokenizer(part):
    """The decoder's tokenizer; this repository's own for random weights. Raises [`UserError`] if there is no fast one."""
    if part.source is None:  # the automatic class would ask whether to trust the code in the folder
        return PreTrainedTokenizerFast.from_pretrained(ROOT)
    with library_errors(f"The tokenizer of {part.label}"):
        tokenizer = AutoTokenizer.from_pretrained(part.source.folder, **part.source.gguf_file)
        for name in ("bos_token", "eos_token") if part.source.gguf_file else ():
            # Older transformers, such as 5.16, take other tokens of the file for these.
            token_id = getattr(part.config, f"{name}_id", None)
            if token_id is not None:
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
        if not tokenizer.is_fast:
            raise ValueError("it has no fast version, which FILA needs (tokenizer.json).")
    return tokenizer


def add_image_token(source, max_length):
    """A copy of a tokenizer that knows `<image>` and reads the chat template's escape of it as text.

    A Llama-3 tokenizer gives one of its reserved tokens, so that no embedding is needed; any other gets a new token.

    Args:
        source (`PreTrainedTokenizerFast`): the decoder's tokenizer.
        max_length (`int`): the decoder's context, in tokens.

    Returns:
        `PreTrainedTokenizerFast`
    """
    state = json.loads(source.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    unescape = {"type": "Replace", "pattern": {"String": JOINED_IMAGE_TOKEN}, "content": IMAGE_TOKEN}
    if state["normalizer"] is None:
        state["normalizer"] = unescape
    elif state["normalizer"] != unescape:
        state["normalizer"] = {"type": "Sequence", "normalizers": [unescape, state["normalizer"]]}
    tokens = {token["content"]: token for token in state["added_tokens"]}
    reserved = next((text for text in tokens if re.fullmatch(r"<\|reserved_special_token_\d+\|>", text)), None)
    if IMAGE_TOKEN not in tokens and reserved is not None:
        tokens[reserved]["content"] = IMAGE_TOKEN
        if reserved in state["model"]["vocab"]:
            state["model"]["vocab"][IMAGE_TOKEN] = state["model"]["vocab"].pop(reserved)
    special = {name: str(token) for name, token in source.special_tokens_map.items() if isinstance(token, str)}
    special.setdefault(
        "pad_token", next((token for token in PAD_TOKENS if token in source.get_vocab()), source.eos_token)
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=min(source.model_max_length, max_length),
        **{name: token for name, token in special.items() if name != "image_token"},
    )
    if tokenizer(SENTENCE)["input_ids"] != source(SENTENCE)["input_ids"]:
        raise UserError(f"With <image>, the tokenizer of {source.name_or_path} would split {SENTENCE!r} otherwise.")
    return tokenizer


def make_chat_template(source, tokenizer):
    """The decoder's chat template, made to take images and to mark the answers for training.

    Text-only chats render as before, character by character; that is checked.

    Args:
        source (`PreTrainedTokenizerFast`): the decoder's tokenizer, with or without a template.
        tokenizer (`PreTrainedTokenizerFast`): the one from [`add_image_token`].

    Returns:
        `str`: a Jinja template.

    Raises:
        UserError: the decoder's template cannot be carried over.
    """
    template = source.chat_template or PLAIN_CHAT_TEMPLATE
    if isinstance(template, dict):
        template = template["default"]
    if "<\\u2060image>" in template:  # FILA's own
        return template
    user, answer = {"role": "user", "content": " What is 2 + 2? \n"}, {"role": "assistant", "content": " 4\n"}
    chats = [[user], [{"role": "system", "content": "Be brief."}, user], [user, answer]]
    chats.append([user, {"role": "assistant", "content": "4"}, user])

    def render_all(text):
        rendered = []
        for chat in chats:
            for prompt in (False, True):
                try:
                    options = {"chat_template": text, "add_generation_prompt": prompt, "tokenize": False}
                    rendered.append(tokenizer.apply_chat_template(chat, **options))
                except Exception as error:  # some templates refuse a system turn; then ours has to refuse it as well
                    rendered.append(type(error).__name__)
        return rendered

    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    values = {"MACROS": CHAT_MACROS, "END_TOKEN": json.dumps(_find_end_token(template, source), ensure_ascii=False)}
    # Some templates strip what they are given; the marks are in the way of that, so it is done before.
    for trim in ("", "| trim"):
        pieces = values | {"TEMPLATE": plain, " TRIM": f" {trim}".rstrip()}
        wrapped = re.sub("|".join(pieces), lambda match: pieces[match[0]], WRAPPED_CHAT_TEMPLATE)  # noqa: B023
        if render_all(wrapped) == render_all(template):
            return wrapped
    raise UserError(
        f"The chat template of {source.name_or_path} changes its messages in a way that FILA cannot follow. Put a plainer "
        "chat_template.jinja beside its weights."
    )


def _find_end_token(template, tokenizer):
    """The special token that ends an assistant's turn, as the template writes it; empty if there is none."""
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "FILA's answer"}]
    rest = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False).rpartition("FILA's answer")[2]
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in tokens if rest.startswith(token)), key=len, default="")
