"""`demucs_np.api` by itself; tests/live compares it with `demucs.api`."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from packages import KWARGS, draw, write

import demucs_np as dn
from demucs_np import api


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    write(tmp_path / "abcd1234.safetensors", draw())
    return tmp_path


def test_arguments_stand_in_upstream_order() -> None:
    names = ["model", "repo", "device", "shifts", "overlap", "split", "segment", "jobs", "progress", "callback", "callback_arg"]
    assert list(inspect.signature(api.Separator).parameters) == names
    assert list(inspect.signature(api.Separator.update_parameter).parameters)[1:] == names[2:]
    assert list(inspect.signature(api.save_audio).parameters) == [
        "wav", "path", "samplerate", "bitrate", "clip", "bits_per_sample", "as_float", "preset",
    ]  # fmt: skip


def test_what_is_wrong_is_said(repo: Path, tmp_path: Path) -> None:
    with pytest.raises(api.LoadModelError, match="nothing"):
        api.Separator("nothing", repo)
    separator = api.Separator("abcd1234", repo, shifts=0)
    with pytest.raises(dn.AudioError, match=r"\(channels, samples\)"):
        separator.separate_tensor(np.zeros((8000, 2), np.float32))
    with pytest.raises(api.LoadAudioError, match=r"missing\.wav"):
        separator.separate_audio_file(tmp_path / "missing.wav")
    with pytest.raises(dn.UsageError, match="as_float=True"):
        api.save_audio(np.zeros((2, 10), np.float32), tmp_path / "a.wav", 44100, bits_per_sample=32)
    with pytest.raises(dn.AudioError, match=r"a\.wav: its sample rate is 0 Hz"):
        api.save_audio(np.zeros((2, 10), np.float32), tmp_path / "a.wav", 0)
    with pytest.raises(dn.UsageError, match="threads is -1, but must be 1 or more"):
        api.Separator("abcd1234", repo, jobs=-1).separate_tensor(np.zeros((2, 8000), np.float32))


def test_a_bar(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    separator = api.Separator("abcd1234", repo, progress=True)
    assert "progress=True" in repr(separator)
    origin, stems = separator.separate_tensor(np.random.default_rng(0).uniform(-1, 1, (2, 8000)).astype(np.float32), 8000)
    assert [*stems] == KWARGS["sources"]
    assert all(stem.shape == origin.shape for stem in stems.values())
    assert "separating: 100%" in capsys.readouterr().err
