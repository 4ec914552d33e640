"""A server on the loopback address that speaks what an upload needs of the hub's API, and keeps what arrives."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _http

OWNER = "someone"
COMMIT = "c0ffee" + "0" * 34


@dataclass
class Repository:
    """What the hub would hold.

    Attributes:
        private: whether the owner alone may read it.
        files: contents by name.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})


class HubServer:
    """`with HubServer() as hub:` serves at `hub.url`; `hub.refusals` has answers to give first, by a part of the path.

    Attributes:
        repositories: by `owner/name`.
        calls: method, path and headers of each request.
        sent: all bytes that came in bodies.
        objects: large files that were put, by their SHA-256.
        refusals: part of a path, and the answers to its next requests: a status, or None to hang up.
        regular_only: keep every file in the commit itself, as the hub does with small ones.
    """

    def __init__(self, *, regular_only: bool = False) -> None:
        self.repositories: dict[str, Repository] = {}
        self.calls: list[tuple[str, str, dict[str, str]]] = []
        self.sent: list[bytes] = []
        self.objects: dict[str, bytes] = {}
        self.refusals: dict[str, list[int | None]] = {}
        self.regular_only = regular_only
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and content for a request."""
        if (method, path) == ("POST", "/api/repos/create"):
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/put/"):
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, {}
        return self._of_repository(path, body)

    def _of_repository(self, path: str, body: bytes) -> tuple[int, Any]:
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(preupload|commit|tree)/main)?", path):
            if found[1] not in self.repositories:
                return 404, {"error": "Repository not found"}
            return getattr(self, f"_{found[2] or 'info'}")(found[1], body)  # type: ignore[no-any-return]
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.url}/put/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        return 404, {"error": "not spoken here"}

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        name = f"{wanted['organization'] or OWNER}/{wanted['name']}"
        there = name in self.repositories
        if not there:
            self.repositories[name] = Repository(wanted["visibility"] == "private")
        return 409 if there else 200, {"url": f"{self.url}/{name}"}

    def _info(self, name: str, _: bytes) -> tuple[int, Any]:
        there = self.repositories[name]
        siblings = [{"rfilename": file} for file in there.files]
        return 200, {"id": name, "private": there.private, "sha": "0" * 40, "siblings": siblings, "tags": []}

    def _tree(self, name: str, _: bytes) -> tuple[int, Any]:
        return 200, [
            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            for path, content in self.repositories[name].files.items()
        ]

    def _preupload(self, _: str, body: bytes) -> tuple[int, Any]:
        large = () if self.regular_only else (".safetensors", ".gguf")
        return 200, {
            "files": [
                {"path": one["path"], "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                 "shouldIgnore": False, "oid": None}
                for one in json.loads(body)["files"]
            ]
        }  # fmt: skip

    def _commit(self, name: str, body: bytes) -> tuple[int, Any]:
        files = self.repositories[name].files
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        return 200, {"success": True, "commitUrl": f"{self.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Nothing on the terminal."""

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found

            def handle_any(self) -> None:
                path = urlsplit(self.path).path
                body = self.body()
                hub.calls.append((self.command, path, dict(self.headers)))
                hub.sent.append(body)
                waiting = next((ones for part, ones in hub.refusals.items() if part in path and ones), None)
                refused = waiting.pop(0) if waiting else 200
                if refused is None:
                    self.close_connection = True
                    return
                status, content = (refused, {"error": "as told"}) if refused != 200 else hub.answer(  # noqa: PLR2004
                    self.command, path, body
                )  # fmt: skip
                text = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = handle_any  # noqa: N815  the names are the library's

        return Handler


def hub_for(monkeypatch: pytest.MonkeyPatch, token: str) -> Iterator[HubServer]:
    """The hub that the client of this process speaks to meanwhile, without its pauses between two tries."""
    with HubServer() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        yield server
        huggingface_hub.close_session()
