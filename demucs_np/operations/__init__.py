"""The operations of the models, twice: `numpy_ops` says in plain NumPy what each one is, `compiled` does it fast.

`protocol` says what both promise. Two more sets compute nothing: `shapes` says what a model is made of, `planning` how much memory it
needs. `recording` keeps what a model calls.
"""

from __future__ import annotations

from .protocol import Operations as Operations

BACKENDS = ("numba", "numpy")


def operations(backend: str) -> Operations:
    """A set of operations: one of BACKENDS, or "shapes", or "planned". Raises ValueError for another."""
    if backend == "numba":
        from .compiled import CompiledOperations

        return CompiledOperations()
    if backend == "numpy":
        from .numpy_ops import NumpyOperations

        return NumpyOperations()
    if backend == "shapes":
        from .shapes import ShapeOperations

        return ShapeOperations()
    if backend == "planned":
        from .planning import PlannedOperations

        return PlannedOperations()
    raise ValueError(f"backend {backend!r} is not one of {', '.join(BACKENDS)}")
