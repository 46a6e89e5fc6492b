"""The page to drop songs on and hear stems: static files, the same for the studio's server and for a static site."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "site"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
