"""A small server on the loopback address that speaks the hub's file routes, and misbehaves on request."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Served:
    """A file and how it is to be served; counted-down faults come first."""

    content: bytes
    etag: str = ""  # the SHA-256 that the server claims
    status: int = 200  # another one is the whole answer
    failures: int = 0  # so many answers of `failure`, with Retry-After: 0
    failure: int = 429
    cuts: int = 0  # so often the connection breaks after half of what is left
    ranges: bool = True
    slow: float = 0.0  # seconds over the whole transfer

    def __post_init__(self) -> None:
        self.etag = self.etag or hashlib.sha256(self.content).hexdigest()


@dataclass
class Hub:
    """Files by path: `/owner/repo/resolve/main/file` as the hub has them (by redirect), any other path directly."""

    files: dict[str, Served] = field(default_factory=dict)
    log: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    tokens: list[tuple[str, str]] = field(default_factory=list)  # path, authorization
    renamed: dict[str, str] = field(default_factory=dict)
    commit: str | None = COMMIT
    xet: bool = False  # whether to offer Xet's protocol, which this server does not speak

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            state = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def requests(self, method: str) -> list[tuple[str, str]]:
        return [(path, wanted) for verb, path, wanted in self.log if verb == method]


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    server: ThreadingHTTPServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _serve(self, body: bool) -> None:
        wanted = self.headers.get("Range", "")
        self.state.log.append((self.command, self.path, wanted))
        self.state.tokens.append((self.path, self.headers.get("Authorization", "")))
        if self.path in self.state.renamed:
            self._answer(307, {"Location": self.state.renamed[self.path], "Content-Length": "0"})
            return
        key = self.path.removeprefix("/cdn")
        served = self.state.files.get(key)
        if served is None or served.status != 200:
            code = "EntryNotFound" if served is None else "Refused"
            self._answer(404 if served is None else served.status, {"Content-Length": "0", "X-Error-Code": code})
        elif served.failures:
            served.failures -= 1
            self._answer(served.failure, {"Content-Length": "0", "Retry-After": "0"})
        elif "/resolve/" in self.path and not self.path.startswith("/cdn"):
            size = str(len(served.content))
            linked = {
                **({"X-Repo-Commit": self.state.commit} if self.state.commit else {}),
                **({"X-Xet-Hash": "0" * 64, "X-Xet-Refresh-Route": "/api/xet"} if self.state.xet else {}),
                "X-Linked-Etag": f'"{served.etag}"',
                "X-Linked-Size": size,
                "ETag": f'"{served.etag}"',
            }
            # As the hub does, to another host: its client follows redirects within one by itself.
            self._answer(302, {**linked, "Location": f"http://localhost:{self.server.server_port}/cdn{key}", "Content-Length": "0"})
        else:
            self._send(served, wanted, body)

    def _send(self, served: Served, wanted: str, body: bool) -> None:
        start, status, headers = 0, 200, {"ETag": f'"{served.etag}"', "Accept-Ranges": "bytes"}
        if served.ranges and (match := re.fullmatch(r"bytes=(\d+)-", wanted)):
            start, status = int(match[1]), 206
            if start >= len(served.content):
                self._answer(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(served.content)}"})
                return
            headers["Content-Range"] = f"bytes {start}-{len(served.content) - 1}/{len(served.content)}"
        rest = served.content[start:]
        self._answer(status, {**headers, "Content-Length": str(len(rest))})
        if not body:
            return
        if served.cuts:
            served.cuts -= 1
            self.wfile.write(rest[: len(rest) // 2])
            self.wfile.flush()
            self.close_connection = True
            return
        pieces = 20 if served.slow else 1
        size = -(-len(rest) // pieces)
        try:
            for piece in range(pieces):
                self.wfile.write(rest[piece * size : (piece + 1) * size])
                time.sleep(served.slow / pieces)
        except ConnectionError:  # the client was killed
            self.close_connection = True
