# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of answers, their means with confidence intervals, and the groups they are compared by."""

import numpy as np
import pandas as pd
from anls_star import anls_score
from scipy.stats import bootstrap

from fila.common.arguments import UserError


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


def summarize_groups(scores, keys):
    """`dict`: by group, what [`summarize_scores`] gives for the rows of a `pd.DataFrame` with the same values in all `keys`,
    a list of `pd.Series`. The values are joined to the name of the group, in which a missing one is `"none"`."""
    summaries = {}
    for values, part in scores.groupby(keys, observed=True, dropna=False):
        names = [f"{value:.12g}" if isinstance(value, float) else str(value) for value in values]
        names = ["none" if pd.isna(value) else name for value, name in zip(values, names)]
        summaries[", ".join(names)] = summarize_scores(part)
    return summaries


def make_keys(columns, groupings):
    """`dict[str, list[pd.Series]]`: for each grouping, under the names of its columns, what [`summarize_groups`] needs. A
    grouping is a column of `columns`, a `pd.DataFrame`; or COLUMN:EDGE,EDGE,..., rising numbers each of which begins a
    group; or several of these with `*` between. Raises a `UserError` for one that is none of them."""
    groups = {}
    for grouping in groupings:
        keys = []
        for part in grouping.split("*"):
            column, colon, edges = part.partition(":")
            if column not in columns:
                reason = f"there is no column {column!r} with plain values. Choose from {', '.join(columns) or 'none'}."
                raise UserError(f"--group_by {grouping}: {reason}")
            try:
                keys.append(_cut(columns[column], edges) if colon else columns[column])
            except (TypeError, ValueError) as error:
                reason = "edges are rising numbers, for a column of numbers, such as text_height:8,10"
                raise UserError(f"--group_by {grouping}: {reason} ({error}).") from error
        groups["*".join(key.name for key in keys)] = keys
    return groups


def _cut(values, edges):
    edges = [float(edge) for edge in edges.split(",")]
    between = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:])]
    labels = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and above"]
    return pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=labels)
