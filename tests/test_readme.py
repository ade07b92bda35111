# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import re
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT

SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def run(command, folder):
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_readme_snippet_runs_as_written(index, tmp_path):
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "demo_output"))
    run([sys.executable, "-c", SNIPPETS[index]], folder)
    if "Trainer" in SNIPPETS[index]:
        assert len(SNIPPETS[index].splitlines()) <= 25
        saved = next((folder / "fila-finetuned").glob("checkpoint-*"))
        load = "from transformers import AutoModel, AutoProcessor as P; import sys; a = sys.argv[1]; "
        load += "P.from_pretrained(a, trust_remote_code=True), AutoModel.from_pretrained(a, trust_remote_code=True)"
        run([sys.executable, "-c", load, str(saved)], tmp_path)


def test_readme_gives_the_measured_tables():
    text, folder = (ROOT / "README.md").read_text().splitlines(), ROOT / "benchmarks" / "results" / "fineprint"
    strategies = ("| CVFM", "| tiles alone", "| cross-attention", "| channel concatenation")
    strategies += ("| strategy", "| reads more", "| loses more")
    starts = {"comparison.md": strategies, "probe.md": strategies, "default.md": ("| all ", "| position")}
    measured = {
        line for name in starts for line in (folder / name).read_text().splitlines() if line.startswith(starts[name])
    }
    assert len(measured) > 8
    assert measured == {line for line in text if line.startswith((*strategies, *starts["default.md"]))}


def test_readme_documents_every_config_field():
    from fila import FilaConfig

    text = (ROOT / "README.md").read_text()
    fields = [name for name in FilaConfig.__annotations__ if name != "model_type"]
    assert fields and all(f"| `{field}` |" in text for field in fields)


def test_readme_links_to_files_that_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert links and all((ROOT / link).exists() for link in links)
