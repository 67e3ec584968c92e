"""A local server that speaks the chat-completions API, and its faults one request at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def said(content: object) -> str:
    """The body of a reply that says ``content``."""
    return json.dumps({"choices": [{"message": {"content": content}}]})


@dataclass(frozen=True)
class Fault:
    """One reply: its status, body and headers; ``slow`` ones never come, of ``cut`` ones the end is missing."""

    status: int = 200
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    slow: bool = False
    cut: bool = False


class Endpoint:
    """``seen`` are the requests' bodies with their path and key; ``faults`` are given first, one a request, then what
    ``reply`` makes of the body."""

    def __init__(self, reply: Callable[[dict[str, Any]], str]) -> None:
        self.reply = reply
        self.seen: list[dict[str, Any]] = []
        self.faults: list[Fault] = []
        self.url = ""
        self.over = threading.Event()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.seen.append({"path": handler.path, "key": handler.headers.get("Authorization"), **body})
        fault = self.faults.pop(0) if self.faults else Fault(body=said(self.reply(body)))
        if fault.slow:
            self.over.wait()
            return
        handler.send_response(fault.status)
        for name, value in fault.headers.items():
            handler.send_header(name, value)
        content = fault.body.encode()
        handler.send_header("Content-Length", str(len(content) + (10 if fault.cut else 0)))
        handler.end_headers()
        handler.wfile.write(content)


@contextmanager
def serving(reply: Callable[[dict[str, Any]], str]) -> Iterator[Endpoint]:
    """An :class:`Endpoint` that runs, on a port of this machine, until the block ends."""
    endpoint = Endpoint(reply)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            endpoint.answer(self)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.over.set()
        http.shutdown()
        http.server_close()


class Clock:
    """A clock that goes on only while somebody sleeps on it; ``slept`` are the seconds, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
