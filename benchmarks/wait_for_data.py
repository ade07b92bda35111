# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Which share of its time the Trainer waits for data, and how much faster the data could come.

    python benchmarks/wait_for_data.py [--output results.json]

`train.py` runs with recipes/tiny-stage1.yaml and tiny-stage2.yaml, a model and images of their size, and with
recipes/stage2.yaml, a model "quarter" of models.py, photos of 1024x768 pixels, batches of one, and two workers. Weights are
random, and no checkpoints are written. `wait_share` is the time that the Trainer spends on getting batches, from the first batch
on, over the time until it has its last one. `loader_samples_per_s` is the speed of the same loader when nobody trains, the start
of its workers included, `headroom` that over the speed of the training.
"""

import contextlib
import itertools
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from unittest import mock

import datasets
import transformers

from fila import train
from fila.benchmarks.harness import Median, make_parser, measure_in_turn, parse, report
from fila.benchmarks.index_data import write_data
from fila.benchmarks.models import MODELS, count_parameters, make_model, make_processor
from fila.benchmarks.preprocess import make_image
from fila.common.layout import ROOT
from fila.training.callbacks import FilaTrainer
from fila.training.finetuning import train as run_training

SIGN, PHOTO = (100, 46), (1024, 768)  # width and height of the images
QUIETLY = "--save_strategy no --report_to none --disable_tqdm true"
STAGE_2 = "--per_device_train_batch_size 1 --gradient_accumulation_steps 1 --bf16 false --max_steps 6 --dataloader_num_workers 2"
# Recipe, model of models.py, images, and what differs from the recipe.
TINY = [("tiny-stage1", "small", SIGN, ""), ("tiny-stage2", "small", SIGN, "--max_steps 50")]
PRESETS = {
    "recipes": [*TINY, ("stage2", "quarter", PHOTO, STAGE_2)],
    "tiny": TINY,
    "small": [("tiny-stage1", "small", SIGN, "--max_steps 6")],
}
NUM_ROWS, NUM_BATCHES = 200, 24  # batches that the loader gives when nobody trains


def measure(recipe, model, data, extra):
    """Trains once. Returns share of waiting, samples per second of the training, and of the loader alone."""
    fetch, marks, trainers = FilaTrainer.get_batch_samples, [], []

    def timed_fetch(trainer, *args, **kwargs):
        start = time.perf_counter()
        result = fetch(trainer, *args, **kwargs)
        marks.append((start, time.perf_counter()))
        trainers[:] = [trainer]
        return result

    with tempfile.TemporaryDirectory() as output:
        arguments = f"--model_name_or_path {model} --train_data {data} --output_dir {output} {QUIETLY}".split()
        arguments.insert(0, str(ROOT / "recipes" / f"{recipe}.yaml"))
        with mock.patch.object(FilaTrainer, "get_batch_samples", timed_fetch):
            run_training(*train.parse([*arguments, *extra]))
        (trainer,) = trainers
        seconds, num_samples = marks[-1][1] - marks[0][1], trainer.args.train_batch_size * (len(marks) - 1)
        loader = trainer.get_train_dataloader()
        start = time.perf_counter()
        num_batches = sum(1 for _ in itertools.islice(loader, NUM_BATCHES))
        speed = num_batches * trainer.args.train_batch_size / (time.perf_counter() - start)
    return sum(end - start for start, end in marks[1:]) / seconds, num_samples / seconds, speed


def main(arguments=None):
    options = parse(make_parser(__doc__, PRESETS, repeats=3, device=False), arguments)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        parameters, sides = {}, {}
        for recipe, name, size, changes in PRESETS[options.preset]:
            model, data = Path(folder, name), Path(folder, "{}x{}".format(*size))
            if name not in parameters:
                network = make_model(**MODELS[name])
                network.save_pretrained(model)
                make_processor(MODELS[name]["vision"]["image_size"]).save_pretrained(model)
                parameters[name] = count_parameters(network)
            if not data.exists():
                data.mkdir()
                write_data(data, NUM_ROWS, [make_image(*size, seed) for seed in range(16)])
            sides[recipe] = partial(measure, recipe, model, data / "data.json", changes.split())
        with open(os.devnull, "w") as silence, contextlib.redirect_stdout(silence):
            measured = measure_in_turn(sides, options.repeats, warm_up=False)
    results = []
    for recipe, name, size, _ in PRESETS[options.preset]:
        share, speed, loader_speed = (Median(values) for values in zip(*measured[recipe]))
        row = {"what": recipe, "size": "{}x{}".format(*size), "batch": 1, "parameters": parameters[name]}
        row |= {"wait_share": share, "samples_per_s": speed, "loader_samples_per_s": loader_speed}
        results.append(row | {"headroom": loader_speed / speed})
    report("wait_for_data", options, results)


if __name__ == "__main__":
    main()
