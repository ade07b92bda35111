# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How documents of each kind are laid out, framed and named, split by split."""

from fila.fineprint.sources import DATA

TEMPLATES, MORE_SETTINGS = DATA["templates"], DATA["more_settings"]


def mix_template(kind, rng):
    """A template of a training page: its settings are drawn one by one, from those of all training templates and a few
    more, and its parts are in any order that no template of another split has."""
    templates = TEMPLATES[kind]["train"].values()
    mixed = {}
    for key in next(iter(templates)):
        mixed[key] = rng.choice([*(template[key] for template in templates), *MORE_SETTINGS[kind].get(key, [])])
    if "order" in mixed:
        others = {template["order"] for split in ("validation", "test") for template in TEMPLATES[kind][split].values()}
        parts = mixed["order"].split()
        rng.shuffle(parts)
        while " ".join(parts) in others:
            rng.shuffle(parts)
        mixed["order"] = " ".join(parts)
    return mixed
