# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Pages of programs that print: each function gives the image and the characters of a source, as make_pages.py wants them."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

import PIL.Image
import pypdfium2

BORDER = 4  # of a terminal, in pixels
TERMINAL = "xterm -b {border} -geometry {size} -fn {font} -bg {background} -fg {ink} +sb -T page -e"


def run(*command, folder):
    environment = {**os.environ, "HOME": str(folder), "TEXMFVAR": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if result.returncode:
        raise ValueError(
            f"{command}: {result.stdout.decode(errors='replace')[-2000:]} {result.stderr.decode()[-2000:]}"
        )
    return result.stdout


def read_pdf(path, settings):
    """Renders a page as wide as the settings say, with the ink of each character."""
    page = pypdfium2.PdfDocument(path)[int(settings.get("page", 1)) - 1]
    scale = int(settings["width"]) / page.get_width()
    height = page.get_height()
    image = page.render(scale=scale).to_pil().convert("RGB")
    text = page.get_textpage()
    characters = []
    for index in range(text.count_chars()):
        character = text.get_text_range(index, 1)
        left, bottom, right, top = text.get_charbox(index)
        box = [left * scale, (height - top) * scale, right * scale, (height - bottom) * scale]
        visible = bool(character.strip()) and box[2] > box[0]
        characters.append((character if visible else " ", box if visible else None))
    return image, characters


def weasyprint(source, settings, folder):
    run("weasyprint", str(source.resolve()), "page.pdf", folder=folder)
    return read_pdf(folder / "page.pdf", settings)


def latex(source, settings, folder):
    run("pdflatex", "-interaction=nonstopmode", "-jobname=page", str(source.resolve()), folder=folder)
    return read_pdf(folder / "page.pdf", settings)


def groff(source, settings, folder):
    """The macro package is the ending of the file's name; `size` is the paper's width and length in points."""
    width, length = settings["size"].split("x")
    paper = f"{int(length) / 72:.3f}i,{int(width) / 72:.3f}i"
    macros = "-" + source.suffix[1:]
    command = ["groff", "-Tpdf", "-K", "utf8", "-t", "-p", "-e", macros, f"-P-p{paper}", str(source.resolve())]
    (folder / "page.pdf").write_bytes(run(*command, folder=folder))
    return read_pdf(folder / "page.pdf", settings)


def libreoffice(source, settings, folder):
    filters = ["--infilter=HTML (StarCalc)"] if source.suffix == ".html" else []
    run("soffice", "--headless", *filters, "--convert-to", "pdf", str(source.resolve()), folder=folder)
    return read_pdf(folder / f"{source.stem}.pdf", settings)


def manual(source, settings, folder):
    """A page of a PDF in a Debian package; the source holds the package's name and the path in it."""
    package, path = re.search(r"^package: (\S+)\nfile: (\S+)$", source.read_text(), flags=re.MULTILINE).groups()
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", package, folder=folder)
    run("dpkg", "-x", str(next(folder.glob("*.deb"))), "package", folder=folder)
    found = folder / "package" / path
    if found.suffix == ".gz":
        run("gunzip", str(found), folder=folder)
        found = found.with_suffix("")
    return read_pdf(found, settings)


def xterm(source, settings, folder):
    """What a terminal shows of a file, which may have escape sequences; comments at its end are not shown."""
    shown = source.read_text().partition("@page")[0].rstrip("# \n")
    shown = shown.replace("^[", "\x1b")
    (folder / "shown").write_text(shown)
    background, ink = settings["colors"].split(",")
    look = {"border": BORDER, "size": settings["size"], "font": settings["font"], "background": background, "ink": ink}
    command = TERMINAL.format(**look).split()
    environment = {**os.environ, "DISPLAY": ":77", "LC_ALL": "C.UTF-8"}
    server = subprocess.Popen(["Xvfb", ":77", "-screen", "0", "1600x1200x24"], stderr=subprocess.DEVNULL)
    time.sleep(2)
    script = f"printf '\\033[?25l'; cat '{folder / 'shown'}'; sleep 60"
    terminal = subprocess.Popen([*command, "sh", "-c", script], env=environment)
    try:
        time.sleep(3)
        subprocess.run(["import", "-window", "page", str(folder / "page.png")], env=environment, check=True)
    finally:
        terminal.kill()
        server.kill()
    image = PIL.Image.open(folder / "page.png").convert("RGB")
    columns, rows = map(int, settings["size"].split("x"))
    wide, high = (image.width - 2 * BORDER) // columns, (image.height - 2 * BORDER) // rows
    characters = []
    for row, line in enumerate(re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()):
        for column, character in enumerate(line):
            left, top = BORDER + column * wide, BORDER + row * high
            characters.append((character, [left, top, left + wide, top + high] if character.strip() else None))
        characters.append(("\n", None))
    return image, characters


PROGRAMS = {function.__name__: function for function in (weasyprint, latex, groff, libreoffice, manual, xterm)}


def show(program, source, settings):
    """Image and characters of a source, which the function of that name makes in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return PROGRAMS[program](source, settings, Path(folder))
