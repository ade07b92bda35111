# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The command: recipes, errors, real weights, and being interrupted."""

import multiprocessing
import os
import signal
import time

import pytest
import timm
import torch
import transformers
from checkpoints import assemble, load, sources_of
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer

from fila.common.arguments import UserError
from fila.convert_weights import main, parse_options
from helpers import ROOT, SMOLLM2_GGUF


def test_recipes_are_read_and_overridden(tmp_path):
    for recipe in sorted((ROOT / "recipes").glob("fila-*.yaml")):
        options = parse_options([str(recipe), "--output", "elsewhere"])
        assert options.output == "elsewhere"
        assert options.vision == "openai/clip-vit-large-patch14-336"
        assert timm.get_pretrained_cfg(options.convnext).hf_hub_id
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("vison: a\n")
    with pytest.raises(UserError, match="vison"):
        parse_options([str(recipe)])
    with pytest.raises(UserError, match="--vision, --text"):
        parse_options(["--output", "a", "--convnext", "b"])
    with pytest.raises(UserError, match="--convnext"):
        parse_options(["--vision", "a", "--text", "b", "--output", "c"])


def test_errors_reach_the_user_without_a_traceback(sources, sigterm):
    with pytest.raises(SystemExit, match="^error: .*none:tiny"):
        main([*sources_of(sources), "--vision", "none:huge", "--output", str(sources / "output")])


@pytest.fixture
def sigterm():
    """The command handles the signal in its own way."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def test_random_weights_ask_no_question(tmp_path, monkeypatch, capsys, sigterm):
    monkeypatch.setattr("builtins.input", None)
    names = {"vision": "none:tiny", "convnext": "none:tiny", "text": "none:tiny", "output": tmp_path / "output"}
    main([item for name, value in names.items() for item in (f"--{name}", str(value))])
    printed = capsys.readouterr()
    assert "trust_remote_code" not in printed.out + printed.err
    assert (tmp_path / "output" / "model.safetensors").exists()


def test_a_convnext_of_timm_starts_with_random_weights(sources):
    output = assemble(sources, convnext="none:convnext_atto")
    assert load(output).config.convnext_config.architecture == "convnext_atto"
    with pytest.raises(UserError, match="none:resnet50: .*is not a ConvNeXt of timm"):
        assemble(sources, "--output", str(sources / "second"), convnext="none:resnet50")


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """A FILA on SmolLM2-135M-Instruct."""
    folder = tmp_path_factory.mktemp("smollm2")
    return assemble(folder, "--dtype", "float32", vision="none:tiny", convnext="none:tiny", text=SMOLLM2_GGUF)


@pytest.mark.slow
@torch.no_grad()
def test_smollm2_answers_word_for_word_like_its_source(smollm2):
    folder, file = SMOLLM2_GGUF.parent, SMOLLM2_GGUF.name
    gguf_config = getattr(transformers, "GgufConfig", None)
    dequantize = {"quantization_config": gguf_config(dequantize=True)} if gguf_config else {}
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32, **dequantize).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model, processor = load(smollm2), AutoProcessor.from_pretrained(smollm2, trust_remote_code=True)
    state = model.model.language_model.state_dict()
    for name, tensor in source.model.state_dict().items():
        assert torch.equal(state[name][: len(tensor)], tensor), name
    messages = [{"role": "user", "content": "What is the capital of France? And what is <image> in HTML?"}]
    kwargs = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    expected = tokenizer.apply_chat_template(messages, **kwargs)
    actual = processor.apply_chat_template(messages, **kwargs)
    assert torch.equal(actual["input_ids"], expected["input_ids"])
    greedy = {"do_sample": False, "max_new_tokens": 24}
    words = tokenizer.decode(source.generate(**expected, **greedy)[0, expected["input_ids"].shape[1] :])
    answer = processor.decode(model.generate(**actual, **greedy)[0, actual["input_ids"].shape[1] :])
    assert answer == words
    assert "Paris" in answer


def run_as_child(arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which is ignored in what a shell runs in the background
    main(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_output(tmp_path, sent, capfd):
    output = tmp_path / "output"
    arguments = ["--vision", "none:tiny", "--convnext", "none:convnext_small", "--text", "none:tiny"]
    arguments += ["--max_shard_size", "2MB", "--output", str(output)]
    fork = multiprocessing.get_context("fork")  # has all imports already
    process = fork.Process(target=run_as_child, args=(arguments,))
    process.start()
    deadline = time.time() + 300
    while not list(tmp_path.glob(".output-*/new/model*.safetensors")):
        assert process.is_alive() and time.time() < deadline
        time.sleep(0.01)
    os.kill(process.pid, sent)
    process.join()
    assert process.exitcode != 0
    assert not output.exists()
    if sent != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in capfd.readouterr().err
