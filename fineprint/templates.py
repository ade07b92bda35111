# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How documents of each kind are laid out, framed and named, split by split."""


def _templates(names, **columns):
    """Templates of one kind from columns of settings."""
    return {name: {key: column[index] for key, column in columns.items()} for index, name in enumerate(names)}


# By kind and split: the ways in which the parts of a document are arranged, framed and named.
TEMPLATES = {
    "receipt": {
        "train": _templates(
            ["till", "dotted", "ruled", "compact", "kiosk"],
            order=["head meta items foot", "head items foot meta", "meta head items foot", "head items foot", "items foot head meta"],
            align=[0.5, 0, 0.5, 1, 0],
            items=["justified", "leader", "rules", "justified", "value_first"],
            rule=["dashed", None, None, "solid", "dashed"],
            meta=["justified", "inline", "inline", "justified", "value_first"],
            foot=["justified", "leader", "justified", "inline", "value_first"],
            upper=[True, False, False, True, False],
            total=["TOTAL", "Total", "Amount", "TO PAY", "Total due"],
            total_scale=[1.2, 1.0, 1.3, 1.0, 1.5],
            date=["Date", "Date:", "On", "DATE", "Day"],
            time=["Time", "Time:", "At", "TIME", "Hour"],
            number=["No.", "Receipt:", "Receipt no.", "NO", "Number"],
            phone=["Tel", "Phone:", "Call", "TEL", "Tel."],
        ),
        "validation": _templates(
            ["striped"],
            order=["head meta foot items"], align=[1], items=["stripes"], rule=[None], meta=["leader"], foot=["justified"],
            upper=[False], total=["Grand total"], total_scale=[1.1], date=["Issued"], time=["Clock"], number=["Ref."],
            phone=["T"],
        ),
        "test": _templates(
            ["stacked", "framed", "headline"],
            order=["meta head items foot", "head foot items meta", "foot head meta items"],
            align=[0, 0.5, 1],
            items=["stacked", "frame", "leader"],
            rule=["solid", None, "solid"],
            meta=["stacked", "leader", "justified"],
            foot=["stacked", "inline", "justified"],
            upper=[False, False, True],
            total=["Sum total", "Total:", "TOTAL SUM"],
            total_scale=[1.1, 1.4, 1.2],
            date=["Date of sale", "Sold on", "DATED"],
            time=["Time of sale", "Sold at", "TIMED"],
            number=["Receipt #", "Slip no.", "SLIP"],
            phone=["Ph.", "Telephone", "PHONE"],
        ),
    },
    "form": {
        "train": _templates(
            ["list", "spread", "boxes", "dots"],
            fields=["inline", "justified", "boxed", "leader"],
            colon=[":", "", "", ""],
            bold_label=[False, True, False, False],
            titles=[["Registration", "Application"], ["Member card", "Profile"], ["Sign-up form", "Request"], ["Entry form", "Record"]],
            title_scale=[1.3, 1.2, 1.4, 1.0],
            align=[0, 0.5, 0, 1],
        ),
        "validation": _templates(
            ["reversed"], fields=["value_first"], colon=[""], bold_label=[False], titles=[["Check-in", "Data sheet"]],
            title_scale=[1.2], align=[0.5],
        ),
        "test": _templates(
            ["lines", "bold", "piled"],
            fields=["underlined", "inline", "stacked"],
            colon=["", " -", ":"],
            bold_label=[False, True, True],
            titles=[["Questionnaire", "Visitor form"], ["Fact sheet", "File card"], ["Enrolment", "Booking"]],
            title_scale=[1.2, 1.1, 1.3],
            align=[1, 0.5, 0],
        ),
    },
    "letter": {
        "train": _templates(
            ["formal", "short", "bill", "memo"],
            order=["address meta body sign", "meta body sign", "address meta body", "meta address body sign"],
            address_align=[0, 0, 1, 0],
            meta=["inline", "justified", "inline", "stacked"],
            date=["Date:", "Date", "Date:", "Dated"],
            reference=["Reference:", "Ref.", "No.:", "Our sign"],
            bold_fact=[False, True, False, False],
            closing=["Yours sincerely", "Kind regards", "Respectfully", "Best wishes"],
            invoice=[None, None, "rules", None],
        ),
        "validation": _templates(
            ["note"], order=["body meta sign address"], address_align=[1], meta=["leader"], date=["As of"], reference=["File"],
            bold_fact=[False], closing=["Cheers"], invoice=[None],
        ),
        "test": _templates(
            ["notice", "account", "reply"],
            order=["body sign meta address", "meta address body sign", "address body sign meta"],
            address_align=[0.5, 0, 1],
            meta=["justified", "leader", "underlined"],
            date=["Written on", "Date of issue", "Sent on"],
            reference=["Ref. no.", "Reference no.", "Ref"],
            bold_fact=[False, False, True],
            closing=["Regards", "With thanks", "Yours truly"],
            invoice=[None, "head", None],
        ),
    },
    "table": {
        "train": _templates(
            ["framed", "ruled", "striped", "loose"],
            look=["frame", "rules", "stripes", "plain"],
            across=[False, False, False, False],
            right_from=[1, 9, 1, 1],
            title=["{noun} overview", "Figures by {noun}", "{noun} report", "Numbers"],
            title_scale=[1.2, 1.0, 1.3, 1.1],
            align=[0, 0.5, 0, 1],
        ),
        "validation": _templates(
            ["left"], look=["head"], across=[False], right_from=[9], title=["{noun} data"], title_scale=[1.1], align=[0],
        ),
        "test": _templates(
            ["headed", "turned", "block"],
            look=["head", "rules", "frame"],
            across=[False, True, False],
            right_from=[1, 1, 0],
            title=["{noun} statistics", "{noun} compared", "List"],
            title_scale=[1.2, 1.1, 1.0],
            align=[0.5, 0, 1],
        ),
    },
    "chart": {
        "train": _templates(
            ["upright", "flat", "upright_inside", "flat_column"],
            flat=[False, True, False, True],
            amount=["end", "end", "inside", "column"],
            bar=[0.6, 0.7, 0.8, 0.4],
            grid_lines=[True, False, False, False],
            label_right=[False, True, False, False],
            title_scale=[1.2, 1.1, 1.0, 1.3],
            title_below=[False, False, True, False],
            align=[0.5, 0, 0.5, 0],
        ),
        "validation": _templates(
            ["flat_thick"], flat=[True], amount=["inside"], bar=[0.9], grid_lines=[False], label_right=[False],
            title_scale=[1.0], title_below=[True], align=[1],
        ),
        "test": _templates(
            ["flat_inside", "upright_thin"],
            flat=[True, False],
            amount=["inside", "end"],
            bar=[0.75, 0.3],
            grid_lines=[False, False],
            label_right=[True, False],
            title_scale=[1.2, 1.3],
            title_below=[False, True],
            align=[0.5, 0],
        ),
    },
    "sign": {
        "train": _templates(
            ["plain", "framed", "double", "shout"],
            lines=[1, 1, 2, 2],
            frame=[None, "outline", None, "outline"],
            upper=[False, True, False, True],
            bold=[False, True, False, True],
            align=[0.5, 0.5, 0, 0.5],
        ),
        "validation": _templates(
            ["edge"], lines=[2], frame=["edge"], upper=[False], bold=[True], align=[0],
        ),
        "test": _templates(
            ["bars", "bars_double"],
            lines=[1, 2],
            frame=["bars", "bars"],
            upper=[False, True],
            bold=[True, False],
            align=[0.5, 1],
        ),
    },
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
        "closing": ["Sincerely", "Best", "Greetings", "Many thanks", "Cordially", "See you soon", "Take care", "Signed"],
        "address_align": [0.2, 0.5, 0.8],
        "meta": ["value_first"],
    },
    "table": {"title": ["All about {noun}", "Table", "Summary", "{noun} list", "Results by {noun}", "Totals"]},
    "chart": {"bar": [0.5, 0.9], "align": [0.2, 0.8, 1]},
    "sign": {"align": [0.2, 0.8]},
}  # fmt: skip


def mix_template(kind, rng):
    """A template of a training page whose settings are drawn one by one, from those of all training templates and a few
    more, and whose parts are in any order that no template of another split has.

    Args:
        kind (`str`): one of `KINDS`.
        rng (`random.Random`): where all chance comes from.
    """
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
