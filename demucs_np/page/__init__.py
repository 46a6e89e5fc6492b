"""The page to drop songs on and hear stems: static files, the same for the studio's server and for a static site."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..demo.song import DEMO_FILE
from ..weights.files import written_whole

FOLDER = Path(__file__).parent / "site"
_POLICY = "default-src 'none'; script-src 'self'{wasm}; style-src 'self'; connect-src 'self'{hosts}; worker-src 'self'; img-src 'self'"
_POLICY += "; base-uri 'none'; form-action 'none'"
CONTENT_SECURITY_POLICY = _POLICY.format(wasm="", hosts="") + "; frame-ancestors 'none'"
STATIC_POLICY = _POLICY.format(wasm=" 'wasm-unsafe-eval'", hosts=" https:")  # weights lie where they are published
ENGINE = '<meta name="engine" content="studio">'


def write(folder: Path) -> None:
    """Put the page into the folder of a static site, with the engine that runs in the browser, and the demo song beside it."""
    head = f'<meta http-equiv="Content-Security-Policy" content="{STATIC_POLICY}">\n<meta name="engine" content="wasm">'
    for source in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        content = source.read_bytes()
        if source.name == "index.html":
            content = content.replace(ENGINE.encode(), head.encode())
        target = folder / source.relative_to(FOLDER)
        target.parent.mkdir(exist_ok=True)
        with written_whole(target) as file:
            file.write(content)
    with written_whole(folder / "demo-song.flac") as file, open(DEMO_FILE, "rb") as song:
        shutil.copyfileobj(song, file)
