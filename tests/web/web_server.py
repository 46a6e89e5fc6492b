"""A loopback server of a site for tests: with or without the headers that isolate, and with what can go wrong on the way to the weights."""

from __future__ import annotations

import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from demucs_np.web.serving import Handler

PAGE = b"""<!doctype html><title>test</title><link rel="icon" href="data:,"><script type="module">
import * as engine from "./engine.js";
window.engine = engine;
window.track = async name => {
  const all = new Float32Array(await (await fetch(name)).arrayBuffer()), n = all.length / 2;
  return [all.slice(0, n), all.slice(n)];
};
window.post = (name, stems) => fetch(name, { method: "POST", body: new Blob([...stems.values()].flat()) });
window.ready = true;
</script>"""


class Server:
    """Serves `site`, and beside it files from `more`; what is posted is kept in `posted`. `cut`: the weights' first answers end after so
    many bytes. `ranges`: whether parts of them can be asked for."""

    def __init__(self, site: Path, more: Path, *, isolated: bool = True) -> None:
        self.site, self.more, self.isolated = site, more, isolated
        self.posted: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.ranges, self.damaged = True, False
        self.asked: list[str | None] = []  # the ranges, or None, of each request for weights
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answer, self))
        self.root = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Answer(Handler):
    def __init__(self, owner: Server, *args: Any, **options: Any) -> None:
        self.owner = owner
        super().__init__(*args, directory=str(owner.site), **options)

    def end_headers(self) -> None:
        if self.owner.isolated:
            super().end_headers()
        else:
            SimpleHTTPRequestHandler.end_headers(self)

    def do_GET(self) -> None:  # noqa: N802
        name = self.path.lstrip("/").partition("?")[0]
        if name == "test.html":
            self._send(PAGE, "text/html")
        elif (self.owner.more / name).is_file() and name:
            self._send((self.owner.more / name).read_bytes(), "application/octet-stream")
        elif name.startswith("weights-"):
            self._weights((self.owner.site / name).read_bytes())
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        self.owner.posted[self.path.lstrip("/")] = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(b"", "text/plain")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _weights(self, content: bytes) -> None:
        asked = self.headers.get("Range")
        self.owner.asked.append(asked)
        if self.owner.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        first = 0
        if asked and self.owner.ranges:
            first = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        stop = self.owner.cut.pop(0) if self.owner.cut else len(content)
        self.wfile.write(content[first : max(first, stop)])
        if stop < len(content):
            self.wfile.flush()
            time.sleep(0.5)  # for the page to read what came
            self.close_connection = True
