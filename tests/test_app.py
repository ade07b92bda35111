# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The app: its functions with the model at the root, and the page in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from helpers import ROOT

gr = pytest.importorskip("gradio")

from fila import app  # noqa: E402 - it imports gradio

RECEIPT = str(ROOT / "assets" / "receipt.png")
QUESTION = "What is the name of the shop?"


@pytest.fixture(scope="module")
def fila():
    return app.App(*app.load_model(ROOT))


def ask(fila, text, files=(), history=(), mode=app.TILED):
    return list(fila.answer({"text": text, "files": [str(file) for file in files]}, list(history), mode))


def talk(text, files, answer):
    """A question and its answer as the page gives them."""
    files = [{"type": "file", "file": {"path": str(path)}} for path in files]
    yield {"role": "user", "content": [*files, {"type": "text", "text": text}], "metadata": None}
    yield {"role": "assistant", "content": [{"type": "text", "text": answer}], "metadata": None}


def is_error(answer):
    return isinstance(answer, gr.ChatMessage) and answer.metadata["title"] == app.ERROR


def test_answer_grows_and_is_that_of_generate(fila):
    pieces = ask(fila, QUESTION, [RECEIPT])
    assert len(pieces) > 3
    assert all(later.startswith(earlier) for earlier, later in zip(pieces, pieces[1:]))
    content = [{"type": "image", "path": RECEIPT}, {"type": "text", "text": QUESTION}]
    inputs = fila.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = fila.model.generate(**inputs, max_new_tokens=app.MAX_NEW_TOKENS, do_sample=False)
    expected = fila.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert pieces[-1] == expected == "Corner Cafe"


def test_conversation_has_all_turns_and_images_in_order(fila, tmp_path):
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (300, 100), "navy").save(other)
    history = list(talk(QUESTION, [RECEIPT], "Corner Cafe"))
    inputs = fila.prepare({"text": "And this?", "files": [str(other)]}, history, app.TILED)
    assert inputs["image_sizes"].tolist() == [[439, 448], [100, 300]]
    text = fila.processor.decode(inputs["input_ids"][0]).replace("<image>", "")
    assert [text.find(part) for part in (QUESTION, "Corner Cafe", "And this?")] == sorted(
        text.find(part) for part in (QUESTION, "Corner Cafe", "And this?")
    )
    assert text.count("<|im_start|>user") == 2
    low = fila.prepare({"text": "And this?", "files": [str(other)]}, history, app.LOW_RESOLUTION)
    assert low["image_grids"].tolist() == [[0, 0], [0, 0]]


@pytest.fixture
def bad_files(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "torn.png").write_bytes(Path(RECEIPT).read_bytes()[:900])
    PIL.Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    return [tmp_path / name for name in ("text.png", "torn.png", "huge.png", "missing.png")]


def test_what_cannot_be_read_is_a_message_and_the_next_question_works(fila, bad_files):
    history = []
    for path in bad_files:
        (answer,) = ask(fila, QUESTION, [path], history)
        assert is_error(answer)
        assert path.name in answer.content
        history += [*talk(QUESTION, [path], answer.content)]
        history[-1]["metadata"] = {"title": app.ERROR}
        with pytest.raises(gr.Error, match=path.name):
            fila.show(str(path), app.TILED)
    assert ask(fila, QUESTION, [RECEIPT], history)[-1] == "Corner Cafe"


def test_too_much_is_a_message(fila):
    (answer,) = ask(fila, QUESTION, [RECEIPT] * 50)
    assert is_error(answer)
    assert "50 images" in answer.content
    (answer,) = ask(fila, "word " * 20_000)
    assert is_error(answer)
    assert "tokens" in answer.content


