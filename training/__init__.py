# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a FILA with the stock Trainer: data, stages, callbacks, export."""
