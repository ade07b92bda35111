# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of answers, their means with confidence intervals, and the groups they are compared by."""

import numpy as np
import pandas as pd
from anls_star import anls_score
from datasets import ClassLabel
from scipy.stats import bootstrap

from fila.common.arguments import UserError

MAX_DISTINCT_VALUES = 8  # a numeric column with more is cut into quartiles


def score(prediction, references):
    """`dict`: of an answer and the closest of its references, `anls` (`float`), 1 - edit distance / length of the
    longer text, 0 if below 0.5; and `em` (`int`), whether that is 1. Case and the amount of white space do not count,
    all else does."""
    anls = anls_score(tuple(references), prediction)  # a tuple holds alternatives
    return {"em": int(anls == 1), "anls": anls}


def mean_with_interval(values):
    """`tuple[float, list[float] | None]`: the mean of an array of shape (n,), one value for each question, and the
    bounds of its 95 % confidence interval, from scipy's percentile bootstrap, unless there is just one value. Values
    that are all equal give an interval without width, which does not mean certainty."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), None
    batch = max(1, 2**22 // len(values))  # resamples that are in memory together
    found = bootstrap((values,), np.mean, method="percentile", batch=batch, rng=np.random.default_rng(0))
    return float(values.mean()), [float(bound) for bound in found.confidence_interval]


def summarize_scores(scores):
    """`dict`: `n`, the number of rows of a `pd.DataFrame`, and of its columns `em` and `anls` the means, and under
    `em_ci` and `anls_ci` what [`mean_with_interval`] gives."""
    summary = {"n": len(scores)}
    for name in ("em", "anls"):
        summary[name], summary[f"{name}_ci"] = mean_with_interval(scores[name])
    return summary


def make_bins(values, edges=None):
    """`pd.Series`: the name of the group that each value of a `pd.Series` belongs to, `"none"` where it is missing, as
    ordered categories. `edges` are rising numbers, each of which begins a bin. Numbers without edges are cut into
    quartiles, unless there are few different ones."""
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if edges is None and is_number and values.nunique() > MAX_DISTINCT_VALUES:
        edges = sorted({float(f"{edge:.3g}") for edge in values.quantile([0.25, 0.5, 0.75])})
    if edges is None:
        names = {value: f"{value:g}" if is_number else str(value) for value in sorted(values.dropna().unique())}
        bins = pd.Categorical(values.map(names), categories=list(dict.fromkeys(names.values())), ordered=True)
    else:
        between = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:])]
        labels = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and above"]
        bins = pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=labels).array
    bins = bins.set_categories(list(dict.fromkeys([*bins.categories, "none"])))
    return pd.Series(bins.fillna("none"), index=values.index)


def make_groups(rows, source, groupings):
    """`tuple[dict[str, list[pd.Series]], list[dict]]`: for each grouping, under the names of its columns, the bins that
    the rows of a [`~fila.training.data.DataSource`] belong to; and the values in these columns, row by row. `rows` are
    the columns of plain values of all rows. A grouping is a column or COLUMN:EDGE,EDGE,..., or several of these with
    `*` between. Raises a `UserError` if there is no such column, or edges are not rising numbers."""
    table, groups, used = pd.DataFrame(rows).dropna(axis=1, how="all"), {}, {}
    for column, feature in source.dataset.features.items():
        if isinstance(feature, ClassLabel) and column in table:
            table[column] = table[column].map(dict(enumerate(feature.names)))
    for grouping in groupings:
        bins = {}
        for part in grouping.split("*"):
            column, colon, edges = part.partition(":")
            if column not in table:
                reason = f"there is no column {column!r} with plain values. Choose from {', '.join(table) or 'none'}."
                raise UserError(f"--group_by {grouping}: {reason}")
            used[column] = table[column].astype(object).where(table[column].notna(), None)  # null in JSON
            try:
                bins[column] = make_bins(table[column], [float(edge) for edge in edges.split(",")] if colon else None)
            except (TypeError, ValueError) as error:
                reason = (
                    "edges are rising numbers with commas between, for a column of numbers, such as text_height:8,10"
                )
                raise UserError(f"--group_by {grouping}: {reason} ({error}).") from error
        groups["*".join(bins)] = list(bins.values())
    return groups, pd.DataFrame(used, index=table.index).to_dict("records")
