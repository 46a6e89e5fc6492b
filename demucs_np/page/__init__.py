"""The page to drop songs on and hear stems: static files, the same for the studio's server and for a static site."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "site"
SUFFIXES = (".html", ".css", ".js", ".svg", ".txt")

# wavesurfer.js puts this one style element into its shadow trees; `vendor.py` says how the hash is made.
WAVESURFER_STYLE = "sha256-"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        f"style-src 'self' '{WAVESURFER_STYLE}'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def files() -> list[Path]:
    """All files of the page; they lie beside each other, in this order."""
    return sorted(path for path in FOLDER.rglob("*") if path.suffix in SUFFIXES)
