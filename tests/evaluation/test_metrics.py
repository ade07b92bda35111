# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluation/metrics.py: scores, intervals and groups, against values by hand."""

import numpy as np
import pandas as pd
import pytest

from fila.evaluation.metrics import make_keys, score, summarize_groups, summarize_scores


@pytest.mark.parametrize(
    ("prediction", "references", "em", "anls"),
    [
        ("Total 12.50", ["total  12.50"], 1, 1.0),
        ("12.50", ["1250"], 0, 1 - 1 / 5),
        ("hello wrld", ["HELLO world"], 0, 1 - 1 / 11),
        ("abcd", ["abxy"], 0, 0.5),
        ("abcd", ["axyz"], 0, 0.0),  # below the threshold of 0.5
        ("cup", ["a cup", "cup"], 1, 1.0),
        ("cups", ["zzzz", "cup"], 0, 0.75),
        ("", ["cup"], 0, 0.0),
    ],
)
def test_scores_equal_values_by_hand(prediction, references, em, anls):
    assert score(prediction, references) == {"em": em, "anls": pytest.approx(anls)}


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_questions():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 2000):
        anls = rng.random(count)
        summary = summarize_scores(pd.DataFrame({"em": (anls > 0.7).astype(int), "anls": anls}))
        assert summary["n"] == count
        assert (summary["em"], summary["anls"]) == pytest.approx(((anls > 0.7).mean(), anls.mean()))
        for name in ("em", "anls"):
            low, high = summary[f"{name}_ci"]
            assert low < summary[name] < high
        widths.append(summary["anls_ci"][1] - summary["anls_ci"][0])
    # Normal approximation: 2 * 1.96 * standard error; of a uniform variable it is sqrt(1/12 / n).
    assert widths[1] == pytest.approx(2 * 1.96 * (1 / 12 / 2000) ** 0.5, rel=0.05)
    assert widths[0] > 5 * widths[1]


@pytest.mark.filterwarnings("error")
def test_equal_scores_have_an_interval_and_a_single_one_has_none():
    summary = summarize_scores(pd.DataFrame({"em": [0] * 7, "anls": [0.3] * 7}))
    assert summary["em_ci"] == [0, 0]
    assert summary["anls_ci"] == pytest.approx([0.3, 0.3])
    assert summarize_scores(pd.DataFrame({"em": [1], "anls": [1.0]}))["em_ci"] is None


@pytest.mark.parametrize(
    ("columns", "grouping", "counts"),
    [
        ({"a": ["y", None, "x"]}, "a", {"x": 1, "y": 1, "none": 1}),
        ({"a": [True, False, None]}, "a", {"False": 1, "True": 1, "none": 1}),
        ({"a": [10, 9, 10]}, "a", {"9": 1, "10": 2}),
        ({"a": [3, 0.5, None, 3]}, "a", {"0.5": 1, "3": 2, "none": 1}),
        ({"a": ["x", 1, "x"]}, "a", {"1": 1, "x": 2}),
        ({"a": [7.9, 8, 11.9, 12, np.nan]}, "a:8,12", {"below 8": 1, "8 to 12": 2, "12 and above": 1, "none": 1}),
        (
            {"a": [7, 9, None, 9], "b": ["x", "y", "y", None]},
            "b*a:8",
            {"x, below 8": 1, "y, 8 and above": 1, "y, none": 1, "none, 8 and above": 1},
        ),
    ],
)
def test_groups(columns, grouping, counts):
    ((name, keys),) = make_keys(pd.DataFrame(columns), [grouping]).items()
    scores = pd.DataFrame({"em": 1, "anls": 1.0}, index=keys[0].index)
    assert name == grouping.split(":")[0]
    assert [(name, group["n"]) for name, group in summarize_groups(scores, keys).items()] == list(counts.items())
