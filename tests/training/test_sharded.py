# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""train.py with the recipes of accelerate: two processes that share the weights train what one process does."""

import json
import os
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file
from trainings import llava, write_json

from fila import train
from helpers import ROOT, random_image


@pytest.mark.parametrize("name", ["fsdp2", "deepspeed_zero3"])
def test_accelerate_configurations_have_keys_that_accelerate_knows(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / f"{name}.yaml"))  # refuses unknown keys
    known = {action.dest for action in launch_command_parser()._actions}
    options = config.fsdp_config | config.deepspeed_config
    assert options and set(options) <= known
    assert config.distributed_type.value == name.split("_")[0].rstrip("2").upper()


def launch_environment(name):
    """The environment that `accelerate launch --config_file recipes/accelerate/NAME.yaml` would set, on CPUs."""
    recipe = yaml.safe_load((ROOT / "recipes" / "accelerate" / f"{name}.yaml").read_text())
    if name == "fsdp2":
        environment = {key.upper(): str(value) for key, value in recipe["fsdp_config"].items()}
        return environment | {"ACCELERATE_USE_FSDP": "true"}
    settings = {key.upper().removesuffix("_FLAG"): str(value) for key, value in recipe["deepspeed_config"].items()}
    environment = {f"ACCELERATE_DEEPSPEED_{key}": value for key, value in settings.items()}
    return environment | {"ACCELERATE_USE_DEEPSPEED": "true"}


DEEPSPEED = ROOT / "build" / "deepspeed"  # not in the environment, where every process that trains would import it
needs_deepspeed = pytest.mark.skipif(not DEEPSPEED.exists(), reason="`make test` installs DeepSpeed there")


def write_rows(folder):
    """LLaVA data for one sample a process: at some steps one has an image and the other has none, or one of another grid."""
    rows = []
    for number, size in enumerate([(60, 90), None, (120, 50), (50, 120), None, None, (120, 120), (50, 50)] * 2):
        if size is None:
            rows.append(llava(f"What is {number}?", f"{number}, a number."))
            continue
        random_image(*size, seed=number).save(folder / f"{number}.png")
        rows.append(llava("<image>What is it?", f"Picture {number}.", image=f"{number}.png"))
    two = [f"{number}.png" for number in (0, 2)]
    rows[3] = llava("<image><image>Which?", "Neither.", image=two)  # two grids in one batch
    return write_json(folder / "data.json", rows)


def launch(name, runs):
    """Starts two processes that do `runs`, for train_sharded.py. Returns what they print."""
    path = [ROOT / "tests", *([DEEPSPEED] if name == "deepspeed_zero3" else []), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | launch_environment(name)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, path)).rstrip(os.pathsep)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    command += [ROOT / "tests" / "training" / "train_sharded.py", json.dumps(runs, default=str)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    lines = [line for line in done.stderr.splitlines() if "%|" not in line]  # progress bars would hide the cause
    assert done.returncode == 0, "\n".join(lines)
    return done.stdout


def read_results(folder):
    log = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    steps = [(entry["loss"], entry["grad_norm"]) for entry in log if "loss" in entry]
    return steps, json.loads((folder / "all_results.json").read_text())["eval_loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages"), [("fsdp2", (1, 2)), pytest.param("deepspeed_zero3", (2,), marks=needs_deepspeed)]
)
def test_sharded_training_is_that_of_one_process(model_folder, tmp_path, name, stages):
    data = write_rows(tmp_path)
    options = ["--model_name_or_path", model_folder, "--train_data", data, "--eval_data", data, "--use_cpu"]
    options += ["--learning_rate", 0.1, "--optim", "sgd", "--lr_scheduler_type", "constant", "--report_to", "none"]
    options += ["--max_steps", 8, "--save_steps", 4, "--logging_steps", 1, "--gradient_checkpointing", "true"]
    config = json.dumps({"dispatch_batches": False, "use_configured_state": name == "fsdp2"})
    shared = ["--per_device_train_batch_size", 1, "--ddp_backend", "gloo", "--accelerator_config", config]
    runs = []
    for stage in stages:
        alone, sharded, resumed = (tmp_path / f"{kind}{stage}" for kind in ("alone", "sharded", "resumed"))
        staged = [*options, "--stage", stage]
        whole = [*staged, "--output_dir", alone, "--per_device_train_batch_size", 2]
        train.train(*train.parse([str(part) for part in whole]))
        arguments = [str(part) for part in (*staged, *shared)]
        runs += [(arguments, sharded, None), (arguments, resumed, sharded / "checkpoint-4")]
    assert launch(name, runs).count("Continuing from") == len(stages)
    for stage in stages:
        alone, sharded, resumed = (tmp_path / f"{kind}{stage}" for kind in ("alone", "sharded", "resumed"))
        expected_steps, expected_loss = read_results(alone)
        assert len(expected_steps) == 8
        for folder in (sharded, resumed):
            shards = {"fsdp2": "pytorch_model_fsdp_0", "deepspeed_zero3": "global_step8"}[name]
            assert len(list((folder / "checkpoint-8" / shards).iterdir())) > 1  # it was sharded
            steps, loss = read_results(folder)
            assert steps == [pytest.approx(step, rel=1e-3) for step in expected_steps]
            assert loss == pytest.approx(expected_loss, rel=1e-4)
        code = {path.name for path in alone.glob("*.py")}
        assert "modeling_fila.py" in code and {path.name for path in sharded.glob("*.py")} == code
        states = [load_file(folder / "model.safetensors") for folder in (alone, sharded, resumed, model_folder)]
        assert states[0].keys() == states[1].keys() == states[2].keys() == states[3].keys()
        for key, tensor in states[0].items():
            torch.testing.assert_close(states[1][key], tensor, rtol=1e-3, atol=1e-5)
            torch.testing.assert_close(states[2][key], states[1][key], rtol=0, atol=0 if name == "fsdp2" else 1e-6)
        assert any(not torch.equal(tensor, states[3][key]) for key, tensor in states[0].items())
