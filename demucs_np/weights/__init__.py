"""Published and private weights: which models there are, fetching and checking them, and building a model from a file."""

from .resolve import build, list_models, load_model

__all__ = ["build", "list_models", "load_model"]
