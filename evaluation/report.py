# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What an evaluation leaves: results, answers, and tables for people."""

import json

TABLE = """# {model_name_or_path} on {data}, {split}

Greedy answers of up to {max_new_tokens} tokens; {dtype} on {processor}, transformers {transformers}. In percent, with \
95 % confidence intervals (percentile bootstrap over questions). Case and the amount of white space do not count.

| grouping | group | questions | exact match | ANLS |
|---|---|---:|---:|---:|
"""


def write_results(results, answers, folder):
    """Writes the results of run_eval.py and its answers, one a line, and tables of the results."""
    (folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers]
    (folder / "predictions.jsonl").write_text("".join(lines), encoding="utf-8")
    rows = [("all", "", results["overall"])]
    rows += [(grouping, name, part) for grouping, parts in results["groups"].items() for name, part in parts.items()]
    table = TABLE.format(**results["settings"] | results["environment"])
    for grouping, name, summary in rows:
        cells = [grouping, name.replace("|", "\\|").replace("\n", " "), str(summary["n"])]
        for key in ("em", "anls"):
            bounds = [f"{100 * bound:.1f}" for bound in summary[f"{key}_ci"] or []]
            cells.append(f"{100 * summary[key]:.1f}" + (f" [{', '.join(bounds)}]" if bounds else ""))
        table += f"| {' | '.join(cells)} |\n"
    (folder / "results.md").write_text(table, encoding="utf-8")
