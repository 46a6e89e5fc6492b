"""Downloads, against a server on the loopback address."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import packages
import pytest
from click.testing import CliRunner
from hub_server import COMMIT, Hub, Served

from demucs_np.commands.models import models
from demucs_np.errors import ModelError, WeightsError
from demucs_np.weights import catalog, hub, transfer
from demucs_np.weights.resolve import resolve

SIGNATURE = "955717e8"
FILE = f"/adefossez/HTDemucs/resolve/main/{SIGNATURE}.safetensors"
CONTENT = os.urandom(1 << 16) * 40  # 2.6 MB
SHA = hashlib.sha256(CONTENT).hexdigest()
FORMER = f"/hybrid_transformer/{SIGNATURE}-{SHA[:8]}.th"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has nothing yet, empty caches, and no long waits."""
    for name in (
        "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN",
        "HF_HUB_ETAG_TIMEOUT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from huggingface_hub import file_download
    from huggingface_hub.utils import _http

    brief = SimpleNamespace(sleep=lambda _: time.sleep(0.01), time=time.time)
    monkeypatch.setattr(file_download, "time", brief)
    monkeypatch.setattr(_http, "time", brief)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(transfer, "PAUSE", 0.01)
    monkeypatch.setitem(catalog.LEGACY, SIGNATURE, FORMER[1:])
    with Hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr(catalog, "LEGACY_ROOT", running.address + "/")
        yield running


def quiet(_: str) -> None:
    pass


def test_download_goes_where_the_reference_looks(server: Hub, tmp_path: Path) -> None:
    server.files[FILE] = Served(CONTENT)
    said: list[str] = []
    path = hub.fetch(SIGNATURE, said.append)
    assert path == tmp_path / "hf/hub/models--adefossez--HTDemucs/snapshots" / COMMIT / f"{SIGNATURE}.safetensors"
    assert path.read_bytes() == CONTENT
    assert path.resolve().name == SHA
    assert said == [f"Downloading {SIGNATURE}.safetensors from {server.address}/adefossez/HTDemucs"]


def test_what_is_cached_asks_nothing(server: Hub) -> None:
    server.files[FILE] = Served(CONTENT)
    path = hub.fetch(SIGNATURE, quiet)
    server.log.clear()
    assert hub.fetch(SIGNATURE, quiet) == path
    assert server.log == []


def test_a_cut_connection_resumes(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # the client keeps whole chunks, of 10 MB
    server.files[FILE] = Served(CONTENT, cuts=2)
    assert hub.fetch(SIGNATURE, quiet).read_bytes() == CONTENT
    ranges = [wanted for path, wanted in server.requests("GET") if path.startswith("/cdn")]
    assert ranges[0] == ""
    assert all(wanted.startswith("bytes=") and wanted != "bytes=0-" for wanted in ranges[1:])
    assert len(ranges) == 3


def test_an_interrupted_download_leaves_nothing_in_the_way(server: Hub) -> None:
    """The next run starts anew (the client keeps no part of a file), and finds no half file."""
    server.files[FILE] = Served(CONTENT, slow=20.0)
    running = subprocess.Popen([sys.executable, "-c", f"from demucs_np.weights import hub; hub.fetch({SIGNATURE!r})"])
    while not any(path.startswith("/cdn") for path, _ in server.requests("GET")):
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert hub.find(SIGNATURE) is None
    server.files[FILE] = Served(CONTENT)
    assert hub.fetch(SIGNATURE, quiet).read_bytes() == CONTENT


def test_too_many_requests_are_repeated(server: Hub) -> None:
    server.files[FILE] = Served(CONTENT, failures=3)
    path = hub.fetch(SIGNATURE, quiet)
    assert path.read_bytes() == CONTENT
    assert path.suffix == ".safetensors"


def test_corrupt_downloads_are_deleted_and_reported(server: Hub, tmp_path: Path) -> None:
    server.files[FILE] = Served(CONTENT[:-1] + b"!", etag=SHA)
    with pytest.raises(WeightsError, match=r"955717e8\.safetensors came corrupt .* and was deleted"):
        hub.from_hub("adefossez/HTDemucs", f"{SIGNATURE}.safetensors", quiet)
    assert hub.find(SIGNATURE) is None
    assert not list(tmp_path.rglob(SHA))
    # `fetch` goes on to the former address.
    server.files[FORMER] = Served(CONTENT)
    said: list[str] = []
    path = hub.fetch(SIGNATURE, said.append)
    assert path.suffix == ".th"
    assert "and was deleted; try again); trying the former address" in said[1]


@pytest.mark.parametrize("status", [404, 401, 403, 500])
def test_former_address_when_the_hub_has_nothing(server: Hub, tmp_path: Path, status: int) -> None:
    server.files[FILE] = Served(b"", status=status)
    server.files[FORMER] = Served(CONTENT)
    path = hub.fetch(SIGNATURE, quiet)
    assert path == tmp_path / "torch/hub/checkpoints" / FORMER.rpartition("/")[2]
    assert path.read_bytes() == CONTENT
    server.log.clear()
    assert hub.fetch(SIGNATURE, quiet) == path
    assert server.log == []


def test_former_address_when_the_hub_does_not_answer(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    server.files[FORMER] = Served(CONTENT)
    assert hub.fetch(SIGNATURE, quiet).suffix == ".th"


@pytest.mark.parametrize("ranges", [True, False])
def test_former_address_resumes(server: Hub, ranges: bool) -> None:
    server.files[FORMER] = Served(CONTENT, cuts=2, failures=2, failure=503, ranges=ranges)
    assert hub.from_legacy(SIGNATURE, quiet).read_bytes() == CONTENT
    asked = [wanted for _, wanted in server.requests("GET")]
    assert asked[:3] == ["", "", ""]
    assert asked[3] == f"bytes={len(CONTENT) // 2}-"


def test_a_renamed_repository(server: Hub) -> None:
    """The hub redirects within itself; the token goes with that, but not to where the file lies."""
    server.files[FILE.replace("HTDemucs", "Renamed")] = Served(CONTENT)
    server.renamed = {FILE: FILE.replace("HTDemucs", "Renamed")}
    assert hub.fetch(SIGNATURE, quiet).read_bytes() == CONTENT


def test_the_token_goes_to_the_hub_alone(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    server.files[FILE] = Served(CONTENT)
    hub.fetch(SIGNATURE, quiet)
    assert {path: token for path, token in server.tokens} == {FILE: "Bearer secret", "/cdn" + FILE: ""}


def test_a_server_that_is_no_hub(server: Hub) -> None:
    server.files[FILE] = Served(CONTENT, etag="1-2")
    with pytest.raises(ModelError, match=r"does not answer as the hub does \(its ETag '1-2' is no hash\)"):
        hub.from_hub("adefossez/HTDemucs", f"{SIGNATURE}.safetensors", quiet)
    server.commit = None
    with pytest.raises(ModelError, match="cannot be fetched"):
        hub.from_hub("adefossez/HTDemucs", f"{SIGNATURE}.safetensors", quiet)
    assert hub.find(SIGNATURE) is None


@pytest.mark.parametrize("arguments", [["--help"], ["models", "list"], ["models", "path", SIGNATURE]])
def test_the_client_is_imported_for_downloads_alone(server: Hub, arguments: list[str]) -> None:
    server.files[FILE] = Served(CONTENT)
    hub.fetch(SIGNATURE, quiet)
    code = f"""
import sys
from demucs_np.commands.main import main
try:
    main({arguments!r})
finally:
    assert not sys.modules.keys() & {{"huggingface_hub", "tqdm", "yaml"}}
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=False).returncode == 0


def test_the_client_s_settings_are_restored(server: Hub) -> None:
    """No Xet; afterwards the caller's own settings hold, and the environment is as it was."""
    from huggingface_hub import constants

    names = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_XET")
    server.files[FILE] = Served(CONTENT)
    server.xet = True
    before = [getattr(constants, name) for name in names], dict(os.environ)
    path = hub.fetch(SIGNATURE, quiet)
    assert path.read_bytes() == CONTENT
    assert before == ([getattr(constants, name) for name in names], dict(os.environ))
    assert {path for _, path, _ in server.log} == {FILE, "/cdn" + FILE}


def test_quiet_where_there_is_no_terminal(server: Hub, capfd: pytest.CaptureFixture[str]) -> None:
    server.files[FILE] = Served(CONTENT)
    hub.from_hub("adefossez/HTDemucs", f"{SIGNATURE}.safetensors", quiet)
    server.files[FORMER] = Served(CONTENT)
    hub.from_legacy(SIGNATURE, quiet)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_repositories_share(server: Hub) -> None:
    """Upstream's client may keep a file under its Xet hash: a link from the snapshot to a link, whose name is the SHA-256."""
    server.files[FILE] = Served(CONTENT)
    path = hub.fetch(SIGNATURE, quiet)
    blob, shared = path.resolve(), hub.hub_cache() / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    assert hub.find(SIGNATURE) == path
    assert hub.intact(path) is True
    shared.write_bytes(b"!" + CONTENT[1:])
    assert hub.intact(path) is False
    shared.write_bytes(CONTENT)
    shutil.rmtree(blob.parents[1])


def test_without_symbolic_links(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some Windows machines: the file itself lies in the snapshot, and is checked all the same when it comes."""
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download, "are_symlinks_supported", lambda *_: False)
    server.files[FILE] = Served(CONTENT)
    path = hub.fetch(SIGNATURE, quiet)
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT
    path.unlink()
    server.files[FILE] = Served(CONTENT[:-1] + b"!", etag=SHA)
    with pytest.raises(WeightsError, match="came corrupt"):
        hub.from_hub("adefossez/HTDemucs", f"{SIGNATURE}.safetensors", quiet)
    assert not path.exists()


def test_corrupt_files_of_the_former_address(server: Hub) -> None:
    server.files[FORMER] = Served(CONTENT[:-1] + b"!")
    with pytest.raises(WeightsError, match=r"came corrupt \(its SHA-256 starts with [0-9a-f]{8}, not [0-9a-f]{8}\) and was deleted"):
        hub.from_legacy(SIGNATURE, quiet)
    assert list(hub.legacy_cache().iterdir()) == []


def test_a_connection_that_always_breaks(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 3)
    server.files[FORMER] = Served(CONTENT, cuts=99)
    with pytest.raises(ModelError, match=rf"cannot be fetched \(\d+ of {len(CONTENT)} bytes came\)"):
        hub.from_legacy(SIGNATURE, quiet)
    assert list(hub.legacy_cache().iterdir()) == []


def test_nothing_answers(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(catalog, "LEGACY_ROOT", "http://127.0.0.1:9/")
    with pytest.raises(ModelError) as error:
        hub.fetch(SIGNATURE, quiet)
    lines = str(error.value).split("\n")
    assert lines[0] == "955717e8 is not on this machine and cannot be fetched (Connection refused)"
    assert lines[1] == "  with a network: demucs-np models download 955717e8"
    assert re.match(r"  without: carry 955717e8\.safetensors of .* into a folder and add --repo FOLDER, or try -n demo", lines[2])
    assert len(lines) == 3
    assert max(map(len, lines)) < 200
    with pytest.raises(ModelError, match=r"^htdemucs is not on this machine .*\n.*models download htdemucs\n"):
        resolve("htdemucs").only().get(quiet)


def test_a_silent_network_is_given_up_soon(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that accepts connections and says nothing: neither it nor the former address is waited for long."""
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    monkeypatch.setattr(transfer, "TIMEOUT", 0.3)
    monkeypatch.setattr(transfer, "ATTEMPTS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setattr(catalog, "LEGACY_ROOT", address + "/")
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"timed out(?s:.)*models download 955717e8"):
            hub.fetch(SIGNATURE, quiet)
        assert time.monotonic() - began < 5


def test_offline(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.files[FILE] = Served(CONTENT)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE forbids the network(?s:.)*models download 955717e8"):
        hub.fetch(SIGNATURE, quiet)
    assert server.log == []


def test_files_carried_by_hand(server: Hub, tmp_path: Path) -> None:
    snapshot = tmp_path / "hf/hub/models--adefossez--HTDemucs/snapshots/main"
    snapshot.mkdir(parents=True)
    (snapshot / f"{SIGNATURE}.safetensors").write_bytes(b"x")
    assert hub.fetch(SIGNATURE, quiet) == snapshot / f"{SIGNATURE}.safetensors"
    assert hub.intact(snapshot / f"{SIGNATURE}.safetensors") is None


@pytest.mark.parametrize("former", [False, True])
def test_two_processes_at_once(server: Hub, former: bool) -> None:
    server.files[FORMER if former else FILE] = Served(CONTENT, slow=1.0)
    code = f"""
from demucs_np.weights import catalog, hub, transfer
from demucs_np.weights.resolve import resolve
catalog.LEGACY[{SIGNATURE!r}] = {FORMER[1:]!r}
catalog.LEGACY_ROOT = {server.address + "/"!r}
print(hub.fetch({SIGNATURE!r}))
"""
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    (first, _), (second, _) = outputs
    assert first == second
    assert Path(first.strip()).read_bytes() == CONTENT
    assert {path for _, path, _ in server.log} <= {FILE, "/cdn" + FILE, FORMER}  # and no telemetry


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_cache_variables(server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    expected = {"HF_HUB_CACHE": "elsewhere", "HF_HOME": "elsewhere/hub", "XDG_CACHE_HOME": "elsewhere/huggingface/hub"}
    assert hub.hub_cache() == tmp_path / expected[variable]


def run(*arguments: str) -> tuple[int, str]:
    from demucs_np.commands.main import main

    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def test_commands(server: Hub) -> None:
    server.files[FILE] = Served(packages_content())
    assert "htdemucs" in run("models", "list")[1]
    status, output = run("models", "path", "htdemucs")
    assert status == 1
    assert "955717e8 is not cached; `demucs-np models download htdemucs` fetches it" in output
    status, output = run("models", "download", "htdemucs", "htdemuks", SIGNATURE)
    assert status == 1  # for the misspelt one; the others are fetched
    assert "did you mean htdemucs?" in output
    path = hub.find(SIGNATURE)
    assert path is not None
    assert output.count(f"{SIGNATURE}: {path}") == 2
    assert run("models", "path", "htdemucs") == (0, f"{path}\n")
    listed = next(line for line in run("models", "list")[1].splitlines() if line.startswith("htdemucs "))
    assert listed.split()[1:5] == ["4", "0", "MB", "yes"]
    assert "class:        demucs.demucs.Demucs" in run("models", "info", "htdemucs")[1]
    assert run("models", "verify") == (0, f"{SIGNATURE}: ok  {path}\n")
    assert run("models", "verify", "mdx")[0] == 1
    blob = path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"!" + blob.read_bytes()[1:])
    status, output = run("models", "verify")
    assert status == 1
    assert f"{SIGNATURE}: CORRUPT {path}" in output


def packages_content() -> bytes:
    from safetensors.numpy import save

    return save(packages.draw(), packages.metadata())


def test_verify_with_nothing_cached(server: Hub) -> None:
    assert run("models", "verify") == (0, "Nothing is cached.\n")
    assert models.commands.keys() == {"list", "info", "download", "verify", "path", "add", "remove"}
