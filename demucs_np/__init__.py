"""Demucs music source separation in NumPy and Numba: the published weights, PyTorch's numbers, no machine-learning runtime."""

__version__ = "0.1.0"
