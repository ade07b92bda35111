# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How documents of each kind are laid out, framed and named, split by split."""

from fila.fineprint.sources import SPLITS


def _templates(names, **settings):
    """Templates of one kind by split and name, from the values of each setting in training, validation and test."""
    return {
        split: {
            name: {key: values[row][column] for key, values in settings.items()}
            for column, name in enumerate(names[row])
        }
        for row, split in enumerate(SPLITS)
    }


# By kind and split: the ways in which the parts of a document are arranged, framed and named.
TEMPLATES = {
    "receipt": _templates(
        names=(["till", "dotted", "ruled", "compact", "kiosk"], ["striped"], ["stacked", "framed", "headline"]),
        order=(["head meta items foot", "head items foot meta", "meta head items foot",
                "head items foot", "items foot head meta"],
               ["head meta foot items"], ["meta head items foot", "head foot items meta", "foot head meta items"]),
        align=([0.5, 0, 0.5, 1, 0], [1], [0, 0.5, 1]),
        items=(["justified", "leader", "rules", "justified", "value_first"],
               ["stripes"], ["stacked", "frame", "leader"]),
        rule=(["dashed", None, None, "solid", "dashed"], [None], ["solid", None, "solid"]),
        meta=(["justified", "inline", "inline", "justified", "value_first"],
              ["leader"], ["stacked", "leader", "justified"]),
        foot=(["justified", "leader", "justified", "inline", "value_first"],
              ["justified"], ["stacked", "inline", "justified"]),
        upper=([True, False, False, True, False], [False], [False, False, True]),
        total=(["TOTAL", "Total", "Amount", "TO PAY", "Total due"],
               ["Grand total"], ["Sum total", "Total:", "TOTAL SUM"]),
        total_scale=([1.2, 1.0, 1.3, 1.0, 1.5], [1.1], [1.1, 1.4, 1.2]),
        date=(["Date", "Date:", "On", "DATE", "Day"], ["Issued"], ["Date of sale", "Sold on", "DATED"]),
        time=(["Time", "Time:", "At", "TIME", "Hour"], ["Clock"], ["Time of sale", "Sold at", "TIMED"]),
        number=(["No.", "Receipt:", "Receipt no.", "NO", "Number"], ["Ref."], ["Receipt #", "Slip no.", "SLIP"]),
        phone=(["Tel", "Phone:", "Call", "TEL", "Tel."], ["T"], ["Ph.", "Telephone", "PHONE"]),
    ),
    "form": _templates(
        names=(["list", "spread", "boxes", "dots"], ["reversed"], ["lines", "bold", "piled"]),
        fields=(["inline", "justified", "boxed", "leader"], ["value_first"], ["underlined", "inline", "stacked"]),
        colon=([":", "", "", ""], [""], ["", " -", ":"]),
        bold_label=([False, True, False, False], [False], [False, True, True]),
        titles=([["Registration", "Application"], ["Member card", "Profile"],
                 ["Sign-up form", "Request"], ["Entry form", "Record"]],
                [["Check-in", "Data sheet"]],
                [["Questionnaire", "Visitor form"], ["Fact sheet", "File card"], ["Enrolment", "Booking"]]),
        title_scale=([1.3, 1.2, 1.4, 1.0], [1.2], [1.2, 1.1, 1.3]),
        align=([0, 0.5, 0, 1], [0.5], [1, 0.5, 0]),
    ),
    "letter": _templates(
        names=(["formal", "short", "bill", "memo"], ["note"], ["notice", "account", "reply"]),
        order=(["address meta body sign", "meta body sign", "address meta body", "meta address body sign"],
               ["body meta sign address"],
               ["body sign meta address", "meta address body sign", "address body sign meta"]),
        address_align=([0, 0, 1, 0], [1], [0.5, 0, 1]),
        meta=(["inline", "justified", "inline", "stacked"], ["leader"], ["justified", "leader", "underlined"]),
        date=(["Date:", "Date", "Date:", "Dated"], ["As of"], ["Written on", "Date of issue", "Sent on"]),
        reference=(["Reference:", "Ref.", "No.:", "Our sign"], ["File"], ["Ref. no.", "Reference no.", "Ref"]),
        bold_fact=([False, True, False, False], [False], [False, False, True]),
        closing=(["Yours sincerely", "Kind regards", "Respectfully", "Best wishes"],
                 ["Cheers"], ["Regards", "With thanks", "Yours truly"]),
        invoice=([None, None, "rules", None], [None], [None, "head", None]),
    ),
    "table": _templates(
        names=(["framed", "ruled", "striped", "loose"], ["left"], ["headed", "turned", "block"]),
        look=(["frame", "rules", "stripes", "plain"], ["head"], ["head", "rules", "frame"]),
        across=([False, False, False, False], [False], [False, True, False]),
        right_from=([1, 9, 1, 1], [9], [1, 1, 0]),
        title=(["{noun} overview", "Figures by {noun}", "{noun} report", "Numbers"],
               ["{noun} data"], ["{noun} statistics", "{noun} compared", "List"]),
        title_scale=([1.2, 1.0, 1.3, 1.1], [1.1], [1.2, 1.1, 1.0]),
        align=([0, 0.5, 0, 1], [0], [0.5, 0, 1]),
    ),
    "chart": _templates(
        names=(["upright", "flat", "upright_inside", "flat_column"], ["flat_thick"], ["flat_inside", "upright_thin"]),
        flat=([False, True, False, True], [True], [True, False]),
        amount=(["end", "end", "inside", "column"], ["inside"], ["inside", "end"]),
        bar=([0.6, 0.7, 0.8, 0.4], [0.9], [0.75, 0.3]),
        grid_lines=([True, False, False, False], [False], [False, False]),
        label_right=([False, True, False, False], [False], [True, False]),
        title_scale=([1.2, 1.1, 1.0, 1.3], [1.0], [1.2, 1.3]),
        title_below=([False, False, True, False], [True], [False, True]),
        align=([0.5, 0, 0.5, 0], [1], [0.5, 0]),
    ),
    "sign": _templates(
        names=(["plain", "framed", "double", "shout"], ["edge"], ["bars", "bars_double"]),
        lines=([1, 1, 2, 2], [2], [1, 2]),
        frame=([None, "outline", None, "outline"], ["edge"], ["bars", "bars"]),
        upper=([False, True, False, True], [False], [False, True]),
        bold=([False, True, False, True], [True], [True, False]),
        align=([0.5, 0.5, 0, 0.5], [0], [0.5, 1]),
    ),
}  # fmt: skip

