# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the foreign pages again: typesets every source beside this file, and writes `pages/` and `questions.json`.

python fineprint/foreign/sources/make_pages.py --output_dir build/foreign-pages

Needs the programs that ../README.md names. A source carries its page's settings and questions in comments:

    @page kind=receipt language=en width=420
    @ask total | How much was paid in all? | 18.40 | 18,40

The settings are `kind` and `language`; `width` in pixels; for some `crop=left,top,right,bottom` in pixels, the `page` of a PDF,
from 1, or the `size` of the paper in points (groff), of the terminal in characters (xterm) or of the chart in pixels (matplotlib);
`font` and `colors` of a terminal; `font`, `points` and `style` of a chart.

A question has its task, its text, its answer and accepted variants. The answer must be found once on the page; `[2]` at the end
says which one if it is there several times, and `[-]` that it has no place: a count, or a comparison of several places.
"""

import argparse
import io
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
from selenium import webdriver

from fila.fineprint.foreign.sources import charts, printed
from fila.fineprint.tiles import Canvas, corners

HERE = Path(__file__).parent
TILE = 336  # the paper's
CONTRAST = 48  # least difference between ink and what is behind it, of 255
# A text is a list of (character, (left, top, right, bottom) or None); None for white space that cannot be seen.
READ_CHARACTERS = """
const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const node = walker.currentNode, range = document.createRange();
  for (let i = 0; i < node.data.length; i++) {
    range.setStart(node, i); range.setEnd(node, i + 1);
    const box = range.getClientRects()[0];
    const visible = box && box.width && node.data[i].trim();
    let shown = node.data[i];
    if (getComputedStyle(node.parentElement).textTransform == "uppercase") shown = shown.toUpperCase()[0];
    found.push([visible ? shown : " ", visible ? [box.left, box.top, box.right, box.bottom] : null]);
  }
  found.push(["\\u200b", null]);
}
return found;
"""


def read_settings(text):
    """The settings and the questions in the comments of a source, as `dict` and `list` of `dict`."""
    settings, questions = {}, []
    for line in text.splitlines():
        if match := re.match(r"\W*@page (.*)", line):
            settings = dict(item.split("=", 1) for item in match[1].split())
        elif match := re.match(r"\W*@ask (.*)", line):
            body, _, which = re.fullmatch(r"(.*?)( \[(-|\d+)\])?", match[1].strip()).groups()
            task, question, *answers = [part.strip() for part in body.split(" | ")]
            questions.append({"task": task, "question": question, "answers": answers, "which": which})
    return settings, questions


def find_answer(characters, question, page):
    """The boxes of the characters of an answer, in an array of shape (N, 4), with their text; or `None` if it has no place.

    Raises:
        ValueError: it is not there, or several times and the source does not say which one.
    """
    if question["which"] == "-":
        return None
    dense = [index for index, (character, _) in enumerate(characters) if character.strip(" \t\r\n\xa0\u200b\u202f")]
    text = "".join(characters[index][0] for index in dense)
    answer = re.sub(r"\s", "", question["answers"][0])
    starts = []
    for match in re.finditer(f"(?={re.escape(answer)})", text):
        first, last = dense[match.start()], dense[match.start() + len(answer) - 1]
        around = [characters[i][0] if 0 <= i < len(characters) else " " for i in (first - 1, last + 1)]
        ends = (answer[0], answer[-1])
        if not any(outer.isalnum() and inner.isalnum() for outer, inner in zip(around, ends)):
            starts.append(match.start())
    number = int(question["which"] or 1)
    if len(starts) < number or (len(starts) > 1 and question["which"] is None):
        raise ValueError(f"{page}: {question['answers'][0]!r} is {len(starts)} times on the page.")
    found = [characters[index] for index in dense[starts[number - 1] : starts[number - 1] + len(answer)]]
    return "".join(character for character, _ in found), np.array([box for _, box in found])


def tighten(image, box):
    """The rectangle of the ink in a box, or `None` if there is none."""
    left, top = (max(0, int(np.floor(value + 0.01))) for value in box[:2])
    right, bottom = (int(np.ceil(value - 0.01)) for value in box[2:])
    pixels = np.asarray(image.crop((left, top, right, bottom)).convert("RGB")).astype(int)
    if not pixels.size:
        return None
    colors, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    ink = np.abs(pixels - colors[counts.argmax()]).max(axis=2) >= CONTRAST
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if not len(rows):
        return None
    return left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1


def measure(image, found):
    """The columns `box`, `position` and `text_height` of an answer; all `None` if it has no place."""
    if found is None:
        return {"box": None, "position": None, "text_height": None}
    text, boxes = found
    box = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])
    ink = tighten(image, box)
    if ink is None or (box[2:] > np.add(image.size, 1)).any():
        raise ValueError(f"{text!r} cannot be seen.")
    quad = corners([int(value) for value in ink])
    # The highest: old-style digits are low, and J and Q go below the line.
    high = [tighten(image, box) for letter, box in zip(text, boxes) if re.match("[A-IK-PR-Z0-9]", letter)]
    heights = [capital[3] - capital[1] for capital in high if capital]
    canvas = Canvas(image.size[::-1], TILE)
    return {
        "box": quad.flatten().tolist(),
        "position": canvas.locate(quad),
        "text_height": round(float(max(heights) * canvas.scale[1]), 1) if heights else None,
    }


def open_browser():
    """Debian's Chromium, without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", "--force-device-scale-factor=1"):
        options.add_argument(flag)
    return webdriver.Chrome(options, webdriver.ChromeService("/usr/bin/chromedriver"))


