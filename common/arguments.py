# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Options of the commands: dataclasses, filled from a YAML recipe and from the command line."""

import sys
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser


class UserError(Exception):
    """Something the user can fix. The message says what is wrong and what to do; commands print it without a traceback."""


@contextmanager
def library_errors(title):
    """Turns whatever a library raises about `title`, such as an option or a file, into a [`UserError`] with its message."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # what Python, HTTP libraries and readers of weights raise has no class in common
        raise UserError(f"{title}: {type(error).__name__}: {error}") from error


def read_yaml(path):
    """Reads a YAML mapping.

    Raises:
        UserError: the file cannot be read, or does not hold a mapping.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The recipe {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"The recipe {path} is not a mapping of options to values.")
    return content


def parse_arguments(classes, description, arguments=None, **defaults):
    """Parses a command line. A first argument that ends in .yaml is a recipe; the options after it override its values.

    Args:
        classes (`type` or `tuple[type]`): dataclasses of options.
        description (`str`): for `--help`, usually the docstring of the command.
        arguments (`list[str]`, *optional*): the command line; `sys.argv` if not given.
        defaults: values that replace the defaults of the dataclasses.

    Returns:
        `tuple`: an instance of each class.

    Raises:
        UserError: the recipe cannot be read, or an option is unknown, missing or has a value that is not allowed.
    """
    arguments = list(sys.argv[1:] if arguments is None else map(str, arguments))
    parser = HfArgumentParser(classes, description=description)
    parser.error = _fail  # argparse would print all options, too
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        path = arguments.pop(0)
        recipe = read_yaml(path)
        known = {option.name for kind in parser.dataclass_types for option in fields(kind)}
        unknown = sorted(map(str, set(recipe) - known))
        if unknown:
            raise UserError(f"The recipe {path} has unknown options: {', '.join(unknown)}. `--help` lists all options.")
        defaults |= recipe
    parser.set_defaults(**defaults)
    for action in parser._actions:  # what has a value now need not be on the command line
        action.required = action.required and action.dest not in defaults
        value = defaults.get(action.dest)
        if action.choices and isinstance(value, str | int) and value not in action.choices:
            _fail(f"{action.dest} {value} of the recipe is not one of {', '.join(map(str, action.choices))}")
    try:
        return parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    except ValueError as error:
        raise UserError(str(error)) from error


def _fail(message):
    raise UserError(f"{message}. `--help` explains the options.")


def make_options(kind, values, name):
    """An instance of `kind`, a dataclass of options, from the mapping `values` that a recipe has under `name`.

    Raises:
        UserError: the values do not fit.
    """
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"The options of {name} do not fit: {error}") from error


def run_command(function, *args, **kwargs):
    """Calls `function`; ends the process with the message alone when it raises a [`UserError`], and without one when it is
    interrupted."""
    try:
        return function(*args, **kwargs)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
