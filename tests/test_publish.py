# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""What is published: exactly these files, with cards that the Hub takes, and they work where there is nothing else of FILA."""

import json
import re
import shutil

import pytest
import transformers
from hub import find_card_errors
from huggingface_hub import HfApi, ModelCard, ModelCardData, metadata_load

from fila import publish
from fila.common.layout import REMOTE_CODE_FILES
from helpers import ANSWER, QUESTION, RECEIPT, ROOT, run_elsewhere

# What a FILA is loaded from. The stock methods, convert_weights.py and train.py write these, too, and no others.
REPOSITORY = {
    *("README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors"),
    *("processor_config.json", "tokenizer.json", "tokenizer_config.json", *REMOTE_CODE_FILES),
}
PUBLISHED = REPOSITORY | {
    "LICENSE",
    "assets/architecture.svg",
    "assets/app.png",
    "assets/foreign.png",
    "assets/receipt.png",
}
PAGES = [f"fineprint/foreign/pages/{name}.png" for name in ("matplotlib-panels", "weasyprint-prices", "xterm-gitlog")]
SPACE = {"README.md", "app.py", "assets/receipt.png", "requirements.txt", *PAGES}
AUTO_MODELS = ["AutoModel", "AutoModelForImageTextToText", "AutoModelForMultimodalLM"]

ASK = """
import json, sys
sys.modules["fila"] = None  # to import it is an error
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoProcessor, pipeline

name, image, question = sys.argv[1:4]
remote = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(name, **remote)
processor = AutoProcessor.from_pretrained(name, **remote)
image_processor = AutoImageProcessor.from_pretrained(name, **remote)
assert image_processor.to_dict() == processor.image_processor.to_dict()
chat = [{"role": "user", "content": [{"type": "image", "path": image}, {"type": "text", "text": question}]}]
options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
inputs, answers = processor.apply_chat_template(chat, **options), {}
for kind in config.auto_map:
    if kind != "AutoConfig" and hasattr(transformers, kind):
        model, info = getattr(transformers, kind).from_pretrained(name, output_loading_info=True, **remote)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        ids = model.generate(**inputs, max_new_tokens=20)[0, inputs["input_ids"].shape[1] :]
        answers[kind] = processor.decode(ids, skip_special_tokens=True)
for task in ("image-text-to-text", "any-to-any"):
    pipe = pipeline(task, model=name, **remote)
    answers[task] = pipe(text=chat, max_new_tokens=20, return_full_text=False)[0]["generated_text"]
"""
ASK_FOLDER = (
    ASK
    + """
model.save_pretrained(sys.argv[4])
processor.save_pretrained(sys.argv[4])
print(json.dumps(answers))
"""
)
ASK_SPACE = (
    ASK
    + """
sys.path.insert(0, sys.argv[4])
import app

fila = app.App(*app.load_model(app.MODEL))
assert fila.model.name_or_path == name
assert all(path.is_file() for path, _ in app.EXAMPLES)
*_, answers["app"] = fila.answer({"text": question, "files": [str(app.EXAMPLES[0][0])]}, [], app.TILED)
print(json.dumps(answers))
"""
)
PUSH = """
import sys
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
import fila

checkout, remote = sys.argv[1], {"trust_remote_code": True}
for source, target, model_class, processor_class in (
    (checkout, "org/remote-code", AutoModelForImageTextToText, AutoProcessor),
    ("org/remote-code", "org/again", AutoModel, AutoProcessor),
    (checkout, "org/package", fila.FilaForConditionalGeneration, fila.FilaProcessor),
):
    model_class.from_pretrained(source, **remote).push_to_hub(target)
    processor_class.from_pretrained(source, **remote).push_to_hub(target)
    processor_class.from_pretrained(source, **remote).push_to_hub(target + "-other-order")
    model_class.from_pretrained(source, **remote).push_to_hub(target + "-other-order")
"""


def build(folder, *arguments):
    publish.main([*arguments, "--output_dir", folder])
    return folder


def list_files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def list_local_links(folder):
    links = re.findall(r"\]\(([^)]+)\)", (folder / "README.md").read_text())
    return [link for link in links if not link.startswith(("#", "https:"))]


def expected_answers(*others):
    kinds = [kind for kind in AUTO_MODELS if hasattr(transformers, kind)]
    return dict.fromkeys([*kinds, "image-text-to-text", "any-to-any", *others], ANSWER)


def test_model_folder_has_exactly_the_files_of_a_model(tmp_path):
    folder = build(tmp_path / "model", "model", "--repo_id", "org/fila")
    assert list_files(folder) == PUBLISHED
    same = PUBLISHED - {"README.md"}
    assert [name for name in same if (folder / name).read_bytes() != (ROOT / name).read_bytes()] == []


