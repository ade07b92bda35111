# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""training/data.py: data in all its forms, and mixed; bad rows."""

import json

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from malformed import CHAT, LLAVA, malformed_rows
from trainings import llava, make, write_json

from fila.common.arguments import UserError
from fila.training.data import DECODED_ROWS, load_data_source
from fila.training.rows import read_row
from helpers import random_image, tiny_processor


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


def test_bad_rows_stop_the_run_or_are_listed(processor, tmp_path, capsys):
    path = write_json(tmp_path / "data.json", bad_rows(tmp_path))
    with pytest.raises(UserError, match=r"data\.json, row 1 misses its image .*missing\.png") as caught:
        make(processor, tmp_path, path)
    assert "row 2 has an image that cannot be read" in str(caught.value)
    assert "row 3 has a broken image" in str(caught.value)
    assert "row 4 has an empty answer" in str(caught.value)
    assert "row 6" not in str(caught.value)
    samples, _ = make(processor, tmp_path, path, arguments=["--skip_bad_samples"])
    assert samples["row"][:] == [0, 5]
    listed = [json.loads(line) for line in (tmp_path / "output" / "bad_samples.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in listed] == [1, 2, 3, 4]
    assert "2 samples; 1 left out as too long for max_length=256, 4 as bad" in capsys.readouterr().out


def test_bad_rows_are_listed_once_however_often_a_run_is_started(processor, tmp_path):
    path = write_json(tmp_path / "data.json", bad_rows(tmp_path))
    for _ in range(2):
        make(processor, tmp_path, path, arguments=["--skip_bad_samples"])
    lines = (tmp_path / "output" / "bad_samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in lines] == [1, 2, 3, 4]


def test_bad_row_far_from_the_start_is_found_before_training(processor, tmp_path):
    rows = [llava("Hi", "Ho")] * (DECODED_ROWS + 5) + [llava("<image>Hi", "Ho", image="missing.png")]
    with pytest.raises(UserError, match=f"row {DECODED_ROWS + 5} misses its image"):
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


# One JSON file with everything in it: wrong values make columns of mixed types.
@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_malformed_rows_are_named_and_skipped(processor, tmp_path, suffix, capsys):
    rows = [LLAVA, CHAT, *malformed_rows(tmp_path), LLAVA]
    assert len(rows) > 300
    path = tmp_path / f"rows.{suffix}"
    path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    good = [0, 1, len(rows) - 1]
    with pytest.raises(UserError, match=rf"rows\.{suffix}, row 2 is None, not an object(.*\n)*.*and 3\d\d more"):
        make(processor, tmp_path, str(path))
    samples, collator = make(processor, tmp_path, str(path), arguments=["--skip_bad_samples"])
    assert samples["row"][:] == good
    listed = [json.loads(line) for line in (tmp_path / "output" / "bad_samples.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in listed] == list(range(2, len(rows) - 1))
    assert all(entry["data"] == str(path) and entry["problem"] for entry in listed)
    assert f"3 samples; 0 left out as too long for max_length=256, {len(listed)} as bad" in capsys.readouterr().out
    lengths = collator([samples[row] for row in range(3)])["attention_mask"].sum(dim=1)
    assert samples["length"][:] == lengths.tolist()


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


def test_values_of_json_are_read_as_they_are(tmp_path):
    rows = [{"size": 8, "share": 1, "name": "a", "is_old": True, "answers": ["x"], "mixed": 1}, {"date": "2019-01-01"}]
    rows += [{"size": None, "share": 0.5, "name": "b", "is_old": False, "answers": None, "mixed": "1"}, {"size": 9**99}]
    source = load_data_source(0, write_json(tmp_path / "data.json", rows))
    assert [source.read(row) for row in range(len(source.dataset))] == rows


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
        (tmp_path / name).write_text('[{"a": 1}]')
        assert load_data_source(0, str(tmp_path / name)).read(0) == {"a": 1}


def test_what_a_chat_template_refuses_is_named(tmp_path):
    processor = tiny_processor()
    processor.chat_template = "{{ raise_exception('No system turns.') }}"
    with pytest.raises(UserError, match=r"row 0 has a conversation that the chat template refuses: No system turns\."):
        make(processor, tmp_path, write_json(tmp_path / "data.json", [llava("Hi", "Ho")]))
