"""Small files that ask for much, and servers that give nothing: each is refused at once, in one line. `fuzz.py` makes thousands more."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
import test_diffq
from hub_server import Hub, Served
from safetensors.numpy import save_file

import demucs_np as dn
from demucs_np.errors import DemucsError, ModelError, WeightsError
from demucs_np.models.config import config_from_arguments
from demucs_np.parity.record import load_golden
from demucs_np.weights import catalog, hub, patience, transfer
from demucs_np.weights.formats import diffq
from demucs_np.weights.formats.stored import Stored
from demucs_np.weights.repo import read_bag
from demucs_np.weights.resolve import read_model, resolve

GOLDEN = Path(__file__).parent / "golden" / "td_plain.safetensors"


def refused(read: Callable[[], object], text: str) -> None:
    began = time.monotonic()
    with pytest.raises(DemucsError, match=text) as error:
        read()
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert time.monotonic() - began < 10


# Pickles. A program is written by hand: what it builds could not be pickled.

DEEP = b"\x80\x02}(" + b"X\x01\x00\x00\x00a" + b"\x85" * 150_000 + b"K\x01u."  # a key of nested tuples, whose hash recurses in C
LISTS = b"".join(b"(h" + bytes([n]) + b"h" + bytes([n]) + b"lq" + bytes([n + 1]) for n in range(60))
SHARED = b"\x80\x02]q\x00" + LISTS.replace(b"l", b"t") + b"."  # sixty tuples, each twice in the next


@pytest.mark.parametrize("program", [DEEP, SHARED, b"\x80\x02" + b"]" * 200 + b"a" * 199 + b"."], ids=["key", "shared", "nested"])
def test_pickles_that_are_nested(tmp_path: Path, program: bytes) -> None:
    """In a process of its own: one of them ended the interpreter."""
    path = packages.Archive().write(tmp_path / "a.th", program)
    code = f"from demucs_np.weights.resolve import read_model; read_model({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1, done.stderr[-300:]
    assert "WeightsError" in done.stderr.splitlines()[-1]


def test_shared_lists_in_an_argument() -> None:
    value: Any = "x"
    for _ in range(40):
        value = [value, value]  # printed, a terabyte
    refused(lambda: config_from_arguments(packages.KLASS, (), packages.KWARGS | {"depth": value}), "must be an integer, not a list")


def test_a_tensor_that_repeats_its_numbers(tmp_path: Path) -> None:
    """Two kilobytes that ask for terabytes: a stride of zero."""
    archive = packages.Archive()
    tensors = packages.draw()
    package = packages.package(archive, tensors)
    name = next(iter(tensors))
    package["state"][name] = archive.view(archive.store(np.ones(1, np.float32)), 0, (2**20, 2**20), (0, 0))
    refused(lambda: read_model(archive.write(tmp_path / "a.th", package)), "it repeats the numbers of a tensor")


def test_levels_of_no_bits(tmp_path: Path) -> None:
    """They take no room in a file, and gigabytes in memory."""
    shapes = {"a": (2**17, 2**17)}
    state, _ = test_diffq.quantise({"a": (20, 20)}, test_diffq.pack64, uniform=True, half=True)
    state["quantized"] = [(Stored("I64", np.empty((2**23, 0, 32), np.int64)), (0.0, 1.0))]
    with pytest.raises(WeightsError, match="far too few for the model's 17179869184 parameters"):
        diffq.restore(state, shapes)


# Headers


def header(entries: object, data: bytes = b"") -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (header({"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "unknown type a list"),
        (header({"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, b"1234"), "bad header entry 'a'"),
        (header({"a": {"dtype": "F32", "shape": [2**61] * 100_000, "data_offsets": [0, 4]}}, b"1234"), "bad header entry 'a'"),
        (header(b"[" * 7_000_000), "no valid JSON"),
        (header(b"[" * 90_000_000), "not a safetensors file"),
        (header(b'{"a": ' + b"9" * 5000 + b"}"), "no valid JSON"),
        (header({"__metadata__": {"klass": "[" * 5000, "args": "[]", "kwargs": "{}"}}), "unknown model class"),
        (header({"__metadata__": {"klass": packages.KLASS, "args": "[" * 900 + "]" * 900, "kwargs": "{}"}}), "nested too deep"),
        (header({"__metadata__": {"klass": packages.KLASS, "args": "[]", "kwargs": '{"segment": 1e400}'}}), "finite number"),
    ],
    ids=["type", "65 axes", "100000 axes", "brackets", "90 MB", "digits", "class", "arguments", "1e400"],
)
def test_safetensors(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    refused(lambda: read_model(path), text)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("segment", 1e12, "not between 0 and 3600"), ("nfft", 2**40, "not a multiple of 4 up to"), ("channels", 10**12, "is not between"),
        ("depth", 10**9, "is not between"), ("growth", 1e308, "out of range"), ("samplerate", 10**12, "is not between"),
    ],
)  # fmt: skip
def test_configurations_have_bounds(name: str, value: float, text: str) -> None:
    refused(lambda: config_from_arguments("demucs.htdemucs.HTDemucs", (), {"sources": ["a"], name: value}), text)


# Bags


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a: &a [x, x]\nb: &b [*a, *a]\nmodels: [*b]\n", "it uses the alias"),
        ("models: [2001-13-45]", "not valid YAML"),
        ("models: [!!int abc]", "not valid YAML"),
        ("models: [!!python/object/apply:os.system ['true']]", "not valid YAML"),
        ("models: [" + "[" * 3000, "not valid YAML"),
        ("models: ['a']\nweights: [[.inf]]", "lists of numbers"),
        ("models: ['a']\nsegment: .nan", "must be a number of seconds"),
        ("models: ['../../etc/passwd']", "is no signature"),
        ("models: ['..']", "is no signature"),
        ("models: ['a\\0b']", "is no signature"),
        ("x" * 2_000_000, "too long"),
    ],
    ids=range(11),
)
def test_bags(tmp_path: Path, content: str, text: str) -> None:
    path = tmp_path / "bag.yaml"
    path.write_text(content)
    refused(lambda: read_bag(path), text)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize("name", ["m.safetensors", "m.th", "m.yaml", "aaaa1111-12345678.th"])
def test_a_pipe_named_as_a_model(tmp_path: Path, name: str) -> None:
    """Opening one waits for a writer, who may never come."""
    os.mkfifo(tmp_path / name)
    refused(lambda: dn.load_model(str(tmp_path / name)), "a pipe or a device, not a plain file")
    refused(lambda: load_golden(tmp_path / name), "a pipe or a device, not a plain file")
    if not name.endswith(".yaml"):
        refused(lambda: dn.load_model(name.split("-")[0].split(".")[0], repo=tmp_path), "a pipe or a device, not a plain file")


def test_names() -> None:
    refused(lambda: resolve("a\0b"), "holds a zero byte")


# Goldens


@pytest.mark.parametrize("change", [{"source": 3}, {"weights": []}, {"version": "x"}, {"layers": 7}, {"layers": [3]}, {"arguments": None}])
def test_goldens(tmp_path: Path, change: dict[str, Any]) -> None:
    import safetensors

    with safetensors.safe_open(GOLDEN, framework="numpy") as file:
        metadata, arrays = dict(file.metadata()), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    (key,) = metadata
    metadata[key] = json.dumps(json.loads(metadata[key]) | change)
    path = tmp_path / "g.safetensors"
    save_file(arrays, path, metadata)

    def use() -> None:
        golden = load_golden(path)
        _ = golden.config, golden.mix

    refused(use, "golden file")


# Input


def test_an_empty_batch_and_a_mix_that_is_too_short() -> None:
    model = dn.load_model(catalog.DEMO_FILE)
    refused(lambda: model(np.zeros((0, 2, 1000), np.float32)), "has shape")
    config = config_from_arguments(packages.KLASS, (), packages.KWARGS)
    from demucs_np.models.demucs import Demucs

    short = Demucs(config, packages.draw(), backend="numba")
    refused(lambda: short(np.zeros((1, 1, 8), np.float32)), r"has shape")
    assert short(np.zeros((1, 2, 1), np.float32)).shape == (1, 2, 2, 1)


# Servers


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(patience, "PATIENCE", 1.0)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))


def trickling(answer: bytes, pause: float) -> tuple[str, socket.socket]:
    """A server that sends a byte at a time."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = server.accept()
                threading.Thread(target=drip, args=(connection,), daemon=True).start()
        except OSError:
            pass

    def drip(connection: socket.socket) -> None:
        try:
            connection.recv(4096)
            for byte in answer:
                connection.send(bytes([byte]))
                time.sleep(pause)
            while server.fileno() >= 0:  # until the test closes it
                connection.send(b"x")
                time.sleep(pause)
        except OSError:
            pass
        connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{server.getsockname()[1]}/", server


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\nContent-Length: 90000000\r\n\r\n", b"HTTP/1.0 200 OK\r\nX: "], ids=["body", "header"]
)
def test_a_byte_at_a_time(answer: bytes, tmp_path: Path) -> None:
    address, server = trickling(answer, 0.1)
    with server:
        refused(lambda: transfer.download(address + "a.th", tmp_path / "a.th", "00"), "sends next to nothing")
    assert not (tmp_path / "a.th").exists()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("part", ["body", "header"])
