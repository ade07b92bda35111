# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""run_eval.py: groups, order, output, bad input."""

import io
import json
import runpy
import sys

import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from malformed import malformed_rows
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from fila import run_eval
from fila.common.arguments import UserError
from fila.evaluation.questions import read_question
from fila.run_eval import EvaluationArguments
from fila.training.data import load_data_source
from helpers import ROOT, chat, chat_inputs, random_image, tiny_model, tiny_processor

SIZES = [(60, 140), (140, 60), (200, 90), (120, 120), (30, 30), (60, 150)]
FEATURES = Features(
    {
        "images": List(Image()),
        "messages": List(
            {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
        ),
        "answers": List(Value("string")),
        "position": Value("string"),
        "kind": ClassLabel(names=["menu", "bill"]),
        "text_height": Value("float32"),
        "box": List(Value("float32"), length=8),
    }
)


def encode(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def write_data(folder, references, answers=None):
    """A dataset of save_to_disk; the second turn of each row is never asked."""
    rows = []
    for number, (size, reference) in enumerate(zip(SIZES, references)):
        question = [{"type": "image", "text": None}, {"type": "text", "text": f"What is {'very ' * number}$here?"}]
        turns = [question, [{"type": "text", "text": reference}]] * 2
        turns[2:] = [[{"type": "text", "text": "And there?"}], [{"type": "text", "text": "Nothing."}]]
        rows.append(
            {
                "images": [encode(random_image(*size, seed=number))],
                "messages": [{"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate(turns)],
                "answers": None if answers is None else answers[number],
                "position": ("across", "inside", None)[number % 3],
                "kind": number % 2,
                "text_height": 8 + 2 * number,
                "box": [5, 5, 25, 5, 25, 15, 5, 15],
            }
        )
    Dataset.from_list(rows, features=FEATURES).save_to_disk(folder)
    return folder


def run(model, data, output, **kwargs):
    options = {"max_new_tokens": 3, "batch_size": 4, "device": "cpu", **kwargs}
    results = run_eval.evaluate(EvaluationArguments(str(model), str(data), output_dir=str(output), **options))
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return results, lines


@pytest.fixture(scope="module")
def first_run(model_folder, tmp_path_factory):
    """Results and predictions on answers that are all wrong."""
    folder = tmp_path_factory.mktemp("first")
    return run(model_folder, write_data(folder / "data", ["zzzzzzzzzzzzzzzz"] * 6), folder / "results")


# Groups


def test_groups_sum_to_the_whole(first_run, model_folder, tmp_path):
    answers = [line["prediction"] for line in first_run[1]]
    assert len(set(answers)) > 1
    references = [[text, "other"] if number < 3 else ["zzzzzzzzzzzz"] for number, text in enumerate(answers)]
    data = write_data(tmp_path / "data", ["never read"] * 6, references)
    output = tmp_path / "results"
    results, lines = run(
        model_folder, data, output, group_by=["position", "kind", "text_height:10,14", "kind*text_height:12"]
    )
    assert [line["em"] for line in lines] == [1, 1, 1, 0, 0, 0]
    assert results["overall"]["n"] == 6
    assert results["overall"]["em"] == results["overall"]["anls"] == 0.5
    counts = {
        column: {name: group["n"] for name, group in groups.items()} for column, groups in results["groups"].items()
    }
    assert counts == {
        "position": {"across": 2, "inside": 2, "none": 2},
        "kind": {"menu": 3, "bill": 3},
        "text_height": {"below 10": 1, "10 to 14": 2, "14 and above": 3},
        "kind*text_height": {
            "bill, below 12": 1,
            "bill, 12 and above": 2,
            "menu, below 12": 1,
            "menu, 12 and above": 2,
        },
    }
    for groups in results["groups"].values():
        assert sum(group["n"] * group["em"] for group in groups.values()) == pytest.approx(3)
    assert results["groups"]["text_height"]["10 to 14"]["em"] == 1
    assert lines[2] == {
        "row": 2,
        "question": "What is very very $here?",
        "references": references[2],
        "prediction": answers[2],
        "em": 1,
        "anls": 1.0,
        "groups": {"position": None, "kind": "menu", "text_height": 12.0},
    }
    table = (output / "results.md").read_text()
    assert "| all |  | 6 | 50.0 [16.7, 83.3] | 50.0 [16.7, 83.3] |" in table
    assert "| text_height | below 10 | 1 | 100.0 | 100.0 |" in table
    assert json.loads((output / "results.json").read_text()) == results


def test_columns_of_json_are_grouped_by_their_values(model_folder, tmp_path):
    values = [{"size": 8, "is_old": True}, {"size": None, "is_old": False}, {"size": 12.5, "is_old": True}, {}]
    rows = [{"messages": chat("Hi", answer="Ho"), "notes": ["x"], **value} for value in values]
    (tmp_path / "data.json").write_text(json.dumps(rows))
    results, lines = run(model_folder, tmp_path / "data.json", tmp_path / "results", group_by=["size:10", "is_old"])
    counts = {name: {key: group["n"] for key, group in found.items()} for name, found in results["groups"].items()}
    assert counts["size"] == {"below 10": 1, "10 and above": 1, "none": 2}
    assert counts["is_old"] == {"False": 1, "True": 2, "none": 1}
    assert [line["groups"] for line in lines] == [{"size": None, "is_old": None} | value for value in values]


# Answers


def test_answers_are_those_of_single_questions_in_the_order_of_the_data(first_run, model_folder, tmp_path):
    processor, model = tiny_processor(), tiny_model()
    expected = []
    for number, size in enumerate(SIZES):
        image = random_image(*size, seed=number)
        inputs = chat_inputs(processor, [chat(image, f"What is {'very ' * number}$here?")])
        output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        new_tokens = output[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.decode(new_tokens, skip_special_tokens=True).strip())
    results, lines = first_run
    assert [line["prediction"] for line in lines] == expected
    assert [line["row"] for line in lines] == list(range(6))
    assert results["overall"]["em"] == 0
    data = write_data(tmp_path / "data", ["x"] * 6)
    _, lines = run(model_folder, data, tmp_path / "results", batch_size=1, limit=4)
    assert [line["prediction"] for line in lines] == expected[:4]


def test_a_model_of_transformers_answers_llava_data(tmp_path):
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(ROOT)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **sizes, "image_size": 56, "patch_size": 14},
        text_config={"model_type": "llama", "vocab_size": 260, **sizes, "bos_token_id": None, "eos_token_id": 2},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path / "llava")
    image_processor = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    template = (ROOT / "chat_template.jinja").read_text()
    LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    ).save_pretrained(tmp_path / "llava")
    rows = []
    for number in range(3):
        random_image(80, 90, number).save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\n" + "What? " * (1 + number)}, {"from": "gpt", "value": "A cup."}]
        rows.append({"image": f"{number}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(rows))
    results, lines = run(tmp_path / "llava", tmp_path / "data.json", tmp_path / "batched")
    assert results["environment"]["model_type"] == "llava"
    assert [line["references"] for line in lines] == [["A cup."]] * 3
    _, single = run(tmp_path / "llava", tmp_path / "data.json", tmp_path / "single", batch_size=1)
    assert [line["prediction"] for line in lines] == [line["prediction"] for line in single]
    assert any(line["prediction"] for line in lines)


# Output


def test_output_is_whole_or_absent(model_folder, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data", ["x"] * 6)
    output = tmp_path / "output" / "results"

    def fail(*args):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(run_eval, "write_results", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        run(model_folder, data, output, limit=1)
    assert list(output.parent.iterdir()) == []
    monkeypatch.undo()
    run(model_folder, data, output, limit=1)
    names = ["predictions.jsonl", "results.json", "results.md"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert [path.name for path in output.parent.iterdir()] == ["results"]


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "--batch_size 0 is too small: give 1 or more"),
        ({"output_dir": "."}, r"--output_dir \. exists already. Choose another one"),
        ({"output_dir": __file__ + "/results"}, "results cannot be written: .*test_run_eval.py"),
        ({"model_name_or_path": "tests"}, "^tests cannot be loaded as a vision-language model"),
        ({"group_by": ["colour"]}, "'colour' with plain values. Choose from position, kind, text_height"),
        ({"group_by": ["box"]}, "'box' with plain values"),
        ({"group_by": ["colour:1,2"]}, "no column 'colour'"),
        ({"group_by": ["text_height:9,8"]}, "text_height:9,8: edges are rising numbers"),
        ({"group_by": ["text_height:"]}, "text_height:: edges are rising numbers"),
        ({"group_by": ["position:1,2"]}, "for a column of numbers"),
        ({"device": "quantum"}, "cannot be loaded .* on the device quantum: RuntimeError: Expected one of cpu, cuda"),
    ],
)
def test_bad_options_are_one_sentence(changes, message, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = write_data(tmp_path / "data", ["x"] * 6)
    options = {"model_name_or_path": str(model_folder), "data": str(data), "output_dir": str(tmp_path / "results")}
    with pytest.raises(UserError, match=message):
        run_eval.evaluate(EvaluationArguments(**(options | changes)))
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [{"role": "user", "content": "Hi"}]}, "row 0 has the roles user; .* the assistant last"),
        ({"question": "Hi"}, "row 0 has neither 'messages' nor 'conversations'"),
        ({"messages": chat("Hi", answer="Ho"), "answers": [" "]}, r"row 0 has the 'answers' \[' '\]; allowed is"),
        ({"messages": chat("Hi", answer="Ho"), "images": ["none.png"]}, "row 0 misses its image .*none.png"),
    ],
)
def test_bad_rows_are_named(row, message, model_folder, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match=message):
        run(model_folder, tmp_path / "data.json", tmp_path / "results")


