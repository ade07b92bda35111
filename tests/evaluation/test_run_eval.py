# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluate.py: scores, groups, order, output; and FILA as a model of lmms-eval."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from fila import evaluate
from fila.evaluate import EvaluationArguments, EvaluationError
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


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_model().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


def run(model, data, output, **kwargs):
    options = {"max_new_tokens": 3, "batch_size": 4, "device": "cpu", "num_mistakes": 2, **kwargs}
    results = evaluate.evaluate(EvaluationArguments(str(model), str(data), output_dir=str(output), **options))
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    return results, lines


@pytest.fixture(scope="module")
def first_run(model_folder, tmp_path_factory):
    """Results and predictions on answers that are all wrong."""
    folder = tmp_path_factory.mktemp("first")
    return run(model_folder, write_data(folder / "data", ["zzzzzzzzzzzzzzzz"] * 6), folder / "results")


# Scores


@pytest.mark.parametrize(
    ("prediction", "references", "em", "anls"),
    [
        ("Total 12.50", ["total  12.50"], 1, 1.0),
        ("12.50", ["1250"], 0, 1 - 1 / 5),
        ("hello wrld", ["HELLO world"], 0, 1 - 1 / 11),
        ("abcd", ["abxy"], 0, 0.5),
        ("abcd", ["axyz"], 0, 0.0),  # below the threshold of 0.5
        ("cup", ["a cup", "cup"], 1, 1.0),
        ("cups", ["zzzz", "cup"], 0, 0.75),
        ("", ["cup"], 0, 0.0),
    ],
)
def test_scores_equal_values_by_hand(prediction, references, em, anls):
    assert evaluate.score(prediction, references) == {"em": em, "anls": pytest.approx(anls)}


def test_intervals_hold_the_mean_and_shrink_with_the_number_of_questions():
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 2000):
        anls = rng.random(count)
        summary = evaluate.summarize(pd.DataFrame({"em": (anls > 0.7).astype(int), "anls": anls}))
        assert summary["n"] == count
        assert (summary["em"], summary["anls"]) == pytest.approx(((anls > 0.7).mean(), anls.mean()))
        for name in ("em", "anls"):
            low, high = summary[f"{name}_ci"]
            assert low < summary[name] < high
        widths.append(summary["anls_ci"][1] - summary["anls_ci"][0])
    # Normal approximation: 2 * 1.96 * standard error; of a uniform variable it is sqrt(1/12 / n).
    assert widths[1] == pytest.approx(2 * 1.96 * (1 / 12 / 2000) ** 0.5, rel=0.05)
    assert widths[0] > 5 * widths[1]


@pytest.mark.filterwarnings("error")
def test_equal_scores_have_an_interval_and_a_single_one_has_none():
    summary = evaluate.summarize(pd.DataFrame({"em": [0] * 7, "anls": [0.3] * 7}))
    assert summary["em_ci"] == [0, 0]
    assert summary["anls_ci"] == pytest.approx([0.3, 0.3])
    assert evaluate.summarize(pd.DataFrame({"em": [1], "anls": [1.0]}))["em_ci"] is None


# Groups


@pytest.mark.parametrize(
    ("values", "edges", "groups"),
    [
        (["b", None, "a"], None, ["b", "none", "a"]),
        ([True, False], None, ["True", "False"]),
        ([3, 1, 3], None, ["3", "1", "3"]),
        ([7.9, 8, 11.9, 12, np.nan], [8, 12], ["below 8", "8 to 12", "8 to 12", "12 and above", "none"]),
        (
            list(range(1, 13)),
            None,
            [*["below 3.75"] * 3, *["3.75 to 6.5"] * 3, *["6.5 to 9.25"] * 3, *["9.25 and above"] * 3],
        ),
    ],
)
def test_bins(values, edges, groups):
    assert evaluate.make_bins(pd.Series(values), edges).tolist() == groups


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
    assert results["seconds_per_image"] == pytest.approx(results["seconds"] / 6)
    data = write_data(tmp_path / "data", ["x"] * 6)
    _, lines = run(model_folder, data, tmp_path / "results", batch_size=1, limit=4, num_workers=1)
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


def test_the_gallery_shows_the_worst_mistakes_and_the_boxes(first_run, model_folder, tmp_path):
    data = evaluate.load_data(EvaluationArguments(str(model_folder), str(write_data(tmp_path / "data", ["x"] * 6))))
    path = tmp_path / "mistakes.png"
    evaluate.draw_mistakes(first_run[1], data, path)
    with PIL.Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (1210, 1485, 3)  # 2 x 3 panels of 5.5 x 4.5 inches
    red = (pixels[..., 0] > 200) & (pixels[..., 1:].max(-1) < 60)
    for top in (0, 605):  # an outline in every panel
        for left in (0, 495, 990):
            assert red[top : top + 605, left : left + 495].sum() > 50


