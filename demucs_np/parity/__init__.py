"""Golden files: record what the PyTorch reference computes, and verify this package against it without PyTorch."""
