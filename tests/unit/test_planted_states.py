from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden.settings.errors import TrainingError
from leyden.training.loaded_states import load_trained

Plant = Callable[[Path, Path], Callable[[], object]]


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def as_state(path: Path, mark: Path) -> Callable[[], object]:
    torch.save({"state_dict": {"weight": torch.zeros(1)}, "callbacks": Planted(mark)}, path)
    return lambda: torch.load(path, weights_only=False)


def as_pickle(path: Path, mark: Path) -> Callable[[], object]:
    path.write_bytes(pickle.dumps(Planted(mark)))
    return lambda: pickle.loads(path.read_bytes())


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("write", [as_state, as_pickle])
def test_a_state_that_could_run_something_is_refused(write: Plant, tmp_path: Path) -> None:
    path, mark = tmp_path / "state.ckpt", tmp_path / "mark"
    open_it = write(path, mark)
    with pytest.raises(TrainingError, match=r"state\.ckpt holds more than numbers and texts.*it may run code"):
        load_trained(nn.Linear(1, 1), tmp_path)
    assert not mark.exists()
    open_it()  # nothing but the refusal held it back
    assert mark.exists()
