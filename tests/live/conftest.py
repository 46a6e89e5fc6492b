"""The live suite (`pytest -m torch`) runs upstream in PyTorch next to this package. Without torch and demucs its files are not read."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "docs")]

missing = [name for name in ("torch", "demucs") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if missing else []

SONG = "real_mix_20s.mp3"


def pytest_report_header() -> str | None:
    return f"live suite: {' and '.join(missing)} not installed, its files are not collected" if missing else None


@pytest.fixture(scope="session", autouse=True)
def _one_thread_for_torch() -> None:
    """PyTorch's sums depend on its number of threads; so the figures are the same everywhere."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def song() -> Path:
    """20 seconds of real music: $DEMUCS_NP_AUDIO/real_mix_20s.mp3, or ../shared/audio beside the checkout."""
    folder = Path(os.environ.get("DEMUCS_NP_AUDIO", TESTS.parents[1] / "shared" / "audio"))
    if not (folder / SONG).is_file():
        pytest.skip(f"no {SONG} in {folder}: set DEMUCS_NP_AUDIO to the folder that has it")
    return folder / SONG
