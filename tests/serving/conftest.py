# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
import json
import re
import shlex

import pytest

from helpers import ROOT


@pytest.fixture(scope="session")
def overrides():
    """What the command in docs/serving.md has vLLM change in the config."""
    (command,) = re.findall(r"^vllm serve .*$", (ROOT / "docs" / "serving.md").read_text(), flags=re.MULTILINE)
    words = shlex.split(command)
    return json.loads(words[words.index("--hf-overrides") + 1])
