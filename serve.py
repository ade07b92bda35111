# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Serves a FILA with the server of transformers, which speaks OpenAI's protocol.

python serve.py . --port 8000

`transformers serve` ignores the auto_map of a model: it looks up its class by name in transformers itself, where FILA is not.
This command adds FILA to what is looked up and runs that server, with all of its options. When the server reads auto_map, use
`transformers serve MODEL --trust-remote-code` instead, and this file can go.
"""

import sys

import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.utils.import_utils import is_serve_available

from fila.common.arguments import UserError, run_command

MAX_MESSAGE = 300  # characters; the message about an image that cannot be read repeats the whole image


def register(name):
    """Makes the class of the model `name` known to the server.

    Raises:
        UserError: `name` is not a folder or a Hub id of a FILA.
    """
    try:
        model_class = get_class_from_dynamic_module("modeling_fila.FilaForConditionalGeneration", name)
    except (OSError, ValueError) as error:
        raise UserError(f"{name} is not the folder or the Hub id of a FILA: {error}") from error
    setattr(transformers, model_class.__name__, model_class)
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_class.config_class.model_type] = model_class.__name__


def refuse_bad_requests():
    """Makes the server answer 400, with the message, where the processor or the model raises a `ValueError`. Such an error is
    in the request, for example an image that cannot be decoded; transformers 5.24 answers 500 without a message."""
    from fastapi.responses import JSONResponse
    from transformers.cli.serving import server

    async def refuse(request, error):
        message = str(error)
        if len(message) > MAX_MESSAGE:
            message = f"{message[: MAX_MESSAGE // 2]} ... {message[-MAX_MESSAGE // 2 :]}"
        return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=400)

    build_server = server.build_server

    def build(*args, **kwargs):
        app = build_server(*args, **kwargs)
        app.add_exception_handler(ValueError, refuse)
        return app

    server.build_server = build


def serve(arguments):
    """Registers the model that the command line names, and runs the server until it is stopped.

    Args:
        arguments (`list[str]`): the model, then options of `transformers serve`.

    Raises:
        UserError: the server is not installed, no model is given first, or it is not a FILA.
    """
    if not is_serve_available():
        raise UserError('The server is not installed. Run: pip install -e ".[serve]"')
    from transformers.cli.transformers import app

    if arguments[:1] != ["--help"]:
        if not arguments or arguments[0].startswith("-"):
            raise UserError("Give the model first, for example: python serve.py . --port 8000")
        register(arguments[0])
        refuse_bad_requests()
    app(["serve", *arguments, "--trust-remote-code"], prog_name="serve.py")


def main(arguments=None):
    run_command(serve, list(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
