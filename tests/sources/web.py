"""A web server with one picture."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.sources.pictures import png

__all__ = ["serve"]


class Handler(http.server.BaseHTTPRequestHandler):
    """A picture, and nothing else."""

    def do_GET(self) -> None:
        if self.path != "/a.png":
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(png())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve() -> Iterator[str]:
    """The server's address, while it runs; `/a.png` is the picture."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
