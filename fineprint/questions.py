# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The questions about a page, and their wordings.

In a pattern, [a|b] stands for a or b, and {name} for what is asked about.
"""

import re
from collections import Counter
from functools import cache
from itertools import product

from fila.fineprint.marks import Fact

MAX_ANSWER = 300  # characters of a block that is to be transcribed

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
    "neighbor": (
        "[What|Which line|Which text] [comes|stands|is] [directly|right|immediately] {place} {line}?",
        "[Read|Give|Copy|Transcribe|Write out|Tell me] [the line|what comes|what stands] {place} {line}[.|]",
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
        _TELL + " the value [of|for|shown for] {key} [in the chart|in the diagram|][.|?|]",
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


@cache
def list_wordings(kind):
    """All wordings of a kind, with the names of what is asked about in braces. `list[str]`"""
    choices = [product(*[part.split("|") for part in re.split(r"[\[\]]", pattern)]) for pattern in WORDINGS[kind]]
    return sorted({re.sub(" +([.]|$)", r"\1", "".join(choice)) for pattern in choices for choice in pattern})


def word_question(rng, kind, slots):
    """Draws a question.

    Args:
        rng (`random.Random`): where all chance comes from.
        kind (`str`): one of `WORDINGS`.
        slots (`dict[str, str]`): what is asked about.
    """
    question, quote = rng.choice(list_wordings(kind)), rng.choice(_QUOTES)
    quoted = {name: quote.format(text) if name in _QUOTED else text for name, text in slots.items()}
    question = question.format(**quoted)
    return question if rng.random() < 0.1 else question[0].upper() + question[1:]


def _find_facts(draft):
    """All that can be asked about a page without ambiguity, as facts whose blocks have names."""
    rng, facts = draft.rng, []
    nouns = Counter(block.noun for block in draft.blocks)
    counts = Counter(line.casefold() for block in draft.blocks for line in block.read().splitlines())
    headings = {text.text: text for block in draft.blocks for text in block.texts}
    for block in draft.blocks:
        name, lines = f"the {block.noun}" if nouns[block.noun] == 1 else None, block.read().splitlines()
        if block.title and name:
            block.ask("heading", [headings[block.title]], block=name)
        if block.title and (name is None or rng.random() < 0.3):
            name = f'the {block.noun} {rng.choice(["under", "with the title", "called"])} "{block.title}"'
        if block.noun == "page":
            block.ask("heading", block.texts, block="the page")
        elif len(block.read()) <= MAX_ANSWER:
            block.ask("block", block.texts, block.read(), block=None)
        for number in rng.sample(range(len(lines) - 1), min(2, len(lines) - 1)) if block.in_order else ():
            pair = lines[number : number + 2]
            if min(sum(map(str.isalnum, line)) for line in pair) < 3:
                continue
            block.ask("line", block.lines[number], pair[0], number=str(number + 1), block=None)
            is_lower = block.lines[number + 1][0].y > block.lines[number][0].y  # not so from column to column
            for asked, places in ((1, ("after", "below", "under")), (0, ("before", "above", "over"))):
                if counts[pair[1 - asked].casefold()] == 1:
                    place = rng.choice(places if is_lower else places[:1])
                    block.ask("neighbor", block.lines[number + asked], pair[asked], line=pair[1 - asked], place=place)
        for fact in block.facts:
            if fact.slots.get("block", "") is None:
                fact.slots["block"] = name
        facts += [fact for fact in block.facts if fact.slots.get("block", "") is not None]
    return facts


def _ask_whether(draft, texts, shown):
    """Whether a text is on the page: one that is, or one that is not."""
    rng, text = draft.rng, draft.rng.choice(texts)
    if rng.random() < 0.5 and len(text.text) < 60:
        return Fact("exists", "yes", [text], {"text": text.text})
    kind = rng.choice(["item", "person", "code", "price", "date"])
    other = draft.texts.draw(kind, lambda text: text.casefold() not in shown.casefold())
    return Fact("exists", "no", texts, {"text": other})


def choose_facts(draft, count, transcribe):
    """Draws facts of a page to ask about: of as many kinds as there are, then any.

    Args:
        draft ([`Draft`]): a composed page.
        count (`int`): at most so many are drawn.
        transcribe (`bool`): whether to add one for all text of the page.
    """
    texts = [text for block in draft.blocks for text in block.texts]
    shown = "\n".join(block.read() for block in draft.blocks)
    facts, seen, ranked = [*_find_facts(draft), _ask_whether(draft, texts, shown)], Counter(), []
    draft.rng.shuffle(facts)
    for fact in facts:
        ranked.append((seen[fact.kind], fact))
        seen[fact.kind] += 1
    chosen = [fact for _, fact in sorted(ranked, key=lambda entry: entry[0])[:count]]
    draft.rng.shuffle(chosen)
    return chosen + [Fact("page", shown, texts, {})] * transcribe
