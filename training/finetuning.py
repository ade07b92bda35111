# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shim, not to be merged."""

from fila.train import ModelArguments  # noqa: F401