def show_in_browser(browser, source, settings):
    """Image and characters of an HTML file."""
    size = {"width": int(settings["width"]), "height": 100, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(source.resolve().as_uri())
    size["height"] = browser.execute_script("return document.documentElement.scrollHeight")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    image = PIL.Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return image, [(character, box) for character, box in browser.execute_script(READ_CHARACTERS)]


def crop(image, characters, settings):
    """Cuts the image and moves the characters, if the settings say so; what is outside loses its box."""
    if "crop" not in settings:
        return image, characters
    left, top, right, bottom = map(int, settings["crop"].split(","))
    moved = []
    for character, box in characters:
        inside = box is not None and left <= box[0] and top <= box[1] and box[2] <= right and box[3] <= bottom
        moved.append((character, np.array(box) - (left, top, left, top)) if inside else (" ", None))
    return image.crop((left, top, right, bottom)), moved


def save(image, path):
    """Saves with a palette, of as few colours as look the same."""
    exact = np.asarray(image).astype(int)
    for colors in (16, 32, 64, 128, 256):
        small = image.quantize(colors, PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)
        error = np.abs(np.asarray(small.convert("RGB")).astype(int) - exact)
        if error.mean() < 0.7 and np.quantile(error, 0.999) < 24:
            break
    small.save(path, optimize=True)


def make_page(name, program, text, show, folder):
    """Writes a page and returns its rows; `text` has the comments, `show` takes the settings and gives image and characters."""
    settings, questions = read_settings(text)
    image, characters = crop(*show(settings), settings)
    save(image, folder / "pages" / f"{name}.png")
    columns = {"kind": settings["kind"], "program": program, "language": settings["language"]}
    rows = []
    for question in questions:
        turns = [("user", question["question"]), ("assistant", question["answers"][0])]
        row = {
            "image": f"pages/{name}.png",
            "messages": [{"role": role, "content": content} for role, content in turns],
            "answers": question["answers"],
            **columns,
            "task": question["task"],
        }
        rows.append(row | measure(image, find_answer(characters, question, name)))
    return rows


def list_sources(browser):
    """Yields the first four arguments of [`make_page`] for every page."""
    for source in sorted(path for folder in HERE.iterdir() if folder.is_dir() for path in folder.glob("*.*")):
        program = source.parent.name
        if program == "chromium":
            yield f"{program}-{source.stem}", program, source.read_text(), partial(show_in_browser, browser, source)
        elif program in printed.PROGRAMS:
            yield f"{program}-{source.stem}", program, source.read_text(), partial(printed.show, program, source)
    for name, draw in charts.CHARTS.items():
        yield f"matplotlib-{name}", "matplotlib", draw.__doc__, partial(charts.show, draw)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", default="", help="A regular expression: make these pages alone, and keep the rest.")
    options = parser.parse_args()
    (options.output_dir / "pages").mkdir(parents=True, exist_ok=True)
    browser = open_browser()
    rows, problems = [], []
    try:
        for page in list_sources(browser):
            if not re.search(options.only, page[0]):
                continue
            try:
                rows += make_page(*page, options.output_dir)
            except ValueError as error:
                problems.append(str(error))
    finally:
        browser.quit()
    made, path = {row["image"] for row in rows}, options.output_dir / "questions.json"
    if path.exists():
        rows += [row for row in json.loads(path.read_text()) if row["image"] not in made]
    rows.sort(key=lambda row: row["image"])
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    print(f"{len(made)} pages made; {len(rows)} questions in all")
    if problems:
        raise SystemExit("\n".join(problems))


if __name__ == "__main__":
    main()
