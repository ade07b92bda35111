# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Evaluates a vision-language model on questions about images: how many answers are right, overall and by group.

python run_eval.py --model_name_or_path stage2 --data build/fineprint --output_dir results/stage2 \\
    --group_by position kind text_height:8,10,12,16 'position*text_height:12'

The model is a folder or a Hub id: a FILA, or any model of transformers that `AutoModelForImageTextToText` loads and
whose processor has a chat template. Code that comes with it is run.

The data is what train.py takes. The first question of a row is asked, with what comes before it, and decoded greedily.
Its reference is the assistant's answer, or any of the texts in the column `answers` if the row has one.
evaluation/metrics.py says how answers are scored.

The output folder is complete or absent: `results.json`, `results.md` (tables) and `predictions.jsonl` (an answer each
line, in the order of the data).
"""

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.common.layout import DtypeName
from fila.evaluation.answer import load_model
from fila.evaluation.metrics import make_keys, score, summarize_groups, summarize_scores
from fila.evaluation.questions import answer_questions, read_question
from fila.training.data import load_data_source

TABLE = """# {model_name_or_path} on {data}, {split}

Greedy answers of up to {max_new_tokens} tokens; {dtype} on {processor}, transformers {transformers}. In percent, with \
95 % confidence intervals (percentile bootstrap over questions). Case and the amount of white space do not count.

| grouping | group | questions | exact match | ANLS |
|---|---|---:|---:|---:|
"""


@dataclass
class EvaluationArguments:
    """What is evaluated, on what, and where the results go."""

    model_name_or_path: str = HfArg(help="The model: a folder or Hub id.")
    data: str = HfArg(help="A file, a folder of save_to_disk or a Hub dataset.")
    name: str | None = HfArg(default=None, help="Configuration of a Hub dataset.")
    split: str = HfArg(default="test", help="Split of the dataset; a file has none.")
    image_folder: str | None = HfArg(default=None, help="Where relative paths of images start.")
    output_dir: str = HfArg(default="results", help="A folder to make.")
    group_by: list[str] = HfArg(default_factory=list, help="Columns, COLUMN:EDGE,EDGE for ranges, products with *.")
    limit: int | None = HfArg(default=None, help="Ask the first so many rows.")
    batch_size: int = HfArg(default=8, help="Questions that are answered together.")
    max_new_tokens: int = HfArg(default=32, help="Longest answer, in tokens.")
    dtype: DtypeName = HfArg(default="auto", help="Of the weights.")
    device: str | None = HfArg(default=None, help="Such as cuda or cpu; an accelerator if there is one.")
    attn_implementation: str | None = HfArg(default=None, help="Such as sdpa or flash_attention_2.")

    def check(self):
        """Raises a `UserError` for values that are not allowed."""
        for name in ("limit", "batch_size", "max_new_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too small: give 1 or more.")
        if Path(self.output_dir).exists():
            raise UserError(f"--output_dir {self.output_dir} exists already. Choose another one, or remove it.")


def describe_environment(model):
    """`dict`: versions of libraries, and what the model ran on."""
    is_cuda = model.device.type == "cuda"
    processor = torch.cuda.get_device_name(model.device) if is_cuda else platform.processor() or platform.machine()
    libraries = {name: version(name) for name in ("transformers", "torch", "datasets", "anls_star", "scipy")}
    place = {"device": model.device.type, "processor": processor, "dtype": str(model.dtype).removeprefix("torch.")}
    return {**libraries, **place, "model_type": model.config.model_type}


def evaluate(options):
    """Does what [`EvaluationArguments`] say, and returns the `dict` of results.json. Raises a `UserError` for anything
    that a user can fix. No output is left then."""
    options.check()
    entry = {"path": options.data, "name": options.name, "split": options.split, "image_folder": options.image_folder}
    source = load_data_source(0, entry)
    if options.limit:
        source.dataset = source.dataset.take(min(options.limit, len(source.dataset)))
    try:
        with new_folder(options.output_dir) as folder:
            results, answers = ask(source, options)
            write_results(results, answers, folder)
    except OSError as error:
        raise UserError(f"--output_dir {options.output_dir} cannot be written: {error}") from error
    return results


def ask(source, options):
    """`tuple[dict, list[dict]]`: the content of results.json, and the lines of predictions.jsonl."""
    questions = [read_question(source, row) for row in range(len(source.dataset))]
    columns = pd.DataFrame([question["columns"] for question in questions]).dropna(axis=1, how="all")
    groups = make_keys(columns, options.group_by)
    names = dict.fromkeys(key.name for keys in groups.values() for key in keys)
    load_options = (options.dtype, options.device, options.attn_implementation)
    model, processor = load_model(options.model_name_or_path, *load_options)
    predictions = answer_questions(model, processor, source, questions, options)
    answers = []
    for question, text in zip(questions, predictions):
        answer = {key: question[key] for key in ("row", "question", "references")} | {"prediction": text}
        answer |= score(text, question["references"])
        answers.append(answer | {"groups": {name: question["columns"].get(name) for name in names}})
    scores = pd.DataFrame(answers, columns=["em", "anls"])
    results = {
        "settings": asdict(options),
        "environment": describe_environment(model),
        "overall": summarize_scores(scores),
        "groups": {name: summarize_groups(scores, keys) for name, keys in groups.items()},
    }
    return results, answers


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


def main(arguments=None):
    (options,) = parse_arguments(EvaluationArguments, __doc__, arguments)
    evaluate(options)
    print((Path(options.output_dir) / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    run_command(main)
