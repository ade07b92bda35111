# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks at their smallest sizes, and the table of their results. They check what is reported, never a time."""

import contextlib
import itertools
import json
import multiprocessing
import operator
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from fila.benchmarks import canvases, convert, encode, finetune, run_all
from fila.benchmarks.convert import run as run_and_measure
from fila.benchmarks.counters import PeakMemory, count_flops, peak_bytes
from fila.benchmarks.harness import FIGURES, Median
from fila.benchmarks.models import MODELS, make_model, make_training_batch
from fila.common.layout import ROOT
from fila.training.finetuning import ModelArguments, add_lora

SETTINGS = {"command", "machine", "torch", "transformers", "threads", "dtype", "preset", "repeats"}
TITLES = ["what is compared", "variant", "goal", "measured", "file"]
FILE_TITLES = ["file", "machine", "versions", "command"]


def check_encode(row):
    assert row["parts_s"] == pytest.approx(row["clip_s"] + (row["convnext_s"] or 0.0))
    assert row["ratio"] == pytest.approx(row["fila_s"] / row["parts_s"])


def check_train_memory(plain, stage_1, plain_checkpointed, stage_1_checkpointed):
    assert plain["ratio"] == 1.0
    assert plain["gradients_mib"] == plain_checkpointed["gradients_mib"] == plain["parameters"] * 4 / 2**20
    assert stage_1["gradients_mib"] == stage_1_checkpointed["gradients_mib"] < plain["gradients_mib"]
    for row in (plain, stage_1, plain_checkpointed, stage_1_checkpointed):
        assert row["peak_mib"] > row["gradients_mib"]
        assert row["ratio"] == pytest.approx(row["peak_mib"] / plain["peak_mib"])
    assert stage_1["stage_1_ratio"] == stage_1["ratio"]
    assert stage_1_checkpointed["checkpointed_stage_1_ratio"] == stage_1_checkpointed["ratio"]


def check_train_step(first, second):
    """Both sides see the same tiles and text."""
    tokens, text = 16, 128  # of a view, and of the prompt
    assert (first["fila_tokens"], first["llava_next_tokens"]) == (tokens + text, 2 * tokens + 4 + text)
    assert (second["fila_tokens"], second["llava_next_tokens"]) == (5 * tokens + text, 5 * tokens + 8 + text)
    for row in (first, second):
        assert row["speed_ratio"] == pytest.approx(row["fila_samples_per_s"] / row["llava_next_samples_per_s"])
        flop_ratio = row["llava_next_tflop"] / row["fila_tflop"]
        assert row["speed_per_flop_ratio"] == pytest.approx(row["speed_ratio"] / flop_ratio)
        for side in ("fila", "llava_next"):
            assert row[f"{side}_peak_with_state_mib"] > row[f"{side}_peak_mib"] > 0
    assert second["fila_tflop"] > second["llava_next_tflop"] > first["llava_next_tflop"]
    # AdamW remembers two values of each parameter that it trains.
    states = [row["fila_peak_with_state_mib"] - row["fila_peak_mib"] for row in (first, second)]
    parameters = first["parameters"] * 4 / 2**20
    assert states[1] == pytest.approx(3 * parameters, rel=1e-3)
    assert parameters < states[0] < 1.5 * parameters


def check_load_data(row):
    pixels = (5 * 56**2 + 4 * 128**2) * 3 * row["batch"]  # views, and pieces of the ConvNeXt's canvas
    rest = row["bytes_mb_per_batch"] - pixels / 1e6
    assert 0 < rest < 0.1
    assert row["floats_mb_per_batch"] == pytest.approx(4 * pixels / 1e6 + rest)
    for side in ("bytes", "floats"):  # two workers; where they are forks, they share the libraries with their parent
        assert 10 < row[f"{side}_peak_mib"] < (200 if multiprocessing.get_start_method() == "fork" else 2000)


def check_wait_for_data(row):
    assert 0 < row["wait_share"] < 1
    assert row["headroom"] == pytest.approx(row["loader_samples_per_s"] / row["samples_per_s"])


