# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes a CUDA build of torchvision importable beside a CPU build of torch, in the environment that runs this.

Its operators do not load there, and its Python code stops at the first one that is missing. FILA and timm use none of them, so
their names are enough."""

import importlib.util
from pathlib import Path

DECLARE = """
if not _has_ops():
    _names = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _names.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""

if __name__ == "__main__":
    extension = Path(importlib.util.find_spec("torchvision").origin).parent / "extension.py"
    with extension.open("a") as file:
        file.write(DECLARE)