def test_after_a_hub_that_was_too_slow(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was begun is given up with its locks: a later attempt in the same process succeeds."""
    from huggingface_hub import constants

    settings = (constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET)
    repository, name = "adefossez/HTDemucs", "955717e8.safetensors"
    content = np.random.default_rng(0).bytes(20)
    with Hub() as hub_server:
        hub_server.files[f"/{repository}/resolve/main/{name}"] = served = Served(content, slow=20.0)  # a byte a second
        address, slow = trickling(b"HTTP/1.1 200 OK\r\nX: ", 0.1)
        monkeypatch.setenv("HF_ENDPOINT", hub_server.address if part == "body" else address.rstrip("/"))
        with slow:
            with pytest.raises(ModelError, match="sends next to nothing"):
                hub.from_hub(repository, name, lambda _: None)
            assert settings == (constants.HF_HUB_DISABLE_TELEMETRY, constants.HF_HUB_DISABLE_XET)
            monkeypatch.setenv("HF_ENDPOINT", hub_server.address)
            monkeypatch.setattr(patience, "PATIENCE", 20.0)
            served.slow = 0.0
            assert hub.from_hub(repository, name, lambda _: None).read_bytes() == content
    for thread in threading.enumerate():
        if thread.name == "demucs-np download":
            thread.join(12)  # its socket's patience
            assert not thread.is_alive()


@pytest.mark.usefixtures("impatient")
def test_a_body_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "MAX_SIZE", 1_000_000)
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    with Hub() as server:
        server.files["/a.th"] = Served(bytes(3_000_000))
        refused(lambda: transfer.download(server.address + "/a.th", tmp_path / "a.th", "00"), "larger than")
    assert list(tmp_path.glob("*.part")) == []


@pytest.mark.usefixtures("impatient")
def test_a_length_that_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ATTEMPTS", 1)
    address, server = trickling(b"HTTP/1.0 200 OK\r\nContent-Length: abc\x1b[31m\r\n\r\n", 0.0)
    with server:
        refused(lambda: transfer.download(address + "a.th", tmp_path / "a.th", "00"), "Content-Length is 'abc")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("etag", ["../../../outside", "a/b", "x" * 500, "\x1b[31mred"])
def test_an_etag_that_is_a_path(etag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client makes files of that name."""
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.files["/adefossez/HTDemucs/resolve/main/955717e8.safetensors"] = Served(b"content", etag=etag)
        with pytest.raises(ModelError, match=r"does not answer as the hub does|cannot be fetched") as error:
            hub.from_hub("adefossez/HTDemucs", "955717e8.safetensors", lambda _: None)
    assert str(error.value).isprintable()
    names = [path.name for path in tmp_path.rglob("*")]
    assert not any("outside" in name or "red" in name for name in names)
    assert not (tmp_path.parent / "outside").exists()
