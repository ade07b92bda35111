# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""evaluation/ask.py: answers, order, going on after a stop, bad input."""

import json
import os
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import PIL.Image
import pytest
import torch

from fila.common.arguments import UserError
from fila.evaluation import ask
from fila.evaluation.answer import load_model
from fila.evaluation.ask import AskArguments, read_page
from helpers import chat, chat_inputs, random_image, tiny_model, tiny_processor

QUESTIONS = ["What is the total?", "Who is the seller of all this?"]
ENCRYPT = b"/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (%s) /U (%s) >> /ID [(a) (a)]" % (b"o" * 32, b"u" * 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images and a PDF of three pages, one of the images in a folder of its own."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "c").mkdir()
    random_image(60, 140, 1).save(folder / "b.png")
    random_image(140, 60, 2).save(folder / "c" / "a.JPG")
    pages = [random_image(height, 100, height) for height in (100, 150, 60)]
    pages[0].save(folder / "pages.pdf", save_all=True, append_images=pages[1:])
    (folder / "notes.txt").write_text("not asked about")
    (folder / ".b.png").write_text("hidden")
    return folder


def run(model, output, *inputs, question=QUESTIONS, **kwargs):
    """The counts that the command returns, and the lines of its output."""
    kwargs = {"max_new_tokens": 4, "batch_size": 4, "device": "cpu", **kwargs}
    options = AskArguments(list(map(str, inputs)), question, str(output), str(model), **kwargs)
    counts = ask.ask(options)
    return dict(counts), [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n")[:-1]]


@pytest.fixture(scope="module")
def first_run(folder, model_folder, tmp_path_factory):
    """The output of a run that was not stopped."""
    output = tmp_path_factory.mktemp("first") / "answers.jsonl"
    run(model_folder, output, folder)
    return output


def key(line):
    return os.path.basename(line["file"]), line["page"], line["question"]


# Answers


def test_answers_are_those_of_single_calls_in_the_order_of_files_pages_and_questions(first_run, folder, model_folder):
    lines = [json.loads(line) for line in first_run.read_text().splitlines()]
    pages = [("b.png", None), ("a.JPG", None), ("pages.pdf", 1), ("pages.pdf", 2), ("pages.pdf", 3)]
    assert [key(line) for line in lines] == [(*page, question) for page in pages for question in QUESTIONS]
    model, processor = load_model(model_folder, device="cpu")
    for line in lines:
        image = read_page(line["file"], line["page"], dpi=200)
        inputs = chat_inputs(processor, [chat(image, line["question"])])
        output = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
        assert line["answer"] == processor.decode(output, skip_special_tokens=True).strip()
    assert len({line["answer"] for line in lines}) > 3


def test_pages_of_a_pdf_are_drawn_at_the_resolution_asked_for(folder):
    expected = random_image(150, 100, 150)
    for dpi, size in ((72, (100, 150)), (144, (200, 300))):
        page = read_page(str(folder / "pages.pdf"), 2, dpi)
        assert (page.mode, page.size) == ("RGB", size)
        difference = np.asarray(page.resize(expected.size), dtype=float) - np.asarray(expected)
        assert np.abs(difference).mean() < 10


def test_a_page_as_large_as_a_hall_is_drawn_within_the_limit_of_pillow(folder, monkeypatch):
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 6000)
    assert read_page(str(folder / "pages.pdf"), 2, dpi=10_000).size in [(63, 95), (64, 95), (64, 96)]


@pytest.mark.parametrize(
    ("pages", "expected"), [("2", [2]), ("1-2", [1, 2]), ("2-", [2, 3]), ("3-9", [3]), (2, [2])], ids=str
)
def test_pages_are_chosen(pages, expected, folder, model_folder, tmp_path):
    output = tmp_path / "new" / "answers.jsonl"
    _, lines = run(model_folder, output, folder / "pages.pdf", question=["What?"], pages=pages)
    assert [line["page"] for line in lines if "answer" in line] == expected


def test_inputs_and_questions_may_repeat(folder, model_folder, tmp_path, capsys):
    output = tmp_path / "answers.jsonl"
    arguments = [folder / "b.png", folder / "c", folder / "b.png", "--question", "Größe?", "B?", "--question", "Größe?"]
    arguments += ["--output", output, "--model_name_or_path", model_folder, "--max_new_tokens", 2, "--device", "cpu"]
    ask.main(arguments)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [key(line)[::2] for line in lines] == [(name, q) for name in ("b.png", "a.JPG") for q in ("Größe?", "B?")]
    assert "Größe?" in output.read_text(encoding="utf-8")
    assert capsys.readouterr().out == f"{output}: 4 new answers, 0 errors\n"


def test_a_recipe_gives_the_options(folder, model_folder, tmp_path):
    output, recipe = tmp_path / "answers.jsonl", tmp_path / "ask.yaml"
    recipe.write_text(json.dumps({"inputs": [str(folder / "b.png")], "question": ["A?"], "max_new_tokens": 2}))
    ask.main([recipe, "--output", output, "--model_name_or_path", model_folder, "--device", "cpu"])
    assert [key(json.loads(line)) for line in output.read_text().splitlines()] == [("b.png", None, "A?")]


def test_a_form_is_read_with_what_was_typed_into_it(tmp_path):
    """A text field whose appearance is a black square."""
    objects = [
        b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[4 0 R]>>>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]/Annots[4 0 R]>>",
        b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(x)/F 4/Rect[0 0 72 72]/P 3 0 R/AP<</N 5 0 R>>>>",
        b"<</Type/XObject/Subtype/Form/BBox[0 0 72 72]/Length 17>>stream\n0 g 0 0 72 72 re f\nendstream",
    ]
    content = b"%PDF-1.4\n" + b"".join(b"%d 0 obj%s endobj\n" % (n, text) for n, text in enumerate(objects, 1))
    (tmp_path / "form.pdf").write_bytes(content + b"trailer<</Root 1 0 R/Size 6>>\n%%EOF")
    assert np.asarray(read_page(str(tmp_path / "form.pdf"), 1, 72)).mean() < 50


