# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Every table of figures in the docs names its result file, and every figure in it is there.

A table of figures has a link to a result file in `results/` at most three lines before or after it. One side of the table names
the records of that file, the other one their fields; `NAMES` says how the docs spell them. Fractions may be given in percent.
The tables of benchmarks/README.md name a file in each row; tests/benchmarks checks them.
"""

import json
import re

import pytest

from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "fineprint").glob("**/README.md"))]
NAMES = {
    "overall": ["all"],
    "across": ["across a cut"],
    "inside": ["inside one tile"],
    "n": ["questions"],
    "em": ["exact match"],
    "anls": ["ANLS"],
    "cvfm": ["CVFM (FILA)"],
    "none": ["tiles alone (LLaVA-NeXT)"],
    "channel_concat": ["channel concatenation"],
    "cross_attention": ["cross-attention (Mini-Gemini)"],
    "convnext": ["ConvNeXt alone"],
    "torn": ["torn by a cut"],
    "drop": ["drop, in points"],
    "paper_tokens": ["image tokens"],
    "first_token_ratio": ["time to the first token"],
    "train_ratio": ["time of a training step"],
    "peak_ratio": ["memory of a training step"],
    "teraflops": ["TFLOP a page"],
    "states_gib": ["weights and AdamW, GiB"],
    "step_gib": ["a step with one page, GiB"],
    "peak_gib": ["GiB in all"],
}
NUMBER = r"-?\d+(?:\.\d+)?"
# A cell of figures: a number, with an interval or a unit or none, perhaps in bold; not a version, a size or words.
FIGURES = rf"\**({NUMBER})( ?%|x)?(?: \[({NUMBER}), ({NUMBER})\])?\**"
SOURCE = r"\]\(([^)]*results/[^)]+\.json)\)"
DISTANCE = 3  # lines


def find_tables(lines):
    """First and last line, and the cells of the rows, of each Markdown table."""
    start = None
    for index, line in enumerate([*lines, ""]):
        if line.lstrip().startswith("|"):
            start = index if start is None else start
        elif start is not None:
            rows = [[cell.strip() for cell in row.strip().strip("|").split("|")] for row in lines[start:index]]
            yield start, index - 1, [row for row in rows if not all(re.fullmatch(":?-+:?", cell) for cell in row)]
            start = None


def find_records(content, name=""):
    """The objects of a JSON document that hold numbers, each with its `name` or `size`, or else its key."""
    if isinstance(content, list):
        return [record for item in content for record in find_records(item, name)]
    if not isinstance(content, dict):
        return []
    name = content.get("name", content.get("size", name))
    return [(name, content)] + [record for key, value in content.items() for record in find_records(value, key)]


def is_spelled(text, key):
    return text in (key, *NAMES.get(key, ()))


def is_shown(figures, record, title):
    """Whether the figures are the record's under this title: a number, then its interval."""
    numbers = []
    for key, value in record.items():
        if is_spelled(title, key.removesuffix("_ci")):
            numbers += value if isinstance(value, list) else [value]
    pairs = list(zip(figures, numbers))
    return len(pairs) == len(figures) and any(
        all(figure == f"{number * scale:.{len(figure.partition('.')[2])}f}" for figure, number in pairs)
        for scale in (1, 100)
    )


def find_wrong_cells(rows, records):
    """The figures in a table that are not those of a record which its row names, under the title of their column."""
    wrong = []
    for row in rows[1:]:
        labels = [cell for cell in row if not re.fullmatch(FIGURES, cell)]
        named = [record for name, record in records if any(is_spelled(label, name) for label in labels)]
        for title, cell in zip(rows[0], row):
            if match := re.fullmatch(FIGURES, cell):
                figures = [figure for figure in match.group(1, 3, 4) if figure is not None]
                if not any(is_shown(figures, record, title) for record in named):
                    wrong.append(cell)
    return wrong


def find_faults(text, folder):
    """What is wrong with the tables of a page that lies in `folder`, as sentences."""
    lines, faults = text.splitlines(), []
    for first, last, rows in find_tables(lines):
        cells = [match for row in rows[1:] for cell in row if (match := re.fullmatch(FIGURES, cell))]
        if not any("." in match[0] or match[2] for match in cells):
            continue
        near = "\n".join(lines[max(first - DISTANCE, 0) : first] + lines[last + 1 : last + 1 + DISTANCE])
        sources = [folder / link for link in re.findall(SOURCE, near)]
        if not sources or not all(source.is_file() for source in sources):
            faults.append(f"The table in line {first + 1} names no result file.")
            continue
        records = [record for source in sources for record in find_records(json.loads(source.read_text()))]
        wrong = min((find_wrong_cells(side, records) for side in (rows, list(zip(*rows)))), key=len)
        faults += [f"The table in line {first + 1} has {cell}, which its result file has not." for cell in wrong]
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_the_result_files(page):
    assert find_faults(page.read_text(), page.parent) == []


def test_pages_have_tables_of_figures():
    tables = [re.findall(SOURCE, page.read_text()) for page in PAGES]
    assert sum(map(len, tables)) >= 3


ROWS = """
| strategy | whole | torn by a cut | pages |
|---|---|---:|---|
| one | 67.5 [66.4, 68.5] | 65.8 % | 438 |
| two | **61.9** | -4.4 | 440 |
"""
COLUMNS = """
| | one | two |
|---|---|---|
| whole | 67.5 [66.4, 68.5] | **61.9** |
| torn by a cut | 65.8 % | -4.4 |
| pages | 438 | 440 |
"""
LINK = "\n[source](results/a.json)\n"
CONTENT = {
    "one": {"whole": [67.46, 66.42, 68.53], "torn": 0.658, "pages": 438},
    "two": {"whole": 61.859, "torn": -4.394, "pages": 440},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "a.json").write_text(json.dumps({"results": CONTENT}))
    return tmp_path


@pytest.mark.parametrize("table", [ROWS, COLUMNS])
def test_checker_finds_wrong_figures_in_rows_and_columns(table, folder):
    assert find_faults(LINK + table, folder) == find_faults(table + LINK, folder) == []
    assert find_faults(LINK + table.replace("61.9", "61.86"), folder) == []  # more digits of the same number
    wrong = {"67.5": "67.4", "68.5]": "68.6]", "65.8 %": "67 %", "-4.4": "4.4", "438": "440", "61.9": "61.8x"}
    for right, other in wrong.items():
        assert len(find_faults(LINK + table.replace(right, other, 1), folder)) == 1, (right, other)


@pytest.mark.parametrize("table", [ROWS, COLUMNS])
@pytest.mark.parametrize("pair", [("438", "440"), ("one", "two"), ("whole", "torn by a cut"), ("65.8 %", "438")])
def test_checker_finds_figures_that_changed_places(table, pair, folder):
    first, second = pair
    swapped = table.replace(first, "x").replace(second, first).replace("x", second)
    assert find_faults(LINK + swapped, folder)


@pytest.mark.parametrize("table", [ROWS, COLUMNS])
def test_checker_wants_a_source_near_the_table(table, folder):
    assert "names no result file" in find_faults(table, folder)[0]
    assert find_faults(LINK + "\n" * DISTANCE + table, folder)
    assert find_faults(LINK.replace("a.json", "b.json") + table, folder)


def test_checker_leaves_tables_without_figures_alone(folder):
    assert find_faults("| layer | size |\n|---|---|\n| 2 | 336 |\n", folder) == []
