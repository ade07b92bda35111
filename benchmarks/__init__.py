# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of FILA against stock libraries: one script a question, `README.md` with the results."""
