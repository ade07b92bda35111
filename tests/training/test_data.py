# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""training/data.py and rows.py: data in all its forms, checked once, mixed and streamed."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from datasets import config as datasets_config
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import CHAT, LLAVA, malformed_rows
from transformers import TrainingArguments

from fila import FilaDataCollator
from fila.common.arguments import UserError, parse_arguments
from fila.processing_fila import SequenceTooLongError
from fila.training.data import VALIDATED_ROWS, DataArguments, SampleCollator, check_row, load_data_source, make_dataset
from fila.training.rows import EXIF_ORIENTATION, decode_image, read_row
from helpers import chat, random_image, tiny_processor


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def llava(*turns, image=None):
    row = {} if image is None else {"image": image}
    roles = ("human", "gpt")
    return row | {"conversations": [{"from": roles[n % 2], "value": text} for n, text in enumerate(turns)]}


def test_llava_rows():
    example = read_row(llava("<image>\nWhat?", "A cup.", "And <image>?", "Two.", image=["a.png", "b.png"]), "/data")
    assert example["messages"] == [
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "A cup."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And "},
                {"type": "image", "text": None},
                {"type": "text", "text": "?"},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "Two."}]},
    ]
    assert example["images"] == [{"bytes": None, "path": "/data/a.png"}, {"bytes": None, "path": "/data/b.png"}]


def test_chat_rows():
    image, answer = {"bytes": b"png", "path": None}, {"role": "assistant", "content": "A cup."}
    items = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
    for content in (items, "<image>What?", "What?"):  # items, the placeholder, and TRL's way: images come first
        example = read_row({"messages": [{"role": "user", "content": content}, answer], "images": [image]})
        assert example["messages"][0]["content"] == items
        assert example["images"] == [image]
    inline = [{"type": "image", "path": "/a.png"}, {"type": "text", "text": "What?"}]
    example = read_row({"messages": [{"role": "user", "content": inline}, answer]})
    assert example["messages"][0]["content"] == items
    assert example["images"] == [{"bytes": None, "path": "/a.png"}]


def test_a_literal_placeholder_in_a_chat_without_images_is_text():
    row = {"messages": [{"role": "user", "content": "What is <image>?"}, {"role": "assistant", "content": "A tag."}]}
    assert read_row(row)["messages"][0]["content"] == [{"type": "text", "text": "What is <image>?"}]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "answer": "b"}, r"neither 'messages' nor 'conversations', only .*'answer', 'prompt'"),
        (llava("Hi", "Ho", "Hi"), "has the roles user, assistant, user; .* take turns"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "has the roles assistant"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "turn of 'bot'; allowed are human"),
        ({"conversations": []}, "has the roles none"),
        (llava("<image>\nHi", "Ho"), "has 1 places for images .* but 0 images"),
        (llava("Hi", "Ho", image="a.png"), "has 0 places for images .* but 1 images"),
        (llava("Hi", " \n"), "has an empty answer"),
        (llava("<image>Hi", "Ho", image=7), "has an image of int"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "item of type 'video'"),
    ],
)
def test_broken_rows_say_what_is_wrong(row, message):
    with pytest.raises(ValueError, match=message):
        read_row(row)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(20, 300), width=st.integers(20, 300), orientation=st.sampled_from([1, 3, 6, 8]), text=st.text()
)
def test_checked_length_is_the_length_of_the_batch(height, width, orientation, text, processor):
    exif = PIL.Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file = io.BytesIO()
    random_image(height, width).save(file, "JPEG", exif=exif)
    row = {"messages": chat(text, answer="x" + text), "images": [{"bytes": file.getvalue(), "path": None}]}
    row["messages"][0]["content"].append({"type": "image"})
    collator = FilaDataCollator(processor)
    found = check_row(row, collator)
    example = read_row(row)
    images = [decode_image(image) for image in example["images"]]
    batch = collator([{"messages": example["messages"], "images": images}])
    assert found == {"length": batch["input_ids"].shape[1], "problem": ""}
    assert batch["image_sizes"].tolist() == [[width, height] if orientation > 4 else [height, width]]


def make(processor, tmp_path, *entries, arguments=(), streaming=False, max_length=256):
    options = ["--max_length", max_length, "--output_dir", tmp_path / "output", "--use_cpu", *arguments]
    data, training = parse_arguments((DataArguments, TrainingArguments), "", options)
    sources = [load_data_source(number, entry, streaming) for number, entry in enumerate(entries)]
    collator = FilaDataCollator(processor, max_length=max_length)
    dataset = make_dataset(sources, collator, data, training, streaming)
    return dataset, SampleCollator(collator, sources)


