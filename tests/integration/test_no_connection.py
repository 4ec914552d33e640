"""With no logger and no judge chosen no socket of Python connects to anywhere else, and none looks a name up."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import PROJECT_ROOT
from tests.effects.small_runs import Columns, predicted, trained, write_table

TABLE: Columns = {"p": [f"question {n}" for n in range(5)], "a": [f"answer {n}" for n in range(5)]}

# Read by Python before anything else in a process, and in those that it starts: whatever asks for a connection that
# leaves the machine, or for the address of a name, is written down and refused.
WATCH = """
import os, sys

def watch(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        inside = isinstance(address, (str, bytes)) or str(address[0]).startswith("127.") or address[0] in ("::1",)
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto"):
        inside = event != "socket.sendto" and arguments[0] in (None, "", "localhost", "127.0.0.1", "::1")
        address = arguments
    else:
        return
    if not inside:
        with open(os.environ["WATCHED"], "a") as file:
            file.write(f"{event} {address!r}\\n")
        raise OSError(f"{event} {address!r} is not allowed in this test")

sys.addaudithook(watch)
"""


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


@pytest.mark.slow
def test_the_command_asks_for_no_connection_without_any_switch_of_the_libraries(tmp_path: Path) -> None:
    """The tests set `HF_HUB_OFFLINE`; this is a process of a user's, who has set nothing."""
    (tmp_path / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
    table = write_table(tmp_path / "table.jsonl", TABLE)
    offline = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "DISABLE_SAFETENSORS_CONVERSION")
    environment = {name: value for name, value in os.environ.items() if name not in offline}
    paths = [str(tmp_path), str(PROJECT_ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "WATCHED": str(tmp_path / "watched")}
    probe = "import socket; socket.getaddrinfo('huggingface.co', 443)"
    assert subprocess.run([sys.executable, "-c", probe], env=environment, capture_output=True, check=False).returncode
    assert (tmp_path / "watched").read_text().startswith("socket.getaddrinfo"), "nobody watches"
    (tmp_path / "watched").unlink()
    done = subprocess.run(
        [
            sys.executable, str(PROJECT_ROOT / "train.py"), "backbone=tiny", "trainer=cpu", "trainer.progress=none",
            "dataset=table", f"dataset.train_dataframe={table}", "dataset.prompt_column=p", "dataset.answer_column=a",
            "generation.max_length_inference=2", "experiment_name=run",
        ],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "outputs" / "run" / "results.json").is_file()
    assert not (tmp_path / "watched").exists(), (tmp_path / "watched").read_text()
