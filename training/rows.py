# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Rows of training and evaluation data: conversations with encoded images, brought to one form and checked."""

import math
import os
from reprlib import repr as shorten

ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}


def read_row(row, image_folder=""):
    """`dict`: a row in one form, `messages`, whose contents are lists of text and image items, and `images`, each a
    dict of `bytes` and `path`, which is not opened. Numbers become text.

    A row has `image` and `conversations` (LLaVA), or `messages` and `images` or `image`. Relative paths start from
    `image_folder`. Raises a `ValueError` that says how the row breaks the rules."""
    if not isinstance(row, dict):
        raise ValueError(f"is {shorten(row)}, not an object")
    is_llava = row.get("messages") is None
    column, *keys = ("conversations", "from", "value") if is_llava else ("messages", "role", "content")
    if row.get(column) is None:
        found = sorted(name for name, value in row.items() if value is not None)
        raise ValueError(f"has neither 'messages' nor 'conversations', only the columns {found}")
    if not isinstance(row[column], list):
        raise ValueError(f"has {column!r} of {shorten(row[column])}, not a list of turns")
    turns = [_read_turn(turn, *keys) for turn in row[column]]
    _check_roles([role for role, _, _ in turns])
    messages = [{"role": role, "content": items} for role, items, _ in turns]
    given = next((row[name] for name in ("images", "image") if row.get(name) is not None), [])
    images = [image for *_, carried in turns for image in carried] + (given if isinstance(given, list) else [given])
    if not _count_images(messages):
        _place_images(messages, len(images), is_llava)
    if _count_images(messages) != len(images):
        places = f"{_count_images(messages)} places for images (<image>, or items of type 'image')"
        raise ValueError(f"has {places}, but {len(images)} images")
    for message in messages:
        if message["role"] == "assistant" and not any((item["text"] or "").strip() for item in message["content"]):
            raise ValueError("has an empty answer")
    return {"messages": messages, "images": [_to_image_dict(image, image_folder) for image in images]}


def _read_turn(turn, role_key, content_key):
    """The role of a turn, its text and image items, and the images that the items carry."""
    if not isinstance(turn, dict):
        raise ValueError(f"has a turn that is {shorten(turn)}, not an object with {role_key!r} and {content_key!r}")
    role, content = turn.get(role_key), turn.get(content_key)
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"has a turn of {shorten(role)}; allowed are {', '.join(ROLES)}")
    items, images = [], []
    for item in content if isinstance(content, list) else [{"type": "text", "text": content}]:
        if not isinstance(item, dict):
            raise ValueError(f"has an item that is {shorten(item)}, not an object with a 'type'")
        kind = item.get("type")
        if kind not in ("text", "image"):
            raise ValueError(f"has an item of type {shorten(kind)}; allowed are 'text' and 'image'")
        items.append({"type": kind, "text": _to_text(item.get("text")) if kind == "text" else None})
        if kind == "image":
            images += [item[key] for key in ("image", "url", "path") if item.get(key) is not None][:1]
    return ROLES[role], items, images


def _to_text(value):
    if value is None:
        return ""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return str(value)
    if not isinstance(value, str) or value != value.encode(errors="replace").decode():
        raise ValueError(f"has a text that is {shorten(value)}; allowed are Unicode strings and numbers")
    return value


def _check_roles(roles):
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        rule = "user and assistant must take turns, the user first and the assistant last, perhaps after a system turn"
        raise ValueError(f"has the roles {', '.join(roles) or 'none'}; {rule}")


def _count_images(messages):
    return sum(item["type"] == "image" for message in messages for item in message["content"])


def _place_images(messages, num_images, is_llava):
    """Turns each `<image>` in the text of users into an image item. A chat without any gets its images at the start of
    the first user's turn, which is what TRL does."""
    users = [message for message in messages if message["role"] == "user"]
    texts = ["".join(item["text"] for item in message["content"]) for message in users]
    num_places = sum(text.count("<image>") for text in texts)
    if num_images and not num_places and not is_llava:
        users[0]["content"][:0] = [{"type": "image", "text": None}] * num_images
    elif is_llava or num_places == num_images > 0:
        for message, text in zip(users, texts):
            items = []
            for number, part in enumerate(text.split("<image>")):
                items += [{"type": "image", "text": None}] * (number > 0)
                items += [{"type": "text", "text": part.strip("\n")}] * bool(part.strip())
            message["content"] = items


def _to_image_dict(image, image_folder):
    """An image of a row as a dict of `bytes` and `path`, one of which may be `None`."""
    given = {"path": image} if isinstance(image, str) else image
    if isinstance(given, dict):
        data, path = given.get("bytes"), given.get("path")
        if isinstance(data, bytes) and isinstance(path, str | None):
            return {"bytes": data, "path": path}
        if data is None and isinstance(path, str) and path:
            return {"bytes": None, "path": os.path.join(image_folder, path)}
    raise ValueError(f"has an image of {type(image).__name__}, {shorten(image)}: neither a path nor an encoded image")
