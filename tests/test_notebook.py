# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The notebook runs in a clone, and with the id of a Hub repository anywhere; what is stored in it is small and whole."""

import base64
import io

import PIL.Image
import pytest

from fila import publish
from helpers import ROOT, default_processor

nbformat = pytest.importorskip("nbformat", reason='needs nbformat: pip install -e ".[test]"')
NOTEBOOK = ROOT / "notebooks" / "quickstart.ipynb"
MODEL = 'MODEL = ".."'
MAX_BYTES = 500_000


def read_outputs(notebook):
    """`tuple[list[PIL.Image], str]`: the pictures and the text that its cells put out. No cell may have failed."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data"}
    shown = [output.data["image/png"] for output in outputs if output.output_type == "display_data"]
    pictures = [PIL.Image.open(io.BytesIO(base64.b64decode(data))) for data in shown]
    return pictures, "".join(output.text for output in outputs if output.output_type == "stream")


def check_outputs(notebook):
    pictures, text = read_outputs(notebook)
    canvas, global_view, *heat_maps = pictures
    size = default_processor().image_processor.size["height"]
    assert global_view.size == (size, size) and canvas.width % size == canvas.height % size == 0
    assert len(heat_maps) == 4 and {heat.size for heat in heat_maps} == {canvas.size}
    assert len({picture.tobytes() for picture in (canvas, *heat_maps)}) == 5
    assert "tiles and the global view" in text and text.count("at most") == 4
    answers = [line.partition("? ")[2] for line in text.splitlines() if "? " in line]
    assert len(answers) == 3 and all(answers)


def execute(notebook, folder):
    nbclient = pytest.importorskip("nbclient", reason='needs nbclient: pip install -e ".[test]"')
    pytest.importorskip("ipykernel", reason='needs ipykernel: pip install -e ".[test]"')
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=place, record_timing=False).execute()


@pytest.mark.slow
def test_notebook_runs_in_a_clone():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook, NOTEBOOK.parent)
    check_outputs(notebook)


@pytest.mark.slow
def test_notebook_runs_anywhere_with_a_model_on_the_hub(hub, tmp_path, monkeypatch):
    publish.main(["model", "--repo_id", "fila"])
    for name, value in hub.environment(tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = [cell for cell in notebook.cells if MODEL in cell.source]
    cell.source = cell.source.replace(MODEL, 'MODEL = "me/fila"')
    cell.source += '\nimport sys\nsys.modules["fila"] = None  # to import it is an error'
    execute(notebook, tmp_path)
    check_outputs(notebook)


def test_stored_outputs_are_whole_and_small():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check_outputs(notebook)
    assert NOTEBOOK.stat().st_size <= MAX_BYTES and '"stderr"' not in NOTEBOOK.read_text()  # no warnings
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))  # from one run, from top to bottom
