# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The app: its functions with the model at the root, and the page in a real browser."""

import base64
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

from helpers import (
    ANSWER,
    FUSION_TYPES,
    MORE_GRIDS,
    QUESTION,
    RECEIPT,
    ROOT,
    chat,
    default_processor,
    make_pinpoints,
    random_image,
    tiny_model,
    tiny_processor,
)

gr = pytest.importorskip("gradio")

from fila import FilaImageProcessor, app  # noqa: E402 - it imports gradio


@pytest.fixture(scope="module")
def fila():
    return app.App(*app.load_model(ROOT))


@pytest.fixture(scope="module")
def expected(fila):
    """What `generate` answers about the receipt."""
    inputs = fila.processor.apply_chat_template(
        chat(PIL.Image.open(RECEIPT), QUESTION),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = fila.model.generate(**inputs, max_new_tokens=app.MAX_NEW_TOKENS, do_sample=False)
    return fila.processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def ask(fila, text, files=(), history=(), mode=app.TILED):
    return list(fila.answer({"text": text, "files": [str(file) for file in files]}, list(history), mode))


def talk(text, files, answer):
    """A question and its answer as the page gives them."""
    files = [{"type": "file", "file": {"path": str(path)}} for path in files]
    yield {"role": "user", "content": [*files, {"type": "text", "text": text}], "metadata": None}
    yield {"role": "assistant", "content": [{"type": "text", "text": answer}], "metadata": None}


def is_error(answer):
    return isinstance(answer, gr.ChatMessage) and answer.metadata["title"] == app.ERROR


def test_answer_grows_and_is_that_of_generate(fila, expected):
    pieces = ask(fila, QUESTION, [RECEIPT])
    assert len(pieces) > 1
    assert all(later.startswith(earlier) for earlier, later in zip(pieces, pieces[1:]))
    assert pieces[-1] == expected


def test_conversation_has_all_turns_and_images_in_order(fila, tmp_path):
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (300, 100), "navy").save(other)
    history = list(talk(QUESTION, [RECEIPT], ANSWER))
    inputs = fila.prepare({"text": "And this?", "files": [str(other)]}, history, app.TILED)
    assert inputs["image_sizes"].tolist() == [[439, 448], [100, 300]]
    text = fila.processor.decode(inputs["input_ids"][0]).replace("<image>", "")
    places = [text.find(part) for part in (QUESTION, ANSWER, "And this?")]
    assert -1 not in places and places == sorted(places)
    assert text.count("<|im_start|>user") == 2
    low = fila.prepare({"text": "And this?", "files": [str(other)]}, history, app.LOW_RESOLUTION)
    assert low["image_grids"].tolist() == [[0, 0], [0, 0]]


@pytest.fixture
def bad_messages(tmp_path):
    """Text and files of messages that cannot be answered, and what the user should read."""
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "torn.png").write_bytes(RECEIPT.read_bytes()[:900])
    PIL.Image.new("1", (20_000, 10_000)).save(tmp_path / "hall.png")
    PIL.Image.new("1", (12_000, 10_000)).save(tmp_path / "room.png")
    many = [tmp_path / f"{number}.png" for number in range(50)]
    for path in many:
        random_image(40, 60).save(path)
    return [
        (QUESTION, [tmp_path / "text.png"], "text.png is not an image that can be read"),
        (QUESTION, [tmp_path / "torn.png"], "torn.png is not an image that can be read"),
        (QUESTION, [tmp_path / "hall.png"], "hall.png has more than 100 megapixels. Make it smaller"),
        (QUESTION, [tmp_path / "room.png"], "room.png has more than 100 megapixels. Make it smaller"),
        (QUESTION, many, f"The conversation has 50 images; {app.MAX_IMAGES} are possible. Start a new one"),
        ("word " * 20_000, [], "tokens, and the model reads"),
    ]


