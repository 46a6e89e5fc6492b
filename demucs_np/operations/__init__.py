"""The operations of the models, twice: `numpy_ops` says in plain NumPy what each one is, `compiled` does it fast.

`operations(backend)` gives one of the two; `protocol` says what both promise. `recording` runs a model for its shapes and costs.
"""

from __future__ import annotations

from .protocol import Operations as Operations

BACKENDS = ("numba", "numpy")


def operations(backend: str) -> Operations:
    """A set of operations. Raises ValueError for a backend that is not one of BACKENDS."""
    if backend == "numba":
        from .compiled import CompiledOperations

        return CompiledOperations()
    if backend == "numpy":
        from .numpy_ops import NumpyOperations

        return NumpyOperations()
    raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
