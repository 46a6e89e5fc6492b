"""Run the studio's server: find a port, print the address, open the browser."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path

from ..errors import DemucsError, UsageError

NEEDED = ("fastapi", "uvicorn")


def require_extra() -> None:
    """Raise UsageError where what the studio is built on is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        error = UsageError(f"the studio needs {' and '.join(missing)}: pip install 'demucs-np[studio]'")
        error.status = 1
        raise error


def serve(folder: Path, *, host: str, port: int, max_upload: int, browser: bool, demo: bool, echo: Callable[[str], object]) -> None:
    """Serve until interrupted. Raises DemucsError if the port is taken or the folder cannot be had."""
    require_extra()
    import uvicorn

    from .guard import is_loopback
    from .server import create_app

    token = None if is_loopback(host) else secrets.token_urlsafe(24)
    with contextlib.closing(_listen(host, port)) as listener:
        app = create_app(folder, token=token, host=host, max_upload=max_upload)
        number = listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        address = f"http://{name}:{number}/" + (f"?token={token}" if token else "")
        echo(f"The studio is at {address}  (tracks in {folder.resolve()}; Ctrl-C ends it)")
        if demo and not app.state.studio.library.all():
            app.state.studio.add_demo(separate=True)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, server_header=False)

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: object) -> None:
                app.state.studio.library.tell({"end": True})  # who listens to events would keep the server up
                super().handle_exit(sig, frame)  # type: ignore[arg-type]

        server = Server(config)
        if browser:
            threading.Thread(target=_open, args=(server, address, echo), daemon=True).start()
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections once the server runs."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DemucsError(f"port {port} is taken: close what uses it, or choose another one with --port (0: any free one)") from error
        raise DemucsError(f"cannot listen at {host}, port {port} ({error.strerror}); choose another --host or --port") from error
    return listener


def _open(server: object, address: str, echo: Callable[[str], object]) -> None:
    """Show the page once the server answers."""
    while not getattr(server, "started", False):
        time.sleep(0.02)
    opened = False
    with contextlib.suppress(webbrowser.Error, OSError):
        opened = webbrowser.open(address)
    if not opened:
        echo(f"No browser could be opened here; open {address} yourself.")
