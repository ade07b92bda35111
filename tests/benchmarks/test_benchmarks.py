# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Smoke tests of the benchmarks at their smallest sizes. They check what is reported, never a time."""

import json
import runpy
import sys

import pytest
import torch

from helpers import ROOT

SETTINGS = {"torch", "transformers", "device", "processor", "threads", "dtype", "preset", "repeats"}
ALWAYS = {"batch", "size", "parameters"}


@pytest.fixture
def run_benchmark(tmp_path, monkeypatch):
    """A function that runs a script as the command line does and returns the results it wrote."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    num_threads = torch.get_num_threads()

    def run(name, *options):
        output = tmp_path / f"{name}.json"
        main = runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"), run_name=name)["main"]
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
    sys.modules.pop("common", None)


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


def test_train_memory_counts_exactly_on_the_cpu(run_benchmark):
    peak_bytes = runpy.run_path(str(ROOT / "benchmarks" / "train_memory.py"), run_name="train_memory")["peak_bytes"]

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


def test_convert_measures_the_memory_of_the_command_alone(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    run = runpy.run_path(str(ROOT / "benchmarks" / "convert.py"), run_name="convert")["run"]
    bytearray(b"x") * 2**28  # a peak of this process, which the kernel would hand to a child
    _, idle = run([sys.executable, "-S", "-c", "pass"])
    _, busy = run([sys.executable, "-S", "-c", "bytearray(b'x') * 2**28"])
    sys.modules.pop("common", None)
    assert idle < 0.1
    assert 0.25 < busy < 0.35
    with pytest.raises(RuntimeError, match="out of luck"):
        run([sys.executable, "-c", "raise SystemExit('out of luck')"])


@pytest.mark.slow
def test_convert_keeps_its_memory_at_a_fiftieth_of_the_size(run_benchmark):
    plain, verified = run_benchmark("convert", "--preset", "fiftieth")
    assert (plain["what"], verified["what"]) == ("convert", "convert and verify")
    for row in (plain, verified):
        assert row["ratio"] == pytest.approx(row["convert_s"] / row["cp_s"])
        assert row["batch"] == 1
        assert row["parameters"] == plain["parameters"]
        assert row["output_gb"] > 2 * row["parameters"] / 1e9 > 0.25  # every tensor is there, in bfloat16
        assert 0.1 < row["peak_gib"] < 2.8