def test_animation_and_transparency_are_read(fila, tmp_path):
    frames = [PIL.Image.new("RGB", (200, 100), color) for color in ("white", "black")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    clear = PIL.Image.new("RGBA", (200, 100), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    for name in ("moving.gif", "clear.png"):
        (canvas, _), (overview, _) = fila.show(str(tmp_path / name), app.TILED)[0]
        assert np.asarray(overview).min() > 250, name
        assert canvas.size == (224, 112)


def test_generation_stops_when_the_user_leaves(fila):
    num_threads = threading.active_count()
    with_long_answer = {"text": "Transcribe the page.", "files": [RECEIPT]}
    answer = fila.answer(with_long_answer, [], app.TILED)
    next(answer)
    assert threading.active_count() == num_threads + 1
    answer.close()
    assert threading.active_count() == num_threads


def test_a_failure_of_the_model_is_a_message(fila, monkeypatch):
    def fail(**kwargs):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(fila.model, "generate", fail)
    answer = ask(fila, QUESTION, [RECEIPT])[-1]
    assert is_error(answer)
    assert "no memory left" in answer.content


def test_views_and_heat_maps_fit(fila):
    assert fila.encode(RECEIPT, app.TILED)["pixel_values"].dtype == torch.uint8
    views, sentence, maps = fila.show(RECEIPT, app.TILED)
    assert "439 x 448" in sentence
    assert "**320 tokens**" in sentence
    assert [(picture.size, name) for picture, name in views] == [((224, 224), "canvas"), ((112, 112), "global_view")]
    heats = [fila.show_fusion(RECEIPT, app.TILED, maps, number) for number in (1, 2, 3, 4)]
    assert len({picture.tobytes() for heat in heats for picture, _ in heat}) == 8
    views, sentence, maps = fila.show(RECEIPT, app.LOW_RESOLUTION)
    assert [name for _, name in views] == ["global_view"]
    assert "**64 tokens**" in sentence


@pytest.mark.slow
def test_memory_comes_back_after_fifty_requests(fila):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    sizes = []
    for _ in range(60):
        ask(fila, QUESTION, [RECEIPT])
        fila.show(RECEIPT, app.TILED)
        sizes.append(resident())
    assert sizes[-1] - sizes[9] < 50  # MiB


@pytest.fixture(scope="module")
def address():
    """Where the app runs as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen([sys.executable, ROOT / "app.py"], env={**os.environ, **settings})
    try:
        for _ in range(240):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def open_page(address):
    """A function that opens the app in a browser of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromedriver") and shutil.which("chromium")):
        pytest.skip("There is no chromium with its chromedriver; Debian: apt-get install chromium-driver.")
    drivers = []

    def open_browser():
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1200"):
            options.add_argument(argument)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        drivers.append(webdriver.Chrome(options=options, service=service))
        drivers[-1].get(address)
        return Page(drivers[-1])

    yield open_browser
    for driver in drivers:
        driver.quit()


class Page:
    """What a person does with the app in a browser."""

    def __init__(self, driver):
        self.driver = driver

    def wait(self, condition):
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, 240, ignored_exceptions=[StaleElementReferenceException]).until(
            lambda driver: condition()
        )

    def find(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self):
        return self.find("body")[0].text

    def pictures(self):
        """Sources of the pictures in the galleries."""
        return [image.get_attribute("src") for image in self.find(".gallery-container img, .grid-wrap img")]

    def upload(self, path):
        (box,) = self.wait(lambda: self.find("input[type=file]"))
        self.driver.execute_script("arguments[0].value = ''", box)  # or the driver adds to the files of the last upload
        box.send_keys(str(path))

    def ask(self, text):
        (box,) = [box for box in self.find("textarea") if box.is_displayed()]
        box.send_keys(text)
        self.wait(lambda: [button for button in self.find("button.submit-button") if button.is_enabled()])[0].click()

    def answers(self):
        return [element.text for element in self.find(".message.bot")]


@pytest.mark.slow
def test_two_people_use_the_page_at_once(open_page, tmp_path):
    first, second = open_page(), open_page()
    first.upload(RECEIPT)
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (300, 100), "white").save(other)
    second.upload(other)
    # Before any question: canvas and tokens.
    first.wait(lambda: "Image of 439 x 448 pixels (height x width): 2 x 2 tiles" in first.text())
    second.wait(lambda: "Image of 100 x 300 pixels (height x width): 1 x 3 tiles" in second.text())
    first.wait(lambda: len(first.pictures()) >= 4)
    first.ask(QUESTION)
    second.ask("What is the total?")
    first.wait(lambda: first.answers() and "Corner Cafe" in first.answers()[-1])
    second.wait(lambda: second.answers() and second.answers()[-1].strip())
    assert "Corner Cafe" not in second.text()
    assert "What is the total?" not in first.text()

    pictures = first.pictures()
    (slider,) = first.find("input[type=range]")
    slider.send_keys("\ue014")  # arrow to the right
    first.wait(lambda: first.pictures() != pictures)
    [label for label in first.find("label") if label.text == app.LOW_RESOLUTION][0].click()
    first.wait(lambda: "the global view alone, 64 tokens" in first.text())


@pytest.mark.slow
def test_page_says_what_is_wrong_with_a_file_and_goes_on(open_page, bad_files):
    page = open_page()
    page.upload(bad_files[0])
    page.wait(lambda: "text.png is not an image that can be read" in page.text())
    page.ask(QUESTION)
    page.wait(lambda: page.answers() and app.ERROR in page.answers()[-1])
    page.upload(RECEIPT)
    page.wait(lambda: "439 x 448" in page.text())
    page.ask(QUESTION)
    page.wait(lambda: page.answers() and "Corner Cafe" in page.answers()[-1])