def test_pages_are_opened_batch_by_batch(folder, model_folder, tmp_path, monkeypatch):
    events, answer = [], ask.generate_answers
    monkeypatch.setattr(ask, "read_page", lambda *page: events.append(page[:2]) or read_page(*page))
    monkeypatch.setattr(
        ask, "generate_answers", lambda *args, **kwargs: events.append("answer") or answer(*args, **kwargs)
    )
    run(model_folder, tmp_path / "answers.jsonl", folder)  # five pages, two questions, four of them together
    assert [events.index("answer"), len(events), events[-1]] == [2, 5 + 3, "answer"]


# Going on


def count_asked(monkeypatch):
    """A list that grows with the questions that reach the model."""
    asked, answer = [], ask.generate_answers

    def count(model, processor, inputs, **kwargs):
        asked.extend([None] * len(inputs["input_ids"]))
        return answer(model, processor, inputs, **kwargs)

    monkeypatch.setattr(ask, "generate_answers", count)
    return asked


def copy_output(output, folder):
    for path in (output, output.with_suffix(".settings.json")):
        shutil.copy(path, folder)
    return folder / output.name


@pytest.mark.parametrize("num_lines", [0, 1, 4, 9, 10])
@pytest.mark.parametrize("rest", ["", "cut", "without its end"])
def test_after_a_stop_the_rest_is_asked(num_lines, rest, first_run, folder, model_folder, tmp_path, monkeypatch):
    output, content = copy_output(first_run, tmp_path), first_run.read_bytes()
    lines = content.splitlines(keepends=True)
    following = b"".join(lines[num_lines : num_lines + 1])
    cut = {"": b"", "cut": following[:20], "without its end": following[:-1]}[rest]
    output.write_bytes(b"".join(lines[:num_lines]) + cut)
    asked = count_asked(monkeypatch)
    run(model_folder, output, folder)
    assert output.read_bytes() == content
    assert len(asked) == 10 - num_lines


