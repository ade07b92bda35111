# Copyright 2026 The FILA authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs the code blocks of pages of the docs in order, as a reader does who types them into one shell and one Python.

Commands run in this process: `python train.py ...` is what it is in a shell, without loading PyTorch again. A command that
ends in `&` runs beside it until the page is done. Standard input has, as JSON, the blocks of each page by the folder that they
are run in; the exit status is 1 if one fails.
"""

import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import traceback


def run_command(words):
    """Runs a command line of a `bash` block. Anything but Python goes to the system."""
    if words[0] != "python":
        return subprocess.run(words, check=True)
    arguments, is_module = (words[2:], True) if words[1] == "-m" else (words[1:], False)
    sys.argv = list(arguments)
    if is_module:
        return runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    return runpy.run_path(arguments[0], run_name="__main__")


def run_blocks(blocks):
    """Runs pairs of language, `"python"` or `"bash"`, and code. Raises what they raise."""
    names, beside = {"__name__": "__main__"}, []
    try:
        for language, code in blocks:
            if language == "python":
                exec(compile(code, "block", "exec"), names)
                continue
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[-1:] == ["&"]:
                    command = [sys.executable if word == "python" else word for word in words[:-1]]
                    beside.append(subprocess.Popen(command, start_new_session=True))
                elif words:
                    run_command(words)
    finally:
        for process in beside:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)


def main():
    sys.path[0] = ""  # the current folder, as for `python`
    is_wrong = False
    for folder, blocks in json.load(sys.stdin).items():
        os.chdir(folder)
        try:
            run_blocks(blocks)
        except (Exception, SystemExit):
            is_wrong = True
            traceback.print_exc()
            print(f"These were the blocks of {folder}.", file=sys.stderr)
    sys.exit(is_wrong)


if __name__ == "__main__":
    main()
