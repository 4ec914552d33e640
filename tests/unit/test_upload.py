"""What leaves the machine for the hub, and what is said where it cannot: a server on loopback speaks for the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.conftest import PROJECT_ROOT
from tests.unit.hub_server import COMMIT, OWNER, HubServer, Repository, hub_for

from leyden.artifacts.upload import REFUSED, WHY, check_files, send
from leyden.settings.errors import ConfigError, UploadError

# the client hands a file to its HTTP library by an older name
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw bytes:DeprecationWarning")

TOKEN = "hf_" + "x" * 34
CONTENT = {
    "README.md": b"---\ntags: [leyden]\n---\n# A model\n",
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 300,
    "model-2.safetensors": b"\0" * 70_000,
    "chat_template.jinja": b"{{ messages }}\r\n",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    yield from hub_for(monkeypatch, TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in CONTENT.items():
        (folder / name).write_bytes(content)
    return folder


def held(hub: HubServer, name: str) -> dict[str, bytes]:
    return {path: content for path, content in hub.repositories[name].files.items() if path != ".gitattributes"}


@pytest.mark.parametrize("name", ["model", "someone/model", "company/model.v1_2"])
def test_the_bytes_that_arrive_are_those_of_the_folder(hub: HubServer, folder: Path, name: str) -> None:
    full = name if "/" in name else f"{OWNER}/{name}"
    assert send(folder, name, public=False, overwrite=False) == (f"{hub.url}/{full}", COMMIT)
    assert held(hub, full) == CONTENT
    assert hub.repositories[full].private
    assert set(map(len, hub.objects.values())) == {76_800, 70_000}, "the weights went as large files"
    asked = [headers.get("authorization", "") for _, path, headers in hub.calls if not path.startswith("/put/")]
    assert set(asked) <= {f"Bearer {TOKEN}", ""}
    assert TOKEN.encode() not in b"".join(hub.sent)


def test_a_public_repository_has_to_be_asked_for(hub: HubServer, folder: Path) -> None:
    send(folder, "model", public=True, overwrite=False)
    assert not hub.repositories["someone/model"].private


def test_the_client_with_its_own_storage_sends_the_same(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `hf_xet` is installed the client commits in parts; files that the hub keeps itself need no storage."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.regular_only = True
    assert send(folder, "model", public=False, overwrite=False).commit == COMMIT
    assert held(hub, "someone/model") == CONTENT


@pytest.mark.parametrize(
    "odd", ["train.log", "metrics.csv", "predictions.parquet", ".env", "deep/config.json", "x.bin"]
)
def test_a_folder_with_anything_but_a_model_is_not_sent(hub: HubServer, folder: Path, odd: str) -> None:
    (folder / odd).parent.mkdir(exist_ok=True)
    (folder / odd).write_text("x")
    with pytest.raises(ConfigError, match=f"it holds {odd}, no part of a model"):
        send(folder, "model", public=False, overwrite=False)
    assert not hub.calls


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (folder / "vocab.json").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match=r"vocab\.json"):
        check_files(folder)


def test_a_repository_that_holds_something_is_replaced_only_where_that_is_asked_for(
    hub: HubServer, folder: Path
) -> None:
    there = hub.repositories["someone/model"] = Repository(private=True)
    there.files |= {"adapter_model.safetensors": b"old", "README.md": b"old"}
    with pytest.raises(UploadError, match=r"holds README\.md, adapter_model\.safetensors\. Nothing was sent"):
        send(folder, "model", public=False, overwrite=False)
    assert held(hub, "someone/model")["README.md"] == b"old"
    send(folder, "model", public=False, overwrite=True)
    assert held(hub, "someone/model") == CONTENT


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_of_the_other_visibility_is_left_alone(hub: HubServer, folder: Path, private: bool) -> None:
    hub.repositories["someone/model"] = Repository(private=private)
    with pytest.raises(UploadError, match=f"is there already, and is {'private' if private else 'public'}"):
        send(folder, "model", public=private, overwrite=True)
    assert not held(hub, "someone/model")
    send(folder, "model", public=not private, overwrite=False)  # an empty one of the right kind is filled


@pytest.mark.parametrize("status", sorted({400, 422, *WHY} - {409, 429}))
@pytest.mark.parametrize("where", ["/api/repos/create", "/commit/"])
def test_an_answer_of_the_hub_is_told_with_what_to_do(hub: HubServer, folder: Path, status: int, where: str) -> None:
    hub.refusals[where] = [status]
    with pytest.raises(UploadError) as caught:
        send(folder, "model", public=False, overwrite=False)
    said = str(caught.value)
    assert f"to=hub:model: {WHY.get(status, REFUSED)}. It answered {status} (as told)." in said
    assert f"`hf upload model {folder} . --private` sends it" in said
    assert TOKEN not in said
    assert not any(held(hub, name) for name in hub.repositories)


@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/put/"])
@pytest.mark.parametrize("status", [500, 503, 429, None])
def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_told(
    hub: HubServer, folder: Path, where: str, status: int | None
) -> None:
    hub.refusals[where] = [status, status]
    send(folder, "model", public=False, overwrite=False)
    assert held(hub, "someone/model") == CONTENT
    hub.refusals[where] = [status] * 100
    with pytest.raises(UploadError, match="hub has a fault of its own|too many requests|cannot be reached"):
        send(folder, "other", public=False, overwrite=False)
    assert not held(hub, "someone/other")


def test_a_change_by_someone_else_is_told(hub: HubServer, folder: Path) -> None:
    hub.refusals["/commit/"] = [409]
    with pytest.raises(UploadError, match="changed by someone else meanwhile"):
        send(folder, "model", public=False, overwrite=False)


def test_without_a_connection_the_reason_is_told(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UploadError, match=r"the hub cannot be reached \(.*Connection refused.*Check the network"):
        send(folder, "model", public=False, overwrite=False)


def test_offline_is_told(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE is set, so nothing is sent"):
        send(folder, "model", public=False, overwrite=False)
    assert not hub.calls


def test_the_variables_of_the_client_decide_where_it_goes_and_as_whom(folder: Path) -> None:
    """A process of its own: the client reads them once. It loads no torch to send a folder."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom leyden.artifacts.upload import send\n"
        f"print(send(Path({str(folder)!r}), 'model', public=False, overwrite=False).address, 'torch' in sys.modules)\n"
    )
    with HubServer() as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False,
            env={**os.environ, **own, "PYTHONPATH": str(PROJECT_ROOT / "src")},
        )  # fmt: skip
        assert done.stdout == f"{hub.url}/someone/model False\n", done.stderr
        assert held(hub, "someone/model") == CONTENT
