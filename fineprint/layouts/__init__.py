# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages of free layout with questions about them: blocks in any arrangement and style, for training and test."""
