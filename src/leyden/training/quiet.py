"""What the libraries say and nobody needs: their bars, their lines, their warnings."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

NOISE = (  # of Lightning: true, and of no use to whoever fine-tunes
    r".*does not have many workers.*",
    r".*The number of training batches.*is smaller than the logging interval.*",
    r".*Starting from v1.9.0, `tensorboardX` has been removed.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*You defined a `validation_step` but have no `val_dataloader`.*",  # what settles `auto` has no need of one
    r".*No device id is provided via `init_process_group`.*",
    r".*Found .* module\(s\) in eval mode at the start of training.*",
    r".*Model has `tie_word_embeddings=True`.*",  # of an adapter that is loaded: its copies are equal
    r".*The \.grad attribute of a Tensor that is not a leaf Tensor.*",  # torch.compile, of its own look at a tensor
    r".*It is recommended to use `self\.log\('validation/.*sync_dist=True.*",  # every process has the whole number
    r".*`is_gradient_checkpointing` is deprecated.*",  # peft 0.21 asks transformers 5.23 by the old name
)


def quiet_libraries() -> None:
    """Keep the libraries' own lines to warnings, and their bars away: the display is ours."""
    transformers_logging.disable_progress_bar()
    for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "httpx", "httpx2", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def filtered_warnings() -> Iterator[None]:
    """Keep away the warnings of the libraries that are of no use to whoever fine-tunes."""
    with warnings.catch_warnings():
        for pattern in NOISE:
            warnings.filterwarnings("ignore", message=pattern)
        yield
