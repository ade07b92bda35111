# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Smoke tests of the benchmarks at their smallest sizes. They check what is reported, never a time."""

import importlib
import json
import re
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fila.benchmarks import gpu
from fila.benchmarks.convert import run as run_and_measure
from fila.benchmarks.finetune import ATTENTION_FLOPS
from fila.benchmarks.train_memory import make_training_batch, make_training_model, peak_bytes
from fila.common.layout import ROOT

SETTINGS = {"torch", "transformers", "device", "processor", "threads", "dtype", "preset", "repeats"}
ALWAYS = {"batch", "size", "parameters"}


@pytest.fixture
def run_benchmark(tmp_path):
    """A function that runs a script as the command line does and returns the results it wrote."""
    num_threads = torch.get_num_threads()

    def run(name, *options):
        output = tmp_path / f"{name}.json"
        main = importlib.import_module(f"fila.benchmarks.{name}").main
        main(["--preset", "small", "--output", str(output), *options])
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        content = json.loads(output.read_text())
        assert content["benchmark"] == name
        assert set(content["settings"]) == SETTINGS
        for row in content["results"]:
            assert set(row) >= ALWAYS
        return content["results"]

    yield run
    torch.set_num_threads(num_threads)


def test_preprocess_reports_identical_outputs(run_benchmark):
    (row,) = run_benchmark("preprocess")
    assert row["identical"] is True
    assert {"fila_ms", "llava_next_ms", "ratio"} <= set(row)


@pytest.mark.parametrize("options", [(), ("--fusion-type", "none"), ("--grid", "0", "0", "--cut-clip")])
def test_encode_reports_parts(run_benchmark, options):
    (row,) = run_benchmark("encode", *options)
    assert row["parts_s"] == pytest.approx(row["clip_s"] + (row["convnext_s"] or 0.0))
    assert row["ratio"] == pytest.approx(row["fila_s"] / row["parts_s"])
    assert row["clip_layers"] == (5 if "--cut-clip" in options else 6)


def test_generate_encodes_images_once_and_gives_the_tokens_of_stock_llama(run_benchmark):
    (row,) = run_benchmark("generate", "--new-tokens", "5", "--batch-size", "2")
    assert row["vision_calls"] == 1
    assert row["same_tokens"] is True
    assert {"prefill_ratio", "decode_ratio"} <= set(row)


def test_train_memory_counts_gradients_of_what_is_trained(run_benchmark):
    plain, stage_1, plain_checkpointed, stage_1_checkpointed = run_benchmark("train_memory")
    assert plain["ratio"] == 1.0
    assert plain["gradients_mib"] == plain_checkpointed["gradients_mib"] == plain["parameters"] * 4 / 2**20
    assert stage_1["gradients_mib"] == stage_1_checkpointed["gradients_mib"] < plain["gradients_mib"]
    for row in (plain, stage_1, plain_checkpointed, stage_1_checkpointed):
        assert row["peak_mib"] > row["gradients_mib"]
        assert row["ratio"] == pytest.approx(row["peak_mib"] / plain["peak_mib"])


def test_train_memory_counts_exactly_on_the_cpu():
    def step():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(500, dtype=torch.uint8)
        del first
        third = torch.empty(900, dtype=torch.uint8)
        return second, third

    assert peak_bytes(step, "cpu") == 1500


def test_train_step_gives_both_sides_the_same_tiles_and_text(run_benchmark):
    first, second = run_benchmark("train_step", "--text-length", "20", "--batch-size", "2")
    assert [row["stage"] for row in (first, second)] == [1, 2]
    tokens = 16  # of a view
    assert (first["fila_tokens"], first["llava_next_tokens"]) == (tokens + 20, 2 * tokens + 4 + 20)
    assert (second["fila_tokens"], second["llava_next_tokens"]) == (5 * tokens + 20, 5 * tokens + 8 + 20)
    for row in (first, second):
        assert row["speed_ratio"] == pytest.approx(row["fila_samples_per_s"] / row["llava_next_samples_per_s"])
        for side in ("fila", "llava_next"):
            assert row[f"{side}_peak_with_state_mib"] > row[f"{side}_peak_mib"] > 0
    # AdamW remembers two values of each parameter that it trains.
    states = [row["fila_peak_with_state_mib"] - row["fila_peak_mib"] for row in (first, second)]
    parameters = first["parameters"] * 4 / 2**20
    assert states[1] == pytest.approx(3 * parameters, rel=1e-3)
    assert parameters < states[0] < 1.5 * parameters


def test_finetune_counts_what_a_real_step_takes(run_benchmark):
    full, lora = run_benchmark("finetune")
    assert (full["name"], lora["name"]) == ("tiny, full", "tiny, LoRA")
    assert full["trained"] == full["parameters"] and lora["trained"] < lora["parameters"] > full["parameters"]
    assert full["states_gib"] == pytest.approx(3 * 4 * full["parameters"] / 2**30)
    assert full["hours"] == pytest.approx(100_000 * full["teraflops"] * 1e12 / 3e14 / 3600)

    model = make_training_model("small", "cpu", torch.float32).train()
    model.set_training_stage(2)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = make_training_batch(model.config, 1, (2, 2), 128, "cpu", torch.float32)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        model.zero_grad()

    with FlopCounterMode(display=False, custom_mapping=ATTENTION_FLOPS) as flops:
        step()
    assert full["teraflops"] * 1e12 == pytest.approx(flops.get_total_flops(), rel=0.01)
    assert full["step_gib"] * 2**30 == pytest.approx(peak_bytes(step, "cpu"), rel=0.1)


