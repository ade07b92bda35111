# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""fineprint/experiments/make_checkpoint.py makes what is at the root of the repository."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, PreTrainedTokenizerFast

from fila.common.arguments import UserError
from fila.conversion.tokenizer import get_special_tokens, make_chat_macros
from fila.fineprint.experiments import make_checkpoint
from helpers import ROOT, tiny_model


def test_default_checkpoint_is_what_its_script_makes(tmp_path):
    make_checkpoint.main(["--weights", str(ROOT), "--output_dir", str(tmp_path)])
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "modeling_fila.py"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    # The version of transformers that wrote a file is in it, and decides which defaults are written.
    configs = [AutoConfig.from_pretrained(folder, trust_remote_code=True).to_dict() for folder in (tmp_path, ROOT)]
    assert configs[0] | {"_name_or_path": ""} == configs[1] | {"_name_or_path": ""}
    actual, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path, ROOT))
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_weights_of_another_config_are_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path / "tiny")
    for name in ("tiny", "none"):
        with pytest.raises(UserError, match=f"{name} is no FILA with the config at the root"):
            make_checkpoint.main(["--weights", str(tmp_path / name), "--output_dir", str(tmp_path / "output")])
    assert not (tmp_path / "output").exists()


def test_chat_template_at_the_root_escapes_as_those_of_converted_models_do():
    special_tokens = get_special_tokens(PreTrainedTokenizerFast.from_pretrained(ROOT))
    assert (ROOT / "chat_template.jinja").read_text().startswith(make_chat_macros(special_tokens))
