# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Shim, not to be merged."""

from fila.fineprint.generate import (  # noqa: F401
    GRIDS,
    READ,
    Options,
    Page,
    Placement,
    corners,
    draw_image_size,
    image_processor,
    lay_out,
    make_messages,
    render,
)
