# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of answers, their means with confidence intervals, and the groups they are compared by."""

from itertools import product

import numpy as np
import pandas as pd
from anls_star import anls_score
from datasets import ClassLabel, Value
from scipy.stats import bootstrap

from fila.common.arguments import UserError

MAX_DISTINCT_VALUES = 8  # a numeric column with more is cut into quartiles


def score(prediction, references):
    """Scores an answer by the closest of its references. Case and the amount of white space do not count, all else does.

    Returns:
        `dict`: `anls` (`float`), 1 - edit distance / length of the longer text, 0 if below 0.5; `em` (`int`), whether the
        ANLS is 1.
    """
    anls = anls_score(tuple(references), prediction)  # a tuple holds alternatives
    return {"em": int(anls == 1), "anls": anls}


def mean_with_interval(values):
    """Mean with a 95 % confidence interval, from scipy's percentile bootstrap. Values that are all equal give an interval
    without width, which does not mean certainty.

    Args:
        values (`np.ndarray` of shape `(n,)`): one for each question.

    Returns:
        `tuple[float, list[float] | None]`: the mean, and both bounds unless there is just one value.
    """
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float(values.mean()), None
    batch = max(1, 2**22 // len(values))  # resamples that are in memory together
    found = bootstrap((values,), np.mean, method="percentile", batch=batch, rng=np.random.default_rng(0))
    return float(values.mean()), [float(found.confidence_interval.low), float(found.confidence_interval.high)]


def summarize_scores(scores):
    """Means of the columns `em` and `anls` of a `pd.DataFrame`.

    Returns:
        `dict`: `n`, and for each score its mean, and under `em_ci` and `anls_ci` what [`mean_with_interval`] gives.
    """
    summary = {"n": len(scores)}
    for name in ("em", "anls"):
        summary[name], summary[f"{name}_ci"] = mean_with_interval(scores[name])
    return summary


def make_bins(values, edges=None):
    """The group that each value belongs to.

    Args:
        values (`pd.Series`): of a column.
        edges (`list[float]`, *optional*): rising; an edge begins its bin. Numbers without edges are cut into quartiles,
            unless there are few different ones.

    Returns:
        `pd.Series` of names, `"none"` where a value is missing; ordered categories.
    """
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if edges is None and is_number and values.nunique() > MAX_DISTINCT_VALUES:
        edges = sorted({float(f"{edge:.3g}") for edge in values.quantile([0.25, 0.5, 0.75])})
    if edges is None:
        distinct = sorted(values.dropna().unique())
        names = {value: f"{value:g}" if is_number else str(value) for value in distinct}
        bins = pd.Categorical(values.map(names), categories=list(dict.fromkeys(names.values())), ordered=True)
    else:
        between = [f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:])]
        labels = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} and above"]
        bins = pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=labels).array
    bins = bins.set_categories(list(dict.fromkeys([*bins.categories, "none"])))
    return pd.Series(bins.fillna("none"), index=values.index)


def make_groups(dataset, groupings):
    """The group that each row belongs to, for each grouping.

    Args:
        dataset (`Dataset`): the rows.
        groupings (`list[str]`): a column or COLUMN:EDGE,EDGE,..., or several of these with `*` between.

    Returns:
        `tuple[pd.DataFrame, dict[str, pd.Series]]`: the columns that are used, with the names of classes for their numbers;
        and for each grouping, named after its columns, the names of the groups, as ordered categories.

    Raises:
        UserError: a column does not exist or holds no plain values, or edges are not rising numbers.
    """
    allowed = [name for name, feature in dataset.features.items() if isinstance(feature, Value | ClassLabel)]
    table, groups = pd.DataFrame(index=range(len(dataset))), {}
    for grouping in groupings:
        bins = {}
        for part in grouping.split("*"):
            column, colon, edges = part.partition(":")
            if column not in allowed:
                raise UserError(
                    f"--group_by {grouping}: there is no column {column!r} with plain values. Choose from "
                    f"{', '.join(allowed) or 'none'}."
                )
            table[column] = dataset.select_columns(column).to_pandas()[column]
            if isinstance(dataset.features[column], ClassLabel):
                table[column] = table[column].map(dict(enumerate(dataset.features[column].names)))
            try:
                bins[column] = make_bins(table[column], [float(edge) for edge in edges.split(",")] if colon else None)
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"--group_by {grouping}: edges are rising numbers with commas between, for a column of numbers, such "
                    f"as text_height:8,10,12 ({error})."
                ) from error
        names = [", ".join(parts) for parts in product(*(values.cat.categories for values in bins.values()))]
        joined = pd.Categorical(map(", ".join, zip(*bins.values())), categories=names, ordered=True)
        groups["*".join(bins)] = pd.Series(joined, index=table.index)
    return table, groups
