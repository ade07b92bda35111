# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Assembles a FILA from the checkpoints of a CLIP, a ConvNeXt and a causal decoder."""