def test_output_is_whole_or_absent(model_folder, tmp_path, monkeypatch):
    data = write_data(tmp_path / "data", ["x"] * 6)
    output = tmp_path / "output" / "results"

    def fail(*args):
        raise RuntimeError("interrupted")

    monkeypatch.setattr(evaluate, "draw_mistakes", fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        run(model_folder, data, output, limit=1)
    assert list(output.parent.iterdir()) == []
    monkeypatch.undo()
    run(model_folder, data, output, limit=1)
    names = ["mistakes.png", "predictions.jsonl", "results.json", "results.md"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert [path.name for path in output.parent.iterdir()] == ["results"]


# Bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "^Not given: --data"),
        ({"batch_size": 0}, "--batch_size 0 is too small: give 1 or more"),
        ({"dtype": "int8"}, "--dtype int8 is not one of auto, bfloat16"),
        ({"output_dir": "."}, r"--output_dir \. exists already. Choose another one"),
        ({"output_dir": __file__ + "/results"}, "results cannot be made in .*test_evaluate.py"),
        ({"model_name_or_path": "tests"}, "--model_name_or_path tests is no vision-language model"),
        ({"group_by": ["colour"]}, "'colour' with plain values. Choose from position, kind, text_height"),
        ({"group_by": ["box"]}, "'box' with plain values"),
        ({"group_by": ["colour:1,2"]}, "no column 'colour'"),
        ({"group_by": ["text_height:9,8"]}, "text_height:9,8: edges are rising numbers"),
        ({"group_by": ["text_height:"]}, "text_height:: edges are rising numbers"),
        ({"group_by": ["position:1,2"]}, "for a column of numbers"),
        ({"device": "quantum"}, "--device quantum cannot be used"),
    ],
)
def test_bad_options_are_one_sentence(changes, message, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    data = write_data(tmp_path / "data", ["x"] * 6)
    options = {"model_name_or_path": str(model_folder), "data": str(data), "output_dir": str(tmp_path / "results")}
    with pytest.raises(EvaluationError, match=message):
        evaluate.evaluate(EvaluationArguments(**(options | changes)))
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
    with pytest.raises(EvaluationError, match=message):
        run(model_folder, tmp_path / "data.json", tmp_path / "results")


def test_a_file_that_is_no_dataset_is_named(model_folder, tmp_path):
    (tmp_path / "data.parquet").write_text("none")
    with pytest.raises(EvaluationError, match="^--data .*data.parquet cannot be read as a dataset: "):
        run(model_folder, tmp_path / "data.parquet", tmp_path / "results")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_broken_image_is_named(num_workers, model_folder, tmp_path):
    content = encode(random_image(200, 200))["bytes"]
    (tmp_path / "cut.png").write_bytes(content[: len(content) // 2])
    row = {"messages": chat("Hi", answer="Ho"), "images": ["cut.png"]}
    (tmp_path / "data.json").write_text(json.dumps([row]))
    with pytest.raises(
        EvaluationError, match="^--data .*data.json, row 0 has a broken image .*Mend or remove this row.$"
    ):
        run(model_folder, tmp_path / "data.json", tmp_path / "results", num_workers=num_workers)


def test_the_command_line_exits_with_the_sentence(tmp_path):
    command = [sys.executable, str(ROOT / "evaluate.py"), "--model_name_or_path", "x", "--data", "y"]
    done = subprocess.run([*command, "--batch_size", "0"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "error: --batch_size 0 is too small: give 1 or more."


# lmms-eval


def test_lmms_eval_gets_the_same_answers(model_folder):
    pytest.importorskip("lmms_eval")
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    from fila import lmms_eval_fila

    registry = ModelRegistryV2()
    registry.register_manifest(lmms_eval_fila.MANIFEST)
    model_class = registry.get_model_class("fila")
    model = model_class.create_from_arg_string(f"pretrained={model_folder}", {"batch_size": 2, "device": "cpu"})
    questions = ["Why?", "What is written on the door?", "Who?"]
    documents = [{"image": random_image(*SIZES[n], n), "text": text} for n, text in enumerate(questions)]
    model.task_dict = {"task": {"test": documents}}

    def to_messages(document):
        image, text = {"type": "image", "url": document["image"]}, {"type": "text", "text": document["text"]}
        return [{"role": "user", "content": [image, text]}]

    def ask(**settings):
        metadata = {"task": "task", "doc_id": 0, "repeats": 1}
        arguments = [(text, to_messages, settings, n, "task", "test") for n, text in enumerate(questions)]
        requests = [Instance("generate_until", args, n, metadata) for n, args in enumerate(arguments)]
        return model.generate_until(requests)

    answers = ask(max_new_tokens=4, temperature=0)
    processor, reference = tiny_processor(), tiny_model()
    for document, answer in zip(documents, answers):
        inputs = chat_inputs(processor, [chat(document["image"], document["text"])])
        output = reference.generate(**inputs, max_new_tokens=4, do_sample=False)
        text = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == text.strip()
    stop = answers[0][3:5]
    assert ask(max_new_tokens=4, until=[stop])[0] == answers[0].split(stop)[0].strip()
    with pytest.raises(NotImplementedError, match="likelihoods"):
        model.loglikelihood([])
