"""Compiled code, one file an operation, and what runs it: tiles, arena, cache. Arrays are float32, C-contiguous and channels last.

A kernel is called for a range of tiles with scratch memory, flat arrays, and one array of numbers, `geometry`: the input's shape, the
layer's own numbers, how the work is cut into tiles, what is done with the result, in this order. Long ones are a `Geometry` with a line
for each. Functions that kernels call take each array with where to begin in it and how it lies there, then the sizes.

Kernels check nothing. What they are called with has been checked in two places: when a layer is prepared (its weights fit its
configuration: `weights/formats/checkpoint.py`), and when a forward begins or two branches meet (shapes: `models/network.py`,
`models/hybrid.py`, `layer.Conv.extent`).
"""
