# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The foreign pages: every question can be asked and scored, its box and position are right, and the generator is no part of it."""

import json
import re
from collections import Counter

import numpy as np
import PIL.Image
import pytest

from fila.evaluation.metrics import score
from fila.evaluation.questions import read_question
from fila.fineprint import texts
from fila.fineprint.tiles import Canvas
from fila.training.data import load_data_source
from helpers import ROOT

FOLDER = ROOT / "fineprint" / "foreign"
TILE = 336
ROWS = json.loads((FOLDER / "questions.json").read_text(encoding="utf-8"))
WITH_BOX = [row for row in ROWS if row["box"]]


@pytest.fixture(scope="module")
def images():
    """Each page as an array of RGB, by its name in the questions."""
    found = {}
    for name in {row["image"] for row in ROWS}:
        with PIL.Image.open(FOLDER / name) as image:
            assert image.mode in ("P", "L", "1"), name
            found[name] = np.asarray(image.convert("RGB"))
    return found


def test_there_are_many_pages_of_many_kinds(images):
    assert len(images) >= 80 and len(ROWS) >= 300
    assert {path.name for path in (FOLDER / "pages").iterdir()} == {name.removeprefix("pages/") for name in images}
    assert sum(path.stat().st_size for path in (FOLDER / "pages").iterdir()) <= 6e6
    assert min(Counter(row["image"] for row in ROWS).values()) >= 3
    assert len({row["program"] for row in ROWS}) >= 6 and len({row["kind"] for row in ROWS}) >= 15
    assert {"en", "de", "fr", "es", "it"} == {row["language"] for row in ROWS}
    for image in images.values():
        assert 300 <= image.shape[1] <= 1600
    dark = sum(np.median(image[::8, ::8]) < 96 for image in images.values())
    assert 10 <= dark <= len(images) - 10


def test_every_question_is_read_by_the_evaluation(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    source = load_data_source(0, {"path": str(FOLDER / "questions.json"), "split": "test"})
    assert len(source.dataset) == len(ROWS)
    for number, row in enumerate(ROWS):
        question = read_question(source, number)
        assert question["question"] == row["messages"][0]["content"]
        assert question["references"] == row["answers"] and len(question["image_sizes"]) == 1


def test_answers_are_short_and_those_of_the_chat():
    assert len({(row["image"], row["messages"][0]["content"]) for row in ROWS}) == len(ROWS)
    for row in ROWS:
        question, answer = (message["content"] for message in row["messages"])
        assert answer == row["answers"][0] and 10 <= len(question) <= 120
        assert all(1 <= len(text) <= 60 and text == text.strip() for text in row["answers"])
        assert all(score(text, row["answers"])["em"] for text in row["answers"])
        if row["task"] == "yesno":
            assert answer in ("Yes", "No")


def test_boxes_hold_ink_and_positions_agree_with_the_geometry(images):
    assert len(WITH_BOX) >= 300
    assert min(Counter(row["position"] for row in WITH_BOX)[name] for name in ("inside", "across")) >= 50
    for row in ROWS:
        if not row["box"]:
            assert row["position"] is None and row["text_height"] is None
            continue
        image = images[row["image"]]
        quad = np.reshape(row["box"], (4, 2))
        left, top, right, bottom = *quad[0], *quad[2]
        assert quad.tolist() == [[left, top], [right, top], [right, bottom], [left, bottom]]
        assert 0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]
        content = image[top:bottom, left:right].astype(int)
        _, first, counts = np.unique(content @ (1 << 16, 1 << 8, 1), return_index=True, return_counts=True)
        background = content.reshape(-1, 3)[first[counts.argmax()]]
        ink = np.abs(content - background).max(axis=2) >= 32
        assert all(side.any() for side in (ink[0], ink[-1], ink[:, 0], ink[:, -1])), row
        assert row["position"] == Canvas(image.shape[:2], TILE).locate(quad), row


def test_text_is_neither_tiny_nor_huge(images):
    heights = []
    for row in WITH_BOX:
        if row["text_height"] is not None:
            height = row["text_height"] / Canvas(images[row["image"]].shape[:2], TILE).scale[1]
            assert height <= row["box"][5] - row["box"][1] + 1
            heights.append(height)
    assert len(heights) >= 250 and min(heights) >= 7 and max(heights) <= 42


def test_the_generator_has_no_part_in_it():
    """No answer is one of the generator's texts, but for single words."""
    drawn = {text.casefold() for kind, pool in texts.make_pools().items() if kind != "listing" for text in pool}
    assert len(drawn) > 10_000
    answers = {answer.casefold() for row in ROWS for answer in row["answers"]}
    assert [answer for answer in answers & drawn if " " in answer] == []


def test_readme_counts_pages_and_names_licences():
    text = (FOLDER / "README.md").read_text()
    pages = {row["image"]: row for row in ROWS}
    assert f"{len(pages)} pages with {len(ROWS)} questions" in text
    foreign = sum(row["language"] != "en" for row in pages.values())
    assert f"{foreign} pages are in German" in text
    counts = [int(count) for count in re.findall(r"^\| (\d+) \| ", text, flags=re.MULTILINE)]
    assert sorted(counts) == sorted(Counter(row["program"] for row in pages.values()).values())
    assert "testing only" in text and "Apache-2.0" in text
    licences = (FOLDER / "LICENSES.txt").read_text()
    for name in (name for name, row in pages.items() if row["program"] == "manual"):
        package = re.search(r"^package: (\S+)", (FOLDER / "sources" / "manual" / f"{name[13:-4]}.txt").read_text())[1]
        assert (
            f"{name[6:].split('-')[0]}-{name.split('-')[1]}-*" in licences and package in licences and package in text
        )


def test_every_page_has_its_source():
    charts = (FOLDER / "sources" / "charts.py").read_text()
    for name in {row["image"] for row in ROWS}:
        program, stem = re.fullmatch(r"pages/(\w+?)-(.+)\.png", name).groups()
        found = (
            f"def {stem}(" in charts if program == "matplotlib" else [*(FOLDER / "sources" / program).glob(f"{stem}.*")]
        )
        assert found, name
