# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Experiments on the fine-print benchmark: pretraining, a checkpoint, the comparison of fusion strategies."""
