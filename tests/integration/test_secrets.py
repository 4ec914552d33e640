"""Keys and passwords stay in the environment: no file of a run, failed or not, holds one, and no line shows one."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any
from urllib.parse import quote

import pytest
from tests.effects.small_runs import Columns, write_table
from tests.unit.chat_server import Call, ChatServer, refuses, says

SECRETS = {
    "HF_TOKEN": "hf_planted0123456789abcdef", "HUGGING_FACE_HUB_TOKEN": "hf_planted9876543210fedcba",
    "WANDB_API_KEY": "f00d" * 10, "OPENAI_API_KEY": "sk-planted-0123456789",
    "NEPTUNE_API_TOKEN": base64.b64encode(json.dumps({"api_address": "https://x", "key": "planted"}).encode()).decode(),
    "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password", "MLFLOW_TRACKING_TOKEN": "planted-mlflow-token",
    "AZURE_OPENAI_API_KEY": "planted-azure-key",
}  # fmt: skip
PASSWORD = "planted-password"
TABLE: Columns = {"p": [f"question {n}" for n in range(4)], "a": [f"answer {n}" for n in range(4)]}


def forms(secret: str) -> list[bytes]:
    """How a secret may be written: as it is, within base64 of anything around it, percent-encoded, backwards."""
    plain = secret.encode()
    return [plain, *within_base64(plain), quote(secret, safe="").encode(), plain[::-1]]


def within_base64(plain: bytes) -> list[bytes]:
    """What stands in base64 wherever the bytes do: three forms, by what remains of a group of three before them.

    Characters at both ends that a neighbour has a part in are left out.
    """
    found = []
    for before in range(3):
        written = base64.b64encode(bytes(before) + plain)
        whole = (before + len(plain)) * 8 // 6  # characters without a bit of what follows
        found.append(written[(before * 8 + 5) // 6 : whole])
    return found


def leaks(content: bytes) -> list[str]:
    planted = {**SECRETS, "password": PASSWORD}
    return [name for name, secret in planted.items() if any(form in content for form in forms(secret))]


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("OPENAI_", "AZURE_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_every_form_of_a_secret_is_found() -> None:
    for name, secret in SECRETS.items():
        for form in forms(secret):
            assert name in leaks(b"x" + form + b"y")
        for before in (b"", b"u", b"us", b"user:", b"a:b:"):
            for behind in (b"", b"@", b"@h", b"@host"):
                assert name in leaks(b"Basic " + base64.b64encode(before + secret.encode() + behind))
    assert leaks(b"nothing planted here") == []


@pytest.mark.usefixtures("planted")
def test_no_file_of_a_sweep_with_a_judge_and_a_failed_job_holds_a_secret(
    run_here: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    """The second job is refused by an endpoint that repeats the key it was sent."""
    rows = write_table(tmp_path / "table.jsonl", TABLE)

    def answer(call: Call) -> Any:
        if len(server.calls) <= len(TABLE["p"]):
            return says("Fine.\nSCORE: 0.5")
        sent = call.headers.get("authorization", "") + call.headers.get("Authorization", "")
        return refuses(401, f"Incorrect API key provided: {sent}", code="invalid_api_key")

    with ChatServer(answer) as server:
        done = run_here(
            [
                "train.py", "-m", "lora.r=2,3", "backbone=tiny", "trainer=cpu", "checkpoint.verify=false",
                "trainer.progress=none",
                "dataset=table", f"dataset.train_dataframe={rows}", "dataset.validation_strategy=custom",
                "dataset.prompt_column=p", f"dataset.validation_dataframe={rows}", "dataset.answer_column=a",
                "experiment_name=sweep",
                "generation.max_length_inference=2", "trainer.evaluate_before_training=false",
                "metric=gpt", "metric.gpt.model=m", f"metric.gpt.base_url={server.url}", "metric.gpt.attempts=1",
            ],
            cwd=tmp_path,
        )  # fmt: skip
        assert any(SECRETS["OPENAI_API_KEY"] in str(call.headers) for call in server.calls), done.stderr
    folder = tmp_path / "outputs" / "sweep"
    table = (folder / "sweep.csv").read_text(encoding="utf-8")
    assert ("done" in table, "failed" in table, "does not accept the key" in table) == (True, True, True), done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    kinds = {path.relative_to(folder).parts[1] for path in files if folder in path.parents and path.parent != folder}
    assert kinds >= {"train.log", "manifest.json", "predictions.csv"}
    assert {str(path): found for path in files if (found := leaks(path.read_bytes()))} == {}
    assert leaks((done.stdout + done.stderr).encode()) == []


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize(
    "override",
    [
        f"metric.gpt.base_url=http://me:{PASSWORD}@localhost:1/v1",
        f"logger.mlflow.tracking_uri=http://me:{PASSWORD}@localhost:1",
        f"+tokenizer.tokenizer_kwargs.token={SECRETS['HF_TOKEN']}",
    ],
)
def test_a_setting_with_a_secret_in_it_ends_the_run_before_anything_is_written(
    override: str, run_here: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    group = "metric=gpt" if "gpt" in override else "logger=mlflow" if "mlflow" in override else "seed=1"
    more = ["metric.gpt.model=m"] if "gpt" in override else []
    before = set(tmp_path.rglob("*"))
    done = run_here(
        ["train.py", "backbone=tiny", "trainer=cpu", "checkpoint.verify=false", group, *more, override], cwd=tmp_path
    )
    assert (done.returncode, "config error" in done.stderr) == (2, True)
    assert leaks((done.stdout + done.stderr).encode()) == []
    assert set(tmp_path.rglob("*")) == before
