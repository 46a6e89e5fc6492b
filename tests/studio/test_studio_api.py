"""The studio's HTTP API, with the real server in a process of its own: the whole way, safety, and what happens when it is killed."""

from __future__ import annotations

import concurrent.futures
import io
import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from studio_server import ROOT, Server, make_song, wait_for

from demucs_np import Separator, load_model
from demucs_np.kernels.resample import resample

HEADER = 56
Separated = tuple[Server, dict[str, Any]]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "studio")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_song(tmp_path_factory.mktemp("songs") / "song.wav", 8)


@pytest.fixture(scope="module")
def separated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Separated]:
    """A separated mono file at 48 kHz."""
    folder = tmp_path_factory.mktemp("separated")
    running = Server(folder / "studio")
    track = running.upload(make_song(folder / "mono.wav", 4, 48000, 1), "mono.wav", model="demo")
    yield running, running.wait(track["id"], "done")
    running.stop()


def test_the_whole_way(server: Server, song: Path) -> None:
    client = server.client
    track = server.upload(song, "Sunday in June.wav", model="demo")
    path = f"/api/tracks/{track['id']}"
    assert track["seconds"] == 8.0
    with client.stream("GET", f"{path}/events") as stream:
        events = [json.loads(line.removeprefix("data: "))["track"] for line in stream.iter_lines() if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    done = server.wait(track["id"])
    assert done["sources"] == ["drums", "bass", "other", "vocals"]
    assert done["length"] == 8 * 44100

    mix, stems = Separator(load_model("demo")).separate_audio_file(song)
    for name, expected in {"mix": mix, **stems}.items():
        wav, rate = soundfile.read(io.BytesIO(client.get(f"{path}/stems/{name}.wav").content), dtype="float32")
        assert rate == 44100
        assert np.array_equal(wav.T, expected)
        raw = client.get(f"{path}/audio/{name}", params={"start": 1000, "stop": 2000})
        assert np.array_equal(np.frombuffer(raw.content, "<f4").reshape(-1, 2).T, expected[:, 1000:2000])
        peaks = np.frombuffer(client.get(f"{path}/peaks/{name}").content, np.int8).reshape(-1, 2)
        assert len(peaks) == -(-8 * 44100 // 256)
        assert peaks[10, 1] == round(127 * float(expected[:, 2560:2816].max()))
        assert len(client.get(f"{path}/spectrogram/{name}").content) == 96 * -(-8 * 44100 // 2048)

    part = client.get(f"{path}/stems/bass.wav", headers={"Range": f"bytes={HEADER}-{HEADER + 799}"})
    assert part.status_code == 206
    assert np.array_equal(np.frombuffer(part.content, "<f4").reshape(-1, 2).T, stems["bass"][:, :100])
    assert client.get(f"{path}/original").content == song.read_bytes()
    assert client.delete(path).status_code == 204
    assert client.get("/api/tracks").json() == []
    assert server.folders() == []


@pytest.mark.parametrize(
    ("form", "bits", "subtype"),
    [("wav", 16, "PCM_16"), ("wav", 24, "PCM_24"), ("wav", 32, "FLOAT"), ("flac", 16, "PCM_16"), ("flac", 24, "PCM_24"),
     ("mp3", 16, "MPEG_LAYER_III")],
)  # fmt: skip
def test_every_format_at_the_original_rate(separated: Separated, form: str, bits: int, subtype: str) -> None:
    server, track = separated
    answer = server.client.get(f"/api/tracks/{track['id']}/export", params={"stems": "bass", "format": form, "bits": bits})
    assert answer.status_code == 200, answer.text
    with soundfile.SoundFile(io.BytesIO(answer.content)) as file:
        assert (file.samplerate, file.channels, file.subtype) == (48000, 2, subtype)
        assert file.frames == pytest.approx(4 * 48000, abs=0 if form != "mp3" else 2500)


def test_another_rate_is_that_of_the_command(separated: Separated) -> None:
    """By the finer filter."""
    server, track = separated
    path = f"/api/tracks/{track['id']}"
    stem = soundfile.read(io.BytesIO(server.client.get(f"{path}/stems/bass.wav").content), dtype="float32")[0]
    wav = soundfile.read(io.BytesIO(server.client.get(f"{path}/export", params={"stems": "bass", "bits": 32}).content), dtype="float32")[0]
    assert np.array_equal(wav.T, resample(np.tile(stem.T, (2 // stem.shape[1], 1)), 44100, 48000, fine=True))


def test_a_zip_a_mix_and_a_region(separated: Separated) -> None:
    server, track = separated
    path = f"/api/tracks/{track['id']}/export"
    with zipfile.ZipFile(io.BytesIO(server.client.get(path, params={"rate": "model", "bits": 32}).content)) as archive:
        assert archive.namelist() == [f"mono - {stem}.wav" for stem in track["sources"]]
        stems = {name: soundfile.read(io.BytesIO(archive.read(f"mono - {name}.wav")), dtype="float32")[0] for name in track["sources"]}
    query = {"mix": "drums:0.5:-1,bass", "rate": "model", "bits": "32", "start": "1000", "stop": "3000"}
    mixed, _ = soundfile.read(io.BytesIO(server.client.get(path, params=query).content), dtype="float32")
    expected = stems["bass"][1000:3000].copy()
    expected[:, 0] += 0.5 * (stems["drums"][1000:3000, 0] + stems["drums"][1000:3000, 1])
    assert mixed == pytest.approx(expected, abs=1e-6)
    wait_for(lambda: not list(server.folder.glob(".export-*")))


@pytest.mark.parametrize(
    "query",
    [{"stems": "../mix"}, {"mix": "drums:x"}, {"mix": "drums:99"}, {"format": "exe"}, {"bits": 12}, {"start": 10**9},
     {"start": 5, "stop": 5}, {"start": -1}, {"rate": "7"}],
)  # fmt: skip
def test_exports_that_cannot_be(separated: Separated, query: dict[str, Any]) -> None:
    server, track = separated
    answer = server.client.get(f"/api/tracks/{track['id']}/export", params=query)
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    "path",
    ["/../../../../../etc/passwd", "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
     "/api/tracks/..%2f..%2f..%2fetc/original", "/api/tracks/{id}/stems/..%2f..%2ftrack.json.wav",
     "/api/tracks/{id}/stems/../track.json", "/api/tracks/{id}/peaks/..%2f..%2foriginal",
     "/api/tracks/{id}/audio/%2fetc%2fpasswd?start=0&stop=9", "//etc/passwd", "/.studio.lock", "/__init__.py"],
)  # fmt: skip
def test_no_path_leaves_the_folder(separated: Separated, path: str) -> None:
    server, track = separated
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:  # by hand: a client would tidy the path up
        target = path.replace("{id}", track["id"])
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] == b"404", answer


def test_names_are_labels(server: Server, song: Path) -> None:
    track = server.upload(song, '../../etc/<b>pass"wd\n.wav')
    assert track["name"] == "_.._etc__b_pass_wd_.wav"
    assert sorted(path.name for path in (server.folder / track["id"]).iterdir()) == ["original", "track.json"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Host": "evil.example"}, 421), ({"Host": "evil.example:8765"}, 421), ({"Host": "127.0.0.1.evil.example"}, 421),
     ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://127.0.0.1:1"}, 403),
     ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403)],
)  # fmt: skip
def test_other_sites_get_nothing(separated: Separated, headers: dict[str, str], status: int) -> None:
    server, track = separated
    for method, path in (("GET", "/api/tracks"), ("POST", "/api/demo"), ("DELETE", f"/api/tracks/{track['id']}")):
        answer = server.client.request(method, path, headers=headers)
        assert answer.status_code == status
        assert "access-control-allow-origin" not in answer.headers
    assert len(server.client.get("/api/tracks", headers={"Origin": server.address}).json()) == 1


def test_headers_of_every_answer(separated: Separated) -> None:
    server, _ = separated
    for path in ("/", "/api/health", "/nothing"):
        headers = server.client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe-inline" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
    assert server.client.get("/openapi.json").json()["info"]["title"] == "demucs_np studio"


def test_a_token_for_other_addresses(tmp_path: Path) -> None:
    server = Server(tmp_path / "studio", "--host", "0.0.0.0")
    try:
        token = server.line.split("token=")[1].split()[0]
        local = server.address.replace("0.0.0.0", "127.0.0.1")
        assert len(token) >= 32
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer"}, {"Cookie": "demucs_np_token=wrong"}):
            assert httpx.get(f"{local}/api/tracks", headers=headers).status_code == 401
            assert httpx.get(f"{local}/?token=wrong", headers=headers).status_code == 401
        good = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{local}/api/tracks", headers=good).json() == []
        answer = httpx.get(f"{local}/?token={token}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert httpx.get(f"{local}/api/tracks", headers={"Cookie": f"demucs_np_token={token}"}).json() == []
        assert httpx.get(f"{local}/api/tracks", headers=good | {"Origin": "http://evil.example"}).status_code == 403
        port = local.rpartition(":")[2]
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "[::1", "[evil.example]", ""):
            answer = httpx.get(f"{local}/api/tracks", headers=good | {"Host": host})
            assert answer.status_code == 421, host
            assert answer.json()["detail"].endswith("; open its IP address, or start it with that name as --host")
        for host in (f"localhost:{port}", f"192.168.1.2:{port}", "[fe80::1]:80", f"0.0.0.0:{port}"):
            assert httpx.get(f"{local}/api/tracks", headers=good | {"Host": host}).status_code == 200, host
    finally:
        server.stop()


def test_uploads_that_are_too_large(tmp_path: Path, song: Path) -> None:
    server = Server(tmp_path / "studio", "--max-upload", "0.001")
    try:
        assert server.client.post("/api/tracks", content=song.read_bytes()).status_code == 413
        answer = server.client.post("/api/tracks", content=(b"x" * 65536 for _ in range(40)))  # chunked: no length is told
        assert answer.status_code == 413
        assert "--max-upload" in answer.json()["detail"]
        assert server.folders() == []
    finally:
        server.stop()


@pytest.mark.parametrize(("content", "says"), [(b"", "the file is empty"), (b"these are words\n" * 10, "ffmpeg")])
def test_uploads_that_are_no_audio(separated: Separated, content: bytes, says: str) -> None:
    server, _ = separated
    answer = server.client.post("/api/tracks", params={"name": "talk.m4a"}, content=content)
    assert answer.status_code == 415
    assert says in answer.json()["detail"]
    assert str(server.folder) not in answer.json()["detail"]
    assert len(server.client.get("/api/tracks").json()) == len(server.folders()) == 1


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    host, port = server.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /api/tracks HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 1000)
        wait_for(lambda: server.folders() != [])
    wait_for(lambda: server.folders() == [])


def test_twenty_uploads_at_once(server: Server, tmp_path: Path) -> None:
    songs = [make_song(tmp_path / f"{number}.wav", 1, seed=number) for number in range(20)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        tracks = list(pool.map(lambda path: server.upload(path, path.name, model="demo"), songs))
    assert len({track["id"] for track in tracks}) == 20
    for path, track in zip(songs, tracks, strict=True):
        assert server.wait(track["id"])["state"] == "done"
        assert server.client.get(f"/api/tracks/{track['id']}/original").content == path.read_bytes()


def test_requests_that_do_not_fit(server: Server, song: Path) -> None:
    client = server.client
    track = server.upload(song)
    path = f"/api/tracks/{track['id']}"
    assert client.get("/api/tracks/0123456789abcdef").status_code == 404
    assert client.get(f"{path}/stems/drums.wav").status_code == 409
    for body in ({"model": "nothing"}, {"model": "/etc/passwd"}, {"model": "demo", "stems": ["cello"]}, {"model": "demo", "stems": []},
                 {"model": "demo", "shifts": -1}, {"model": "demo", "overlap": 1}):  # fmt: skip
        assert client.post(f"{path}/separate", json=body).status_code == 422, body
    assert client.post("/api/tracks", params={"model": "nothing"}, content=song.read_bytes()).status_code == 422
    assert len(client.get("/api/tracks").json()) == 1
    assert client.post(f"{path}/separate", json={"model": "demo", "stems": ["vocals"]}).status_code == 202
    assert server.wait(track["id"])["sources"] == ["vocals"]


def test_cancel_and_start_again(server: Server, tmp_path: Path) -> None:
    long = make_song(tmp_path / "long.wav", 300)
    first, second = (server.upload(long, name, model="demo") for name in ("first", "second"))
    path = f"/api/tracks/{first['id']}"
    server.client.post(f"/api/tracks/{second['id']}/cancel")
    assert server.wait(second["id"])["state"] == "cancelled"
    wait_for(lambda: server.client.get(path).json()["ready"] > 1000, 60)
    early = server.client.get(f"{path}/audio/drums", params={"start": 0, "stop": 1000}).content
    assert len(early) == 8000  # it can be heard already
    assert server.client.post(f"{path}/separate", json={"model": "demo"}).status_code == 409
    server.client.post(f"{path}/cancel")
    assert server.wait(first["id"])["state"] == "cancelled"
    assert sorted(path.name for path in (server.folder / first["id"]).iterdir()) == ["original", "track.json"]
    server.client.post(f"{path}/separate", json={"model": "demo"})
    server.wait(first["id"], "running")
    assert server.client.delete(path).status_code == 204
    assert server.folders() == [second["id"]]


def test_killed_in_the_middle_it_begins_again(tmp_path: Path, song: Path) -> None:
    folder = tmp_path / "studio"
    server = Server(folder)
    long = server.upload(make_song(tmp_path / "long.wav", 100), model="demo")
    short = server.upload(song, "short.wav", model="demo")
    wait_for(lambda: server.client.get(f"/api/tracks/{long['id']}").json()["ready"] > 0, 60)
    server.kill()
    assert not (folder / long["id"] / "stems").exists()
    (folder / "0123456789abcdef").mkdir()  # an upload that was cut off
    (folder / "0123456789abcdef" / "original").write_bytes(b"half")

    again = Server(folder)
    try:
        assert again.wait(long["id"])["state"] == "done"
        assert again.wait(short["id"])["state"] == "done"
        assert again.folders() == sorted([long["id"], short["id"]])
        assert sorted(path.name for path in (folder / long["id"]).iterdir()) == ["original", "stems", "track.json"]
        with soundfile.SoundFile(folder / long["id"] / "stems" / "vocals.wav") as file:
            assert file.frames == 100 * 44100
    finally:
        again.stop()


def test_models_and_health(separated: Separated) -> None:
    server, _ = separated
    models = {model["name"]: model for model in server.client.get("/api/models").json()}
    assert models["demo"]["fetch"] == 0
    assert models["htdemucs_6s"]["stems"] == ["drums", "bass", "other", "vocals", "guitar", "piano"]
    assert all(model["pace"] > 0 and model["licence"] for model in models.values())
    assert server.client.get("/api/health").json()["status"] == "ok"
    assert server.client.post("/api/models/nothing/fetch").status_code == 404


def test_a_model_that_cannot_be_fetched_is_said_in_the_track(tmp_path: Path, song: Path) -> None:
    nowhere = {"HF_HUB_CACHE": str(tmp_path / "a"), "TORCH_HOME": str(tmp_path / "b"), "HF_HUB_OFFLINE": "1"}
    server = Server(tmp_path / "studio", env=nowhere)
    try:
        track = server.wait(server.upload(song, model="htdemucs")["id"])
        assert track["state"] == "failed"
        assert "HF_HUB_OFFLINE forbids the network" in track["error"]
    finally:
        server.stop()


def test_bad_starts_are_one_line(separated: Separated, tmp_path: Path) -> None:
    server, _ = separated
    port = server.address.rpartition(":")[2]
    for arguments, says in (
        ((str(tmp_path / "other"), "--port", port), f"port {port} is taken"),
        ((str(server.folder), "--port", "0"), "another studio has this folder open"),
        (("/proc/nothing", "--port", "0"), "cannot be written"),
        ((str(tmp_path / "other"), "--host", "no.such.host.invalid"), "cannot listen at no.such.host.invalid"),
    ):
        command = [sys.executable, "-m", "demucs_np", "serve", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
        assert ended.returncode == 1, ended
        assert says in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


def test_without_the_extra_it_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None\nfrom demucs_np.commands.main import main\nmain(['serve', sys.argv[1]])"
    command = [sys.executable, "-c", code, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    assert ended.returncode == 1
    assert ended.stderr == "Error: the studio needs uvicorn: pip install 'demucs-np[studio]'\n"


def test_without_a_browser_it_says_the_address(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "demucs_np", "studio", str(tmp_path / "studio"), "--port", "0"]
    env = {**os.environ, "BROWSER": "/no/such/browser", "PATH": "/nowhere", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=env)
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.terminate()
    process.communicate(timeout=30)
    assert lines[0].startswith("The studio is at http://127.0.0.1:")
    assert lines[1].startswith("No browser could be opened here; open http://127.0.0.1:")


def test_the_studio_opens_the_browser_with_the_demo_song(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {tmp_path}/opened\n")
    browser.chmod(0o755)
    command = [sys.executable, "-m", "demucs_np", "studio", str(tmp_path / "studio"), "--port", "0", "--demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "BROWSER": str(browser)})
    assert process.stdout is not None
    address = process.stdout.readline().split()[4]
    wait_for(lambda: (tmp_path / "opened").exists() and (tmp_path / "opened").read_text().strip() == address)
    answer = httpx.get(address)
    assert "Drop a song" in answer.text
    assert "script-src 'self';" in answer.headers["content-security-policy"]
    assert [track["name"] for track in httpx.get(f"{address}api/tracks").json()] == ["demo song.flac"]
    process.terminate()
    process.communicate(timeout=30)


def test_the_end_is_quiet(tmp_path: Path) -> None:
    server = Server(tmp_path / "studio")
    with server.client.stream("GET", "/api/events"):
        said = server.stop()
    assert server.process.returncode in (0, 130), said
    assert "Traceback" not in said
    assert "Error" not in said
