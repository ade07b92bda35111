# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""training/data.py: data is checked once, by one of several processes, and again when something has changed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from datasets import Dataset, Image
from datasets import config as datasets_config
from trainings import llava, make, write_json

from fila.common.arguments import UserError
from helpers import random_image, tiny_processor


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


INDEX = """
import json, os, sys
import fila.training.data as data
from fila import FilaDataCollator
from fila.common.arguments import UserError
from transformers import AutoProcessor, TrainingArguments

if __name__ == "__main__":
    folder, *paths = sys.argv[1:]
    training = TrainingArguments(folder, use_cpu=True, ddp_backend="gloo", report_to="none")
    collator = FilaDataCollator(AutoProcessor.from_pretrained(folder, trust_remote_code=True), max_length=256)
    check, checked = data.check_row, []
    data.check_row = lambda *args, **kwargs: (checked.append(os.getpid()), check(*args, **kwargs))[1]
    results = []
    for path in paths:
        checked.clear()
        options = data.DataArguments(dataset_num_proc=2 if "many" in path else None)
        try:
            dataset = data.make_dataset([data.load_data_source(0, path)], collator, options, training)
            results.append([len(dataset), sum(dataset["length"]), len(checked)])
        except UserError as error:
            results.append([str(error).splitlines()[1], 0, len(checked)])
    with open(f"{folder}/results{training.process_index}.json", "w") as file:  # a shared stdout would mix their lines
        json.dump(results, file)
    os._exit(0)  # a thread of gloo may abort the interpreter's shutdown
"""


@pytest.mark.slow
def test_one_process_of_two_checks_with_a_processor_of_remote_code(processor, tmp_path, pictures):
    rows = json.loads(Path(pictures).read_text())
    many = write_json(tmp_path / "many.json", rows * 9)
    bad = write_json(tmp_path / "bad.json", [llava("Hi", "Ho")] * 2 + [llava("Hi", "")])
    many_bad = write_json(tmp_path / "many-bad.json", rows * 8 + [llava("<image>Hi", "Ho", image="missing.png")])
    expected, _ = make(processor, tmp_path, write_json(tmp_path / "same.json", rows))
    processor.save_pretrained(tmp_path)
    (tmp_path / "index.py").write_text(INDEX)
    launch = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", tmp_path / "index.py", tmp_path]
    environment = os.environ | {"HF_DATASETS_CACHE": str(datasets_config.HF_DATASETS_CACHE)}
    done = subprocess.run(
        [sys.executable, *launch, pictures, bad, many, many_bad],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    tokens = sum(expected["length"])
    problems = [
        f"  {bad}, row 2 has an empty answer",
        f"  {many_bad}, row 568 misses its image {tmp_path / 'missing.png'}",
    ]
    results = [[71, tokens], [problems[0], 0], [639, 9 * tokens], [problems[1], 0]]
    first, second = (json.loads((tmp_path / f"results{number}.json").read_text()) for number in (0, 1))
    assert [result[:2] for result in first] == [result[:2] for result in second] == results
    # A bad row is looked at twice; with `dataset_num_proc`, other processes check.
    assert [result[2] for result in first] == [71, 3 + 1, 0, 0]
    assert [result[2] for result in second] == [0] * 4
