# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""The docs keep step with the code: snippets run, commands and their options exist, every config field is explained."""

import configparser
import importlib
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from fila import FilaConfig
from helpers import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "fineprint" / "README.md",
]
DOCS = [page for page in PAGES if page.parent.name == "docs"]
GUIDES = [page for page in DOCS if page.stem in ("finetuning", "serving", "fusion-strategies", "how-fila-sees")]
# A code block, and the line before it that says why it is not run with the page.
BLOCK = re.compile(r"^(?:(\*Not run .+\*)\n\n)?```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
MAX_WORDS, MAX_GUIDE_WORDS = 700, 500
# In a folder where no code of FILA lies.
LOAD = """
import glob, os
(saved,) = map(os.path.abspath, glob.glob("fila-finetuned/checkpoint-*"))
os.chdir("..")
for kind in (AutoModel, AutoProcessor):
    kind.from_pretrained(saved, trust_remote_code=True)
"""


def find_blocks(page):
    """The code blocks of a page of docs/ that are run: language and code."""
    languages = ("python", "bash") if page in GUIDES else ("python",)
    return [
        (language, code)
        for mark, language, code in BLOCK.findall(page.read_text())
        if language in languages and not mark
    ]


@pytest.mark.slow
def test_blocks_run_as_written(tmp_path):
    """Those of a page in order, in a copy of the clone. All pages run in one process, for most of the time goes into imports."""
    pages = {}
    for page in filter(find_blocks, DOCS):
        folder = tmp_path / page.stem / "fila"
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "demo_output"))
        pages[str(folder)] = find_blocks(page) + [("python", LOAD)] * (page.stem == "training")
        assert all(len(code.splitlines()) <= 25 for _, code in pages[str(folder)])
    assert len(pages) >= 6
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        content = json.dumps(pages).replace("8000", str(free.getsockname()[1]))
    environment = os.environ | {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, ROOT / "tests" / "run_blocks.py"]
    result = subprocess.run(command, input=content, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-6000:]
    paths = [path for folder in pages for path in Path(folder).iterdir()]
    names = {path.name + "/" * path.is_dir() for path in paths if not (ROOT / path.name).exists()}
    if (ROOT / ".git").exists():
        check = ["git", "check-ignore", "--no-index", *sorted(names)]
        assert set(subprocess.run(check, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout.split()) == names


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guides_are_short_and_run_whole(page):
    text = page.read_text()
    assert len(BLOCK.sub("", text).split()) <= MAX_GUIDE_WORDS
    marks, languages, _ = zip(*BLOCK.findall(text))
    assert text.count("```") == 2 * len(languages) and set(languages) <= {"python", "bash"}
    assert len(list(filter(None, marks))) == (page.stem == "serving")  # vLLM has an environment of its own


def find_commands(text):
    """Each `python X.py ...` or `python -m fila.X ...` of a page, in code blocks and in lines, as (script, list of its
    options)."""
    text = re.sub(r"-m fila\.([\w.]+)", lambda match: match[1].replace(".", "/") + ".py", text.replace("\\\n", " "))
    for line in re.findall(r"\b(?:python|fsdp2\.yaml) ([^`\n]+)", text):
        words = shlex.split(line, comments=True)
        if words and words[0].endswith(".py"):
            yield words[0], [word for word in words[1:] if word.startswith("--")]


COMMANDS = [(page, *command) for page in PAGES for command in find_commands(page.read_text())]


@cache
def known_options(script):
    main = importlib.import_module("fila." + script.removesuffix(".py").replace("/", ".")).main
    with redirect_stdout(io.StringIO()) as shown, pytest.raises(SystemExit):
        main(["--help"])
    options = re.split("^options:", shown.getvalue(), maxsplit=1, flags=re.IGNORECASE | re.MULTILINE)[-1]
    return set(re.findall(r"--[\w-]+", options))


def test_docs_have_commands():
    assert {"train.py", "run_eval.py", "convert_weights.py", "fineprint/generate.py", "evaluation/ask.py"} <= {
        row[1] for row in COMMANDS
    }


@pytest.mark.parametrize("script", sorted({row[1] for row in COMMANDS}))
def test_commands_have_the_options_that_the_docs_give(script):
    assert (ROOT / script).is_file()
    for page, name, options in COMMANDS:
        if name == script:
            assert set(options) <= known_options(script), page


def test_training_page_names_options_of_train_py():
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / "training.md").read_text(), flags=re.DOTALL)
    options = set(re.findall(r"`(--[\w-]+)", text))
    assert options and options <= known_options("train.py")


def test_files_that_the_docs_name_exist():
    for page in PAGES:
        for name in re.findall(
            r"(?<![\w/.-])(?:recipes|fineprint|tests|conversion|training|evaluation)/[\w./-]+\w", page.read_text()
        ):
            assert (ROOT / name).exists(), (page.name, name)


def test_extras_that_the_docs_name_exist():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for page in PAGES:
        for extras in re.findall(r"pip install -e \"\.\[([^]]+)\]", page.read_text()):
            assert set(extras.split(",")) <= set(setup["options.extras_require"]), page


def test_every_config_field_is_explained():
    text = (ROOT / "docs" / "design.md").read_text()
    fields = [name for name in FilaConfig.__annotations__ if name != "model_type"]
    assert fields and [name for name in fields if f"| `{name}` |" not in text] == []


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_short(page):
    lines = [line for line in page.read_text().splitlines() if not line.startswith("|")]  # tables may be long
    assert len(" ".join(lines).split()) <= MAX_WORDS


def test_the_paper_is_called_a_paper():
    """And what is broken is fixed. The pattern is put together so that it does not find itself."""
    words = re.compile(r"(?<!@)\b(?:" + "arti" + "cles?|" + "men" + r"d(?:s|ed|ing)?)\b", flags=re.IGNORECASE)
    files = subprocess.run(["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    names = files.stdout.split() or [
        str(path.relative_to(ROOT))
        for pattern in ("*.py", "*.md")
        for path in ROOT.rglob(pattern)
        if not {"build", ".venv"} & set(path.relative_to(ROOT).parts)
    ]
    assert "README.md" in names
    paths = [ROOT / name for name in names if (ROOT / name).is_file()]
    assert [str(path) for path in paths if words.search(path.read_text())] == []
