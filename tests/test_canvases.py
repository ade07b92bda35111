# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Canvases of up to 4x4 tiles, from the processor to the commands. How they are chosen: test_image_processing_fila.py; that
tokens lie where the pixels are: test_fusion.py."""

import json

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from fila import FilaDataCollator
from helpers import MORE_GRIDS, chat, chat_inputs, make_pinpoints, random_image, tiny_model, tiny_processor

PAGES = {(4, 4): (224, 224), (4, 3): (220, 160), (1, 2): (40, 100)}


@pytest.fixture(scope="module")
def processor():
    return tiny_processor(image_grid_pinpoints=make_pinpoints(MORE_GRIDS))


def test_a_training_step_reaches_every_parameter(processor):
    examples = [{"messages": chat(random_image(*size), "Read.", answer="12.50 EUR")} for size in PAGES.values()]
    batch = FilaDataCollator(processor)(examples)
    assert batch["image_grids"].tolist() == [list(grid) for grid in PAGES]
    model = tiny_model().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = model(**batch).loss
    before.backward()
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    optimizer.step()
    with torch.no_grad():
        assert model(**batch).loss < before


def test_what_is_generated_is_what_the_logits_say(processor):
    model = tiny_model()
    inputs = chat_inputs(processor, [chat(random_image(*PAGES[4, 4]), "Read.")])
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 17 * 16
    output = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    images = {name: inputs[name] for name in processor.image_processor.model_input_names}
    with torch.no_grad():
        logits = model(input_ids=output, **images).logits[0, -6:-1]
    logits[:, model.config.text_config.eos_token_id] = -torch.inf
    assert output[0, -5:].tolist() == logits.argmax(-1).tolist()


@pytest.mark.slow
def test_a_model_with_more_canvases_is_trained_evaluated_and_asked(processor, tmp_path, monkeypatch):
    """The canvases are set in the processor of a model folder, and every command follows."""
    trainings = pytest.importorskip("trainings")
    from datasets import config as datasets_config

    from fila import run_eval
    from fila.evaluation import ask

    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder, data, trained = tmp_path / "tiny", tmp_path / "pages", tmp_path / "trained"
    model = tiny_model(trained=False)
    model.generation_config.update(suppress_tokens=[model.config.image_token_id])
    for part in (model, tiny_processor()):
        part.save_pretrained(folder)
    loaded = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    loaded.image_processor.image_grid_pinpoints = make_pinpoints(MORE_GRIDS)
    loaded.save_pretrained(folder)

    data.mkdir()
    for (rows, columns), size in PAGES.items():
        random_image(*size).save(data / f"{rows}x{columns}.png")
    rows = [trainings.llava("<image>\nRead.", "12.50", image=f"{r}x{c}.png") for r, c in PAGES]
    rows = trainings.write_json(data / "rows.json", rows)
    options = ["--max_steps", 1, "--per_device_train_batch_size", 3, "--gradient_checkpointing", "true"]
    trainings.run(folder, rows, trained, *options, "--max_length", 400)
    assert not (trained / "bad_samples.jsonl").exists()

    exported = AutoProcessor.from_pretrained(trained, trust_remote_code=True)
    assert exported.image_processor.to_dict() == loaded.image_processor.to_dict()
    options = {"max_new_tokens": 3, "device": "cpu"}
    run_eval.evaluate(
        run_eval.EvaluationArguments(str(trained), rows, output_dir=str(tmp_path / "results"), batch_size=3, **options)
    )
    predictions = (tmp_path / "results" / "predictions.jsonl").read_text().splitlines()
    output = tmp_path / "answers.jsonl"
    counts = ask.ask(ask.AskArguments([str(data)], ["Read."], str(output), str(trained), batch_size=2, **options))
    assert counts == {"answer": 3}
    answers = {line["file"][-7:]: line["answer"] for line in map(json.loads, output.read_text().splitlines())}
    assert [json.loads(line)["prediction"] for line in predictions] == [answers[f"{r}x{c}.png"] for r, c in PAGES]

    model = AutoModelForImageTextToText.from_pretrained(trained, trust_remote_code=True).eval()
    inputs = exported.image_processor(random_image(*PAGES[4, 3]), return_tensors="pt")
    (maps,) = model.get_fusion_maps(**inputs)
    assert maps["canvas"].shape == (4, 16, 12)
    assert exported.draw_view(inputs, heat=maps["canvas"][3]).size == (3 * 56, 4 * 56)
