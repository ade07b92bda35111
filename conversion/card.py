# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What the user reads about the output: the table of its parts, and the model card."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from tqdm import tqdm

from fila.common.layout import FUSION_PREFIX, PROJECTOR_PREFIX

CARD = """\
---
{{ card_data }}
---

# {{ name }}

A FILA vision-language model, assembled from trained backbones by `convert_weights.py`. **Its fusion and projector are
untrained: it cannot answer about images until stage 1 has been trained.** On text alone it is its decoder.

{{ table }}

| source | layout | revision | licence |
| --- | --- | --- | --- |
{% for row in sources %}| {{ row | join(" | ") }} |
{% endfor %}
Geometry: tiles of {{ config.vision_config.image_size }} pixels, {{ config.grid_size }}x{{ config.grid_size }} tokens each; fusion `{{ config.fusion_type }}`{% if config.fusion_type == "cvfm" %} after ViT layers {{ config.fusion_layers }}{% endif %}.
The licences of all sources apply together.

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{{ name }}", trust_remote_code=True)
model = AutoModel.from_pretrained("{{ name }}", trust_remote_code=True, dtype="auto")
model.set_training_stage(1)
```

Method: *FILA: Fine-Grained Vision Language Models* ([arXiv 2412.08378](https://arxiv.org/abs/2412.08378)).
"""


def _show(part):
    """What the user gave, without the folders of this machine."""
    is_local = part.source is not None and part.source.revision is None
    return Path(part.label).name if is_local else part.label


def make_parts_table(weights, parts):
    """The parts of the output with their parameters and sizes, as a Markdown table.

    Args:
        weights (`dict[str, torch.Tensor]`): the output's tensors, which may be on the meta device.
        parts (`list[Part]`): the backbones.
    """
    rows = [(part.title, _show(part), part.prefixes) for part in parts]
    rows += [
        ("fusion", "untrained", (FUSION_PREFIX,)),
        ("projector", "untrained", (PROJECTOR_PREFIX,)),
        ("all", "", ("",)),
    ]
    table = "| part | source | parameters | dtype | size |\n| --- | --- | --- | --- | --- |"
    for title, label, prefixes in rows:
        chosen = [tensor for name, tensor in weights.items() if name.startswith(prefixes)]
        if chosen:
            count = f"{sum(tensor.numel() for tensor in chosen) / 1e6:,.1f} M"
            size = tqdm.format_sizeof(sum(tensor.nbytes for tensor in chosen), "B")
            table += f"\n| {title} | {label} | {count} | {str(chosen[0].dtype).removeprefix('torch.')} | {size} |"
    return table


def make_model_card(name, weights, parts, config, seed):
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
    rows = [
        (_show(part), part.layout, part.source.revision or "local", part.source.license)
        if part.source is not None
        else (_show(part), f"random weights, seed {seed}", "", "")
        for part in parts
    ]
    table = make_parts_table(weights, parts)
    return ModelCard.from_template(header, template_str=CARD, name=name, table=table, sources=rows, config=config)
