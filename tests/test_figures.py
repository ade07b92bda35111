# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Every table of figures in the docs names its result file, and every figure in it is there.

A table with a decimal number has a link to a result file in `results/` at most three lines before or after it. The numbers of
each of its rows, or of each of its columns, stand together in one record of that file, as fractions or percent. The tables of
benchmarks/README.md name a file in each row; tests/benchmarks checks them.
"""

import json
import re

import pytest

from helpers import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "fineprint").glob("**/README.md"))]
NUMBER = r"-?\d+(?:\.\d+)?"
# A cell of figures: a number, with an interval or a unit of percent or none; not a version, a size or words.
FIGURES = rf"{NUMBER}(?: ?%)?(?: \[{NUMBER}, {NUMBER}\])?"
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


def find_records(content):
    """The innermost objects of a JSON document, each as the list of its numbers."""
    if isinstance(content, list):
        return [record for item in content for record in find_records(item)]
    if not isinstance(content, dict):
        return []
    inner = find_records(list(content.values()))
    numbers = []
    for value in content.values():
        values = value if isinstance(value, list) else [value]
        numbers += [item for item in values if isinstance(item, (int, float)) and not isinstance(item, bool)]
    return inner + [numbers]


def is_shown(figure, numbers):
    decimals = len(figure.partition(".")[2])
    shown = {f"{number * scale:.{decimals}f}" for number in numbers for scale in (1, 100)}
    return figure in shown


def find_faults(text, folder):
    """What is wrong with the tables of a page that lies in `folder`, as sentences."""
    lines, faults = text.splitlines(), []
    for first, last, rows in find_tables(lines):
        cells = [[re.findall(NUMBER, cell) if re.fullmatch(FIGURES, cell) else [] for cell in row] for row in rows[1:]]
        if not any("." in figure for row in cells for cell in row for figure in cell):
            continue
        near = "\n".join(lines[max(first - DISTANCE, 0) : first] + lines[last + 1 : last + 1 + DISTANCE])
        sources = [folder / link for link in re.findall(SOURCE, near)]
        if not sources or not all(source.is_file() for source in sources):
            faults.append(f"The table in line {first + 1} names no result file.")
            continue
        records = [record for source in sources for record in find_records(json.loads(source.read_text()))]
        strips = {"row": cells, "column": [[row[i] for row in cells if i < len(row)] for i in range(len(rows[0]))]}
        unknown = {}
        for kind, strip in strips.items():
            figures = [[figure for cell in cells_of_one for figure in cell] for cells_of_one in strip]
            unknown[kind] = [
                f"{kind} {number} of the table in line {first + 1}: {', '.join(group)} are not in one record."
                for number, group in enumerate(figures, 1)
                if not any(all(is_shown(figure, record) for figure in group) for record in records)
            ]
        faults += min(unknown.values(), key=len)
    return faults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_figures_are_those_of_the_result_files(page):
    assert find_faults(page.read_text(), page.parent) == []


def test_pages_have_tables_of_figures():
    tables = [re.findall(SOURCE, page.read_text()) for page in PAGES]
    assert sum(map(len, tables)) >= 3


ROWS = """
| strategy | whole | torn | pages |
|---|---|---:|---|
| one | 67.5 [66.4, 68.5] | 65.8 % | 438 |
| two | 61.9 | -4.4 | 440 |
"""
COLUMNS = """
| | one | two |
|---|---|---|
| whole | 67.5 [66.4, 68.5] | 61.9 |
| torn | 65.8 % | -4.4 |
| pages | 438 | 440 |
"""
LINK = "\n[source](results/a.json)\n"
CONTENT = {
    "one": {"whole": [67.46, 66.42, 68.53], "torn": 0.658, "pages": 438},
    "two": {"whole": [61.859], "torn": -4.394, "pages": 440},
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
    wrong = {"67.5": "67.4", "68.5]": "68.6]", "65.8 %": "65.9 %", "-4.4": "4.4", "438": "440", "61.9": "61.8"}
    for right, other in wrong.items():
        assert len(find_faults(LINK + table.replace(right, other, 1), folder)) == 1, (right, other)
    swapped = table.replace("438", "x").replace("440", "438").replace("x", "440")
    assert find_faults(LINK + swapped, folder)  # figures of other rows are no excuse


@pytest.mark.parametrize("table", [ROWS, COLUMNS])
def test_checker_wants_a_source_near_the_table(table, folder):
    assert "names no result file" in find_faults(table, folder)[0]
    assert find_faults(LINK + "\n" * DISTANCE + table, folder)
    assert find_faults(LINK.replace("a.json", "b.json") + table, folder)


def test_checker_leaves_tables_without_decimals_alone(folder):
    assert find_faults("| layer | size |\n|---|---|\n| 2 | 336 |\n", folder) == []