def test_a_failure_keeps_the_batches_before_it(first_run, folder, model_folder, tmp_path, monkeypatch):
    output, calls, answer = tmp_path / "answers.jsonl", [], ask.generate_answers

    def stop(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            assert output.read_bytes().count(b"\n") == 6  # before anything is closed
            raise KeyboardInterrupt
        return answer(*args, **kwargs)

    monkeypatch.setattr(ask, "generate_answers", stop)
    with pytest.raises(KeyboardInterrupt):
        run(model_folder, output, folder, batch_size=3)
    monkeypatch.undo()
    run(model_folder, output, folder, batch_size=4)
    assert output.read_bytes() == first_run.read_bytes()


def test_nothing_left_needs_no_model(first_run, folder, model_folder, tmp_path, monkeypatch):
    output = copy_output(first_run, tmp_path)
    monkeypatch.setattr(ask, "load_model", None)
    assert run(model_folder, output, folder)[0] == {}
    assert output.read_bytes() == first_run.read_bytes()


def test_other_files_and_questions_are_added(first_run, folder, model_folder, tmp_path):
    output, other = copy_output(first_run, tmp_path), tmp_path / "other.png"
    random_image(80, 80, 5).save(other)
    before = output.read_text()
    assert run(model_folder, output, other)[0] == {"answer": 2}
    assert run(model_folder, output, other, folder / "b.png", question=["New?"])[0] == {"answer": 2}
    assert output.read_text().startswith(before)


def test_a_changed_file_is_asked_again_and_its_old_lines_go(first_run, folder, model_folder, tmp_path):
    scans = shutil.copytree(folder, tmp_path / "scans")
    output = tmp_path / "answers.jsonl"
    _, before = run(model_folder, output, scans)
    random_image(140, 60, 7).save(scans / "b.png")
    counts, lines = run(model_folder, output, scans)
    assert counts == {"answer": 2}
    assert lines[:-2] == before[2:] and [key(line) for line in lines[-2:]] == [key(line) for line in before[:2]]
    assert lines[-1]["size"] == (scans / "b.png").stat().st_size != before[0]["size"]


def test_errors_are_tried_again(model_folder, tmp_path, monkeypatch):
    output, image = tmp_path / "answers.jsonl", tmp_path / "a.png"
    random_image(60, 60).save(image)

    def fail(*args, **kwargs):
        raise torch.OutOfMemoryError("Out of memory.")

    monkeypatch.setattr(ask, "generate_answers", fail)
    counts, lines = run(model_folder, output, image)
    assert counts == {"error": 2} and {line["error"] for line in lines} == {"Not answered: Out of memory."}
    monkeypatch.undo()
    counts, lines = run(model_folder, output, image)
    assert counts == {"answer": 2} and len(lines) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_new_tokens": 5}, "made with max_new_tokens 4, not 5. Choose another one"),
        ({"dpi": 100}, "made with dpi 200, not 100"),
        ({"dtype": "bfloat16"}, "made with dtype auto, not bfloat16"),
        ({"model": "other"}, "made with model_name_or_path .*tiny, not other"),
    ],
)
def test_other_settings_are_refused(changes, message, first_run, folder, model_folder, tmp_path):
    output = copy_output(first_run, tmp_path)
    with pytest.raises(UserError, match=message):
        run(changes.pop("model", model_folder), output, folder, **changes)
    assert output.read_bytes() == first_run.read_bytes()


def test_a_model_that_was_trained_on_is_another_one(folder, tmp_path):
    model, output = tmp_path / "model", tmp_path / "answers.jsonl"
    for part in (tiny_model(), tiny_processor()):
        part.save_pretrained(model)
    run(model, output, folder / "b.png")
    os.utime(model / "model.safetensors", (1, 1))
    with pytest.raises(UserError, match="made with weights_modified .*, not 1.0"):
        run(model, output, folder / "b.png")


def test_a_model_that_does_not_load_leaves_the_output_to_the_next(folder, model_folder, tmp_path):
    output = tmp_path / "answers.jsonl"
    with pytest.raises(UserError, match="cannot be loaded as a vision-language model"):
        run(tmp_path / "none", output, folder / "b.png")
    assert run(model_folder, output, folder / "b.png")[0] == {"answer": 2}


