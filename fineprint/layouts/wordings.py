# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How questions are worded. In a pattern, [a|b] stands for a or b, and {name} for what is asked about."""

import re
from itertools import product

_TELL = "[What is|What's|Give|State|Read|Find|Tell me]"
_COPY = "[Transcribe|Read|Copy|Write out|Type out|Give the text of]"
WORDINGS = {
    "value": (
        _TELL + " the [value|entry|text] [of|for|beside|given for] {key}[.|]",
        "[What does it say|What is written|What stands|What is given] [for|at|next to] {key}?",
        "{key}[?|:| =|]",
    ),
    "key": (
        "[Which|What] [label|field|entry|name|item] [has|goes with|belongs to|is given for|comes with] {value}?",
        "[What|Which entry] [is {value} for|does {value} belong to|does {value} stand for]?",
    ),
    "cell": (
        _TELL + " the [value|entry|cell] [of|for|in the row] {row} [under|in the column] {column}[.|]",
        "[What|Which value] does {row} have [under|in the column|for] {column}?",
        "{row}, {column}[?|:]",
    ),
    "row": (
        "[Which|What] {row} has {value} [under|in the column|as its|for] {column}?",
        "[Find|Name|Give|State] the {row} [whose {column} is|with the {column}|that has the {column}] {value}.",
    ),
    "line": (
        _COPY + " line {number} of {block}[.|, please.]",
        "What [is in|is written in|is written on|do you read in] line {number} of {block}?",
        "[Line|Read line] {number} of {block}[?|.|:]",
    ),
    "after": (
        "[What|Which line|Which text] [comes|follows|stands|is] [directly|right|immediately] after {line}?",
        "[Read|Give|Copy|Transcribe] the line [after|below|that follows|under] {line}[.|]",
    ),
    "before": (
        "[What|Which line|Which text] [comes|stands|is] [directly|right|immediately] before {line}?",
        "[Read|Give|Copy|Transcribe] the line [before|above|that precedes|over] {line}[.|]",
    ),
    "heading": (
        _TELL + " the [heading|title] of {block}[.|]",
        "[What|Which] [heading|title] does {block} have?",
        "[Heading|Title] of {block}[?|:]",
    ),
    "exists": (
        "[Is there|Can you see|Do you see|Can you find] the text {text} [anywhere|here|on this page|in the picture]?",
        "[Is|Does one find] {text} [on the page|in the image]?",
        "Does [the page|the image|this page] [say|contain|show|have] {text}?",
    ),
    "count": (
        "How many {things} [does {block} have|are there in {block}|are in {block}|can you count in {block}]?",
        "[Count|Give the number of|State the number of|Tell me the number of] [the|all the] {things} [in|of] {block}[.|]",
    ),
    "item": (
        _TELL + " the {place} {thing} [of|in] {block}[.|]",
        "[Which|What] {thing} is {place} in {block}?",
        "[The|Name the|Copy the] {place} {thing} of {block}[.|?|:]",
    ),
    "price": (
        "[What is|What's|Give|State|Find|Tell me] the [price|cost] [of|for|given for] {key}[.|]",
        "[How much is|How much for|Price of|Cost of|What do I pay for] {key}?",
    ),
    "chart": (
        _TELL + " the value [of|for|shown for] {key} [in the chart|in the diagram|][.|]",
        "[What value|Which value|What] does [the chart|the diagram] [show|give|have] for {key}?",
    ),
    "extreme": (
        "[What|Which label] [is|has] the {most} [in|of] {block}?",
        _TELL + " the [label|name] of the {most} [in|of] {block}[.|]",
    ),
    "checked": (
        "[Is|Was] [the box|the field|the mark] [for|of|at|beside|next to] {key} [checked|ticked|marked|selected]?",
        "[Is|Was] {key} [checked|ticked|marked|selected]?",
    ),
    "block": (
        _COPY + " {block}[.|, line by line.|, please.|]",
        "What [does {block} say|is written in {block}|is the text of {block}|can be read in {block}]?",
    ),
    "page": (
        _COPY + " [all text|everything|the whole page|the page|all lines|the full text][.| on the page.|, please.]",
        "[What does the page say|What is written here|What is all the text]?",
    ),
}
_QUOTES = ('"{}"', '"{}"', "{}", "'{}'", "“{}”", "«{}»")
_QUOTED = ("key", "value", "row", "column", "line", "text")


def list_wordings(kind):
    """All wordings of a kind, with the names of what is asked about in braces. `list[str]`"""
    wordings = []
    for pattern in WORDINGS[kind]:
        parts = [part.split("|") for part in re.split(r"[\[\]]", pattern)]
        wordings += [re.sub(" +([.]|$)", r"\1", "".join(choice)) for choice in product(*parts)]
    return wordings


def word_question(rng, kind, slots):
    """Draws a question.

    Args:
        rng (`random.Random`): where all chance comes from.
        kind (`str`): one of `WORDINGS`.
        slots (`dict[str, str]`): what is asked about.
    """
    pattern, quote = rng.choice(WORDINGS[kind]), rng.choice(_QUOTES)
    question = re.sub(r"\[([^\]]*)\]", lambda match: rng.choice(match.group(1).split("|")), pattern)
    quoted = {name: quote.format(text) if name in _QUOTED else text for name, text in slots.items()}
    question = re.sub(" +([.]|$)", r"\1", question).format(**quoted)
    return question[0].upper() + question[1:] if rng.random() < 0.93 else question.lower() if not quoted else question
