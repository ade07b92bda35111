# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Exported and compiled graphs compute what the model computes."""

import re
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from helpers import CACHE, ROOT, cache_of, image_inputs, random_image, tiny_image_processor, tiny_model

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _fresh_cache(monkeypatch, tmp_path):
    """A process that was stopped while it compiled leaves broken files in the common cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))


def exported_module():
    """The class of docs/deployment.md that exports images of one size."""
    snippet = next(
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deployment.md").read_text(), flags=re.DOTALL)
        if "torch.export" in code
    )
    names = {}
    exec(snippet.split("model = ")[0], names)
    return names["ImageFeatures"]


@pytest.fixture(
    params=[("cvfm", (56, 100)), ("cross_attention", (150, 60)), ("channel_concat", (0, 0)), ("none", (56, 112))]
)
def vision_path(request):
    """A module of the documentation, and its inputs: two images of one size."""
    fusion_type, size = request.param
    processor = tiny_image_processor(do_dynamic_tiling=size != (0, 0))
    size = size if any(size) else (60, 60)
    inputs = processor([random_image(*size, 1), random_image(*size, 2)], return_tensors="pt")
    grid = tuple(inputs["image_grids"][0].tolist())
    return exported_module()(tiny_model(fusion_type), size, grid), (
        inputs["pixel_values"],
        inputs["high_res_pixel_values"],
    )


def test_exported_vision_path_is_exact_with_sizes_and_grids_as_constants(vision_path):
    module, inputs = vision_path
    program = torch.export.export(module, inputs)
    others = tuple(torch.rand_like(tensor) for tensor in inputs)
    with torch.no_grad():
        for arguments in (inputs, others):
            assert torch.equal(program.module()(*arguments), module(*arguments))


@pytest.mark.skipif(
    find_spec("onnxruntime") is None or find_spec("onnxscript") is None,
    reason="needs onnxscript and onnxruntime; `make test` has them in build/optional",
)
def test_onnx_vision_path_stays_near_the_model(vision_path, tmp_path):
    import onnxruntime

    module, inputs = vision_path
    torch.onnx.export(module, inputs, dynamo=True, verbose=False).save(tmp_path / "vision.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "vision.onnx")
    names = [value.name for value in session.get_inputs()]
    actual = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs)})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(actual), module(*inputs), atol=1e-5, rtol=1e-4)


def test_compiled_vision_tower_has_no_graph_breaks_and_the_same_values():
    tower = tiny_model().model.vision_tower
    inputs = image_inputs(tiny_image_processor()([random_image(56, 100), random_image(150, 60)], return_tensors="pt"))
    # Values that only a tensor has would break the graph.
    inputs |= {name: inputs[name].tolist() for name in ("image_sizes", "image_grids")}
    with torch.no_grad():
        expected = tower(**inputs).last_hidden_state
        actual = torch.compile(tower, fullgraph=True)(**inputs).last_hidden_state
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_one_decoding_step_compiles_without_graph_breaks(batch):
    model = tiny_model()
    with torch.no_grad():
        prefill = model(**batch, use_cache=True)
        token = prefill.logits[:, -1:].argmax(dim=-1)
        mask = nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        step = {"input_ids": token, "attention_mask": mask, "position_ids": mask.sum(dim=-1, keepdim=True) - 1}
        compiled = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
        cache, same_cache = (cache_of(output) for output in (prefill, model(**batch, use_cache=True)))
        actual = compiled(**step, **{CACHE: cache}).logits
        expected = model(**step, **{CACHE: same_cache}).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)
