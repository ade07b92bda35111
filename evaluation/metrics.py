# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shim, not to be merged."""

from fila.run_eval import make_bins, mean_with_interval  # noqa: F401