def check_canvases(first, second):
    assert [(row["size"], row["views"], row["tokens"]) for row in (first, second)] == [("2x2", 5, 80), ("4x3", 13, 208)]
    assert (first["paper_tokens"], second["paper_tokens"]) == (2880, 7488)
    for name, value in (("first_token_ratio", "first_token_s"), ("train_ratio", "train_s"), ("peak_ratio", "peak_mib")):
        assert first[name] == 1
        assert second[name] == pytest.approx(second[value] / first[value])
    assert second["peak_ratio"] > 2


def check_finetune(full, lora):
    assert (full["name"], lora["name"]) == ("tiny, full", "tiny, LoRA")
    assert full["trained"] == full["parameters"] and lora["trained"] < lora["parameters"] > full["parameters"]
    assert full["states_gib"] == pytest.approx(3 * 4 * full["parameters"] / 2**30)
    assert full["hours"] == pytest.approx(100_000 * full["teraflops"] * 1e12 / 3e14 / 3600)


def check_everything(results):
    """Results of the preset small, by name of their file."""
    for name in ("preprocess", "preprocess_two_threads"):
        (row,) = results[name]
        assert row["ratio"] == pytest.approx(row["fila_ms"] / row["llava_next_ms"])
        assert row["uint8_ratio"] == pytest.approx(row["uint8_ms"] / row["llava_next_ms"])
    for row in results["decode"]:
        assert row["ratio"] == pytest.approx(row["reduced_ms"] / row["whole_ms"])
        assert row["decoded"] == "2304x336"
        assert 0 < row["mean_steps"] < row["max_steps"] <= 100
    for name, num_layers in {"encode": 6, "encode_cut_clip": 5, "encode_low_resolution": 6}.items():
        check_encode(*results[name])
        assert results[name][0]["clip_layers"] == num_layers
    assert (results["generate"][0]["vision_calls"], results["generate"][0]["same_tokens"]) == (1, True)
    check_train_memory(*results["train_memory"])
    check_train_step(*results["train_step"])
    check_load_data(*results["load_data"])
    check_wait_for_data(*results["wait_for_data"])
    counts = [(row["processes"], row["first_checked"], row["second_checked"]) for row in results["index_data"]]
    assert counts == [(1, 100, 0), (2, 100, 0)]
    for row, column in zip(results["convert"], ("ratio", "verified_ratio"), strict=True):
        assert row[column] == pytest.approx(row["convert_s"] / row["cp_s"])
    check_canvases(*results["canvases"])
    check_finetune(*results["finetune"])


@pytest.mark.slow
def test_everything_is_measured_at_toy_sizes_by_one_command(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "run_all.py", "--preset", "small", "--output_dir", tmp_path]
    subprocess.run(command, check=True)
    contents = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    assert set(contents) == set(run_all.RUNS)
    for content in contents.values():
        assert set(content["settings"]) == SETTINGS
        assert all(set(row) >= {"batch", "size", "parameters"} for row in content["results"])
    check_everything({name: content["results"] for name, content in contents.items()})
    assert find_faults((tmp_path / "table.md").read_text(), tmp_path) == []


def test_a_benchmark_that_fails_does_not_keep_the_others_from_running(tmp_path, monkeypatch, capfd):
    runs = {"wrong": ("encode --fusion-type x", ""), "encode": ("encode --fusion-type none", "")}
    monkeypatch.setattr(run_all, "RUNS", runs)
    with pytest.raises(SystemExit, match="failed: wrong$"):
        run_all.main(["--preset", "small", "--output_dir", str(tmp_path)])
    assert "invalid choice: 'x'" in capfd.readouterr().err
    content = json.loads((tmp_path / "encode.json").read_text())
    check_encode(*content["results"])
    assert content["settings"]["command"] == "python benchmarks/encode.py --fusion-type none --preset small"
    assert find_faults((tmp_path / "table.md").read_text(), tmp_path) == []


def test_full_results_are_not_overwritten_by_others():
    with pytest.raises(SystemExit):
        run_all.main(["--preset", "small"])


def test_ratios_of_medians_go_round_by_round(tmp_path):
    ratio = Median([1.0, 2.0, 40.0]) / Median([1.0, 1.0, 20.0])
    assert (ratio, ratio.spread) == (2.0, [1.5, 2.0])
    assert (2 / Median([1, 2, 4]), (3 * Median([1, 2, 4])).spread, Median([5]).spread) == (1.0, [4.5, 9.0], None)
    encode.main(["--preset", "small", "--repeats", "3", "--output", str(tmp_path / "encode.json")])
    (row,) = json.loads((tmp_path / "encode.json").read_text())["results"]
    low, high = row["spread"]["ratio"]
    assert low <= row["ratio"] <= high


