# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints on the disk and on the Hub: what is read, and what is refused."""

import os
import pickle
import shutil

import huggingface_hub
import pytest
import torch
from checkpoints import assemble, assert_same, load, write_text
from safetensors.torch import load_file

from fila.common.arguments import UserError


@pytest.mark.parametrize("keep", [0.5, 0.001, 0.0])
def test_truncated_files_are_refused(sources, keep):
    file = sources / "text" / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read: SafetensorError"):
        assemble(sources)


def test_an_index_that_names_an_absent_shard_is_refused(sources):
    shutil.rmtree(sources / "text")
    write_text(sources / "text", max_shard_size="20KB")
    lost = sorted((sources / "text").glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(UserError, match=f"{lost.name} cannot be read: FileNotFoundError"):
        assemble(sources)


@pytest.mark.parametrize(
    "file",
    ["clip/config.json", "clip/preprocessor_config.json", "convnext/config.json", "text/config.json"]
    + ["text/generation_config.json", "text/tokenizer.json", "text/chat_template.jinja"],
)
@pytest.mark.parametrize("content", ["{", "[]", '{"model_type": 7, "architecture": 7}', "{% if %}"])
def test_malformed_files_end_with_a_message(sources, file, content):
    (sources / file).write_text(content)
    try:
        assemble(sources)
    except UserError as error:
        assert str(error)


class Payload:
    """What a pickle could run."""

    def __reduce__(self):
        return os.mkdir, ("payload-was-run",)


def test_pickles_that_hold_code_are_not_run(sources, monkeypatch):
    monkeypatch.chdir(sources)
    (sources / "clip" / "model.safetensors").unlink()
    for write in (
        lambda path: torch.save({"a": Payload()}, path),
        lambda path: path.write_bytes(pickle.dumps(Payload())),
    ):
        write(sources / "clip" / "pytorch_model.bin")
        with pytest.raises(UserError, match="was not run.*save_file"):
            assemble(sources)
        assert not (sources / "payload-was-run").exists()


def test_older_pickles_are_read(sources):
    tensors = load_file(sources / "clip" / "model.safetensors")
    (sources / "clip" / "model.safetensors").unlink()
    torch.save(tensors, sources / "clip" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    model = load(assemble(sources))
    name = "embeddings.patch_embedding.weight"
    assert_same(model, "model.vision_tower.vit.", {name: tensors[f"vision_model.{name}"]})


@pytest.mark.parametrize("name", ["no/such/thing/here", "not a name"])
def test_names_that_are_nothing_are_explained(sources, name):
    with pytest.raises(UserError, match="is not a file or folder here, and the Hub does not give it"):
        assemble(sources, vision=name)


def write_hub_cache(cache, repo, folder, commit="0123456789abcdef0123456789abcdef01234567"):
    """Puts a folder where the Hub's client keeps what it has downloaded."""
    base = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, base / "snapshots" / commit)
    (base / "refs").mkdir()
    (base / "refs" / "main").write_text(commit)
    return commit


HUB_IDS = {"vision": "org/clip", "convnext": "convnext_tiny.in12k_ft_in1k", "text": "org/text"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the Hub's client."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_hub_ids_are_read_from_the_cache_when_offline(sources, cache, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (sources / "text" / "README.md").write_text("---\nlicense: llama3\n---\n")
    (sources / "text" / "LICENSE").write_text("terms")
    commit = write_hub_cache(cache, "org/text", sources / "text")
    write_hub_cache(cache, "org/clip", sources / "clip")
    write_hub_cache(cache, "timm/convnext_tiny.in12k_ft_in1k", sources / "convnext")
    card = (assemble(sources, **HUB_IDS) / "README.md").read_text()
    assert f"| org/text | {commit} | llama3 |" in card
    assert (sources / "output" / "licenses" / "decoder" / "LICENSE").read_text() == "terms"
    with pytest.raises(UserError, match="the Hub does not give it: LocalEntryNotFoundError"):
        assemble(sources, "--output", str(sources / "second"), **(HUB_IDS | {"text": "org/text@v9"}))
    assemble(sources, "--output", str(sources / "third"), **(HUB_IDS | {"text": f"org/text@{commit}"}))
    assert f"| org/text | {commit} |" in (sources / "third" / "README.md").read_text()


def test_hub_ids_are_downloaded(sources, cache, hub, capsys):
    hub.add_folder("org/clip", sources / "clip")
    hub.add_folder("org/text", sources / "text")
    hub.add_folder("timm/convnext_tiny.in12k_ft_in1k", sources / "convnext")
    (sources / "text" / "pytorch_model.bin").write_bytes(b"the same weights in another format")
    hub.add_folder("org/text", sources / "text")
    assemble(sources, **HUB_IDS)
    printed = capsys.readouterr().out
    assert "| decoder | org/text | " in printed and "visual tokens: as of the CLIP" in printed
    assert len(list(cache.rglob("*/snapshots/*/*.safetensors"))) == 3 and not list(cache.rglob("*.bin"))
    with pytest.raises(UserError, match="the Hub does not give it: RepositoryNotFoundError"):
        assemble(sources, "--output", str(sources / "second"), **(HUB_IDS | {"text": "org/absent"}))