ASKED, ANSWERED = {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}
LLAVA = {"image": "good.png", "conversations": [ASKED, ANSWERED]}
MALFORMED_ROWS = [
    {"image": "good.png"},
    {"question": "What?", "answer": "A cup."},
    *(
        LLAVA | {"conversations": turns}
        for turns in (
            "What? A cup.",
            [],
            [None, None],
            ["<image>", "A cup."],
            [{"from": "human"}, ANSWERED],
            [ASKED | {"from": ["human"]}, ANSWERED],
            [ASKED | {"from": "robot"}, ANSWERED],
            [ASKED | {"value": {"text": "<image>"}}, ANSWERED],
            [ASKED | {"value": [None]}, ANSWERED],
            [ASKED | {"value": "<image><image>"}, ANSWERED],
            [ASKED, ANSWERED | {"value": None}],
            [ASKED, ANSWERED | {"value": True}],
            [ASKED, ANSWERED | {"value": [{"type": "video"}]}],
            [ASKED],
        )
    ),
    *(
        LLAVA | {"image": image}
        for image in (7, {"bytes": [1, 2]}, "missing.png", "text.png", "half.avif", "corrupt.avif", "bomb.png")
    ),
    *(LLAVA | {"answers": answers} for answers in ("A cup.", [None], [7, " "], {"text": "A cup."})),
]