def write_json(path, rows):
    path.write_text(json.dumps(rows))
    return str(path)


def test_sources_of_every_kind_give_the_same_batches(processor, tmp_path):
    rows, folder = [], tmp_path / "images"
    folder.mkdir()
    for number, size in enumerate([(90, 140), (140, 90), (120, 120), (60, 200)]):
        random_image(*size, seed=number).save(folder / f"{number}.png")
        rows.append(llava("<image>\nWhat is this?", f"Number {number}.", image=f"{number}.png"))
    chats = {
        "messages": [read_row(row)["messages"] for row in rows],
        "images": [[str(folder / row["image"])] for row in rows],
    }
    items = List({"type": Value("string"), "text": Value("string")})
    features = Features({"messages": List({"role": Value("string"), "content": items}), "images": List(Image())})
    dataset = Dataset.from_dict(chats, features=features)
    dataset.save_to_disk(tmp_path / "saved")
    dataset.to_parquet(tmp_path / "chats.parquet")
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, Dataset.from_dict(chats))))
    entries = [
        {"path": write_json(tmp_path / "llava.json", rows), "image_folder": str(folder)},
        str(tmp_path / "saved"),
        str(tmp_path / "chats.parquet"),
        str(tmp_path / "chats.jsonl"),
    ]
    batches = []
    for entry in entries:
        samples, collator = make(processor, tmp_path, entry)
        batches.append(collator([samples[row] for row in range(4)]))
        assert samples["length"][:] == [int(mask.sum()) for mask in batches[-1]["attention_mask"]]
        streamed, collator = make(processor, tmp_path, entry, streaming=True)
        streamed = sorted(streamed, key=lambda sample: sample["row"])
        batches.append(collator(streamed))
    for batch in batches[1:]:
        assert batch.keys() == batches[0].keys()
        for key, value in batches[0].items():
            assert torch.equal(batch[key], value), key


def test_folders_of_one_name_are_not_confused_and_changes_are_seen(tmp_path):
    card = "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.parquet\n---\n"

    def write(folder, answer):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        (folder / "README.md").write_text(card)
        Dataset.from_list([llava("Hi", answer)]).to_parquet(folder / "data" / "train.parquet")
        return load_data_source(0, str(folder)).dataset[0]["conversations"][1]["value"]

    assert write(tmp_path / "a" / "documents", "one") == "one"
    assert write(tmp_path / "b" / "documents", "two") == "two"
    assert write(tmp_path / "a" / "documents", "three") == "three"


def test_mixture_follows_its_weights(processor, tmp_path):
    paths = []
    for name, count in (("a", 30), ("b", 10)):
        rows = [llava(f"{name} {number}", "yes") for number in range(count)]
        paths.append(write_json(tmp_path / f"{name}.json", rows))
    plain, _ = make(processor, tmp_path, *paths)
    assert plain["source"][:] == [0] * 30 + [1] * 10
    entries = [{"path": path, "weight": weight} for path, weight in zip(paths, (1, 3))]
    mixed, _ = make(processor, tmp_path, *entries)
    counts = [mixed["source"][:].count(number) for number in (0, 1)]
    assert counts[0] >= 30
    assert counts[1] / counts[0] == pytest.approx(3, rel=0.35)
    assert {row for source, row in zip(mixed["source"], mixed["row"]) if source == 0} == set(range(30))
    streamed, collator = make(processor, tmp_path, *entries, streaming=True)
    sources = [sample["source"] for sample in streamed]
    assert sources.count(1) / sources.count(0) == pytest.approx(3, rel=0.35)
    assert "labels" in collator([next(iter(streamed))])
    with pytest.raises(UserError, match=r"weights of the data are \[1, None\]"):
        make(processor, tmp_path, entries[0], paths[1])


