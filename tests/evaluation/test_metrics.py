# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluation/metrics.py: scores, intervals and bins, against values by hand."""

import numpy as np
import pandas as pd
import pytest

from fila.evaluation.metrics import make_bins, score, summarize_scores


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
    ("values", "edges", "groups"),
    [
        (["b", None, "a"], None, ["b", "none", "a"]),
        ([True, False], None, ["True", "False"]),
        ([3, 1, 3], None, ["3", "1", "3"]),
        ([7.9, 8, 11.9, 12, np.nan], [8, 12], ["below 8", "8 to 12", "8 to 12", "12 and above", "none"]),
        (
            list(range(1, 13)),
            None,
            [*["below 3.75"] * 3, *["3.75 to 6.5"] * 3, *["6.5 to 9.25"] * 3, *["9.25 and above"] * 3],
        ),
    ],
)
def test_bins(values, edges, groups):
    assert make_bins(pd.Series(values), edges).tolist() == groups
