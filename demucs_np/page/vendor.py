"""Fetch the libraries of the page with npm at pinned versions, with their licences: `python -m demucs_np.page.vendor`.

`lame.LICENSE.txt` stands there by itself: mp3.wasm is LAME's, whose licence (LGPL, version 2) its package does not bring along.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from . import FOLDER

PACKAGES = {  # package@version -> file in it: name here
    "client-zip@2.5.1": {"index.js": "client-zip.js", "LICENSE.txt": "client-zip.LICENSE.txt"},
    "fourier-transform@2.5.0": {"index.js": "fourier-transform.js", "LICENSE": "fourier-transform.LICENSE.txt"},
    "libflacjs@5.6.0": {
        "dist/libflac.min.wasm.js": "libflac.min.wasm.js",
        "dist/libflac.min.wasm.wasm": "libflac.min.wasm.wasm",
        "LICENSE": "libflac.LICENSE.txt",
    },
    "wasm-media-encoders@0.7.0": {
        "dist/umd/WasmMediaEncoder.min.js": "wasm-media-encoders.js",
        "wasm/mp3.wasm": "mp3.wasm",
        "LICENSE": "wasm-media-encoders.LICENSE.txt",
    },
}


def fetch(target: Path) -> None:
    """Write the files of PACKAGES into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for package, files in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                for source, name in files.items():
                    content = archive.extractfile(f"package/{source}")
                    assert content is not None
                    (target / name).write_bytes(content.read())


if __name__ == "__main__":
    fetch(FOLDER / "vendor")