# More of what mixed templates choose from. No other split has these words.
MORE_SETTINGS = {
    "receipt": {
        "total": ["SUM", "Balance", "Pay", "Total amount", "AMOUNT DUE", "Due"],
        "date": ["Bought", "Date/", "Printed", "DAY", "Purchase"],
        "time": ["Hour:", "TIME:", "Printed at", "Time of day"],
        "number": ["Bill", "Order", "TICKET", "Invoice:", "#", "Trans.", "Check no."],
        "phone": ["Fon", "Mobile", "CALL", "Service line", "Hotline:", "Contact"],
    },
    "form": {"colon": [".", " >", " :", " /"]},
    "letter": {
        "date": ["Day", "Posted", "Date of letter", "On the", "DATE:", "Typed on", "Today is"],
        "reference": ["File no.", "Case:", "Your sign", "Code", "REF:", "Process", "Matter no."],
        "closing": ["Sincerely", "Best", "Greetings", "Many thanks",
                    "Cordially", "See you soon", "Take care", "Signed"],
        "address_align": [0.2, 0.5, 0.8],
        "meta": ["value_first"],
    },
    "table": {"title": ["All about {noun}", "Table", "Summary", "{noun} list", "Results by {noun}", "Totals"]},
    "chart": {"bar": [0.5, 0.9], "align": [0.2, 0.8, 1]},
    "sign": {"align": [0.2, 0.8]},
}  # fmt: skip


def mix_template(kind, rng):
    """A template of a training page: its settings are drawn one by one, from those of all training templates and a few
    more, and its parts are in any order that no template of another split has."""
    templates = TEMPLATES[kind]["train"].values()
    mixed = {}
    for key in next(iter(templates)):
        mixed[key] = rng.choice([*(template[key] for template in templates), *MORE_SETTINGS[kind].get(key, [])])
    if "order" in mixed:
        others = {template["order"] for split in ("validation", "test") for template in TEMPLATES[kind][split].values()}
        parts = mixed["order"].split()
        rng.shuffle(parts)
        while " ".join(parts) in others:
            rng.shuffle(parts)
        mixed["order"] = " ".join(parts)
    return mixed
