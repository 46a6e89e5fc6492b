"""Compiled code, one file an operation, and what runs it: tiles, arena. Arrays are float32, C-contiguous and channels last."""