@pytest.fixture
def odd_files(tmp_path):
    """Images that can be read, with white where the model looks."""
    frames = [PIL.Image.new("RGB", (200, 100), color) for color in ("white", "black")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    PIL.Image.new("RGBA", (200, 100), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    return [tmp_path / "moving.gif", tmp_path / "clear.png"]


def test_what_cannot_be_answered_is_a_message_and_the_next_question_works(fila, bad_messages, expected, tmp_path):
    history = []
    bad_messages.append((QUESTION, [tmp_path / "missing.png"], "missing.png is not an image that can be read"))
    for text, files, message in bad_messages:
        (answer,) = ask(fila, text, files, history)
        assert is_error(answer) and message in answer.content
        history += [*talk(text, files, answer.content)]
        history[-1]["metadata"] = {"title": app.ERROR}
        if len(files) == 1:
            with pytest.raises(gr.Error, match=message):
                fila.show(str(files[0]), app.TILED)
    assert ask(fila, QUESTION, [RECEIPT], history)[-1] == expected


def test_animation_and_transparency_are_read(fila, odd_files):
    for path in odd_files:
        (canvas, _), (overview, _) = fila.show(str(path), app.TILED)[0]
        assert np.asarray(overview).min() > 250, path
        assert canvas.width == 2 * canvas.height == 2 * overview.height


def test_generation_stops_when_the_answer_is_closed(fila):
    answer = fila.answer({"text": "Transcribe the page.", "files": [str(RECEIPT)]}, [], app.TILED)
    next(answer)
    assert count_generations() == 1
    answer.close()
    assert count_generations() == 0


def count_generations():
    return sum("(generate)" in thread.name for thread in threading.enumerate())


def test_a_failure_of_the_model_is_a_message(fila, monkeypatch):
    def fail(**kwargs):
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(fila.model, "generate", fail)
    answer = ask(fila, QUESTION, [RECEIPT])[-1]
    assert is_error(answer)
    assert "no memory left" in answer.content


def test_views_and_heat_maps_fit(fila):
    assert fila.encode(RECEIPT, app.TILED)["pixel_values"].dtype == torch.uint8
    config = fila.model.config
    side, num_tokens = config.vision_config.image_size, config.grid_size**2
    rows, columns = fila.processor.image_processor.get_image_grid(439, 448)
    views, sentence, maps = fila.show(RECEIPT, app.TILED)
    assert f"439 x 448 pixels (height x width): {rows} x {columns} tiles" in sentence
    assert f"**{(1 + rows * columns) * num_tokens} tokens**" in sentence
    sizes = [((columns * side, rows * side), "canvas"), ((side, side), "global_view")]
    assert [(picture.size, name) for picture, name in views] == sizes
    heats = [fila.show_fusion(RECEIPT, app.TILED, maps, number) for number in (1, 2, 3, 4)]
    assert len({picture.tobytes() for heat in heats for picture, _ in heat}) == 8
    views, sentence, maps = fila.show(RECEIPT, app.LOW_RESOLUTION)
    assert [name for _, name in views] == ["global_view"]
    assert f"**{num_tokens} tokens**" in sentence


@pytest.mark.parametrize("fusion_type", FUSION_TYPES)
def test_page_shows_canvases_of_more_tiles_and_every_fusion(fusion_type, tmp_path):
    options = {"image_grid_pinpoints": make_pinpoints(MORE_GRIDS), "do_high_res": fusion_type != "none"}
    tiny = app.App(tiny_model(fusion_type), tiny_processor(**options))
    random_image(220, 160).save(tmp_path / "page.png")
    views, sentence, maps = tiny.show(tmp_path / "page.png", app.TILED)
    assert "4 x 3 tiles and the global view, **208 tokens**" in sentence
    heat = tiny.show_fusion(tmp_path / "page.png", app.TILED, maps, 1)
    assert (heat is None) == (fusion_type in ("none", "channel_concat"))
    for pictures in (views, heat) if heat else (views,):
        assert [picture.size for picture, _ in pictures] == [(3 * 56, 4 * 56), (56, 56)]
    components = app.build_page(tiny).blocks.values()
    (slider,) = [component for component in components if isinstance(component, gr.Slider)]
    assert slider.visible == (fusion_type == "cvfm")
    assert slider.maximum == 4 or not slider.visible
    heat_maps = [component for component in components if isinstance(component, gr.Gallery)][1]
    assert heat_maps.visible == (heat is not None)


def test_examples_are_there_and_differ_in_shape():
    grids = set()
    for path, question in app.EXAMPLES:
        assert path.is_relative_to(ROOT) and question.endswith("?")
        with PIL.Image.open(path) as image:
            grids.add(FilaImageProcessor().get_image_grid(image.height, image.width))
    assert len(app.EXAMPLES) == 4 and len(grids) == 3


# The page as a user starts it


@pytest.fixture(scope="module")
def server():
    """A process that runs the app, and the app's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1"}
    # The C library keeps a pool of memory for each thread, whose growth would look like a leak.
    settings |= {"MALLOC_ARENA_MAX": "1"}
    process = subprocess.Popen([sys.executable, ROOT / "app.py"], env={**os.environ, **settings})
    try:
        for _ in range(480):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.5)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_memory_comes_back_after_fifty_requests(server, tmp_path):
    gradio_client = pytest.importorskip("gradio_client")
    process, address = server
    with PIL.Image.open(RECEIPT) as receipt:  # so large, 6 MiB, that a leak would show
        receipt.convert("RGB").resize((1500, 1500)).save(tmp_path / "large.png")
    message, sizes = {"text": QUESTION, "files": [gradio_client.handle_file(str(tmp_path / "large.png"))]}, []
    for number in range(60):
        if number % 5 == 0:
            client = gradio_client.Client(address, verbose=False)
            client.predict(message, api_name="/newest")
            assert len(client.predict(app.TILED, api_name="/show")[0]) == 2
        mode = app.LOW_RESOLUTION if number % 5 else app.TILED  # most of them quick
        assert client.predict(message, mode, api_name="/answer")
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    assert sizes[-1] - sizes[9] < 150, sizes  # MiB; 50 images would be 320


@pytest.fixture
def open_page(server):
    """A function that opens the app, or another address, in a browser of its own."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromedriver") and shutil.which("chromium")):
        pytest.skip("There is no chromium with its chromedriver; Debian: apt-get install chromium-driver.")
    drivers = []

    def open_browser(address=server[1]):
        options = webdriver.ChromeOptions()
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,1200"):
            options.add_argument(argument)
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        drivers.append(webdriver.Chrome(options=options, service=service))
        drivers[-1].get(address)
        return Page(drivers[-1])

    yield open_browser
    for driver in drivers:
        driver.quit()


