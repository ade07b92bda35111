# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The fine-print benchmark: generated documents with questions about small text inside tiles and across their cuts."""
