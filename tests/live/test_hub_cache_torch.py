"""The cache is the one that upstream's own client uses: each finds what the other has fetched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import packages
from hub_server import Hub, Served

pytestmark = pytest.mark.torch

NAME = "htdemucs"
SIGNATURE = "955717e8"
ROUTE = "/adefossez/HTDemucs/resolve/main/"


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    for variable in ("HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return packages.write(tmp_path / "model.safetensors", packages.draw()).read_bytes()


def test_the_reference_finds_ours(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from demucs_np.weights import hub

    with Hub({ROUTE + f"{SIGNATURE}.safetensors": Served(content)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        ours = hub.fetch(SIGNATURE, lambda _: None)
    theirs = huggingface_hub.hf_hub_download(
        "adefossez/HTDemucs", f"{SIGNATURE}.safetensors", cache_dir=hub.hub_cache(), local_files_only=True
    )
    assert Path(theirs) == ours
    (scanned,) = huggingface_hub.scan_cache_dir(hub.hub_cache()).repos
    assert (scanned.repo_id, scanned.nb_files) == ("adefossez/HTDemucs", 1)


def test_we_find_the_reference_s(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import demucs.hf
    import huggingface_hub

    from demucs_np.weights import hub, load_model

    files = {ROUTE + f"{SIGNATURE}.safetensors": Served(content), ROUTE + f"{NAME}.yaml": Served(b"models: ['955717e8']\n")}
    with Hub(files) as server:
        download = huggingface_hub.hf_hub_download

        def from_the_loopback(repository: str, filename: str) -> str:
            return download(repository, filename, cache_dir=hub.hub_cache(), endpoint=server.address)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", from_the_loopback)
        bag = demucs.hf.get_hf_model(NAME)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = hub.find(SIGNATURE)
    assert path is not None
    assert path.is_relative_to(tmp_path / "hf")
    assert hub.intact(path)
    assert load_model(NAME, backend="numpy").sources == tuple(bag.sources)
    assert load_model("hf://" + NAME, backend="numpy").samplerate == bag.samplerate
