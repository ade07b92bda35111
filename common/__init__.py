# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What every command shares: options and recipes, finished-or-absent output, the layout of a FILA, pictures of views."""
