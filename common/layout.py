# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Where things are: files of a model repository, names of a FILA's parameters, the canvases of the paper."""

from pathlib import Path
from typing import Literal

import torch

from fila.configuration_fila import CANVASES

ROOT = Path(__file__).resolve().parent.parent
# The code that travels with a model folder.
REMOTE_CODE_FILES = (
    "configuration_fila.py",
    "image_processing_fila.py",
    "modeling_fila.py",
    "processing_fila.py",
)

VIT_PREFIX = "model.vision_tower.vit."
CONVNEXT_PREFIX = "model.vision_tower.convnext."
FUSION_PREFIX = "model.vision_tower.fusion."
PROJECTOR_PREFIX = "model.multi_modal_projector."
TEXT_PREFIX = "model.language_model."

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
DtypeName = Literal["auto", *DTYPES]  # of options


def image_grid_pinpoints(tile_size):
    """The paper's canvases for tiles of `tile_size` pixels.

    Returns:
        `list[list[int]]`: [height, width] of each canvas, as `FilaImageProcessor` takes them.
    """
    return [[rows * tile_size, columns * tile_size] for rows, columns in CANVASES]
