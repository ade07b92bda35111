# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""FILA, a vision-language model that reads fine print. The classes of the model files are imported when they are first used."""

import importlib

_MODULES = {
    "FilaConfig": "configuration_fila",
    "FilaConvNextConfig": "configuration_fila",
    "FilaImageProcessor": "image_processing_fila",
    "FilaProcessor": "processing_fila",
    "FilaDataCollator": "processing_fila",
    "FilaPreTrainedModel": "modeling_fila",
    "FilaModel": "modeling_fila",
    "FilaForConditionalGeneration": "modeling_fila",
}

__all__ = list(_MODULES)


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)


def __dir__():
    return __all__
