"""A progress bar for programs and notebooks: tqdm's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .apply import Event, Progress

VERBS = {"read": "reading", "separate": "separating", "write": "writing"}


class ProgressBar:
    """Called with events: a bar for each stage, which stays when it is full."""

    def __init__(self) -> None:
        self._bar: Any = None

    def __call__(self, event: Event) -> None:
        from tqdm.auto import tqdm  # in a notebook without ipywidgets it warns: only who wants a bar shall see that

        title = VERBS.get(event.stage, event.stage)
        if self._bar is None or self._bar.desc != f"{title}: " or event.done < self._bar.n:
            self._close()
            self._bar = tqdm(total=event.total, desc=title, bar_format="{l_bar}{bar}| {elapsed}<{remaining}")
        self._bar.total = event.total
        self._bar.update(event.done - self._bar.n)
        if event.done >= event.total:
            self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def as_progress(progress: Progress | bool | None) -> Progress | None:
    """What `progress=` stands for: True is a bar, False and None are nothing, a function is itself."""
    if isinstance(progress, bool):
        return ProgressBar() if progress else None
    return progress