def test_convert_measures_the_memory_of_the_command_alone():
    bytearray(b"x") * 2**28  # a peak of this process, which the kernel would hand to a child
    _, idle = run_and_measure([sys.executable, "-S", "-c", "pass"])
    _, busy = run_and_measure([sys.executable, "-S", "-c", "bytearray(b'x') * 2**28"])
    assert idle < 0.1
    assert 0.25 < busy < 0.35
    with pytest.raises(RuntimeError, match="out of luck"):
        run_and_measure([sys.executable, "-c", "raise SystemExit('out of luck')"])


@pytest.mark.slow
def test_convert_keeps_its_memory_at_a_fiftieth_of_the_size(run_benchmark):
    plain, verified = run_benchmark("convert", "--preset", "fiftieth")
    assert (plain["what"], verified["what"]) == ("convert", "convert and verify")
    for row in (plain, verified):
        assert row["ratio"] == pytest.approx(row["convert_s"] / row["cp_s"])
        assert row["batch"] == 1
        assert row["parameters"] == plain["parameters"]
        assert row["output_gb"] > 2 * row["parameters"] / 1e9 > 0.25  # every tensor is there, in bfloat16
        assert 0.1 < row["peak_gib"] < 3.72


def numbers_in(content):
    """All numbers of a JSON document."""
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, list):
        return [number for item in content for number in numbers_in(item)]
    return [content] if isinstance(content, (int, float)) and not isinstance(content, bool) else []


def test_index_data_checks_rows_once(run_benchmark):
    rows = run_benchmark("index_data")
    assert [(row["processes"], row["first_checked"], row["second_checked"]) for row in rows] == [
        (1, 100, 0),
        (2, 100, 0),
    ]


def test_gpu_reports_every_step_that_it_had_no_time_for(tmp_path):
    with pytest.raises(SystemExit):
        gpu.main(["--output_dir", str(tmp_path), "--preset", "small", "--device", "cpu", "--seconds", "0"])
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert list(steps) == ["tests", "encoder", "training", "generation"]
    assert all(step["outcome"].startswith("skipped") for step in steps.values())
    assert (tmp_path / "gpu.md").read_text().count("skipped") == len(steps)


def test_gpu_measures_a_step_and_says_why_another_failed(tmp_path, monkeypatch):
    steps = (("generation", "generate", "--preset small --new-tokens 3"), ("wrong", "generate", "--preset none"))
    monkeypatch.setitem(gpu.STEPS, "small", steps)
    monkeypatch.setattr(gpu, "DEVICE_TESTS", ["-c", "print('no tests')"])
    with pytest.raises(SystemExit):
        gpu.main(["--output_dir", str(tmp_path), "--preset", "small", "--device", "cpu"])
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert steps["tests"]["outcome"] == steps["generation"]["outcome"] == "passed"
    assert steps["generation"]["results"][0]["same_tokens"] is True
    assert "invalid choice" in steps["wrong"]["outcome"]
    assert "| generation | passed | 112+3 | decode_ratio |" in (tmp_path / "gpu.md").read_text()


def readme_rows():
    """The rows of the tables in README.md that name a result file, as dicts of cells."""
    header, rows = None, []
    for line in (ROOT / "benchmarks" / "README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else None
        if cells is None or header is None:
            header = cells
        elif "file" in header and (name := re.search(r"\((results/.+\.json)\)", line)):
            rows.append(dict(zip(header, cells)) | {"file": name.group(1)})
    return rows


def test_readme_gives_the_figures_of_the_result_files():
    rows = readme_rows()
    files = {f"results/{path.name}" for path in (ROOT / "benchmarks" / "results").glob("*.json")}
    for table in ("measured", "command"):
        assert files == {row["file"] for row in rows if table in row}
    for row in rows:
        content = json.loads((ROOT / "benchmarks" / row["file"]).read_text())
        if "command" in row:
            for setting in ("torch", "transformers", "threads", "dtype", "repeats"):
                assert row[setting] == str(content["settings"][setting]), row
            assert f"benchmarks/{content['benchmark']}.py" in row["command"]
            continue
        results = numbers_in(content["results"])
        decimals = len(row["measured"].partition(".")[2])
        assert row["measured"] in {f"{number:.{decimals}f}" for number in results}, row
        if row["goal"] == "none":
            continue
        bound, value = row["goal"].strip("*").replace("≤", "<=").replace("≥", ">=").split()
        assert any(goal.startswith(f"{bound} {value}") for goal in content["goals"].values()), row
        # A bold goal was missed, and every missed goal is bold.
        exact = [number for number in results if f"{number:.{decimals}f}" == row["measured"]]
        is_met = all(number <= float(value) if bound == "<=" else number >= float(value) for number in exact)
        assert is_met != row["goal"].startswith("**"), row


def test_readme_table_has_every_measured_value_that_has_a_goal():
    """No variant that missed its goal is left out."""
    measured = {}
    for row in readme_rows():
        measured.setdefault(row["file"], []).append(row.get("measured"))
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        content = json.loads(path.read_text())
        for column in content["goals"]:
            values = [result[column] for result in content["results"] if isinstance(result.get(column), float)]
            for value in values if content["benchmark"] != "train_memory" else []:
                assert any(
                    f"{value:.{len(figure.partition('.')[2])}f}" == figure
                    for figure in measured[f"results/{path.name}"]
                    if figure is not None
                ), (path.name, column, value)
