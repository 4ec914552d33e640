"""A server on the loopback address that speaks the chat-completions protocol, and misbehaves as it is told."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request as it arrived."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    arrived: float

    @property
    def text(self) -> str:
        """What the user's message says."""
        return str(self.body["messages"][-1]["content"])


@dataclass(frozen=True)
class Answer:
    """What is sent back; a body of text is sent as it is, and `hang_up` sends nothing at all."""

    body: Any = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


def says(text: Any, *, delay: float = 0.0, finish_reason: str = "stop") -> Answer:
    """A sound completion with this reply."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return Answer(body, delay=delay)


def refuses(
    status: int, message: str = "no", *, code: str | None = None, param: str | None = None, **headers: str
) -> Answer:
    """An error in the form that the public endpoint has."""
    error = {"message": message, "type": "some_error", "code": code, "param": param}
    return Answer({"error": error}, status, {name.replace("_", "-"): value for name, value in headers.items()})


class ChatServer:
    """`with ChatServer(answer) as server:` serves at `server.url` and keeps what it was asked in `server.calls`."""

    def __init__(self, answer: Callable[[Call], Answer]) -> None:
        self.answer = answer
        self.calls: list[Call] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Answer:
        with self._lock:
            call = Call(len(self.calls), path, headers, body, time.monotonic())
            self.calls.append(call)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        answer = self.answer(call)
        self._closing.wait(answer.delay)
        with self._lock:
            self._at_once -= 1
        return answer

    def _handler(server) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                answer = server._take(self.path, headers, body)
                if answer.hang_up:
                    self.close_connection = True
                    return
                content = answer.body.encode() if isinstance(answer.body, str) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a client that has lost patience is what some tests are about."""