def test_flops_of_depthwise_convolutions_and_attention_are_exact():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 7, padding=3, groups=8) for _ in range(2)))

        def forward(self, pixels):
            tokens = self.layers(pixels).flatten(2).transpose(1, 2)[:, None]
            return SimpleNamespace(loss=torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).sum())

    convolution, product = 2 * 3 * 8 * 10 * 10 * 7 * 7, 2 * 3 * 100 * 100 * 8
    # Each convolution has a gradient of its weight, the second one of its input; each product has two gradients.
    network, pixels = Network(), torch.randn(3, 8, 10, 10)
    assert count_flops(lambda: network(pixels).loss.backward()) == 5 * convolution + 6 * product


def test_train_memory_counts_exactly_on_the_cpu():
    def step():
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(500, dtype=torch.uint8)
        del first
        third = torch.empty(900, dtype=torch.uint8)
        return second, third

    assert peak_bytes(step, "cpu") == 1500


def test_canvases_can_be_chosen(tmp_path):
    path = tmp_path / "canvases.json"
    canvases.main(["--preset", "small", "--grids", "1x2", "--output", str(path)])
    assert [row["size"] for row in json.loads(path.read_text())["results"]] == ["1x2", "2x2"]


@pytest.mark.parametrize("way", finetune.WAYS)
def test_finetune_counts_what_a_real_step_takes(way):
    # With a short text, the peak of so small a model is oneDNN's workspace for the gradient of a convolution.
    text_length = 1024
    options = SimpleNamespace(preset="small", text_length=text_length, pages=1, flops_per_second=1.0)
    counted = finetune.measure(options, "tiny", way)

    model = make_model(**MODELS["small"]).train()
    model.set_training_stage(2)
    if way == "LoRA":
        add_lora(model, ModelArguments(lora_r=finetune.WAYS[way]))
    model.gradient_checkpointing_enable({"use_reentrant": False})
    inputs = make_training_batch(model.config, 1, (2, 2), text_length)

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        model.zero_grad()

    assert counted["teraflops"] * 1e12 == pytest.approx(count_flops(step), rel=1e-9)
    # Temporaries inside operators, which are not in the count, are about 1 % here.
    assert counted["step_gib"] * 2**30 == pytest.approx(peak_bytes(step, "cpu"), rel=0.02)


def test_peak_memory_leaves_out_what_was_there_before():
    weight = torch.empty(1000)
    with PeakMemory() as memory:
        first = weight.view(10, 100).t() + 1
        del first
        weight.mul_(2)[:500].clone()
    assert memory.peak == weight.nbytes


def test_convert_measures_the_memory_of_the_command_alone():
    bytearray(b"x") * 2**28  # a peak of this process, which the kernel would hand to a child
    _, idle = run_and_measure([sys.executable, "-S", "-c", "pass"])
    _, busy = run_and_measure([sys.executable, "-S", "-c", "bytearray(b'x') * 2**28"])
    assert idle < 0.1
    assert 0.25 < busy < 0.35
    with pytest.raises(RuntimeError, match="out of luck"):
        run_and_measure([sys.executable, "-c", "raise SystemExit('out of luck')"])


@pytest.mark.slow
def test_convert_keeps_its_memory_at_a_fiftieth_of_the_size(tmp_path):
    convert.main(["--preset", "fiftieth", "--output", str(tmp_path / "convert.json")])
    plain, verified = json.loads((tmp_path / "convert.json").read_text())["results"]
    assert (plain["what"], verified["what"]) == ("convert", "convert and verify")
    for row in (plain, verified):
        assert row["parameters"] == plain["parameters"]
        assert row["output_gb"] > 2 * row["parameters"] / 1e9 > 0.25  # every tensor is there, in bfloat16
        assert 0.1 < row["peak_gib"] < 3.72


def is_shown(text, value):
    """Whether a text is a value, to as many digits as it has."""
    if isinstance(value, bool) or "e" in text:
        return text == (str(value) if isinstance(value, bool) else f"{value:.3g}")
    return text == f"{value:.{len(text.partition('.')[2])}f}"


