# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import shutil

import pytest
from checkpoints import write_clip, write_convnext, write_text


@pytest.fixture(scope="session")
def written_sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_clip(folder / "clip")
    write_convnext(folder / "convnext")
    write_text(folder / "text")
    return folder


@pytest.fixture
def sources(written_sources, tmp_path):
    """A folder with the three backbones, which the test may change."""
    shutil.copytree(written_sources, tmp_path, dirs_exist_ok=True)
    return tmp_path
