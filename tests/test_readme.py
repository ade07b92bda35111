# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The model card: its snippet answers as it says, it stays one page, its links and metadata are valid."""

import re
import subprocess
import sys

import pytest
from huggingface_hub import ModelCard

from helpers import ANSWER, QUESTION, ROOT

README = (ROOT / "README.md").read_text()
BODY = re.sub(r"\A---\n.*?\n---\n", "", README, flags=re.DOTALL)
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")])


@pytest.mark.slow
def test_snippet_gives_the_right_answer():
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    result = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.splitlines()[-1] == ANSWER
    assert QUESTION in snippet and snippet.rstrip().endswith(f"# {ANSWER}")


def test_card_is_one_page():
    assert len(BODY.split()) <= 1100
    assert len(BODY.strip().splitlines()) <= 130


def test_card_metadata_loads():
    card = ModelCard.load(ROOT / "README.md")
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    assert card.data.license == "apache-2.0"


def anchor(title):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if fragment:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), flags=re.MULTILINE)
            assert fragment in {anchor(title) for title in titles}, link
