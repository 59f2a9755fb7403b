"""A real S3 server on loopback (moto's), with troubles on request: answers of 500 and 503, silence, bodies that are cut short."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

__all__ = ["Request", "Server", "running_server"]

Trouble = Literal["500", "503", "silence", "cut", "flipped"]
Call = Callable[..., Iterable[bytes]]
ANSWERS = {
    "500": ("500 Internal Server Error", "InternalError"),
    "503": ("503 Slow Down", "SlowDown"),
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as the server got it."""

    method: str
    path: str
    query: str
    range: str
    trouble: Trouble | None


@dataclass(slots=True)
class Rule:
    """Requests that get into trouble."""

    trouble: Trouble
    method: str
    part: str
    left: int


@dataclass
class Server:
    """What a test knows of a running server."""

    url: str
    requests: list[Request] = field(default_factory=list)
    _rules: list[Rule] = field(default_factory=list)
    silent_seconds: float = 1.0
    _lock: Any = field(default_factory=threading.Lock)

    def trouble(self, trouble: Trouble, method: str, part: str = "", times: int = 1) -> None:
        """Let the next requests with this method, and this part of path or query, fail."""
        self._rules.append(Rule(trouble, method, part, times))

    def calm(self) -> None:
        """No more trouble; forget the requests."""
        self._rules.clear()
        self.requests.clear()

    def seen(self, method: str, part: str = "") -> list[Request]:
        """Requests with this method and this part of path or query."""
        return [each for each in self.requests if each.method == method and part in f"{each.path}?{each.query}"]

    def _next(self, environ: dict[str, Any]) -> Trouble | None:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ.get("QUERY_STRING", "")
        with self._lock:
            found = None
            for rule in self._rules:
                if rule.left and rule.method == method and rule.part in f"{path}?{query}":
                    rule.left -= 1
                    found = rule.trouble
                    break
            self.requests.append(Request(method, path, query, environ.get("HTTP_RANGE", ""), found))
        return found

    def _wrapped(self, app: Call) -> Call:
        def call(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            trouble = self._next(environ)
            if trouble is None:
                return app(environ, start)
            if trouble in ANSWERS:
                status, code = ANSWERS[trouble]
                body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'.encode()
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
                return [body]
            if trouble == "silence":
                time.sleep(self.silent_seconds)
                return app(environ, start)
            whole = b"".join(app(environ, start))
            return [whole[: len(whole) // 2]] if trouble == "cut" else [whole[:-1] + bytes([whole[-1] ^ 4])]

        return call


class Quiet(WSGIRequestHandler):
    """Keeps connections, writes no log."""

    protocol_version = "HTTP/1.1"

    def log(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def handle(self) -> None:
        """A client that went away is no news."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True


@contextmanager
def running_server() -> Iterator[Server]:
    """A server with nothing in it, on a port of its own."""
    server = Server("")
    app = server._wrapped(DomainDispatcherApplication(create_backend_app))
    listening = make_server("127.0.0.1", 0, app, threaded=True, request_handler=Quiet)
    server.url = f"http://127.0.0.1:{listening.server_port}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
