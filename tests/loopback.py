"""HTTP servers on the loopback, for tests and benchmarks: what they answer stands with each."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self


class Handler(BaseHTTPRequestHandler):
    """One request; HTTP/1.0, so that no connection outlives it. `owner` is the server that it came to."""

    owner: Any

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        """Answer the request."""
        raise NotImplementedError

    def payload(self) -> dict[str, Any]:
        """Return the JSON of the request."""
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, body: dict[str, Any] | bytes, status: int = 200, **headers: Any) -> None:
        """Send an answer: JSON, or bytes whose type the headers name."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode() + b"\n"
        self.send_response(status)
        for name, value in {"Content_Type": "application/json", "Content_Length": len(data), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(data)


class Loopback:
    """A server that runs for as long as its `with` block; `address` is where."""

    handler: ClassVar[type[Handler]]

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (self.handler,), {"owner": self}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
