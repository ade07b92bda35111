# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Publishes this repository's model on the Hub, or the app as a Space.

    python publish.py model --repo_id org/fila
    python publish.py space --repo_id org/fila-demo --model org/fila

With `--output_dir` the folder is built and not uploaded. `hf auth login` sets the token for uploads.
"""

import configparser
import json
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CardData
from transformers.hf_argparser import HfArg

from fila.common.arguments import UserError, parse_arguments, run_command
from fila.common.files import new_folder
from fila.common.hub import create_repo, upload_folder
from fila.common.layout import REMOTE_CODE_FILES, ROOT

MODEL_FILES = [
    *("config.json", "generation_config.json", "model.safetensors", "processor_config.json", "chat_template.jinja"),
    *("tokenizer.json", "tokenizer_config.json", "README.md", "LICENSE", *REMOTE_CODE_FILES),
    # Which the card shows and asks about.
    *("assets/architecture.svg", "assets/app.png", "assets/foreign.png", "assets/receipt.png"),
]
NOTE = """
> This is the model alone; `pip install transformers torch torchvision timm` is enough to load it. Other commands and pages
> that the text names are those of {}.
"""
SPACE = {"title": "FILA reads fine print", "emoji": "🔎", "sdk": "gradio", "app_file": "app.py"}
SPACE |= {"colorFrom": "blue", "colorTo": "red", "license": "apache-2.0"}


@dataclass
class PublishArguments:
    """Options of both kinds."""

    repo_id: str | None = HfArg(default=None, help="Hub id to publish as")
    model: str | None = HfArg(default=None, help="of a Space: Hub id of the model that it shows")
    code_url: str | None = HfArg(default=None, help="of a model: web address of FILA's code, for the card's links")
    output_dir: str | None = HfArg(default=None, help="build this folder, and upload nothing")
    private: bool = HfArg(default=False, help="make a new repository private")


def build_model(folder, options):
    """Writes `MODEL_FILES`. The card says which repository it belongs to, and has no links to what is not there."""
    copy_files(MODEL_FILES, folder)
    there = "|".join(["#", "https?:", *map(re.escape, MODEL_FILES)])
    link, source = r"\1", "its source code"
    if options.code_url:
        link, source = rf"[\1]({options.code_url}/blob/main/\2)", f"[{source}]({options.code_url})"
    card = re.sub(rf"\[([^\]]*)\]\((?!{there})([^)]+)\)", link, (ROOT / "README.md").read_text(encoding="utf-8"))
    card = re.sub(r"^# .*\n", rf"\g<0>{NOTE.format(source)}", card, count=1, flags=re.MULTILINE)
    card = re.sub(r'^name = ".*', f"name = {json.dumps(options.repo_id)}", card, flags=re.MULTILINE)
    (folder / "README.md").write_text(card, encoding="utf-8")


def build_space(folder, options):
    """Writes `app.py` with its images, requirements and card. Raises a [`UserError`] if Gradio is not installed."""
    try:
        from fila import app
    except ImportError as error:
        raise UserError(f'The app cannot be loaded: {error}. Run: pip install -e ".[app]"') from error
    copy_files([path.relative_to(ROOT) for path, _ in app.EXAMPLES], folder)
    code = (ROOT / "app.py").read_text(encoding="utf-8")
    code = re.sub(r"^MODEL = .*", f"MODEL = {json.dumps(options.model)}", code, flags=re.MULTILINE)
    (folder / "app.py").write_text(code, encoding="utf-8")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    requirements = setup["options"]["install_requires"] + setup["options.extras_require"]["app"]
    (folder / "requirements.txt").write_text(f"{requirements.strip()}\n")
    python = setup["options"]["python_requires"].removeprefix(">=")
    header = CardData(**SPACE, sdk_version=app.gr.__version__, python_version=python, models=[options.model])
    (folder / "README.md").write_text(f"---\n{header}\n---\n", encoding="utf-8")


def copy_files(names, folder):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def publish(arguments):
    """Builds a folder and uploads it or leaves it in `output_dir`. Raises a [`UserError`] if that is not possible."""
    kind = arguments.pop(0) if arguments and not arguments[0].startswith("-") else ""
    (options,) = parse_arguments(PublishArguments, __doc__, arguments)
    if kind not in ("model", "space"):
        raise UserError(f"Say first what to publish, model or space, and not {kind!r}.")
    if options.repo_id is None or (kind == "space" and options.model is None):
        raise UserError(
            f"Not given: --repo_id{' or --model' if kind == 'space' else ''}. `--help` explains the options."
        )
    build, sdk = (build_space, SPACE["sdk"]) if kind == "space" else (build_model, None)
    if options.output_dir:
        output = Path(options.output_dir)
        if output.is_file() or (output.exists() and any(output.iterdir())):
            raise UserError(f"--output_dir {output} is a file, or a folder that is not empty. Name another one.")
        with new_folder(output) as folder:
            build(folder, options)
        return print(f"{output}: ready.")
    name = create_repo(options.repo_id, repo_type=kind, space_sdk=sdk, private=options.private or None)
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), replace(options, repo_id=name))
        upload_folder(folder, name, repo_type=kind)


def main(arguments=None):
    run_command(publish, list(sys.argv[1:] if arguments is None else map(str, arguments)))


if __name__ == "__main__":
    main()
