# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Asks a vision-language model questions about images and scores the answers."""
