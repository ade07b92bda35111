# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""TRL's trainers with a FILA folder, as docs/training.md describes them."""

import pytest
from datasets import Dataset, Features, Image, List, Value
from safetensors.torch import load_file

from helpers import random_image

TURNS = List({"role": Value("string"), "content": Value("string")})


@pytest.mark.slow
def test_dpo_learns_to_prefer_answers_about_images(model_folder, tmp_path):
    from trl import DPOConfig, DPOTrainer

    turn = {
        "prompt": {"role": "user", "content": "What is this?"},
        "chosen": {"role": "assistant", "content": "A picture."},
        "rejected": {"role": "assistant", "content": "Nothing."},
    }
    rows = {column: [[turn[column]]] * 4 for column in turn}
    rows["images"] = [[random_image(60 + 30 * number, 90, seed=number)] for number in range(4)]  # of several grids
    features = Features(dict.fromkeys(turn, TURNS) | {"images": List(Image())})
    arguments = DPOConfig(
        output_dir=str(tmp_path),
        trust_remote_code=True,
        max_length=None,
        max_steps=6,
        per_device_train_batch_size=4,
        learning_rate=5e-3,
        logging_steps=1,
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    dataset = Dataset.from_dict(rows, features=features)
    trainer = DPOTrainer(str(model_folder), args=arguments, train_dataset=dataset)
    trainer.train()
    margins = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert margins[0] == pytest.approx(0, abs=1e-4) and margins[-1] > 0.3  # both start as the reference model
    trainer.save_model(tmp_path / "trained")
    before, after = (load_file(folder / "model.safetensors") for folder in (model_folder, tmp_path / "trained"))
    for part in ("model.vision_tower.", "model.multi_modal_projector.", "model.language_model."):
        assert any(name.startswith(part) and not (after[name] == before[name]).all() for name in after), part
