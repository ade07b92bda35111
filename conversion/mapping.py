# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""From the tensor names of a checkpoint to FILA's: one table for each part, and the account of every tensor."""

import re
from collections import Counter

from fila.common.arguments import UserError
from fila.common.layout import CONVNEXT_PREFIX, FUSION_PREFIX, PROJECTOR_PREFIX, TEXT_PREFIX, VIT_PREFIX

ADVICE = "Either the weights and their config.json do not belong together, or FILA cannot use this architecture."
INPUT_EMBEDDINGS, OUTPUT_EMBEDDINGS = f"{TEXT_PREFIX}embed_tokens.weight", "lm_head.weight"
# What the parts are called, and how the names of their parameters start.
PREFIXES = {"ViT": VIT_PREFIX, "ConvNeXt": CONVNEXT_PREFIX, "fusion": FUSION_PREFIX, "projector": PROJECTOR_PREFIX}
PREFIXES["decoder"] = (TEXT_PREFIX, OUTPUT_EMBEDDINGS)


class Drop(str):
    """In place of a replacement: the tensor is not used, and why."""


# A table is a sequence of (regular expression, replacement). All of them are applied, in this order.
# CLIP of transformers 4 or 5, whole or the vision tower alone.
CLIP_KEYS = (
    (r"^(text_model|text_projection|visual_projection|logit_scale)\b", Drop("CLIP's text tower and its joint space")),
    (r"^(vision_model\.)?(encoder\.)?", VIT_PREFIX),
    (r"\.post_layernorm\.", Drop("after the feature layer")),
    (r"\.position_ids$", Drop("a buffer that is computed")),
    (r"\.pre_layrnorm\.", ".pre_layernorm."),
)
TIMM_KEYS = ((r"^(head|norm_pre)\.", Drop("head of the classifier")), (r"^", CONVNEXT_PREFIX))
# A causal language model of transformers with the names of Llama.
DECODER_KEYS = (
    (r"rotary_emb\.inv_freq$", Drop("a buffer that is computed")),
    (r"^(?!lm_head\.)(model\.)?", TEXT_PREFIX),
)
TABLES = {"ViT": CLIP_KEYS, "ConvNeXt": TIMM_KEYS, "decoder": DECODER_KEYS}


def rename(name, part, config):
    """The name in FILA of a tensor of a [`Part`], by its table; or [`Drop`] for one that is not used."""
    for pattern, replacement in TABLES[part.title]:
        if not isinstance(replacement, Drop):
            name = re.sub(pattern, replacement, name)
        elif re.search(pattern, name):
            return replacement
    layer = re.match(re.escape(VIT_PREFIX) + r"layers\.(\d+)\.", name)
    if layer and config.num_vision_layers <= int(layer[1]) < config.vision_config.num_hidden_layers:
        return Drop("after the feature layer")
    if name == OUTPUT_EMBEDDINGS and config.tie_word_embeddings:
        return Drop("tied to the input embeddings")
    return name


def map_tensors(part, shapes, config):
    """Accounts for every tensor of a [`Part`], of which FILA needs `shapes`: used, dropped for a reason, or an error.
    Returns the [`StoredTensor`]s under FILA's names, and a `Counter` of the reasons. Raises [`UserError`] for a tensor
    that is missing, unknown or of the wrong shape."""
    used, dropped = {}, Counter()
    for name, tensor in part.tensors.items():
        new_name = rename(name, part, config)
        if isinstance(new_name, Drop):
            dropped[new_name] += 1
            continue
        if new_name not in shapes or new_name in used:
            raise UserError(
                f"{tensor.origin} has the tensor {name!r}, which has no place in the {part.title}. {ADVICE}"
            )
        if tensor.shape != shapes[new_name]:
            shape, expected = list(tensor.shape), list(shapes[new_name])
            raise UserError(f"{tensor.origin}: {name!r} has the shape {shape}, and {expected} is expected. {ADVICE}")
        used[new_name] = tensor
    if missing := sorted(set(shapes) - set(used)):
        names = ", ".join(missing[:4])
        raise UserError(f"{part.label} lacks {len(missing)} tensors of the {part.title}, such as {names}. {ADVICE}")
    return used, dropped