TYPE = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
GIVE = """
const [box, data, kind] = arguments
const transfer = new DataTransfer(), options = {bubbles: true, cancelable: true}
transfer.items.add(new File([Uint8Array.from(atob(data), c => c.charCodeAt(0))], "given.png", {type: "image/png"}))
box.dispatchEvent(
    kind === "paste" ? new ClipboardEvent("paste", {...options, clipboardData: transfer})
        : new DragEvent("drop", {...options, dataTransfer: transfer})
)
"""


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

    def box(self):
        """The text box, once it can be used: while an answer comes it cannot, and what it holds is lost."""
        return self.wait(lambda: [box for box in self.find("textarea") if box.is_displayed() and box.is_enabled()])[0]

    def upload(self, *paths):
        self.box()
        (box,) = self.wait(lambda: self.find("input[type=file]"))
        self.driver.execute_script("arguments[0].value = ''", box)  # or the driver adds to the files of the last upload
        box.send_keys("\n".join(map(str, paths)))
        # The button to send works before the files have come.
        self.wait(lambda: len(self.find(".thumbnail-wrapper")) == len(paths))

    def give(self, path, kind):
        """Pastes or drops an image."""
        self.driver.execute_script(GIVE, self.box(), base64.b64encode(path.read_bytes()).decode(), kind)

    def ask(self, text):
        self.driver.execute_script(TYPE, self.box(), text)
        self.send()

    def send(self):
        self.wait(lambda: [button for button in self.find("button.submit-button") if button.is_enabled()])[0].click()

    def answers(self):
        return [" ".join(element.text.split()) for element in self.find(".message.bot")]

    def wait_for_answer(self, number, text=""):
        """Waits until answer `number`, counted from 1, has this text in it, or any."""
        return self.wait(
            lambda: [answer for answer in self.answers()[number - 1 : number] if answer and text in answer]
        )[0]


@pytest.mark.slow
def test_two_people_use_the_page_at_once(open_page, expected, tmp_path):
    first, second = open_page(), open_page()
    first.upload(RECEIPT)
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (300, 100), "white").save(other)
    second.give(other, "paste")
    # Before any question: canvas and tokens.
    rows, columns = default_processor().image_processor.get_image_grid(439, 448)
    first.wait(lambda: f"Image of 439 x 448 pixels (height x width): {rows} x {columns} tiles" in first.text())
    second.wait(lambda: "Image of 100 x 300 pixels (height x width): 1 x " in second.text())
    first.wait(lambda: len(first.pictures()) >= 4)
    first.ask(QUESTION)
    second.ask("What is the total?")
    first.wait_for_answer(1, expected)
    second.wait_for_answer(1)
    assert QUESTION not in second.text()
    assert "What is the total?" not in first.text()

    (canvas, overview, *heats), seen = first.pictures(), set()
    for _ in range(3):
        seen |= set(heats)
        (slider,) = first.find("input[type=range]")
        slider.send_keys("\ue014")  # arrow to the right

        def has_changed(seen=frozenset(seen)):  # in both views
            return len(first.pictures()) == 4 and not seen & set(first.pictures())

        first.wait(has_changed)
        assert first.pictures()[:2] == [canvas, overview]
        heats = first.pictures()[2:]
    [label for label in first.find("label") if label.text == app.LOW_RESOLUTION][0].click()
    first.wait(lambda: "the global view alone" in first.text())