@pytest.fixture(scope="module")
def broken_images(tmp_path_factory):
    """A folder with one image that can be read and several that cannot."""
    folder = tmp_path_factory.mktemp("images")
    random_image(60, 90).save(folder / "good.png")
    (folder / "text.png").write_text("no image")
    PIL.Image.new("1", (14000, 14000)).save(folder / "bomb.png")
    file = io.BytesIO()
    random_image(60, 90).save(file, "AVIF")
    media = file.getvalue().index(b"mdat") + 4
    (folder / "half.avif").write_bytes(file.getvalue()[:media])
    (folder / "corrupt.avif").write_bytes(file.getvalue()[:media] + bytes(len(file.getvalue()) - media))
    return folder


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("row", MALFORMED_ROWS, ids=json.dumps)
def test_malformed_rows_are_named(row, broken_images, model_folder, tmp_path):
    data = tmp_path / "data.json"
    data.write_text(json.dumps([row]))
    arguments = ["--model_name_or_path", model_folder, "--data", data, "--image_folder", broken_images]
    arguments += ["--output_dir", tmp_path / "results", "--device", "cpu"]
    with pytest.raises(UserError, match=f"^--data {data}, row 0 "):
        run_eval.main(arguments)
    assert not (tmp_path / "results").exists()


def test_every_malformed_row_is_named(tmp_path):
    rows = list(malformed_rows(tmp_path))
    (tmp_path / "data.json").write_text(json.dumps(rows))
    source = load_data_source(0, str(tmp_path / "data.json"))
    assert len(source.dataset) == len(rows) > 200
    for row in range(len(rows)):
        with pytest.raises(UserError, match=f"data.json, row {row} .*Fix or remove this row"):
            read_question(source, row, decode=True)


def test_numbers_in_a_conversation_are_text(model_folder, tmp_path):
    turns = [{"from": "human", "value": "Which year?"}, {"from": "gpt", "value": 2019}]
    (tmp_path / "data.json").write_text(json.dumps([{"conversations": turns}]))
    _, lines = run(model_folder, tmp_path / "data.json", tmp_path / "results")
    assert lines[0]["references"] == ["2019"]
    (tmp_path / "data.json").write_text(json.dumps([{"conversations": turns, "answers": [2019, "MMXIX"]}]))
    _, lines = run(model_folder, tmp_path / "data.json", tmp_path / "alternatives")
    assert lines[0]["references"] == ["2019", "MMXIX"]


def test_a_file_that_is_no_dataset_is_named(model_folder, tmp_path):
    (tmp_path / "data.parquet").write_text("none")
    with pytest.raises(UserError, match="data.parquet cannot be read as a dataset: "):
        run(model_folder, tmp_path / "data.parquet", tmp_path / "results")


def test_a_broken_image_is_named(model_folder, tmp_path):
    content = encode(random_image(200, 200))["bytes"]
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    row = {"messages": chat("Hi", answer="Ho"), "images": ["cut.png"]}
    (tmp_path / "data.json").write_text(json.dumps([row]))
    with pytest.raises(UserError, match="^--data .*data.json, row 0 has a broken image .*Fix or remove this row.$"):
        run(model_folder, tmp_path / "data.json", tmp_path / "results")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("", "the following arguments are required: .*--data"),
        ("--data y --batch_size 0", "--batch_size 0 is too small: give 1 or more."),
        ("--dtype int8", "argument --dtype: invalid choice: 'int8' .*float32"),
    ],
)
def test_the_command_line_exits_with_the_sentence(option, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["run_eval.py", "--model_name_or_path", "x", *option.split()])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        runpy.run_path(str(ROOT / "run_eval.py"), run_name="__main__")