@pytest.mark.parametrize("code_url", [None, "https://example.org/fila"])
def test_model_card_is_the_readme_with_links_that_lead_somewhere(tmp_path, code_url):
    options = [] if code_url is None else ["--code_url", code_url]
    folder = build(tmp_path / "model", "model", "--repo_id", "org/fila", *options)
    card = (folder / "README.md").read_text()
    links = list_local_links(folder)
    assert links and all((folder / link).exists() for link in links)
    elsewhere = re.findall(rf"\]\({code_url}/blob/main/([^)]+)\)", card)
    assert len(elsewhere) == (0 if code_url is None else len(list_local_links(ROOT)) - len(links))
    assert all((ROOT / link).exists() for link in elsewhere)
    assert 'name = "org/fila"' in card and 'name = "."' not in card
    assert card.index("# FILA") < card.index("> This is the model alone") < card.index("FILA gives every tile")
    assert ("[its source code](https://example.org/fila)" in card) == (code_url is not None)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", (ROOT / "README.md").read_text())  # nothing but that is changed
    lost = set(text.splitlines()) - set(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", card).splitlines())
    assert all(line.startswith("name = ") for line in lost)


def test_model_card_has_valid_metadata(tmp_path):
    folder = build(tmp_path / "model", "model", "--repo_id", "org/fila")
    metadata = metadata_load(folder / "README.md")
    assert metadata == metadata_load(ROOT / "README.md")
    assert ModelCardData(**metadata).to_dict() == metadata
    assert find_card_errors((folder / "README.md").read_text(), "model") == []


def test_hub_refuses_a_card_with_invalid_metadata(hub):
    """The stand-in does, so that every upload in these tests says that the card is valid."""
    hub.repos["me/fila"] = {}
    card = b"---\nlicense: none of them\n---\n"
    with pytest.raises(ValueError, match="license none of them is unknown"):
        HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/fila")
    assert hub.repos["me/fila"] == {}


def test_space_has_the_app_its_images_and_what_it_needs(tmp_path):
    pytest.importorskip("gradio")
    folder = build(tmp_path / "space", "space", "--repo_id", "org/demo", "--model", "org/fila")
    assert list_files(folder) == SPACE
    ours, published = ((path / "app.py").read_text().splitlines() for path in (ROOT, folder))
    changes = [(line, new) for line, new in zip(ours, published, strict=True) if line != new]
    assert [new for _, new in changes] == ['MODEL = "org/fila"']
    requirements = (folder / "requirements.txt").read_text().splitlines()
    setup = (ROOT / "setup.cfg").read_text()
    assert {"transformers >= 5.16.1", "timm >= 1.0.30", "gradio >= 6"} <= set(requirements)
    assert all(f"\n    {line}\n" in setup for line in requirements)
    assert find_card_errors((folder / "README.md").read_text(), "space") == []
    metadata = metadata_load(folder / "README.md")
    assert (metadata["sdk"], metadata["app_file"], metadata["models"]) == ("gradio", "app.py", ["org/fila"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say first what to publish, model or space"),
        (["data", "--repo_id", "org/fila"], "not 'data'"),
        (["model"], "Not given: --repo_id"),
        (["space", "--repo_id", "org/demo"], "--model"),
        (["model", "--repo_id", "org/fila", "--output_dir", ROOT], "a folder that is not empty"),
        (["model", "--repo_id", "not/a/name"], "not/a/name cannot be made on the Hub"),
    ],
)
def test_wrong_options_are_explained(arguments, message, hub):
    with pytest.raises(SystemExit, match=message):
        publish.main(arguments)
    assert hub.repos == {}


@pytest.mark.slow
def test_model_folder_alone_answers_through_every_auto_class_offline_as_does_what_it_saves(tmp_path):
    folder, saved, again = (tmp_path / name for name in ("model", "saved", "again"))
    image = ROOT / "assets" / "receipt.png"
    build(folder, "model", "--repo_id", "org/fila")
    answers = run_elsewhere(ASK_FOLDER, tmp_path, folder, image, QUESTION, saved)
    assert json.loads(answers) == expected_answers()
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "cache")
    assert json.loads(run_elsewhere(ASK_FOLDER, tmp_path, saved, image, QUESTION, again)) == expected_answers()
    assert list_files(again) == list_files(saved) == REPOSITORY - {"README.md"}


@pytest.mark.slow
def test_published_model_and_space_answer_by_their_ids(tmp_path, hub):
    pytest.importorskip("gradio")
    publish.main(["model", "--repo_id", "fila"])
    publish.main(["space", "--repo_id", "me/demo", "--model", "me/fila", "--private"])
    assert hub.repos.keys() == {"me/fila", "spaces/me/demo"}
    assert hub.repos["me/fila"].keys() == PUBLISHED | {".gitattributes"}
    assert b'name = "me/fila"' in hub.repos["me/fila"]["README.md"]
    space = tmp_path / "space"
    for name, data in hub.repos["spaces/me/demo"].items():
        (space / name).parent.mkdir(parents=True, exist_ok=True)
        (space / name).write_bytes(data)
    assert list_files(space) == SPACE | {".gitattributes"}
    environment = hub.environment(tmp_path / "cache")
    answers = run_elsewhere(ASK_SPACE, tmp_path, "me/fila", RECEIPT, QUESTION, space, **environment)
    assert json.loads(answers) == expected_answers("app")


@pytest.mark.slow
def test_stock_push_to_hub_leaves_a_whole_repository(tmp_path, hub):
    run_elsewhere(PUSH, tmp_path, ROOT, **hub.environment(tmp_path / "cache"))
    assert len(hub.repos) == 6
    for repo, files in hub.repos.items():
        assert files.keys() == REPOSITORY | {".gitattributes"}, repo
        card = files["README.md"].decode()
        assert find_card_errors(card, "model") == []
        tags = ModelCard(card).data.tags
        assert {"image-text-to-text", "custom_code"} <= set(tags) and len(tags) == len(set(tags))
        assert all(b"org/" not in files[name] for name in files if name.endswith(".json"))  # needs no other repository
        for name in REMOTE_CODE_FILES:
            assert files[name] == (ROOT / name).read_bytes(), (repo, name)
