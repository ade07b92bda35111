# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Asks a vision-language model questions about images and pages of PDFs, and writes the answers to a file of JSON Lines.

python -m fila.evaluation.ask scans letter.pdf --question "What is the total?" "Who sent it?" --output answers.jsonl

A line has `file`, `page` (null for an image), `question`, and `answer`, or else `error`, which says why there is none.
Folders are searched to the bottom, without hidden files. Of an animation, or a TIFF of several pages, the first is read.
Started again, the command asks what the output has no answer to. Lines with an `error` are replaced, and so are those of a
file that has another `size` or time (`modified`) now. Beside the output, answers.settings.json has the options that
answers depend on; with others, the command refuses to go on.
"""

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from glob import escape, iglob
from itertools import product
from pathlib import Path
from typing import Literal

import PIL.Image
from tqdm import tqdm
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_files
from fila.evaluation.answer import generate_answers, load_model, prepare_inputs
from fila.image_processing_fila import load_image

SUFFIXES = (".pdf", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".avif", ".jp2", ".ppm", ".pgm")
KEY = ("file", "page", "question")
SETTINGS = ".settings.json"


@dataclass
class AskArguments:
    """What is asked, about what, and where the answers go."""

    inputs: list[str] = HfArg(default_factory=list, help="Images, PDFs and folders; given first, without --inputs.")
    question: list[str] = HfArg(default_factory=list, metadata={"action": "extend"}, help="Asked about every page.")
    output: str = HfArg(default="answers.jsonl", help="A file to make, or to go on with.")
    model_name_or_path: str = HfArg(default=".", help="The model: a folder or Hub id.")
    pages: str = HfArg(default="1-", help="Pages of each PDF, such as 2, 1-3 or 2-.")
    dpi: int = HfArg(default=200, help="Resolution that pages of PDFs are drawn with.")
    batch_size: int = HfArg(default=8, help="Questions that are answered together.")
    max_new_tokens: int = HfArg(default=32, help="Longest answer, in tokens.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = HfArg(default="auto", help="Of the weights.")
    device: str | None = HfArg(default=None, help="Such as cuda or cpu; an accelerator if there is one.")

    def check(self):
        """Raises a `UserError` for values that are not allowed."""
        if Path(self.output).exists() and not Path(self.output).is_file():
            raise UserError(f"--output {self.output} is not a file. Choose another one.")
        for texts in (self.inputs, self.question):
            if not isinstance(texts, list) or not texts or not all(map(str.strip, texts)):
                raise UserError("Give images, PDFs or folders first, then --question and each question in quotes.")
        for name in ("dpi", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too small: give 1 or more.")
        first, _, last = str(self.pages).partition("-")
        if not ((first + last).isdecimal() and first and 1 <= int(first) <= int(last or first)):
            raise UserError(f"--pages {self.pages} is not allowed: give pages such as 2, 1-3 or 2-.")


def list_pages(file, pages):
    """The numbers of the pages to ask about: None for an image, and one at least for a PDF, even if it is broken."""
    if not file.lower().endswith(".pdf"):
        return [None]
    try:
        import pypdfium2

        with pypdfium2.PdfDocument(file) as pdf:
            count = len(pdf)
    except ImportError as error:
        raise UserError(f'{file} needs pypdfium2. Run: pip install -e ".[evaluate]"') from error
    except (OSError, RuntimeError):
        count = 0
    first, dash, last = str(pages).partition("-")
    return range(int(first), min(count, int(last or (count if dash else first))) + 1) or [int(first)]


def list_rows(options):
    """`dict`: by (file, page, question), the lines to write, in order and without answers. Raises a `UserError` for an
    input without files."""
    rows, output = {}, Path(options.output)
    for name in options.inputs:
        found = sorted(iglob(os.path.join(escape(name), "**"), recursive=True)) if os.path.isdir(name) else [name]
        found = [file for file in found if os.path.isfile(file) and (file == name or file.lower().endswith(SUFFIXES))]
        if not found:
            raise UserError(f"{name} is not a file, nor a folder with images or PDFs in it.")
        for file in found:
            if Path(file) not in (output, output.with_suffix(SETTINGS)):  # as scans/* has them the second time
                stat = os.stat(file)
                stamp = {"size": stat.st_size, "modified": stat.st_mtime}
                for key in product([file], list_pages(file, options.pages), options.question):
                    rows[key] = dict(zip(KEY, key)) | stamp
    return rows


def read_page(file, number, dpi):
    """`PIL.Image.Image`: an image, or a page of a PDF with no more pixels than Pillow allows. Raises any exception."""
    if number is None:
        return load_image(Path(file))
    import pypdfium2

    with pypdfium2.PdfDocument(file) as pdf:
        pdf.init_forms()  # else what was typed into a form is not drawn
        if number > len(pdf):
            raise ValueError(f"the PDF has {len(pdf)} pages")
        width, height = pdf[number - 1].get_size()
        scale = min(dpi / 72, (PIL.Image.MAX_IMAGE_PIXELS / (width * height)) ** 0.5)
        return load_image(pdf[number - 1].render(scale=scale).to_pil())


def open_output(options, rows):
    """`set` of (file, page, question) with an answer in the output, from which old and half-written lines are removed.
    Raises a `UserError` if it is not an output of this command with these options."""
    output, stamps = Path(options.output), {row["file"]: [row["size"], row["modified"]] for row in rows}
    place, kept, answered = output.with_suffix(SETTINGS), [], set()
    settings = {name: getattr(options, name) for name in ("model_name_or_path", "dtype", "dpi", "max_new_tokens")}
    weights = Path(options.model_name_or_path).glob("*.safetensors")
    settings["weights_modified"] = max(map(os.path.getmtime, weights), default=None)
    try:
        content = output.read_bytes() if output.exists() else b""
        before = json.loads(place.read_text()) if content else settings
        changed = [f"{name} {before[name]}, not {value}" for name, value in settings.items() if before[name] != value]
        for line in content.split(b"\n")[:-1]:
            row = json.loads(line)
            stamp = [row["size"], row["modified"]] if "answer" in row else None
            if stamps.get(row["file"], stamp) == stamp:
                kept.append(line + b"\n")
                answered.add(tuple(row[name] for name in KEY))
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--output {output} was not made by this command ({error!r}). Choose another one.") from error
    if changed:
        raise UserError(f"--output {output} was made with {'; '.join(changed)}. Choose another one.")
    with new_files(output.parent, last=output.name) as folder:
        (folder / place.name).write_text(json.dumps(settings, indent=2) + "\n")
        (folder / output.name).write_bytes(b"".join(kept))
    return answered


def answer_rows(model, processor, rows, options):
    """`list[dict]`: for each line its `answer`, or an `error` that says why there is none."""
    try:
        pages = {page: read_page(*page, options.dpi) for page in {(row["file"], row["page"]) for row in rows}}
        conversations = []
        for row in rows:
            image = {"type": "image", "image": pages[row["file"], row["page"]]}
            conversations.append([{"role": "user", "content": [image, {"type": "text", "text": row["question"]}]}])
        inputs = prepare_inputs(processor, conversations)
        length = inputs["input_ids"].shape[1] + options.max_new_tokens
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", sys.maxsize)
        if length > longest:
            raise ValueError(f"page, question and answer take {length} tokens, more than the {longest} of the model")
        answers = generate_answers(model, processor, inputs, max_new_tokens=options.max_new_tokens)
        return [{"answer": answer} for answer in answers]
    except Exception as error:  # of any image format, the processor or the model: the next page may be fine
        if len(rows) == 1:
            return [{"error": f"Not answered: {str(error).rstrip('.') or type(error).__name__}."}]
    return [answer_rows(model, processor, [row], options)[0] for row in rows]  # one of them is to blame


def ask(options):
    """Does what [`AskArguments`] say, and returns how many lines with `answer` and with `error` are new, as a `Counter`.
    Raises a `UserError` for what a user can fix, unless it concerns one page or question alone."""
    options.check()
    rows, counts = list_rows(options), Counter()
    try:
        answered = open_output(options, rows.values())
        rows = [row for key, row in rows.items() if key not in answered]
        loaded = load_model(options.model_name_or_path, options.dtype, options.device) if rows else ()
        with open(options.output, "a", encoding="utf-8", errors="backslashreplace") as file:
            for start in tqdm(range(0, len(rows), options.batch_size), unit=" batches"):
                batch = rows[start : start + options.batch_size]
                for row, result in zip(batch, answer_rows(*loaded, batch, options)):
                    file.write(json.dumps(row | result, ensure_ascii=False) + "\n")
                    counts.update(result.keys())
                file.flush()
    except OSError as error:
        raise UserError(f"--output {options.output} cannot be written: {error}") from error
    return counts


def main(arguments=None):
    arguments = list(sys.argv[1:] if arguments is None else map(str, arguments))
    if arguments and not arguments[0].startswith("-") and not arguments[0].endswith((".yaml", ".yml")):
        arguments.insert(0, "--inputs")
    (options,) = parse_arguments(AskArguments, __doc__, arguments)
    counts = ask(options)
    print(f"{options.output}: {counts['answer']} new answers, {counts['error']} errors")


if __name__ == "__main__":
    run_command(main)
