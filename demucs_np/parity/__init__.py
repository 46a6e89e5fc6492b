"""Golden files: record what upstream in PyTorch computes, and verify this package against it without PyTorch."""
