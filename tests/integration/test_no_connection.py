"""With no logger and no judge chosen no socket of Python connects to anywhere else, and none looks a name up.

That of a process that is started is watched in test_readme.py.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from tests.effects.small_runs import Columns, predicted, trained

TABLE: Columns = {"p": [f"question {n}" for n in range(5)], "a": [f"answer {n}" for n in range(5)]}


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What asked for a connection in this process."""
    found: list[str] = []

    def refuse(*arguments: Any, **_: Any) -> None:
        found.append(repr(arguments))
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    return found


@pytest.mark.parametrize("problem", ["causal_lm", "dpo"])
def test_a_run_and_a_prediction_ask_for_no_connection(problem: str, tmp_path: Path, tried: list[str]) -> None:
    options = ["problem=dpo", "dataset.rejected_answer_column=p"] if problem == "dpo" else []
    run = trained(tmp_path, TABLE, *options, "generation.max_length_inference=2")
    assert len(predicted(run, tmp_path / "table.jsonl", f"output={tmp_path / 'out'}")) == 5
    assert tried == []
