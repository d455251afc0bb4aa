"""A bad day in object storage: an HTTP proxy that answers some requests with 503 SlowDown, a reset, or a long stall."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FaultProxy:
    """Context manager: `url` forwards to `target` (host:port); a `share` of requests meets one of `kinds`."""

    def __init__(
        self, target: str, *, share: float, seed: int = 0, kinds: tuple[str, ...] = ("503", "reset", "stall")
    ) -> None:
        self.target, self.share, self.kinds = target, share, kinds
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.met: dict[str, int] = dict.fromkeys((*kinds, "none"), 0)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def draw(self) -> str:
        with self.lock:
            kind = self.random.choice(self.kinds) if self.random.random() < self.share else "none"
            self.met[kind] += 1
        return kind

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()


def _handler(proxy: FaultProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self._body()
            fault = proxy.draw()
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                self.close_connection = True
                return
            if fault == "503":
                self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                return
            if fault == "stall":
                time.sleep(2)
            upstream = http.client.HTTPConnection(proxy.target, timeout=60)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("transfer-encoding", "connection")}
            upstream.request(self.command, self.path, body=body, headers=headers | {"Content-Length": str(len(body))})
            answer = upstream.getresponse()
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
            self._answer(answer.status, kept, answer.read())
            upstream.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        def _body(self) -> bytes:
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response_only(status)
            if not any(name.lower() == "content-length" for name, _ in headers):
                headers = [*headers, ("Content-Length", str(len(body)))]
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a test's output is not an access log."""

    return Handler
