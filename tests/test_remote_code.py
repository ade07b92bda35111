# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The repository as remote code: what it needs, and that its objects can be sent. test_publish.py loads it by name."""

import ast
import sys

import pytest

from fila import FilaConfig
from fila.common.layout import REMOTE_CODE_FILES, ROOT
from helpers import run_elsewhere, tiny_config

SEND = """
import sys
import multiprocess
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

torch.set_num_threads(1)  # a forked process waits forever for threads that PyTorch has in its parent

def make_encode(objects, image):
    def encode(row, **given):
        for name, value in given.items():  # those of fn_kwargs, and those of this closure
            assert type(value) is type(objects[name]), name
        inputs = objects["processor"](image, row["text"])
        answered = [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "Yes."}]
        batch = given["collator"]([{"messages": answered, "images": [image]}])
        assert batch["pixel_values"][0].equal(inputs["pixel_values"][0])
        return {"ids": inputs["input_ids"][0], "modules": [type(value).__module__ for value in given.values()]}
    return encode

remote = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(sys.argv[1], **remote)
model = AutoModel.from_pretrained(sys.argv[1], **remote)
objects = {
    "processor": processor,
    "image_processor": AutoImageProcessor.from_pretrained(sys.argv[1], **remote),
    "collator": sys.modules[type(processor).__module__].FilaDataCollator(processor),
    "config": model.config,
    "model": model,
}
encode = make_encode(objects, Image.new("RGB", (100, 200)))
rows = Dataset.from_dict({"text": ["<image>a", "<image>b"]})
expected = [encode(row, **objects) for row in rows]
assert all(name.startswith("transformers_modules.") for name in expected[0]["modules"])
for method, num_proc in (("fork", 2), ("spawn", 1)):
    multiprocess.set_start_method(method, force=True)
    encoded = rows.map(encode, fn_kwargs=objects, num_proc=num_proc, load_from_cache_file=False)
    assert encoded.remove_columns("text").to_list() == expected
"""


@pytest.mark.slow
def test_all_that_remote_code_makes_can_be_sent_to_other_processes(tmp_path):
    run_elsewhere(SEND, tmp_path, ROOT)


@pytest.mark.parametrize("name", REMOTE_CODE_FILES)
def test_hub_file_depends_on_nothing_optional(name):
    """Remote code must load wherever its few requirements are installed: imports in functions count too."""
    required = {"transformers", "torch", "torchvision", "timm", "PIL", "numpy"} | set(sys.stdlib_module_names)
    required |= {"huggingface_hub", "httpx"}  # which transformers opens URLs with
    for node in ast.walk(ast.parse((ROOT / name).read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= required
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1 or node.module.split(".")[0] in required


def test_default_checkpoint_is_small_and_in_bfloat16():
    from safetensors import safe_open

    file = ROOT / "model.safetensors"
    assert file.stat().st_size <= 60e6
    with safe_open(file, "pt") as tensors:
        assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118


def test_objects_of_a_module_that_is_not_there_can_be_reduced():
    """vLLM sends the classes of remote code by value; their modules are not imported where they arrive."""
    config = tiny_config()
    copied = type("FilaConfig", (FilaConfig,), {"__module__": "transformers_modules.gone.configuration_fila"})
    config.__class__ = copied
    assert config.__reduce_ex__(4)[1][0] is copied
