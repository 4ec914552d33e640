"""Names of checkpoints become a folder or hub id that transformers loads, in this process and in any other."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedTokenizerBase

from leyden.backbone.gguf_files import read_once
from leyden.backbone.tiny import tiny_model, tiny_tokenizer
from leyden.data.cache import as_listed, cached_folder, content_key, file_key, listed
from leyden.settings.errors import LeydenError, ModelError
from leyden.settings.locations import PICKLED, TINY, WHEEL, wheel_checkpoint
from leyden.settings.model_groups import Backbone
from leyden.settings.paths import user_path

log = logging.getLogger(__name__)

# The library would ask a service on the hub to convert pickles to safetensors: nobody asked for that.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class Checkpoint:
    """Where weights and tokenizer come from.

    Attributes:
        name: as the user wrote it.
        revision: branch, tag or commit on the hub.
        remote_code: whether code of the checkpoint may run.
        gguf: the file that has to be converted first.
        root: where conversions are kept; None for the user's cache.
        weights_root: where converted weights are kept, if that is another place.
    """

    name: str
    revision: str | None
    remote_code: bool
    gguf: Path | None
    root: Path | None
    weights_root: Path | None = None

    @property
    def tokenizer_location(self) -> str:
        """Folder or hub id of the tokenizer; a GGUF file's is converted on first use."""
        if self.name.startswith(TINY):
            return str(_converted("tokenizers", content_key("tiny", 1), _write_tiny_tokenizer, self.root))
        if self.gguf is None:
            return str(user_path(self.name)) if user_path(self.name).is_dir() else self.name
        key = content_key("tokenizer", _content_of(self.gguf), transformers.__version__)
        return str(_converted("tokenizers", key, self._convert_tokenizer, self.root))

    @property
    def location(self) -> str:
        """Folder or hub id of the weights; a GGUF file is converted to safetensors in float32 on first use."""
        if self.name.startswith(TINY):
            kind = self.name.removeprefix(TINY)
            key = content_key("tiny", kind, 1, torch.__version__, transformers.__version__)
            return str(_converted("weights", key, partial(_write_tiny_model, kind=kind), self._weights))
        if self.gguf is None:
            return self.tokenizer_location
        key = content_key("weights", _content_of(self.gguf), transformers.__version__)
        return str(_converted("weights", key, self._convert_weights, self._weights))

    @property
    def _weights(self) -> Path | None:
        return self.weights_root or self.root

    def _convert_tokenizer(self, folder: Path) -> None:
        assert self.gguf is not None
        log.info("Converting the tokenizer of %s (once).", self.gguf.name)
        with read_once():
            tokenizer = AutoTokenizer.from_pretrained(str(self.gguf.parent), gguf_file=self.gguf.name)
        tokenizer.save_pretrained(folder)

    def _convert_weights(self, folder: Path) -> None:
        assert self.gguf is not None
        log.info("Converting the weights of %s to safetensors (once).", self.gguf.name)
        with read_once():
            model = AutoModelForCausalLM.from_pretrained(
                str(self.gguf.parent),
                gguf_file=self.gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
        model.save_pretrained(folder)


def _content_of(path: Path) -> str:
    """The hash of a file's bytes, which are read once while size and time of the file stay: each start asks often."""
    facts = path.stat()
    return _content_read(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=8)
def _content_read(path: Path, size: int, changed: int) -> str:
    del size, changed  # of the file, for the cache alone
    return file_key(path)


def _converted(kind: str, key: str, fill: Callable[[Path], None], root: Path | None) -> str:
    """The folder that a conversion has filled, or fills now."""
    return str(cached_folder(kind, key, listed(fill), root=root, sound=as_listed))


def find_checkpoint(settings: Backbone, *, root: Path | None = None) -> Checkpoint:
    """What `backbone.name` stands for.

    Args:
        settings: names the checkpoint.
        root: where to keep conversions instead of the user's cache.
    """
    gguf = wheel_checkpoint(settings.name) if settings.name.startswith(WHEEL) else None
    if settings.name.endswith(".gguf"):
        gguf = user_path(settings.name).absolute()
    return Checkpoint(settings.name, settings.revision, settings.trust_remote_code, gguf, root)


def load_tokenizer(checkpoint: Checkpoint, arguments: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer.

    Raises:
        ModelError: it cannot be found or read.
    """
    with loading(checkpoint, "tokenizer") as options:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.tokenizer_location, **options, **arguments)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(f"backbone.name={checkpoint.name!r} has no tokenizer that transformers knows.")
    return tokenizer


@contextmanager
def loading(checkpoint: Checkpoint, what: str) -> Iterator[dict[str, Any]]:
    """Options for a library's loader; what it raises becomes one sentence with the ways out.

    Raises:
        ModelError: the checkpoint cannot be found, reached or read, or wants code of its own to run.
    """
    options: dict[str, Any] = {"trust_remote_code": checkpoint.remote_code}
    if checkpoint.revision is not None:
        options["revision"] = checkpoint.revision
    on_hub = checkpoint.gguf is None and not checkpoint.name.startswith(TINY) and not Path(checkpoint.name).exists()
    offline = on_hub and not _hub_resolves()
    if offline:
        options["local_files_only"] = True
    try:
        yield options
    except LeydenError:
        raise
    except Exception as error:  # a damaged file may raise anything: each format has a reader of its own
        raise ModelError(_cure(checkpoint, what, error, offline=offline, on_hub=on_hub)) from error


def _cure(checkpoint: Checkpoint, what: str, error: Exception, *, offline: bool, on_hub: bool) -> str:
    name = f"backbone.name={checkpoint.name!r}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    cause = lines[0].rstrip(".")
    if "trust_remote_code" in str(error):
        return f"{name}: its {what} needs code of its own ({cause}). Read it, then set backbone.trust_remote_code=true."
    if "safetensors" in cause and ("no file named" in cause or "not appear to have a file" in cause):
        return f"{name}: there are no weights as .safetensors; others are pickles, {PICKLED}"
    if offline:
        return (
            f"{name}: its {what} is not in the local cache, and the hub cannot be reached from here. Check the "
            "network, or set backbone.name to a folder or a .gguf file, or use backbone=llama after `make install`."
        )
    if on_hub:
        where = f" at revision {checkpoint.revision!r}" if checkpoint.revision else ""
        return (
            f"{name}: its {what} cannot be loaded from the hub{where}: {cause}. Check the id and the revision; for a "
            "gated model accept its licence and set HF_TOKEN."
        )
    return f"{name}: its {what} cannot be read: {cause}. Give a folder written by save_pretrained or a .gguf file."


def _hub_resolves() -> bool:
    """Whether the hub's host has an address here; the library alone would retry for most of a minute."""
    proxies = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if any(os.environ.get(name) for name in proxies):
        return True
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return False
    return True


def _write_tiny_tokenizer(folder: Path) -> None:
    tiny_tokenizer().save_pretrained(folder)


def _write_tiny_model(folder: Path, kind: str) -> None:
    try:
        model = tiny_model(kind)
    except KeyError as error:
        raise ModelError(f"backbone.name='{TINY}{kind}': {error.args[0]}") from error
    model.save_pretrained(folder)
