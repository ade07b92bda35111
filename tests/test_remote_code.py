# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The repository as a user of the Hub meets it: loaded by name, in a process that has never heard of the package."""

import ast
import shutil
import sys

import pytest

from fila import FilaConfig, publish
from fila.common.layout import REMOTE_CODE_FILES, ROOT
from helpers import run_elsewhere, tiny_config

LOAD = """
import sys
import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor, pipeline
)

torch.set_num_threads(1)
torch.manual_seed(0)
remote = {"trust_remote_code": True}
image = Image.radial_gradient("L").convert("RGB").resize((500, 200))
chat = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "Read <image>."}]}]
options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}

def load(name):
    config = AutoConfig.from_pretrained(name, **remote)
    image_processor = AutoImageProcessor.from_pretrained(name, **remote)
    processor = AutoProcessor.from_pretrained(name, **remote)
    model = AutoModel.from_pretrained(name, dtype="float32", **remote).eval()
    assert config.model_type == "fila" and type(model).__name__ == "FilaForConditionalGeneration"
    others = [
        kind.from_pretrained(name, dtype="float32", **remote).eval()
        for kind in (AutoModelForImageTextToText, AutoModelForMultimodalLM)
    ]
    assert all(type(other) is type(model) for other in others)
    assert type(processor).__name__ == "FilaProcessor"
    assert type(image_processor).__name__ == type(processor.image_processor).__name__ == "FilaImageProcessor"
    assert type(model).__module__.startswith("transformers_modules.")
    assert "fila" not in sys.modules
    inputs = processor.apply_chat_template(chat, **options)
    with torch.no_grad():
        logits = model(**inputs, logits_to_keep=8).logits
        assert all(torch.equal(logits, other(**inputs, logits_to_keep=8).logits) for other in others)
    return processor, model, inputs, logits
"""

LOAD_AND_SAVE = (
    LOAD
    + """
source, target = sys.argv[1:]
processor, model, inputs, logits = load(source)
model.save_pretrained(target)
processor.save_pretrained(target)
torch.save(logits, target + "/expected.pt")
"""
)

LOAD_AND_COMPARE = (
    LOAD
    + """
saved, checkout = sys.argv[1:]
processor, model, inputs, logits = load(saved)
expected = torch.load(saved + "/expected.pt")
assert torch.equal(logits, expected)
ids = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0, inputs["input_ids"].shape[1] :]
for task in ("image-text-to-text", "any-to-any"):
    pipe = pipeline(task, model=saved, dtype="float32", **remote)
    answer = pipe(text=chat, max_new_tokens=3, return_full_text=False)[0]["generated_text"]
    assert answer == processor.decode(ids, skip_special_tokens=True), (task, answer)
assert torch.equal(load(checkout)[-1], expected)  # the clone itself is a model folder
"""
)

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
def test_hub_files_alone_load_save_and_load_again_from_elsewhere_as_the_checkout_does(tmp_path):
    hub_folder, saved = tmp_path / "downloaded-fila", tmp_path / "saved"
    publish.main(["model", "--repo_id", "org/fila", "--output_dir", hub_folder])
    run_elsewhere(LOAD_AND_SAVE, tmp_path, hub_folder, saved)
    shutil.rmtree(hub_folder)
    shutil.rmtree(tmp_path / "cache")
    run_elsewhere(LOAD_AND_COMPARE, tmp_path, saved, ROOT)


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
