# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""common/arguments.py: options from a recipe, from the command line and from both."""

from dataclasses import dataclass
from typing import Literal

import pytest

from fila.common.arguments import UserError, parse_arguments


@dataclass
class Options:
    name: str
    count: int
    rate: float = 0.5
    stage: Literal[1, 2] = 2


def parse(*arguments, **defaults):
    return parse_arguments(Options, "", arguments, **defaults)[0]


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("name: a\ncount: 3\n")
    return path


def test_options_come_from_defaults_recipe_and_command_line_in_this_order(recipe):
    assert parse("--name", "b", "--count", "1") == Options("b", 1)
    assert parse(recipe) == Options("a", 3)
    assert parse(recipe, "--name", "b", "--rate", "2") == Options("b", 3, 2.0)
    assert parse("--count", "1", name="c") == Options("c", 1)
    assert parse(recipe, name="c", rate=1.0) == Options("a", 3, 1.0)


def test_what_has_no_default_is_demanded_unless_it_is_given(recipe):
    recipe.write_text("name: a\n")
    for arguments in ((), (recipe,)):
        with pytest.raises(UserError) as caught:
            parse(*arguments)
        required = str(caught.value).rpartition("required: ")[2]
        assert ("--name" in required, "--count" in required) == (not arguments, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nam: a", "unknown options: nam"),
        ("- name", "not a mapping"),
        ("[", "cannot be read"),
        ("{name: a, count: 1, stage: 3}", "stage 3 of the recipe is not one of 1, 2"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(recipe, text, message):
    recipe.write_text(text)
    with pytest.raises(UserError, match=message):
        parse(recipe)
    with pytest.raises(UserError, match="cannot be read"):
        parse(recipe.with_name("other.yaml"))


def test_wrong_values_of_the_command_line_are_one_sentence(recipe):
    assert parse(recipe, "--stage", "1").stage == 1
    for name, value, message in (("stage", "3", "invalid choice: .3"), ("count", "many", "invalid int value: 'many'")):
        with pytest.raises(UserError, match=f"^argument --{name}: {message}.*`--help` explains"):
            parse(recipe, f"--{name}", value)


def test_commands_are_called_from_a_prompt_too(monkeypatch):
    monkeypatch.setattr("sys.argv", [""])
    assert parse("--name", "b", "--count", "1") == Options("b", 1)
