# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Output that is complete or absent: written beside its place, then renamed."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(output):
    """A temporary folder beside `output` that becomes `output` when the block ends without an error.

    What was at `output` is removed once the new folder stands. After an error nothing has changed.

    Args:
        output (`str` or `Path`): the folder to make.

    Yields:
        `Path`: an empty folder with ordinary permissions.
    """
    output = Path(output).absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        folder = Path(temporary) / "new"
        folder.mkdir()
        yield folder
        if output.exists():
            os.rename(output, Path(temporary) / "old")
        os.rename(folder, output)


@contextmanager
def new_files(folder, last="config.json"):
    """A temporary folder inside `folder` whose files move into `folder` when the block ends without an error.

    Args:
        folder (`str` or `Path`): where the files go; made if it does not exist.
        last (`str`): the file that moves last, so that its presence says that the others are there.

    Yields:
        `Path`: an empty folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        yield temporary
        for path in sorted(temporary.iterdir(), key=lambda path: path.name == last):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
