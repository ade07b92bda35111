# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The decoder's tokenizer with `<image>`, and its chat template with images and marked answers."""

import json
import os
import re

from tokenizers import Regex, Tokenizer
from tokenizers.normalizers import Replace, Sequence
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fila.common.arguments import UserError
from fila.common.layout import ROOT

IMAGE_TOKEN = "<image>"
# The chat template writes a special token that stands in a message with a word joiner after its first character; the
# tokenizer's normalizer takes the joiner out again after the special tokens have been found. So it is read as plain text.
JOINER = "\u2060"
PAD_TOKENS = ("<|finetune_right_pad_id|>", "<pad>", "<|endoftext|>", "<|end_of_text|>", "<unk>")

# Used where the decoder has no chat template of its own: the format of LLaVA-1.5.
PLAIN_CHAT_TEMPLATE = """\
{{- bos_token or "" -}}
{%- for message in messages -%}
{%- if message["role"] == "user" -%}
{{- "USER: " ~ message["content"] ~ " " -}}
{%- elif message["role"] == "assistant" -%}
{{- "ASSISTANT: " ~ message["content"] ~ eos_token -}}
{%- else -%}
{{- message["content"] ~ " " -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- "ASSISTANT:" -}}
{%- endif -%}
"""
# `escape` turns special tokens into text; `render` makes one string of a message's content.
CHAT_MACROS = """\
{%- macro escape(text) -%}
{{- (text or "") ESCAPE -}}
{%- endmacro -%}
{%- macro render(content) -%}
{%- if content is string or content is none -%}
{{- escape(content) -}}
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
# then turns the marks into `generation` blocks; two joiners tell them from tokens that were escaped. An answer's end-of-turn
# token is part of what is generated.
CHAT_TEMPLATE_HEAD = """\
{%- set fila = namespace(messages=[]) -%}
{%- for message in messages -%}
{%- set content = message["content"] -%}
{%- if content is not none and content is defined -%}
{%- set content = render(content) TRIM -%}
{%- if message["role"] == "assistant" -%}
{%- set content = "<\\u2060\\u2060answer>" ~ content ~ "<\\u2060\\u2060/answer>" -%}
{%- endif -%}
{%- endif -%}
{%- set fila.messages = fila.messages + [dict(message, role=escape(message["role"]), content=content)] -%}
{%- endfor -%}
{%- set messages = fila.messages -%}
{%- set rendered -%}
"""
CHAT_TEMPLATE_TAIL = """
{%- endset -%}
{%- for turn in rendered.split("<\\u2060\\u2060answer>") -%}
{%- if loop.first -%}
{{- turn -}}
{%- else -%}
{%- set answer = turn.split("<\\u2060\\u2060/answer>") -%}
{%- set end_token = END_TOKEN -%}
{%- generation -%}
{{- answer[0] ~ (end_token if answer[1].startswith(end_token) else "") -}}
{%- endgeneration -%}
{{- answer[1][end_token | length:] if answer[1].startswith(end_token) else answer[1] -}}
{%- endif -%}
{%- endfor -%}
"""


def load_tokenizer(part):
    """The decoder's tokenizer; this repository's own for random weights. Raises [`UserError`] if there is no fast one."""
    if part.source is None:  # the automatic class would ask whether to trust the code in the folder
        return PreTrainedTokenizerFast.from_pretrained(ROOT)
    try:
        file = part.source.files[0]
        gguf_file = {"gguf_file": file.name} if file.suffix == ".gguf" else {}
        tokenizer = AutoTokenizer.from_pretrained(part.source.folder, **gguf_file)
        if gguf_file:  # older transformers, such as 5.16, take other tokens of the file for these
            for name in ("bos_token", "eos_token"):
                token_id = getattr(part.config, f"{name}_id", None)
                if token_id is not None:
                    setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    except Exception as error:  # the tokenizers library raises no narrower class
        raise UserError(f"{part.label} has no tokenizer that transformers can read: {error}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{part.label}: its tokenizer has no fast version, which FILA needs (tokenizer.json).")
    return tokenizer


def get_starts(special_tokens):
    """`list[str]`: what each special token begins with, such as `<|` and `<image>`: two characters, or as many as those with
    the same two share. `replace` finds only occurrences that do not overlap, so what can overlap itself is cut to two."""
    groups = {}
    for token in special_tokens:
        groups.setdefault(token[:2], []).append(token)
    starts = [os.path.commonprefix(group) for first_two, group in groups.items() if first_two[1:]]
    return sorted(start[:2] if start[0] in start[1:] else start for start in starts)


def make_chat_macros(special_tokens):
    """`str`: the Jinja macros `escape` and `render` for a tokenizer with these special tokens."""
    escape = ""
    for start in get_starts(special_tokens):
        joined = repr_jinja(start[0] + JOINER + start[1:]).replace(JOINER, "\\u2060")
        escape += f" | replace({repr_jinja(start)}, {joined})" * (2 if start[0] == start[1] else 1)
    return CHAT_MACROS.replace(" ESCAPE", escape)


def make_normalizer(special_tokens):
    """`tokenizers.normalizers.Replace`: undoes `escape`."""
    starts = [tuple(map(re.escape, start[:2])) for start in get_starts(special_tokens)]
    return Replace(Regex("|".join(f"(?<={first}){JOINER}(?={second})" for first, second in starts)), "")


def get_special_tokens(tokenizer):
    """`list[str]`: the tokens that text in a message must not become."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def add_image_token(source, max_length):
    """A copy of a tokenizer that knows `<image>` and reads what the chat template has escaped as text.

    A Llama-3 tokenizer gives one of its reserved tokens, so that no embedding is needed; any other gets a new token.

    Args:
        source (`PreTrainedTokenizerFast`): the decoder's tokenizer.
        max_length (`int`): the decoder's context, in tokens.

    Returns:
        `PreTrainedTokenizerFast`
    """
    state = json.loads(source.backend_tokenizer.to_str())
    state["truncation"] = state["padding"] = None
    for token in state["added_tokens"]:
        token["normalized"] = (
            token["normalized"] and not token["special"]
        )  # else they are looked for after the normalizer
    contents = [token["content"] for token in state["added_tokens"]]
    reserved = next((text for text in contents if re.fullmatch(r"<\|reserved_special_token_\d+\|>", text)), None)
    if IMAGE_TOKEN not in contents and reserved is not None:
        state["added_tokens"][contents.index(reserved)]["content"] = IMAGE_TOKEN
        if reserved in state["model"]["vocab"]:
            state["model"]["vocab"][IMAGE_TOKEN] = state["model"]["vocab"].pop(reserved)
    known = set(source.get_vocab())
    special_tokens = {
        name: str(token)
        for name, token in source.special_tokens_map.items()
        if isinstance(token, str) and name != "image_token"
    }
    if "pad_token" not in special_tokens:
        special_tokens["pad_token"] = next((token for token in PAD_TOKENS if token in known), source.eos_token)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        extra_special_tokens={"image_token": IMAGE_TOKEN},
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=min(source.model_max_length, max_length),
        **special_tokens,
    )
    normalizer, backend = make_normalizer(get_special_tokens(tokenizer)), tokenizer.backend_tokenizer
    if backend.normalizer is None:
        backend.normalizer = normalizer
    elif backend.normalizer.__getstate__() != normalizer.__getstate__():
        backend.normalizer = Sequence([normalizer, backend.normalizer])
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
    if "\\u2060" in template:  # FILA's own
        return template
    user = {"role": "user", "content": " What is 2 + 2? \n"}
    chats = [
        [user],
        [{"role": "system", "content": "Be brief."}, user],
        [user, {"role": "assistant", "content": " 4\n"}],
        [user, {"role": "assistant", "content": "4"}, user],
    ]

    def render(text, chat, **kwargs):
        try:
            return tokenizer.apply_chat_template(chat, chat_template=text, tokenize=False, **kwargs)
        except Exception as error:  # some templates refuse a system turn; then ours has to refuse it as well
            return type(error).__name__

    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    # Some templates strip what they are given; the marks are in the way of that, so it is done before.
    for trim in ("", "| trim"):
        end_token = repr_jinja(find_end_token(template, source))
        head = (make_chat_macros(get_special_tokens(tokenizer)) + CHAT_TEMPLATE_HEAD).replace(
            " TRIM", f" {trim}".rstrip()
        )
        wrapped = head + plain + CHAT_TEMPLATE_TAIL.replace("END_TOKEN", end_token)
        if all(
            render(wrapped, chat, add_generation_prompt=prompt) == render(template, chat, add_generation_prompt=prompt)
            for chat in chats
            for prompt in (False, True)
        ):
            return wrapped
    raise UserError(
        f"The chat template of {source.name_or_path} changes its messages in a way that FILA cannot follow. Put a plainer "
        "chat_template.jinja beside its weights."
    )


def find_end_token(template, tokenizer):
    """The special token that ends an assistant's turn, as the template writes it; empty if there is none."""
    answer = "FILA's answer"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    rest = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False).rpartition(answer)[2]
    return max((token for token in get_special_tokens(tokenizer) if rest.startswith(token)), key=len, default="")


def repr_jinja(text):
    return json.dumps(text, ensure_ascii=False)
