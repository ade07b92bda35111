# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py: interrupted runs go on to the same result."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trainings import llava, run, write_json

from fila.training.callbacks import FilaTrainer, TrainingProgress, find_checkpoint
from helpers import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "accumulation"), [("random", 1), ("group_by_length", 2)])
def test_run_resumed_at_any_step_sees_the_same_samples(model_folder, tmp_path, monkeypatch, strategy, accumulation):
    rows = [llava("Hi " * (number % 4), f"{number}, a number.") for number in range(6)]
    data = write_json(tmp_path / "data.json", rows)
    options = ["--stage", 1, "--learning_rate", 1e-2, "--num_train_epochs", 2, "--per_device_train_batch_size", 2]
    options += ["--gradient_accumulation_steps", accumulation, "--train_sampling_strategy", strategy]
    seen, compute_loss = [], FilaTrainer.compute_loss

    def note(self, model, inputs, **kwargs):
        loss = compute_loss(self, model, inputs, **kwargs)
        seen.append((inputs["sample_ids"].tolist(), loss.item()))
        return loss

    monkeypatch.setattr(FilaTrainer, "compute_loss", note)
    straight = tmp_path / "straight"
    run(model_folder, data, straight, *options, "--save_steps", 1)
    expected, weights = seen.copy(), load_file(straight / "model.safetensors")
    steps_per_epoch = math.ceil(3 / accumulation)
    orders = [[row for ids, _ in expected[start : start + 3] for _, row in ids] for start in (0, 3)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6)) and orders[0] != orders[1]
    for step in range(1, 2 * steps_per_epoch):
        seen.clear()
        resumed = tmp_path / f"resumed-{step}"
        shutil.copytree(straight / f"checkpoint-{step}", resumed / f"checkpoint-{step}")
        run(model_folder, data, resumed, *options, "--save_strategy", "no")
        num_batches = step // steps_per_epoch * 3 + step % steps_per_epoch * accumulation
        assert seen == expected[num_batches:], step
        actual = load_file(resumed / "model.safetensors")
        assert all(torch.equal(actual[name], tensor) for name, tensor in weights.items()), step


def test_start_of_an_epoch_does_not_read_row_by_row(model_folder, tmp_path, monkeypatch):
    data = write_json(tmp_path / "data.json", [llava("Hi " * (number % 4), f"{number}.") for number in range(200)])
    read, get_row = [], Dataset.__getitem__
    for strategy in ("random", "group_by_length"):  # the first run checks the rows
        options = ["--max_steps", 1, "--train_sampling_strategy", strategy, "--save_strategy", "no"]
        run(model_folder, data, tmp_path / strategy, *options, "--per_device_train_batch_size", 2)
        monkeypatch.setattr(Dataset, "__getitem__", lambda self, key: read.append(key) or get_row(self, key))
    assert 2 <= len(read) < 50


RESUME = ["--stage", "2", "--per_device_train_batch_size", "4", "--num_train_epochs", "2", "--learning_rate", "1e-3"]
RESUME += ["--train_sampling_strategy", "group_by_length", "--save_steps", "1", "--save_total_limit", "3"]
RESUME += ["--use_cpu", "--report_to", "none", "--logging_steps", "1", "--dataloader_num_workers", "1"]


@pytest.mark.slow
def test_killed_run_goes_on_to_the_same_weights(model_folder, documents, tmp_path, capsys):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    command = [sys.executable, ROOT / "train.py", "--model_name_or_path", model_folder, "--train_data", documents]
    command += ["--output_dir", killed, *RESUME]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in this process
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while find_checkpoint(killed)[0] is None or not (killed / "checkpoint-7").exists():
        assert process.poll() is None  # ten steps in all; killed while the seventh is being saved, or soon after
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "config.json").exists()
    checkpoint, _ = find_checkpoint(killed)
    assert int(checkpoint.name.split("-")[1]) in (6, 7, 8, 9)
    run(model_folder, documents, killed, *RESUME)
    run(model_folder, documents, straight, *RESUME)
    assert f"Continuing from {checkpoint}" in capsys.readouterr().out
    expected, actual = (load_file(folder / "model.safetensors") for folder in (straight, killed))
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name
    names = sorted(path.name for path in killed.glob("checkpoint-*"))
    assert names == ["checkpoint-10", "checkpoint-8", "checkpoint-9"]


def test_half_written_checkpoints_are_not_taken(tmp_path):
    def write(step, state, rng=("rng_state.pth",), cut=0):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
        for name in rng:
            torch.save(torch.get_rng_state(), folder / name)
        if cut:
            (folder / rng[-1]).write_bytes((folder / rng[-1]).read_bytes()[:-cut])
        return folder

    def whole(step, world_size=None):
        state = {"global_step": step, "log_history": []}
        if world_size is not None:
            state["stateful_callbacks"] = {"TrainingProgress": TrainingProgress(world_size).state()}
        return json.dumps(state)

    assert find_checkpoint(tmp_path / "nothing") == (None, [])
    good = [write(2, whole(2)), write(10, whole(10))]
    bad = [write(11, None), write(12, whole(12)[:-4]), write(13, whole(12))]
    write(14, whole(14), rng=())  # of --save_only_model: whole, and nothing to go on from
    write("best", None)
    assert find_checkpoint(tmp_path) == (good[1], bad)
    # Of two processes, the second may still be writing when the first has done.
    both = ("rng_state_0.pth", "rng_state_1.pth")
    bad += [write(15, whole(15, 2), rng=both[:1]), write(16, whole(16, 2), rng=both, cut=40)]
    assert find_checkpoint(tmp_path) == (good[1], bad)
    good.append(write(17, whole(17, 2), rng=both))
    assert find_checkpoint(tmp_path) == (good[2], bad)
