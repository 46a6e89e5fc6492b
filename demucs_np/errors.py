"""Every failure that a user can cause or meet, each with one line that says what, where and what to do."""


class DemucsError(Exception):
    """Base of all errors that this package raises on purpose. The command prints its text and exits with `status`."""

    status = 1


class UsageError(DemucsError):
    """The options do not fit each other or the model (a stem it has not, a segment longer than it allows)."""

    status = 2


class AudioError(DemucsError):
    """An audio file or array that cannot be read, written or separated."""


class ModelError(DemucsError):
    """A model that is unknown, cannot be had, or is not one this package can run."""


class WeightsError(ModelError):
    """A weights file that is truncated, foreign, or does not hold exactly the tensors its model needs."""
