"""The operations of the models, twice: `numpy_ops` says in plain NumPy what each one is, `compiled` does it fast.

`operations(backend)` gives one of the two; both have the same methods. Arrays are float32, C-contiguous and channels last: (T, F, C)
in the frequency branch, (1, T, C) in the time branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..operations.numpy_ops import NumpyOperations

BACKENDS = ("numba", "numpy")


def operations(backend: str) -> NumpyOperations:
    """A new set of operations, with buffers of its own. Raises ValueError for a backend that is not one of BACKENDS."""
    if backend == "numba":
        from ..operations.compiled import CompiledOperations

        return CompiledOperations()
    if backend == "numpy":
        from ..operations.numpy_ops import NumpyOperations

        return NumpyOperations()
    raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