def read_table(text, titles):
    """The rows of the table in a text that has these titles, as dicts."""
    lines = text.split(f"| {' | '.join(titles)} |\n")[1].split("\n\n")[0].splitlines()
    return [dict(zip(titles, line.strip("| ").split(" | "), strict=True)) for line in lines if "---" not in line]


def make_table(titles, rows):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [titles, *(row.values() for row in rows)])


def find_faults(text, folder):
    """What is wrong with the tables of the results in a folder. Each row of the first one names a record and one of its fields,
    and each figure has one row; the second one has a row for each file."""
    contents = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    names = {f"[{name}]({'results/' if folder == run_all.RESULTS else ''}{name}.json)": name for name in contents}
    faults, seen = [], []
    for row in read_table(text, TITLES):
        name = names[row["file"]]
        columns = {figure: (column, goal) for column, (figure, goal) in FIGURES[contents[name]["benchmark"]].items()}
        column, goal = columns[row["what is compared"]]
        (record,) = [
            r for r in contents[name]["results"] if run_all.describe(r) == row["variant"] and r.get(column) is not None
        ]
        seen.append((name, column, row["variant"]))
        numbers = re.fullmatch(r"([\w.+-]+)(?: \[([\d.e+-]+), ([\d.e+-]+)\])?", row["measured"]).groups()
        values = [record[column], *record["spread"].get(column, (None, None))]
        if not all(
            (number is None) == (value is None) and (value is None or is_shown(number, value))
            for number, value in zip(numbers, values)
        ):
            faults.append((*seen[-1], "measured"))
        sign, _, bound = goal.rpartition(" ")
        missed = sign and not {"<": operator.lt, "<=": operator.le, ">=": operator.ge}[sign](
            record[column], float(bound)
        )
        if row["goal"] != (f"**{goal}**" if missed else goal):
            faults.append((*seen[-1], "goal"))
    expected = [
        (name, column, run_all.describe(record))
        for name, content in contents.items()
        for record in content["results"]
        for column in FIGURES[content["benchmark"]]
        if record.get(column) is not None
    ]
    files = [tuple(row.values()) for row in read_table(text, FILE_TITLES)]
    expected_files = []
    for link, name in names.items():
        settings = contents[name]["settings"]
        machine = f"{settings['machine']}, threads {settings['threads']}, {settings['dtype']}"
        versions = f"torch {settings['torch']}, transformers {settings['transformers']}"
        expected_files.append((link, machine, versions, f"`{settings['command']}`"))
    pairs = ((seen, expected), (files, expected_files))
    return faults + [row for a, b in pairs for row in ((Counter(a) - Counter(b)) + (Counter(b) - Counter(a)))]


def test_the_table_has_all_figures_of_the_result_files_that_have_a_goal():
    assert find_faults(run_all.README.read_text(), run_all.RESULTS) == []
    assert {path.stem for path in run_all.RESULTS.glob("*.json")} <= set(run_all.RUNS)


def test_rows_with_goals_come_first_and_yes_or_no_is_no_figure():
    rows = read_table(run_all.README.read_text(), TITLES)
    has_goal = [row["goal"] != "none" for row in rows]
    assert has_goal == sorted(has_goal, reverse=True)
    assert not any(row["measured"] in ("True", "False") for row in rows)


@pytest.mark.parametrize("titles, column", [*((TITLES, t) for t in TITLES), *((FILE_TITLES, t) for t in FILE_TITLES)])
def test_cells_that_changed_places_are_found(titles, column):
    tables = {tuple(names): read_table(run_all.README.read_text(), names) for names in (TITLES, FILE_TITLES)}
    rows = tables[tuple(titles)]
    pairs = [(a, b) for a, b in itertools.pairwise(rows) if a[column] != b[column]]
    for first, second in pairs or [(rows[0], {column: "of another table"})]:
        first[column], second[column] = second[column], first[column]
        text = "\n".join(make_table(names, table) for names, table in tables.items())
        with contextlib.suppress(KeyError, ValueError):  # there is no such record or field
            assert find_faults(text, run_all.RESULTS)
        first[column], second[column] = second[column], first[column]


def test_a_row_that_is_left_out_is_found():
    lines = run_all.README.read_text().splitlines()
    for line in [line for line in lines if line.startswith("| ") and ".json)" in line]:
        assert find_faults("\n".join(other for other in lines if other != line), run_all.RESULTS)