def bad_rows(folder):
    random_image(60, 90).save(folder / "good.png")
    (folder / "text.png").write_text("no image")
    (folder / "half.png").write_bytes((folder / "good.png").read_bytes()[:-300])
    good = llava("<image>Hi", "Ho", image="good.png")
    return [
        good,
        llava("<image>Hi", "Ho", image="missing.png"),
        llava("<image>Hi", "Ho", image="text.png"),
        llava("<image>Hi", "Ho", image="half.png"),
        llava("Hi", ""),
        llava("Hi", "Ho"),
        llava("<image>" * 40 + "Hi", "Ho", image=["good.png"] * 40),  # too long for max_length
    ]


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_stop_the_run_or_are_listed(processor, tmp_path, streaming, capsys):
    path = write_json(tmp_path / "data.json", bad_rows(tmp_path))
    with pytest.raises(UserError, match=r"data\.json, row 1 misses its image .*missing\.png") as caught:
        make(processor, tmp_path, path, streaming=streaming)
    assert "row 2 has an image that cannot be read" in str(caught.value)
    assert "row 3 has a broken image" in str(caught.value)
    assert "row 4 has an empty answer" in str(caught.value)
    assert "row 6" not in str(caught.value)
    skip = ("--skip_bad_samples",)
    samples, _ = make(processor, tmp_path, path, arguments=skip, streaming=streaming)
    # A stream is not decoded twice: what is broken past the header comes out when the batch is made.
    kept = [0, 3, 5] if streaming else [0, 5]
    assert sorted(sample["row"] for sample in samples) == kept
    listed = [json.loads(line) for line in (tmp_path / "output" / "bad_samples.jsonl").read_text().splitlines()]
    assert sorted(entry["row"] for entry in listed) == [row for row in range(1, 5) if row not in kept]
    if not streaming:
        assert "2 samples; 1 left out as too long for max_length=256, 4 as bad" in capsys.readouterr().out


def test_bad_row_far_from_the_start_is_found_before_training(processor, tmp_path):
    rows = [llava("Hi", "Ho")] * (VALIDATED_ROWS + 5) + [llava("<image>Hi", "Ho", image="missing.png")]
    with pytest.raises(UserError, match=f"row {VALIDATED_ROWS + 5} misses its image"):
        make(processor, tmp_path, write_json(tmp_path / "data.json", rows))


def test_image_that_breaks_in_training_is_named(processor, tmp_path):
    random_image(60, 90).save(tmp_path / "good.png")
    path = write_json(tmp_path / "data.json", [llava("<image>Hi", "Ho", image="good.png")])
    samples, collator = make(processor, tmp_path, path)
    (tmp_path / "good.png").write_bytes((tmp_path / "good.png").read_bytes()[:-300])
    with pytest.raises(UserError, match=r"data\.json, row 0 has a broken image"):
        collator([samples[0]])


def test_data_that_is_none_is_refused(processor, tmp_path):
    for entry, message in (
        (str(tmp_path / "absent.json"), "absent.json cannot be read as a dataset"),
        ({"path": "a.json", "wieght": 1}, "is no dataset: .* weight"),
        (write_json(tmp_path / "long.json", [llava("<image>" * 40, "Ho", image=["a.png"] * 40)]), "row 0 misses"),
    ):
        with pytest.raises(UserError, match=message):
            make(processor, tmp_path, entry)
    random_image(60, 90).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="has 1 rows, and none of them can be trained on"):
        make(processor, tmp_path, str(tmp_path / "long.json"))


@settings(max_examples=40, deadline=None)
@given(max_length=st.integers(20, 400), words=st.integers(0, 60), answer=st.integers(1, 200), late=st.booleans())
def test_text_is_cut_and_images_are_not(max_length, words, answer, late, processor):
    image = random_image(56, 112)
    messages = chat(*([image] if not late else []), "word " * words, *([image] if late else []), answer="so " * answer)
    whole = FilaDataCollator(processor)([{"messages": messages}])
    ids, labels = whole["input_ids"][0].tolist(), whole["labels"][0].tolist()
    num_image_tokens = ids.count(processor.image_token_id)
    collator = FilaDataCollator(processor, max_length=max_length)
    try:
        cut = collator([{"messages": messages}])
    except SequenceTooLongError as error:
        is_image = [token == processor.image_token_id for token in ids]
        first_answer = next(position for position, label in enumerate(labels) if label != -100)
        images_after = sum(is_image[first_answer:])
        assert num_image_tokens > max_length or first_answer + 1 + images_after > max_length
        assert f"max_length={max_length}" in str(error)
        return
    cut_ids = cut["input_ids"][0].tolist()
    assert len(cut_ids) == min(len(ids), max_length)
    assert cut_ids.count(processor.image_token_id) == num_image_tokens
    text = [token for token in ids if token != processor.image_token_id]
    cut_text = [token for token in cut_ids if token != processor.image_token_id]
    assert cut_text == text[: len(cut_text)]
    # Every label stands under its own token still.
    for token, label in zip(cut_ids, cut["labels"][0].tolist()):
        assert label in (-100, token)
    assert (cut["labels"] != -100).any()


