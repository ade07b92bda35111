# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the user reads about the output: the table of its parts, and the model card."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from tqdm import tqdm

from fila.conversion.mapping import PREFIXES

CARD = Path(__file__).parent / "templates" / "model_card.md"


def make_parts_table(weights, parts):
    """The parts of the output, where they come from and their sizes, as a Markdown table. `weights` may be on meta."""
    rows = ["| part | source | layout | revision | licence | parameters | size |", "| --- " * 7 + "|"]
    origins = dict.fromkeys(PREFIXES, ("untrained", "", "", ""))
    for part in parts:
        origins[part.title] = (part.label, "random weights", "", "")
        if part.source is not None:
            is_local = part.source.revision is None
            label = Path(part.label).name if is_local else part.label  # without the folders of this machine
            origins[part.title] = (label, part.layout, part.source.revision or "local", part.source.license)
    for title, origin in [*origins.items(), ("all", ("", "", "", ""))]:
        chosen = [tensor for name, tensor in weights.items() if name.startswith(PREFIXES.get(title, ""))]
        if chosen:
            size = tqdm.format_sizeof(sum(tensor.nbytes for tensor in chosen), "B")
            count = f"{sum(tensor.numel() for tensor in chosen) / 1e6:,.1f} M"
            rows.append(f"| {' | '.join((title, *origin, count, size))} |")
    return "\n".join(rows)


def make_model_card(name, weights, parts, config):
    """The README of the output, as a [`ModelCard`]: what it is made of, and what has not been trained."""
    sources = [part.source for part in parts if part.source is not None]
    licenses = {source.license for source in sources} or {"apache-2.0"}
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=licenses.pop() if len(licenses) == 1 and "unknown" not in licenses else "other",
        tags=["vision-language-model", "custom_code", "fila"],
        base_model=[source.name for source in sources if source.revision is not None] or None,
    )
    table = make_parts_table(weights, parts)
    return ModelCard.from_template(header, template_path=str(CARD), name=name, table=table, config=config)
