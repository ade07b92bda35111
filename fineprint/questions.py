# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The questions about a page, worded as in wordings.yaml."""

import re
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import yaml

from fila.fineprint.marks import Fact
from fila.fineprint.texts import LABELS

MAX_ANSWER = 300  # characters of a block that is to be transcribed

_TABLES = yaml.safe_load(Path(__file__).with_name("wordings.yaml").read_text(encoding="utf-8"))
# Patterns by the kind of question, by what is known of it, by the kind of a label's value, and by label.
WORDINGS, PLAIN, _KINDS, _LABELS, _ONLY = (
    {key: tuple(lines.splitlines()) for key, lines in _TABLES[name].items()}
    for name in ("quoting", "plain", "kinds", "labels", "only")
)
_GENERIC, _NO_NOUNS, _SAID, _SAYABLE = (_TABLES[name] for name in ("generic", "no_nouns", "said", "sayable"))
_LABEL_KINDS = {label.casefold(): (kind, label) for kind, labels in LABELS.items() for label in labels}


@cache
def list_wordings(*patterns):
    """All wordings of patterns, with the names of what is asked about in braces. `list[str]`"""
    choices = [product(*[part.split("|") for part in re.split(r"[\[\]]", pattern)]) for pattern in patterns]
    return sorted({re.sub(" +([.?]|$)", r"\1", "".join(choice)) for pattern in choices for choice in pattern})


def _find_label(text):
    """The kind and the spelling of a label in `LABELS`, whatever its case, or None and the text in lower case."""
    return _LABEL_KINDS.get(text.casefold(), (None, text.lower()))


def _say(label):
    """A label as one says it in a sentence."""
    label = _find_label(label)[1]
    said = _SAID.get(label, label.replace(" no.", " number"))
    return said if said[:2].isupper() else said[0].lower() + said[1:]


def word_question(rng, fact):
    """Draws a question for a fact: most often a plain one if it has any, else one of `WORDINGS`."""
    if fact.plain and rng.random() < 0.65:
        slots = {name: _say(text) if name in _SAYABLE.get(fact.kind, ()) else text for name, text in fact.slots.items()}
        question = rng.choice(list_wordings(rng.choice(fact.plain)))
    else:
        question, quote = rng.choice(list_wordings(*WORDINGS[fact.kind])), rng.choice(_TABLES["quotes"])
        slots = {name: quote.format(text) if name in _TABLES["quoted"] else text for name, text in fact.slots.items()}
    question = question.format(**slots)
    return question if rng.random() < 0.1 else question[0].upper() + question[1:]


def _is_once(labels, shown):
    """Whether a page says one of these labels, and once."""
    labels = "|".join(map(re.escape, labels.split("|")))
    return len(re.findall(rf"(?<!\w)(?:{labels})(?!\w)", shown, re.IGNORECASE)) == 1


def list_plain(block, fact, shown, kinds):
    """Plain patterns for a fact of a block that have one answer on a page that says `shown`, in texts of `kinds`."""
    said = [fact.slots[name] for name in _SAYABLE.get(fact.kind, ())]
    labels = [_find_label(text) for text in said]
    name = fact.kind if fact.kind in ("cell", "row") else f"{fact.kind} of {block.noun}"
    if not all(_is_once(text, shown) for text in said):
        return ()
    if name != "value of list of details":
        is_askable = fact.kind == "value" or not any(label in _NO_NOUNS for _, label in labels)
        return PLAIN.get(name, ()) if is_askable else ()
    ((kind, label),) = labels
    is_word = not kind or kinds.get(fact.answer.casefold()) != kind  # even if it happens to be a label
    if is_word or label in _GENERIC and list(kinds.values()).count(kind) > 1:
        return ()
    common = PLAIN["label"][kind == "person" :]  # nobody asks "What is the driver?"
    patterns = () if label in _NO_NOUNS else common + _KINDS.get(kind, ())
    for group, more in _LABELS.items():
        if label in group.split("|"):
            patterns += tuple(line for line in more if "{key}" in line or _is_once(group, shown))
    return patterns


