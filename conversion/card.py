# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the user reads about the output: the table of its parts, and the model card."""

from math import prod
from pathlib import Path

from huggingface_hub import ModelCardData
from tqdm import tqdm

CARD = """\
---
{header}
---

# {name}

A FILA vision-language model, assembled from trained backbones by `convert_weights.py`. **Its fusion and projector are
untrained: it cannot answer about images until stage 1 has been trained.** On text alone it is its decoder.

{parts}

{sources}

Geometry: tiles of {config.vision_config.image_size} pixels, {config.grid_size}x{config.grid_size} tokens each; fusion `{config.fusion_type}`{fusion_layers}.
The licences of all sources apply together.

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{name}", trust_remote_code=True)
model = AutoModel.from_pretrained("{name}", trust_remote_code=True, dtype="auto")
model.set_training_stage(1)
```

Method: *FILA: Fine-Grained Vision Language Models* ([arXiv 2412.08378](https://arxiv.org/abs/2412.08378)).
"""


def make_table(header, rows):
    """`str`: a Markdown table."""
    rows = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _show(part):
    """What the user gave, without the folders of this machine."""
    is_local = part.source is not None and part.source.revision is None
    return Path(part.label).name if is_local else part.label


def make_parts_table(entries, parts):
    """The parts of the output with their parameters and sizes, as a Markdown table."""
    labels = {part.title: _show(part) for part in parts}
    rows = []
    for title in ("ViT", "ConvNeXt", "fusion", "projector", "decoder", "all"):
        chosen = [entry for entry in entries.values() if title in (entry.part, "all")]
        if chosen:
            count, size = sum(prod(entry.shape) for entry in chosen), sum(entry.num_bytes for entry in chosen)
            dtype = str(chosen[0].dtype).removeprefix("torch.")
            label = "" if title == "all" else labels.get(title, "untrained")
            rows.append((title, label, f"{count / 1e6:,.1f} M", dtype, tqdm.format_sizeof(size, "B")))
    return make_table(("part", "source", "parameters", "dtype", "size"), rows)


def make_model_card(name, entries, parts, config, seed):
    """The README of the output: what it is made of, and what has not been trained."""
    sources = [part.source for part in parts if part.source is not None]
    licenses = {source.license for source in sources} or {"apache-2.0"}
    known = len(licenses) == 1 and "unknown" not in licenses
    header = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        license=licenses.pop() if known else "other",
        tags=["vision-language-model", "custom_code", "fila"],
        base_model=[source.name for source in sources if source.revision is not None] or None,
    )
    rows = []
    for part in parts:
        row = (f"random weights, seed {seed}", "", "")
        if part.source is not None:
            row = (part.layout, part.source.revision or "local", part.source.license)
        rows.append((_show(part), *row))
    return CARD.format(
        header=header.to_yaml(),
        name=name,
        parts=make_parts_table(entries, parts),
        sources=make_table(("source", "layout", "revision", "licence"), rows),
        config=config,
        fusion_layers=f" after ViT layers {config.fusion_layers}" if config.fusion_type == "cvfm" else "",
    )
