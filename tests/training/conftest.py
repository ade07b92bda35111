# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from datasets import config as datasets_config
from trainings import write_documents

from helpers import tiny_model, tiny_processor


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets_config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def processor():
    return tiny_processor()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A tiny FILA as it is before training: its fusion is the identity."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = tiny_model(trained=False)
    model.generation_config.update(suppress_tokens=[model.config.image_token_id], max_new_tokens=9)
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """LLaVA data: a JSON file of 20 documents."""
    return write_documents(tmp_path_factory.mktemp("documents") / "train", 20)