@pytest.mark.slow
def test_a_conversation_goes_on_with_more_images(open_page, odd_files, expected, tmp_path):
    page = open_page()
    [example for example in page.wait(lambda: page.find("button.example")) if QUESTION in example.text][0].click()
    page.wait(lambda: "439 x 448" in page.text())  # an example is seen before it is asked
    page.send()
    page.wait_for_answer(1, expected)
    page.upload(*odd_files)
    page.ask("And these?")
    assert app.ERROR not in page.wait_for_answer(2)
    other = tmp_path / "other.png"
    PIL.Image.new("RGB", (140, 90), "white").save(other)
    page.give(other, "drop")
    page.wait(lambda: "Image of 90 x 140 pixels" in page.text())
    page.ask("And this?")
    assert app.ERROR not in page.wait_for_answer(3)
    more = [tmp_path / f"more{number}.png" for number in range(5)]
    for path in more:
        random_image(40, 60).save(path)
    page.upload(*more)
    page.ask("And all of them?")  # the turns before count
    page.wait_for_answer(4, f"The conversation has 9 images; {app.MAX_IMAGES} are possible.")


@pytest.mark.slow
def test_server_says_what_is_wrong_and_goes_on(server, bad_messages, expected):
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(server[1], verbose=False)
    for text, files, message in [*bad_messages, (QUESTION, [RECEIPT], expected)]:
        content = {"text": text, "files": [gradio_client.handle_file(str(file)) for file in files]}
        assert message in str(client.predict(content, app.TILED, api_name="/answer"))


@pytest.mark.slow
def test_page_says_what_is_wrong_and_goes_on(open_page, bad_messages, expected):
    page = open_page()
    # Without the largest images: the browser, too, would be long about them.
    messages = [bad_messages[place] for place in (0, 1, 4, 5)]
    for number, (text, files, message) in enumerate(messages, 1):
        if files:
            page.upload(*files)
        if number == 1:
            page.wait(lambda message=message: message in page.text())
        page.ask(text)
        assert app.ERROR in page.wait_for_answer(number, message)
    page.upload(RECEIPT)
    page.wait(lambda: "439 x 448" in page.text())
    page.ask(QUESTION)
    page.wait_for_answer(len(messages) + 1, expected)


@pytest.mark.slow
def test_generation_stops_when_the_browser_is_closed(open_page, fila, monkeypatch):
    """In this process, with answers that would take minutes."""
    outputs, generate = [], fila.model.generate
    longest = fila.model.config.text_config.max_position_embeddings // 2
    monkeypatch.setattr(fila.model, "generate", lambda **inputs: outputs.append(generate(**inputs)))
    monkeypatch.setattr(fila.model.generation_config, "min_new_tokens", longest)
    monkeypatch.setattr(app, "MAX_NEW_TOKENS", longest)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    blocks = app.build_page(fila).queue()
    try:
        page = open_page(blocks.launch(prevent_thread_lock=True, quiet=True)[1])
        page.ask("Tell me a story.")
        page.wait_for_answer(1)
        assert count_generations() == 1 and not outputs
        page.driver.quit()
        for _ in range(240):
            if not count_generations():
                break
            time.sleep(0.5)
        assert [output.shape[1] < longest for output in outputs] == [True]
    finally:
        blocks.close()


@pytest.mark.slow
def test_picture_of_the_page(open_page, expected, request, tmp_path):
    """With --screenshot assets/app.png, the one in the README."""
    page, path = open_page(), request.config.getoption("--screenshot") or tmp_path / "app.png"
    page.upload(RECEIPT)
    page.wait(lambda: len(page.pictures()) >= 4)
    page.ask(QUESTION)
    page.wait_for_answer(1, expected)
    time.sleep(2)  # until what shows progress has faded
    assert page.driver.save_screenshot(str(path))
    with PIL.Image.open(path) as picture:
        assert picture.width == 1280 and len(set(picture.convert("RGB").resize((64, 64)).getdata())) > 50
