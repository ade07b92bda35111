# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Fixtures. They import what they need themselves: the process that hands out the tests loads this file and needs nothing of
it."""

import pytest


@pytest.fixture(autouse=True)
def _reproducible():
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)  # tiny tensors; several test processes share the machine


@pytest.fixture(scope="module")
def processor():
    from helpers import tiny_processor

    return tiny_processor()


@pytest.fixture(scope="module")
def batch(processor):
    """Three prompts: an image, two images on other canvases, none."""
    from helpers import chat, chat_inputs, random_image

    images = [random_image(56, 112, 1), random_image(150, 60, 2), random_image(110, 100, 3)]
    conversations = [chat(images[0], "one"), chat("two", images[1], "and", images[2]), chat("three, without an image")]
    return chat_inputs(processor, conversations)


@pytest.fixture(scope="module")
def training_batch(processor):
    from fila import FilaDataCollator
    from helpers import chat, random_image

    examples = [
        {"messages": chat(random_image(56, 112, 1), "Read.", answer="12.50 EUR in all")},
        {"messages": chat("No image here.", answer="None at all.")},
        {"messages": chat(random_image(112, 112, 2), "and", random_image(100, 90, 3), answer="A, then B.")},
    ]
    return FilaDataCollator(processor)(examples)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in for the Hub on this machine, which huggingface_hub uses in this process, and in others with the variables of
    `hub.environment`."""
    import huggingface_hub
    from hub import TOKEN, Hub

    hub, constants = Hub(), huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def pytest_configure(config):
    """Knows the markers that transformers' common tests have (test_transformers_common.py)."""
    names = ["accelerate_tests", "flash_attn_test", "flash_attn_3_test", "flash_attn_4_test", "generate"]
    for name in [*names, "torch_compile_test", "torch_export_test"]:
        config.addinivalue_line("markers", f"{name}: of transformers")


def pytest_addoption(parser):
    parser.addoption("--screenshot", help="where test_app.py saves a picture of the app, such as assets/app.png")


def pytest_collection_modifyitems(items):
    """Slow tests come first, so that no process waits at the end for the last of another."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