# One JSON file with everything in it: wrong values make columns of mixed types.
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_malformed_rows_are_named_and_skipped(processor, tmp_path, suffix, capsys):
    rows = [LLAVA, CHAT, *malformed_rows(tmp_path), LLAVA]
    assert len(rows) > 300
    path = tmp_path / f"rows.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    good = [0, 1, len(rows) - 1]
    with pytest.raises(
        UserError, match=rf"rows\.{suffix}, row 2 has neither(.*\n)*.*and {VALIDATED_ROWS - 2 - 5} more"
    ):
        make(processor, tmp_path, str(path))
    samples, collator = make(processor, tmp_path, str(path), arguments=["--skip_bad_samples"])
    assert samples["row"][:] == good
    listed = [json.loads(line) for line in (tmp_path / "output" / "bad_samples.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in listed] == list(range(2, len(rows) - 1))
    assert all(entry["data"] == str(path) and entry["problem"] for entry in listed)
    assert f"3 samples; 0 left out as too long for max_length=256, {len(listed)} as bad" in capsys.readouterr().out
    lengths = collator([samples[row] for row in range(3)])["attention_mask"].sum(dim=1)
    assert samples["length"][:] == lengths.tolist()


def test_malformed_rows_of_a_stream_are_named_and_skipped(processor, tmp_path):
    rows = [LLAVA, CHAT, *malformed_rows(tmp_path), LLAVA]
    path = write_json(tmp_path / "rows.json", rows)
    with pytest.raises(UserError, match=r"rows\.json, row 2 has neither"):
        make(processor, tmp_path, path, streaming=True)
    samples, collator = make(processor, tmp_path, path, streaming=True, arguments=["--skip_bad_samples"])
    trained = []
    for sample in samples:
        try:
            trained.append(sample["row"])
            collator([sample])
        except UserError as error:  # what is broken past its header
            assert f"rows.json, row {trained.pop()} has a broken image" in str(error)
    assert sorted(trained) == [0, 1, len(rows) - 1]


def test_rows_of_a_long_stream_have_their_numbers(processor, tmp_path):
    rows = [llava(f"What is {number}?", str(number)) for number in range(3000)]
    rows[2500] = llava("Hi", "")
    path = write_json(tmp_path / "data.json", rows)
    samples, _ = make(processor, tmp_path, path, streaming=True, arguments=["--skip_bad_samples"])
    answers = {sample["row"]: sample["messages"][1]["content"][0]["text"] for sample in samples}
    assert answers == {number: str(number) for number in range(3000) if number != 2500}
    listed = json.loads((tmp_path / "output" / "bad_samples.jsonl").read_text())
    assert (listed["row"], listed["problem"]) == (2500, "has an empty answer")


def test_numbers_become_text_and_texts_stay_as_they_are(processor, tmp_path):
    texts = ["2019", "2.5", "7", "-3", "2019-01-01", "null", '"quoted"', "é😀"]
    rows = [llava(f"Which is {number}?", text) for number, text in enumerate(texts)]
    numbers = json.loads(json.dumps(rows))
    for row, value in zip(numbers, (2019, 2.5, 7, -3)):
        row["conversations"][1]["value"] = value
    chats = [{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": 2019}]}]
    batches = []
    for name, data in (("texts", rows), ("numbers", numbers)):
        samples, collator = make(processor, tmp_path, write_json(tmp_path / f"{name}.json", data))
        batches.append(collator([samples[row] for row in range(len(rows))])["input_ids"])
    assert torch.equal(*batches)
    samples, collator = make(processor, tmp_path, write_json(tmp_path / "chats.json", chats))
    shown = processor.tokenizer.decode(collator([samples[0]])["input_ids"][0])
    assert "user\n1<" in shown and "assistant\n2019<" in shown


def test_columns_of_json_keep_their_types(tmp_path):
    rows = [{"size": 8, "share": 1, "name": "a", "is_old": True, "answers": ["x"], "mixed": 1}]
    rows += [{"size": None, "share": 0.5, "name": "b", "is_old": False, "answers": None, "mixed": "1"}, {"size": 9}]
    dataset = load_data_source(0, write_json(tmp_path / "data.json", rows)).dataset
    types = {name: getattr(dataset.features[name], "dtype", None) for name in ("size", "share", "name", "is_old")}
    assert types == {"size": "int64", "share": "float64", "name": "string", "is_old": "bool"}
    empty = dict.fromkeys(rows[0])
    assert list(dataset) == [empty | row for row in rows]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"neither a JSON array nor JSON Lines \(line 1, column 2: Expecting property name"),
        (b'[{"a": 1},\n {"a" 2}]', "Expecting ':' delimiter: line 2 column 7"),
        (b'{"a": 1}\n\n{"a": 1}}\n', r"line 3, column 9: Extra data"),
        (b'[{"a": "\xff"}]', "can't decode byte 0xff"),
        (b"", "has no rows"),
        (b"[]", "has no rows"),
    ],
)
def test_broken_json_says_what_its_parser_said(tmp_path, content, message):
    for name in ("data.json", "data.jsonl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read as a dataset: .*{message}"):
            load_data_source(0, str(tmp_path / name))
    assert not list(datasets_config.HF_DATASETS_CACHE.glob("fila/json-*[!k]"))  # nothing but locks


def test_what_a_chat_template_refuses_is_named(tmp_path):
    processor = tiny_processor()
    processor.chat_template = "{{ raise_exception('No system turns.') }}"
    with pytest.raises(UserError, match=r"row 0 has a conversation that the chat template refuses: No system turns\."):
        make(processor, tmp_path, write_json(tmp_path / "data.json", [llava("Hi", "Ho")]))


# Checking once


@pytest.fixture
def pictures(tmp_path):
    """Data of 70 rows, each with an image of its own, and of one without."""
    rows = [llava("Hi", "Ho")]
    for number in range(70):
        random_image(40 + number, 100, seed=number).save(tmp_path / f"{number}.png")
        rows.append(llava("<image>What is it?", f"Number {number}.", image=f"{number}.png"))
    return write_json(tmp_path / "data.json", rows)


def remove_pictures(tmp_path):
    for path in tmp_path.glob("*.png"):
        path.unlink()


def test_second_start_opens_no_image(processor, tmp_path, pictures):
    first, _ = make(processor, tmp_path, pictures)
    remove_pictures(tmp_path)
    second, _ = make(tiny_processor(), tmp_path, pictures)
    assert len(second) == 71
    assert second[:] == first[:]
    with pytest.raises(UserError, match=r"data\.json, row 1 misses its image"):
        make(processor, tmp_path, pictures, arguments=["--overwrite_cache"])


@pytest.mark.parametrize("name", ["saved", "rows.parquet"])
def test_data_with_images_inside_is_checked_once(processor, tmp_path, monkeypatch, name):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    rows = {"messages": [messages] * 3, "image": [random_image(60, 90, seed) for seed in range(3)]}
    dataset = Dataset.from_dict(rows).cast_column("image", Image())
    path = str(tmp_path / name)
    dataset.save_to_disk(path) if name == "saved" else dataset.to_parquet(path)
    first, _ = make(processor, tmp_path, path)
    monkeypatch.setattr(PIL.Image, "open", None)
    second, _ = make(processor, tmp_path, path)
    assert len(second) == 3
    assert second[:] == first[:]


def change_data(tmp_path, processor):
    path = tmp_path / "data.json"
    path.write_text(path.read_text().replace("What is it?", "What is this?"))


def change_geometry(tmp_path, processor):
    processor.image_processor.do_dynamic_tiling = False


def change_template(tmp_path, processor):
    processor.chat_template = "Read this. " + processor.chat_template


@pytest.mark.parametrize("change", [change_data, change_geometry, change_template])
def test_changes_are_seen_at_the_next_start(tmp_path, pictures, change):
    processor = tiny_processor()
    before, _ = make(processor, tmp_path, pictures)
    change(tmp_path, processor)
    after, _ = make(processor, tmp_path, pictures)
    assert after["row"][:] == before["row"][:]
    assert after["length"][1] != before["length"][1]
    remove_pictures(tmp_path)
    assert make(processor, tmp_path, pictures)[0][:] == after[:]
    with pytest.raises(UserError, match="misses its image"):
        make(processor, tmp_path, pictures, max_length=255)


def test_bad_rows_are_checked_again(processor, tmp_path, pictures):
    (tmp_path / "69.png").rename(tmp_path / "away.png")
    with pytest.raises(UserError, match="row 70 misses its image"):
        make(processor, tmp_path, pictures)
    skipped, _ = make(processor, tmp_path, pictures, arguments=["--skip_bad_samples"])
    assert skipped["row"][:] == list(range(70))
    (tmp_path / "away.png").rename(tmp_path / "69.png")
    for number in range(69):
        (tmp_path / f"{number}.png").unlink()  # the good ones are not opened again
    for arguments in ([], ["--skip_bad_samples"]):
        samples, _ = make(processor, tmp_path, pictures, arguments=arguments)
        assert samples["row"][:] == list(range(71))


# Processes

INDEX = """
import os, sys
import fila.training.data as data
from fila import FilaDataCollator
from fila.common.arguments import UserError
from transformers import AutoProcessor, TrainingArguments

if __name__ == "__main__":
    folder, num_proc, *paths = sys.argv[1:]
    backend = "gloo" if "LOCAL_RANK" in os.environ else None
    training = TrainingArguments(folder, use_cpu=True, ddp_backend=backend, report_to="none")
    collator = FilaDataCollator(AutoProcessor.from_pretrained(folder, trust_remote_code=True), max_length=256)
    num_proc = int(num_proc) or None
    check, checked = data.check_row, []
    data.check_row = lambda *args, **kwargs: (checked.append(os.getpid()), check(*args, **kwargs))[1]
    for path in paths:
        checked.clear()
        try:
            source = data.load_data_source(0, path)
            dataset = data.make_dataset([source], collator, data.DataArguments(dataset_num_proc=num_proc), training)
            result = f"{len(dataset)} rows, {sum(dataset['length'])} tokens"
        except UserError as error:
            result = str(error).splitlines()[1]
        with open(f"{folder}/checked-{training.process_index}.txt", "a") as file:  # two stdouts would mix their lines
            print(f"process {training.process_index}: {result}, {len(checked)} checked here", file=file)
    os._exit(0)  # a thread of gloo may abort the interpreter's shutdown
"""


def run_index(tmp_path, processor, num_proc, *paths, launch=()):
    processor.save_pretrained(tmp_path)
    (tmp_path / "index.py").write_text(INDEX)
    command = [sys.executable, *launch, tmp_path / "index.py", tmp_path, str(num_proc), *paths]
    environment = os.environ | {"HF_DATASETS_CACHE": str(datasets_config.HF_DATASETS_CACHE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return sorted(line for path in tmp_path.glob("checked-*.txt") for line in path.read_text().splitlines())


@pytest.mark.slow
def test_several_processes_check_with_a_processor_of_remote_code(processor, tmp_path, pictures):
    rows = json.loads(Path(pictures).read_text())
    path = write_json(tmp_path / "many.json", rows * 9)
    bad = write_json(tmp_path / "bad.json", rows * 8 + [llava("<image>Hi", "Ho", image="missing.png")])
    expected, _ = make(processor, tmp_path, write_json(tmp_path / "same.json", rows * 9))
    total = f"639 rows, {sum(expected['length'])} tokens"
    lines = run_index(tmp_path, processor, 2, path, bad)
    problem = f"  {bad}, row 568 misses its image {tmp_path / 'missing.png'}"
    # The first rows are checked before others start.
    assert lines == sorted(f"process 0: {result}, {VALIDATED_ROWS} checked here" for result in (total, problem))


@pytest.mark.slow
def test_one_process_of_two_checks(processor, tmp_path, pictures):
    bad = write_json(tmp_path / "bad.json", [llava("Hi", "Ho")] * 2 + [llava("Hi", "")])
    expected, _ = make(processor, tmp_path, write_json(tmp_path / "same.json", json.loads(Path(pictures).read_text())))
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    lines = run_index(tmp_path, processor, 0, pictures, bad, launch=launch)
    total, problem = f"71 rows, {sum(expected['length'])} tokens", f"  {bad}, row 2 has an empty answer"
    assert lines == sorted(
        [f"process 0: {total}, 71 checked here", f"process 1: {total}, 0 checked here"]
        + [f"process 0: {problem}, 3 checked here", f"process 1: {problem}, 1 checked here"]
    )


@pytest.mark.slow
def test_reading_data_needs_neither_model_nor_trainer():
    code = "import sys, fila.training.data; print(*sys.modules)"
    modules = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "fila.training.data" in modules
    assert not modules & {"transformers.trainer", "fila.modeling_fila", "matplotlib"}
