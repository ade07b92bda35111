# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""How fast two workers load training data, and in how much memory, with pixels as bytes and as floats.

    python benchmarks/load_data.py [--output results.json]
    python benchmarks/load_data.py --device cuda --dtype bfloat16 --step llama-1b

Each row of a JSON file names a JPEG. The loader is that of the Trainer: a DataLoader of the samples of `make_dataset`, which
`SampleCollator` reads, decodes and tiles in the workers. "Bytes" are what the image processor gives with `do_rescale=False,
do_normalize=False`, "floats" what it gives by default. A round is one pass through the data, with workers that have started.

`mb_per_batch` is what a batch takes in the shared memory between the processes. `peak_mib` is the most memory after any batch
of a pass, shared pages counted once (Linux's Pss), of this process and the workers, above what was there before.

With `--step` batches are copied to the device, from pinned memory where it is a GPU (`to_device_ms`), and stage 2 of a model
of random weights trains on them (`step_ms`: copy, forward, backward). Its model must normalise bytes by itself.
"""

import multiprocessing
import os
import re
import tempfile
from functools import partial
from pathlib import Path

import datasets
import torch
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from fila import FilaDataCollator
from fila.benchmarks.counters import MIB
from fila.benchmarks.harness import make_parser, median_in_turn, parse, report
from fila.benchmarks.index_data import write_data
from fila.benchmarks.models import MODELS, make_model, make_processor
from fila.benchmarks.preprocess import UINT8, make_image
from fila.training.data import DataArguments, SampleCollator, load_data_source, make_dataset

# Rows, width and height of their images, samples of a batch, side of a tile.
PRESETS = {"paper": (64, (1024, 768), 4, 336), "small": (8, (160, 120), 2, 56)}
NUM_WORKERS = 2
SIDES = {"bytes": UINT8, "floats": {}}


def memory_bytes():
    """`int`: the memory of this process and its children; each page that several share counts once in all."""
    processes = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    rollups = [Path(f"/proc/{process}/smaps_rollup").read_text() for process in processes]
    return sum(1024 * int(re.search(r"^Pss: +(\d+)", rollup, re.MULTILINE)[1]) for rollup in rollups)


def load_all(loader, before):
    """`tuple[int, float]`: the bytes of the largest batch, and the most memory above `before` after any batch."""
    sizes = [
        (sum(tensor.nbytes for tensor in batch.values() if isinstance(tensor, torch.Tensor)), memory_bytes() - before)
        for batch in loader
    ]
    return tuple(map(max, zip(*sizes)))


def make_loader(folder, images_kwargs, tile_size, batch_size, **options):
    """The DataLoader of the Trainer for the data in a folder."""
    collator = FilaDataCollator(make_processor(tile_size, **images_kwargs), max_length=4096)
    source = load_data_source(0, str(folder / "data.json"))
    arguments = TrainingArguments(str(folder), use_cpu=True, report_to="none")
    dataset = make_dataset([source], collator, DataArguments(), arguments)
    options |= {"batch_size": batch_size, "num_workers": NUM_WORKERS, "drop_last": True}
    return DataLoader(dataset, collate_fn=SampleCollator(collator, [source]), **options)


def time_steps(batches, options):
    """Seconds of the copy to the device and of a step, for a batch of each side."""
    model = make_model(**MODELS[options.step], **options.factory).train()
    model.set_training_stage(2)
    batches = {name: {k: v for k, v in batch.items() if k != "sample_ids"} for name, batch in batches.items()}

    def copy(batch):
        return {key: value.to(options.device, non_blocking=True) for key, value in batch.items()}

    def step(batch):
        model(**copy(batch)).loss.backward()
        model.zero_grad()

    return [
        median_in_turn({k: partial(function, v) for k, v in batches.items()}, options.repeats, options.device)
        for function in (copy, step)
    ]


def main(arguments=None):
    parser = make_parser(__doc__, PRESETS, repeats=5)
    parser.add_argument("--step", choices=MODELS, help="model of models.py to train on the batches")
    options = parse(parser, arguments)
    datasets.disable_progress_bars()
    num_rows, size, batch_size, tile_size = PRESETS[options.preset]
    row = {"batch": batch_size, "size": "{}x{}".format(*size), "parameters": 0, "workers": NUM_WORKERS}
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), num_rows, [make_image(*size, seed) for seed in range(min(num_rows, 16))])
        make = partial(make_loader, Path(folder), tile_size=tile_size, batch_size=batch_size)
        for name, images_kwargs in SIDES.items():
            num_bytes, peak = load_all(make(images_kwargs), memory_bytes())
            row |= {f"{name}_mb_per_batch": num_bytes / 1e6, f"{name}_peak_mib": peak / MIB}
        loaders = {name: make(images_kwargs, persistent_workers=True) for name, images_kwargs in SIDES.items()}
        passes = {name: partial(all, loader) for name, loader in loaders.items()}
        seconds = median_in_turn(passes, options.repeats)
        del passes, loaders
        if options.step:
            is_cuda = torch.device(options.device).type == "cuda"
            batches = {name: next(iter(make(kwargs, pin_memory=is_cuda))) for name, kwargs in SIDES.items()}
            for column, times in zip(("to_device", "step"), time_steps(batches, options)):
                row |= {f"{name}_{column}_ms": 1000 * value for name, value in times.items()}
                row[f"{column}_ratio"] = times["bytes"] / times["floats"]
    num_samples = num_rows // batch_size * batch_size
    row |= {f"{name}_samples_per_s": num_samples / value for name, value in seconds.items()}
    row["speed_ratio"] = row["bytes_samples_per_s"] / row["floats_samples_per_s"]
    for column in ("mb_per_batch", "peak_mib"):
        row[f"{column.split('_')[0]}_ratio"] = row[f"bytes_{column}"] / row[f"floats_{column}"]
    report("load_data", options, [row])


if __name__ == "__main__":
    main()