def _find_single(draft, shown, kinds):
    """Facts about what is alone on a page: a text of a kind, the first and the last line, the largest text."""
    rng, lines = draft.rng, [line for block in draft.blocks for line in block.lines]
    texts, found, places = [text for line in lines for text in line], [], []
    if not {"code", "terminal"}.intersection(block.noun for block in draft.blocks):  # their texts have no kinds
        found, counts = [(kinds[text.text.casefold()], [text]) for text in texts], Counter(kinds.values())
        found = [(kind, marks) for kind, marks in found if counts[kind] == 1 and _is_only(kind, marks[0].text, shown)]
    tops = np.array([min(text.y - text.capital * 1.1 for text in line) for line in lines])
    bottoms = np.array([max(text.y + text.capital * 0.3 for text in line) for line in lines])
    capitals = np.array([text.capital for text in texts])
    top, bottom, largest = tops.argmin(), bottoms.argmax(), capitals.argmax()
    if (tops <= bottoms[top]).sum() == 1:
        places.append(("top", lines[top]))
    if (bottoms >= tops[bottom]).sum() == 1:
        places.append(("bottom", lines[bottom]))
    if (capitals * 1.3 >= capitals[largest]).sum() == 1:
        places.append(("letters", [texts[largest]]))
    if places:
        found.append(rng.choice(places))
    for name, marks in found:
        answer, (what, *more) = " ".join(text.text for text in marks), _ONLY[name]
        if sum(map(str.isalnum, answer)) > 1 and len(answer) < 100:
            kind = "place" if (name, marks) in places else "only"
            yield Fact(kind, answer, marks, {"what": rng.choice(what.split("|"))}, (*more, *WORDINGS[kind]))


def _is_only(kind, text, shown):
    """Whether nobody would take anything else on the page for a text of this kind, nor this one for another."""
    if kind == "percent":
        return shown.count("%") == 1
    is_plain_number = kind == "price" and not re.search(r"[^\d.,]", text)
    is_fax = kind == "phone" and re.search(r"\bfax\b", shown, re.IGNORECASE)
    return kind in _ONLY and not is_plain_number and not is_fax


def _find_facts(draft, texts, shown):
    """All that can be asked about a page without ambiguity, as facts whose blocks have names."""
    rng, used = draft.rng, draft.texts.used
    kinds = {folded: used.get(folded) for folded in {text.text.casefold() for text in texts}}
    facts = list(_find_single(draft, shown, kinds))
    nouns, counts = Counter(block.noun for block in draft.blocks), Counter(shown.casefold().splitlines())
    for block in draft.blocks:
        name, lines = f"the {block.noun}" if nouns[block.noun] == 1 else None, block.read().splitlines()
        if block.title and name:
            block.ask("heading", [block.title], block=name)
        if block.title and (name is None or rng.random() < 0.3):
            name = f'the {block.noun} {rng.choice(["under", "with the title", "called"])} "{block.title.text}"'
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
            fact.plain = list_plain(block, fact, shown, kinds)
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
    """Draws up to `count` facts of a composed page to ask about: of as many kinds and plain wordings as there are,
    then any; and with `transcribe` one more for all text of the page."""
    texts = [text for block in draft.blocks for text in block.texts]
    shown = "\n".join(block.read() for block in draft.blocks)
    facts, seen, ranked = [*_find_facts(draft, texts, shown), _ask_whether(draft, texts, shown)], Counter(), []
    draft.rng.shuffle(facts)
    for fact in facts:
        is_ahead = fact.kind == "value" and fact.plain and draft.rng.random() < 0.5  # what people ask about most
        ranked.append((seen[fact.kind, fact.plain] - bool(is_ahead), fact))
        seen[fact.kind, fact.plain] += 1
    chosen = [fact for _, fact in sorted(ranked, key=lambda entry: entry[0])[:count]]
    draft.rng.shuffle(chosen)
    return chosen + [Fact("page", shown, texts, {})] * transcribe
