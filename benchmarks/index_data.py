# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How long training data takes to open and check: at the first start, at later ones, and in several processes at once.

    python benchmarks/index_data.py [--output results.json]

Each row of a JSON file has two turns and names an image file, whose header is read; there are a hundredth as many files as
rows. The processor is that of the repository, in the low resolution of stage 1. A start is `load_data_source` and
`make_dataset`; that of several training processes, which torch.distributed joins, ends when the last of them is ready.
`checked` counts the rows that all processes together looked at. `first_ratio` compares the first
start of several processes with that of one, `second_ratio` the second start with the first.
"""

import json
import multiprocessing
import os
import socket
import tempfile
import time
from functools import partial
from pathlib import Path

import datasets
import PIL.Image
from datasets import config as datasets_config
from transformers import TrainingArguments

from fila import FilaDataCollator
from fila.benchmarks.harness import Median, make_parser, measure_in_turn, parse, report
from fila.benchmarks.models import make_processor
from fila.training import data
from fila.training.data import DataArguments, load_data_source, make_dataset

# Rows, and training processes.
PRESETS = {"20k": (20_000, 8), "200k": (200_000, 8), "small": (100, 2)}
NUM_PROC = 2
SIZES = [(640, 480), (480, 640), (1024, 768), (300, 900), (900, 300)]  # width and height of the images


def write_data(folder, num_rows, images):
    """`Path`: a JSON file of LLaVA rows with image files beside it, which they name in turn."""
    for number, image in enumerate(images):
        image.save(folder / f"{number}.jpg")
    rows = []
    for number in range(num_rows):
        question = {"from": "human", "value": f"<image>\nWhat is written in line {number}?"}
        answer = {"from": "gpt", "value": f"The line says that its number is {number}."}
        rows.append({"id": number, "image": f"{number % len(images)}.jpg", "conversations": [question, answer]})
    path = folder / "data.json"
    path.write_text(json.dumps(rows))
    return path


def count_checks(counter, check_row, *args, **kwargs):
    with counter.get_lock():
        counter.value += 1
    return check_row(*args, **kwargs)


def start(path, processor, num_proc, rank, world_size, port, barrier):
    """What a training process does before it has its dataset."""
    try:
        if world_size > 1:
            variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            variables |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in variables.items()})
        backend = "gloo" if world_size > 1 else None
        training_arguments = TrainingArguments(str(path.parent), use_cpu=True, ddp_backend=backend, report_to="none")
        collator, data_arguments = FilaDataCollator(processor, 4096), DataArguments(dataset_num_proc=num_proc)
        barrier.wait()  # the clock starts when all are here
        dataset = make_dataset([load_data_source(0, str(path))], collator, data_arguments, training_arguments)
        dataset[len(dataset) - 1]
        barrier.wait()
    except BaseException:
        barrier.abort()
        raise
    os._exit(0)  # a thread of gloo may abort the interpreter's shutdown


def measure(path, processor, num_proc, world_size):
    """Starts processes that share nothing but the cache.

    Returns:
        `tuple[float, int]`: seconds until the last has its dataset, and the number of rows that were checked.
    """
    context = multiprocessing.get_context("fork")
    barrier, counter = context.Barrier(world_size + 1), context.Value("l", 0)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    check_row, data.check_row = data.check_row, partial(count_checks, counter, data.check_row)
    arguments = (path, processor, num_proc)
    processes = [
        context.Process(target=start, args=(*arguments, rank, world_size, port, barrier)) for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    begin = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - begin
    for process in processes:
        process.join()
    data.check_row = check_row
    return seconds, counter.value


def main(arguments=None):
    options = parse(make_parser(__doc__, PRESETS, repeats=3, device=False), arguments)
    num_rows, world_size = PRESETS[options.preset]
    datasets.disable_progress_bars()
    processor = make_processor(do_dynamic_tiling=False)
    results, cache = [], datasets_config.HF_DATASETS_CACHE
    with tempfile.TemporaryDirectory() as folder:
        images = [PIL.Image.new("RGB", SIZES[n % len(SIZES)], (n % 256,) * 3) for n in range(max(1, num_rows // 100))]
        path = write_data(Path(folder), num_rows, images)

        def start_twice(num_processes):
            """Seconds and checked rows of both starts."""
            datasets_config.HF_DATASETS_CACHE = Path(tempfile.mkdtemp(dir=folder))
            return [value for _ in range(2) for value in measure(path, processor, NUM_PROC, num_processes)]

        try:
            sides = {number: partial(start_twice, number) for number in (1, world_size)}
            measured = measure_in_turn(sides, options.repeats, warm_up=False)
        finally:
            datasets_config.HF_DATASETS_CACHE = cache
    for processes, rounds in measured.items():
        first, first_checked, second, second_checked = zip(*rounds)
        row = {"batch": 1, "size": f"{num_rows} rows", "parameters": 0, "processes": processes}
        row |= {"dataset_num_proc": NUM_PROC}
        row |= {"first_checked": max(first_checked), "second_checked": max(second_checked)}
        row |= {"first_s": Median(first), "second_s": Median(second)}
        row["first_ratio"] = row["first_s"] / results[0]["first_s"] if results else None
        results.append(row | {"second_ratio": row["second_s"] / row["first_s"]})
    report("index_data", options, results)


if __name__ == "__main__":
    main()