@pytest.mark.parametrize(
    ("content", "has_settings"),
    [*product(["{}\n", "not JSON\n", "[]\n", '{"file": []}\n'], [True, False]), ('{"text": "no newline"}', False)],
)
def test_a_file_of_something_else_is_not_touched(content, has_settings, first_run, folder, model_folder, tmp_path):
    output = copy_output(first_run, tmp_path)
    output.write_text(content)
    if not has_settings:
        output.with_suffix(".settings.json").unlink()
    with pytest.raises(UserError, match="was not made by this command .* Choose another one"):
        run(model_folder, output, folder)
    assert output.read_text() == content


# Bad input


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """A folder of files that cannot be read, and with them good ones."""
    folder = tmp_path_factory.mktemp("bad")
    good = random_image(60, 90)
    for name in ("a.png", "m.png", "z.pdf", "whole.pdf"):
        good.save(folder / name)
    PIL.Image.new("1", (20000, 10000)).save(folder / "bomb.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_text("no image")
    content = (folder / "a.png").read_bytes()
    (folder / "half.png").write_bytes(content[: len(content) // 2])
    content = (folder / "whole.pdf").read_bytes()
    (folder / "encrypted.pdf").write_bytes(content.replace(b"trailer\n<<", b"trailer\n<<" + ENCRYPT))
    (folder / "text.pdf").write_text("no PDF")
    return folder


REASONS = {
    "bomb.png": "exceeds limit of 178956970 pixels",
    "empty.jpg": "cannot identify image file",
    "text.png": "cannot identify image file",
    "half.png": "truncated",
    "encrypted.pdf": "Incorrect password",
    "text.pdf": "Data format error",
}


@pytest.mark.slow
def test_command_goes_on_after_what_cannot_be_answered(bad_files, model_folder, tmp_path):
    def start(*inputs):
        command = [sys.executable, "-m", "fila.evaluation.ask", *inputs, "--question", "What?", "word " * 3000]
        command += ["--output", tmp_path / "answers.jsonl", "--model_name_or_path", model_folder, "--device", "cpu"]
        return subprocess.run([*command, "--max_new_tokens", "2"], capture_output=True, text=True, check=False)

    result = start(bad_files)
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.endswith("answers.jsonl: 4 new answers, 16 errors\n") and "Traceback" not in result.stderr
    lines = map(json.loads, (tmp_path / "answers.jsonl").read_text().splitlines())
    for name, _, question in (key(line) for line in lines if "error" in line):
        assert name in REASONS or question != "What?"
    (tmp_path / "empty").mkdir()
    result = start(tmp_path / "empty")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("empty is not a file, nor a folder with images or PDFs in it.")
    assert "Traceback" not in result.stderr


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("batch_size", [1, 3])
def test_what_cannot_be_read_has_an_error_and_the_rest_an_answer(batch_size, bad_files, model_folder, tmp_path):
    counts, lines = run(model_folder, tmp_path / "answers.jsonl", bad_files, batch_size=batch_size)
    assert counts == {"answer": 8, "error": 12}
    for line in lines:
        name = os.path.basename(line["file"])
        assert ("answer" in line) is (name not in REASONS) is ("error" not in line)
        if name in REASONS:
            assert REASONS[name] in line["error"] and line["error"].endswith(".") and not line["error"].endswith("..")
    good = [line["answer"] for line in lines if line["file"].endswith((os.sep + "a.png", os.sep + "m.png"))]
    assert good[:2] == good[2:]


def test_the_first_frame_is_read_and_what_is_transparent_is_white(model_folder, tmp_path):
    frames = [random_image(60, 90, seed) for seed in (1, 2)]
    frames[0].save(tmp_path / "film.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "film.tiff", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "still.png")
    PIL.Image.new("RGBA", (90, 60), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    PIL.Image.new("RGB", (90, 60), "white").save(tmp_path / "white.png")
    _, lines = run(model_folder, tmp_path / "answers.jsonl", tmp_path, question=["What?"])
    answers = {os.path.basename(line["file"]): line["answer"] for line in lines}
    assert answers["film.png"] == answers["film.tiff"] == answers["still.png"]
    assert answers["clear.png"] == answers["white.png"] != answers["still.png"]


def test_a_question_longer_than_the_context_has_an_error(folder, tmp_path):
    text_config = {**tiny_model().config.text_config.to_dict(), "max_position_embeddings": 512}
    tiny_model(text_config=text_config).save_pretrained(tmp_path / "model")
    tiny_processor().save_pretrained(tmp_path / "model")
    questions = ["A?", "word " * 300, "What is <image>?"]
    _, lines = run(tmp_path / "model", tmp_path / "answers.jsonl", folder / "b.png", question=questions)
    assert ["answer" in line for line in lines] == [True, False, True]
    assert "tokens, more than the 512 of the model" in lines[1]["error"]


def test_a_page_that_a_pdf_does_not_have_is_an_error(folder, model_folder, tmp_path):
    inputs = [folder / "pages.pdf", folder / "b.png"]
    _, lines = run(model_folder, tmp_path / "answers.jsonl", *inputs, question=["What?"], pages="7-9")
    assert (lines[0]["page"], lines[0]["error"]) == (7, "Not answered: the PDF has 3 pages.")
    assert "answer" in lines[1]


def test_a_folder_may_have_the_output_in_it(folder, model_folder, tmp_path):
    scans = shutil.copytree(folder, tmp_path / "scans")
    output = scans / "answers.jsonl"
    assert run(model_folder, output, scans)[0] == {"answer": 10}
    assert run(model_folder, output, scans)[0] == {}
    assert run(model_folder, output, *sorted(scans.iterdir())[2:])[0] == {"error": 2}  # as from scans/*; notes.txt


def test_names_may_be_anything(model_folder, tmp_path):
    names = ["[1] a*b?.png", "größe\u2028.png", os.fsdecode(b"\xff.png"), "-x.png"]
    scans = tmp_path / "[all]"
    scans.mkdir()
    for name in names:
        random_image(60, 60).save(scans / name)
    output = tmp_path / "answers.jsonl"
    counts = run(model_folder, output, scans, question=["What?"])[0]
    lines = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert counts == {"answer": 4} and {os.path.basename(line["file"]) for line in lines} == set(names)
    assert run(model_folder, output, scans, question=["What?"])[0] == {}


def test_pdfs_without_pypdfium2_say_what_to_install(folder, model_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    output = tmp_path / "answers.jsonl"
    with pytest.raises(UserError, match=r'pages.pdf needs pypdfium2. Run: pip install -e ".\[evaluate\]"'):
        run(model_folder, output, folder)
    assert not output.exists()
    assert run(model_folder, output, folder / "b.png")[0] == {"answer": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": [""]}, "^Give images"),
        ({"inputs": []}, "^Give images, PDFs or folders first, then --question"),
        ({"question": []}, "^Give images"),
        ({"question": ["A?", " "]}, "^Give images"),
        ({"question": "A?"}, "^Give images"),
        ({"inputs": ["none.png"]}, "^none.png is not a file, nor a folder with images or PDFs"),
        ({"inputs": ["empty"]}, "^empty is not a file, nor a folder"),
        ({"inputs": ["what " * 100]}, "is not a file"),
        ({"batch_size": 0}, "--batch_size 0 is too small: give 1 or more"),
        ({"max_new_tokens": 0}, "--max_new_tokens 0 is too small"),
        ({"dpi": 0}, "--dpi 0 is too small"),
        *(
            ({"pages": pages}, f"--pages {pages} is not allowed")
            for pages in ("0", "-3", "a", "1,2", "3-1", "-", "1-2-3")
        ),
        ({"output": "empty"}, "--output empty is not a file"),
        ({"output": os.devnull}, f"--output {os.devnull} is not a file"),
        ({"output": "a.png/answers.jsonl"}, "--output a.png/answers.jsonl cannot be written: .*File exists"),
        ({"output": "a.png"}, "--output a.png was not made by this command"),
        ({"device": "quantum"}, "cannot be loaded .* on the device quantum"),
    ],
)
def test_bad_options_are_one_sentence(changes, message, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    random_image(60, 60).save("a.png")
    content = (tmp_path / "a.png").read_bytes()
    options = {"inputs": ["a.png"], "question": ["A?"], "model_name_or_path": str(model_folder), "device": "cpu"}
    with pytest.raises(UserError, match=message):
        ask.ask(AskArguments(**(options | changes)))
    assert (tmp_path / "a.png").read_bytes() == content
    assert ask.ask(AskArguments(**options)) == {"answer": 1}
