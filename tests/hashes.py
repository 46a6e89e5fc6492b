"""Print a SHA-256 of the output of every golden model, compiled and in NumPy: what a change of structure must leave as it was.

python tests/hashes.py > before; ...; python tests/hashes.py | diff before -
"""

import hashlib
from pathlib import Path

from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model

for path in sorted((Path(__file__).parent / "golden").glob("*.safetensors")):
    golden = load_golden(path)
    for backend in ("numba", "numpy"):
        print(path.stem, backend, hashlib.sha256(seeded_model(golden, backend)(golden.mix).tobytes()).hexdigest())
