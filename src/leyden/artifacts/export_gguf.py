"""A whole model becomes one GGUF file, through llama.cpp's own converter."""

from __future__ import annotations

import logging
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from leyden.artifacts.comparison import Saved
from leyden.artifacts.export_folder import written
from leyden.settings.errors import ConfigError
from leyden.settings.gguf_converter import find_converter, missing_converter

log = logging.getLogger(__name__)

FILE = "model.gguf"
TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
DTYPES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "q8_0": "q8_0"}  # as the tolerances are named
SHOWN = 3  # of the converter's last lines


def convert(whole: Saved, output: Path, wanted: str) -> Saved:
    """Write `model.gguf` in a new folder; return how it is loaded.

    Args:
        whole: a model folder without an adapter.
        output: folder that is made.
        wanted: type of the weights; auto: that of the model.

    Raises:
        ConfigError: there is no converter, it does not know the model, or the folder cannot be written; then nothing
            of it is left.
    """
    words = find_converter()
    if words is None:
        raise ConfigError(missing_converter())
    kind = TYPES.get(whole.dtype, "f32") if wanted == "auto" else wanted
    with written(output) as partial:
        command = [*words, str(whole.folder), "--outfile", str(partial / FILE), "--outtype", kind]
        log.info("The converter runs: %s", shlex.join(command))
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL
        )
        if done.returncode or not (partial / FILE).is_file():
            log.info("The converter said:\n%s", done.stderr)
            last = " / ".join(done.stderr.strip().splitlines()[-SHOWN:]) or "it said nothing"
            raise ConfigError(
                f"format=gguf: the converter {words[-1]} ended with code {done.returncode}: {last}. It does not take "
                "every architecture and tokenizer; leave format out to write safetensors."
            )
    return replace(whole, name="gguf", folder=output, dtype=DTYPES[kind], gguf=FILE)
