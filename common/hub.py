# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Repositories on the Hub: made before the work that fills them, so that a wrong token or name is noticed first; and the
model cards of the folders that the commands write."""

from pathlib import Path

from huggingface_hub import HfApi, ModelCard, ModelCardData

from fila.common.arguments import library_errors
from fila.modeling_fila import MODEL_TAGS

WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]


def create_repo(repo_id, token=None, **options):
    """Makes a repository if it does not exist.

    Args:
        repo_id (`str`): its id, with or without the user's name.
        token (`str`, *optional*): by default the one of `hf auth login`.
        options: those of `HfApi.create_repo`.

    Returns:
        `str`: its whole id.

    Raises:
        UserError: the Hub does not make it, or cannot be reached.
    """
    with library_errors(f"The repository {repo_id} cannot be made on the Hub. `hf auth login` sets the token"):
        return HfApi(token=token).create_repo(repo_id, exist_ok=True, **options).repo_id


def upload_folder(folder, repo_id, token=None, repo_type="model", **options):
    """Uploads a folder. Weights that a model repository has and the folder has not are deleted: transformers could load them
    in place of the new ones.

    Args:
        folder (`str` or `Path`): what to upload.
        repo_id (`str`): what [`create_repo`] returned.
        token (`str`, *optional*): by default the one of `hf auth login`.
        repo_type (`str`, *optional*, defaults to `"model"`): or `"space"`.
        options: others of `HfApi.upload_folder`.

    Raises:
        UserError: the upload failed.
    """
    options["delete_patterns"] = WEIGHTS if repo_type == "model" else None
    with library_errors(f"The upload of {folder} to {repo_id} failed"):
        HfApi(token=token).upload_folder(repo_id=repo_id, folder_path=folder, repo_type=repo_type, **options)
    print(f"uploaded to https://huggingface.co/{'spaces/' * (repo_type == 'space')}{repo_id}")


def make_model_card(name, header, **content):
    """The README of a model folder.

    Args:
        name (`str`): what the model is loaded by.
        header (`dict`): metadata of its own, such as its license.
        content: what templates/model_card.md shows: `parts` and `config` of an assembled model, `options` of a trained one.

    Returns:
        `ModelCard`
    """
    data = ModelCardData(
        library_name="transformers", pipeline_tag="image-text-to-text", tags=list(MODEL_TAGS), **header
    )
    template = str(Path(__file__).parent / "templates" / "model_card.md")
    return ModelCard.from_template(data, template_path=template, name=name, **content)
