# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The questions of a dataset: read, checked and asked in batches."""

from reprlib import repr as shorten

import jinja2
from datasets import ClassLabel
from tqdm import trange

from fila.common.arguments import UserError
from fila.common.images import decode_image, get_image_size
from fila.evaluation.answer import generate_answers, prepare_inputs
from fila.training.rows import read_row


def read_question(source, row, decode=False):
    """`dict`: the first question of row number `row` of a [`~fila.training.data.DataSource`]: `messages` before the
    first answer, with the images in their items if `decode` is set; `question`, the text of the last message;
    `references`, a list of texts; `image_sizes`, as (height, width); `row`; and `columns`, those of plain values.
    Raises a `UserError` that names file and row if the row is invalid, has no answer, or an image cannot be read."""
    try:
        content = source.read(row)
        example = read_row(content, source.image_folder)
        turn = [message["role"] for message in example["messages"]].index("assistant")
        messages, references = example["messages"][:turn], content.get("answers")
        if isinstance(references, list):  # of years, perhaps
            references = [str(text) if type(text) in (int, float) else text for text in references]
        references = references or [_get_text(example["messages"][turn])]
        if not isinstance(references, list) or not all(isinstance(text, str) and text.strip() for text in references):
            raise ValueError(f"has the 'answers' {shorten(references)}; allowed is a list of texts that are not empty")
        items = [item for message in messages for item in message["content"] if item["type"] == "image"]
        images = example["images"][: len(items)]
        sizes = [get_image_size(image) for image in images]
        if decode:
            for item, image in zip(items, images):
                item["image"] = decode_image(image)
    except ValueError as error:
        raise UserError(f"--data {source.describe(row)} {error}. Fix or remove this row.") from error
    columns = {name: value for name, value in content.items() if isinstance(value, str | int | float | None)}
    for name, feature in source.dataset.features.items():
        if isinstance(feature, ClassLabel) and columns[name] is not None:
            columns[name] = feature.int2str(columns[name])
    question = {"row": row, "question": _get_text(messages[-1]), "references": references, "image_sizes": sizes}
    return question | {"columns": columns, "messages": messages}


def _get_text(message):
    return "".join(item["text"] for item in message["content"] if item["type"] == "text").strip()


def answer_questions(model, processor, source, questions, options):
    """`list[str]`: the answers to `questions`, which are those of all rows of `source`, in their order. Those of like
    size are asked together and the largest first, so that memory runs out early or not at all. Raises a `UserError` if
    an image is broken, or if the processor refuses a question."""
    image_processor = processor.image_processor
    count_tokens = getattr(image_processor, "get_number_of_image_tokens", lambda height, width: height * width)

    def get_lengths(row):
        sizes = questions[row]["image_sizes"]
        return sum(count_tokens(*size) for size in sizes), len(questions[row]["question"])

    order, answers = sorted(range(len(questions)), key=get_lengths, reverse=True), {}
    for start in trange(0, len(order), options.batch_size, unit=" batches"):
        rows = order[start : start + options.batch_size]
        conversations = [read_question(source, row, decode=True)["messages"] for row in rows]
        try:
            inputs = prepare_inputs(processor, conversations)
        except (ValueError, jinja2.TemplateError) as error:
            names = "; ".join(source.describe(row) for row in rows)
            raise UserError(f"--data The model's processor refuses a question of {names}: {error}") from error
        answers |= zip(rows, generate_answers(model, processor, inputs, max_new_tokens=options.max_new_tokens))
    return [answers[row] for row in range(len(questions))]
