"""The engine in JavaScript, in Node: the bits of the native engine at 4 lanes with nothing fused or reordered, whatever the track."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import packages
import pytest
from sites import golden_file, node_version

from demucs_np import load_model
from demucs_np.kernels._jit import DISABLED
from demucs_np.web import modules, site

HERE = Path(__file__).parent
pytestmark = [
    pytest.mark.skipif(DISABLED, reason="needs compiled kernels"),
    pytest.mark.skipif(node_version() < 20, reason="needs Node 20 or later"),
]
RATE = 44100  # of the small model, whose segment is half a second


def run(site, cases, folder, node="node"):
    """Results by name. A time limit, because threads that wait for each other wait for ever."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [node, str(HERE / "engine.mjs"), str(site), str(folder / "cases.json"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def tracks(folder):
    rng = np.random.default_rng(0)
    for name, channels, samples in (
        ("second", 2, RATE),
        ("long", 2, 2 * RATE + 77),
        ("short", 2, 500),
        ("mono", 1, 30000),
        ("six", 6, 30000),
    ):
        (rng.standard_normal((channels, samples)) / 10 + 0.01).astype(np.float32).tofile(folder / name)


CASES = [
    {"name": "one segment", "input": "second", "channels": 2, "options": {"shifts": 0}},
    {"name": "two threads", "input": "second", "channels": 2, "options": {"shifts": 0}, "threads": 2},
    {"name": "four threads", "input": "long", "channels": 2, "options": {"shifts": 0}, "threads": 4},
    {"name": "much overlap", "input": "long", "channels": 2, "options": {"shifts": 0, "overlap": 0.6}},
    {"name": "no overlap", "input": "long", "channels": 2, "options": {"shifts": 0, "overlap": 0}},
    {"name": "shifts", "input": "long", "channels": 2, "options": {"shifts": 2, "seed": 123456789123}},
    {"name": "as the recipe says", "input": "second", "channels": 2},
    {"name": "some stems", "input": "second", "channels": 2, "options": {"shifts": 0, "stems": ["vocals", "drums"]}},
    {"name": "short", "input": "short", "channels": 2, "options": {"shifts": 1}},
    {"name": "mono", "input": "mono", "channels": 1, "options": {"shifts": 0}},
    {"name": "six channels", "input": "six", "channels": 6, "options": {"shifts": 0}},
    {"name": "48 kHz", "input": "long", "channels": 2, "options": {"shifts": 0, "sampleRate": 48000}},
    {"name": "8 kHz mono", "input": "mono", "channels": 1, "options": {"shifts": 0, "sampleRate": 8000}},
    {"name": "as it is", "input": "second", "channels": 2, "options": {"shifts": 0, "normalize": False}},
]


@pytest.fixture(scope="module")
def separated(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("separated")
    tracks(folder)
    results = run(small, [{"model": "small", **case} for case in CASES], folder)
    command = [sys.executable, str(HERE / "native.py"), str(small.parent / "small.safetensors"), str(folder / "cases.json"), str(folder)]
    subprocess.run(command, env=modules.environment("plain"), check=True)
    return folder, results


@pytest.mark.parametrize("name", [case["name"] for case in CASES])
def test_the_bits_of_the_native_engine(separated, name):
    folder, results = separated
    assert "stems" in results[name], results[name]
    ours, truth = (np.fromfile(folder / file, np.float32) for file in (f"web-{name}", f"native-{name}"))
    assert np.abs(truth).max() > 0
    assert ours.size == truth.size
    assert np.array_equal(ours, truth), f"{np.mean(ours != truth):.2%} differ, at most by {np.abs(ours - truth).max()}"


def test_progress_is_told_to_its_end(separated):
    _, results = separated
    steps = [step for step in results["four threads"]["steps"] if step[0] == "separate"]
    assert steps[0][1] == 0
    assert steps[-1][1] == steps[-1][2] == 6  # chunks of half a second that begin every three quarters of that, in two seconds and a bit
    assert [done for _, done, _ in steps] == sorted(done for _, done, _ in steps)


def test_memory_does_not_grow_with_the_track(separated):
    _, results = separated
    assert results["short"]["memory"] == results["one segment"]["memory"] == results["shifts"]["memory"]


FAULTS = {
    "nan": ({"input": "nan", "channels": 2}, "audio", "the track has NaN or infinite samples; repair or re-export it"),
    "empty": ({"input": "none", "channels": 2}, "audio", "the track holds no samples; give it some"),
    "stem": ({"input": "second", "channels": 2, "options": {"stems": ["tuba"]}}, "usage", 'stem "tuba" is not in this model'),
    "overlap": ({"input": "second", "channels": 2, "options": {"overlap": 1}}, "usage", "overlap is 1"),
    "rate": ({"input": "second", "channels": 2, "options": {"sampleRate": 0.5}}, "usage", "a sample rate is 0.5"),
    "fast": (
        {"input": "second", "channels": 2, "options": {"sampleRate": 999999937}},
        "usage",
        "give a whole number of hertz, at most 768000",
    ),
    "kind": ({"input": "second", "channels": 2, "model": 5}, "usage", "the model is 5"),
    "model": ({"input": "second", "channels": 2, "model": "other"}, "usage", "there is no model other on this site, but small"),
    "threads": ({"input": "second", "channels": 2, "threads": 0}, "usage", "threads is 0"),
    "cancelled": ({"input": "long", "channels": 2, "abort": 1}, "aborted", "cancelled"),
    "no file": ({"input": "second", "channels": 2, "model": "./nothing.safetensors"}, "network", "cannot be read (ENOENT)"),
}


def test_bad_input_is_an_error_that_says_what_to_do(small, tmp_path):
    tracks(tmp_path)
    np.array([[0, np.nan], [0, 0]], np.float32).tofile(tmp_path / "nan")
    (tmp_path / "none").write_bytes(b"")
    again = {"name": "again", "model": "small", "input": "second", "channels": 2}
    results = run(small, [*({"name": name, "model": "small", **case} for name, (case, _, _) in FAULTS.items()), again], tmp_path)
    for name, (_, code, text) in FAULTS.items():
        assert results[name]["kind"] == "DemucsError", results[name]
        assert results[name]["code"] == code
        assert text in results[name]["message"]
        assert "; " in results[name]["message"]
    assert results["again"]["length"] == RATE  # an engine that was stopped works on


def test_files_of_ones_own(small, tmp_path):
    """Bytes find their tape by their configuration; stems are the file's. Half precision is widened by the kernel."""
    tracks(tmp_path)
    import safetensors.numpy
    from safetensors import safe_open

    source = small.parent / "small.safetensors"
    tensors = safetensors.numpy.load_file(source)
    with safe_open(source, "np") as file:
        meta = dict(file.metadata())
    kwargs = json.loads(meta["kwargs"])
    named = {**kwargs, "sources": [f"stem {number}" for number in range(len(kwargs["sources"]))], "rescale": 0.1}
    half = {name: tensor.astype(np.float16) for name, tensor in tensors.items()}
    packages.write(tmp_path / "half.safetensors", half, {**meta, "kwargs": json.dumps(named)})
    packages.write(tmp_path / "other.safetensors", tensors, {**meta, "kwargs": json.dumps({**kwargs, "t_heads": 1})})
    packages.write(tmp_path / "bare.safetensors", tensors, {"a": "b"})
    packages.write(tmp_path / "demucs.safetensors", tensors, {**meta, "klass": "demucs.demucs.Demucs"})
    less = dict(list(tensors.items())[1:])
    packages.write(tmp_path / "less.safetensors", less, meta)
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:-1000])
    (tmp_path / "text.safetensors").write_text("no weights here")
    kinds = ("half", "other", "bare", "demucs", "less", "cut", "text")
    cases = [
        {"name": kind, "file": str(tmp_path / f"{kind}.safetensors"), "input": "second", "channels": 2, "options": {"shifts": 0}}
        for kind in kinds
    ]
    results = run(small, cases, tmp_path)
    assert results["half"]["stems"] == named["sources"]
    (tmp_path / "one.json").write_text(json.dumps(cases[:1]))
    command = [sys.executable, str(HERE / "native.py"), str(tmp_path / "half.safetensors"), str(tmp_path / "one.json"), str(tmp_path)]
    subprocess.run(command, env=modules.environment("plain"), check=True)
    assert np.array_equal(np.fromfile(tmp_path / "web-half", np.float32), np.fromfile(tmp_path / "native-half", np.float32))
    expected = {
        "other": ("tape", "no tape of this site fits the model's configuration; build one with `demucs-np web build -n FILE`"),
        "bare": ("usage", "the file does not say which model it holds"),
        "demucs": ("usage", "the model is a demucs.demucs.Demucs"),
        "less": ("weights", "has no tensor encoder.0.conv.bias" if "encoder.0.conv.bias" not in less else "has no tensor"),
        "cut": ("weights", "the file of weights is cut short"),
        "text": ("weights", "is no safetensors file"),
    }
    for kind, (code, text) in expected.items():
        assert (results[kind]["code"], text in results[kind]["message"]) == (code, True), results[kind]


def test_what_does_not_belong_together_is_refused(small, tmp_path):
    """Another module than the tape is for; weights that are damaged on the disk."""
    for kind in ("module", "weights"):
        shutil.copytree(small, tmp_path / kind)
    tracks(tmp_path)
    listed = json.loads((small / "models.json").read_text())
    wasm = tmp_path / "module" / "kernels.wasm"
    wasm.write_bytes(wasm.read_bytes() + b"\0\2\1x")  # a custom section: valid, and another file
    weights = tmp_path / "weights" / listed["models"][0]["files"][0]["address"]
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    case = {"name": "x", "model": "small", "input": "second", "channels": 2}
    module, damaged = (run(tmp_path / kind, [case], tmp_path)["x"] for kind in ("module", "weights"))
    assert module["code"] == "tape"
    assert "for other kernels than kernels.wasm; build the site again" in module["message"]
    assert damaged["code"] == "weights"
    assert "is damaged: its SHA-256 is" in damaged["message"]


def test_a_bag_is_the_average_of_its_members(tmp_path):
    """As one name: each stem from the models that have a weight for it, on one tape."""
    tracks(tmp_path)
    for number, name in enumerate(("aaaa", "bbbb")):
        path = golden_file("ht_published", tmp_path / f"{name}.safetensors")
        if number:
            import safetensors.numpy
            from safetensors import safe_open

            with safe_open(path, "np") as file:
                meta = dict(file.metadata())
            packages.write(path, {key: value * np.float32(0.9) for key, value in safetensors.numpy.load_file(path).items()}, meta)
    stems = load_model(tmp_path / "aaaa.safetensors").sources
    rows = [[1.0] + [0.0] * (len(stems) - 1), [0.5] * len(stems)]
    (tmp_path / "both.yaml").write_text(json.dumps({"models": ["aaaa", "bbbb"], "weights": rows}))
    site.build(tmp_path / "site", ["both"], repo=tmp_path, report=lambda text: None)
    assert len(list((tmp_path / "site").glob("tape-*.json"))) == 1
    cases = [
        {"name": "all", "model": "both", "input": "long", "channels": 2, "options": {"shifts": 1}},
        {"name": "last", "model": "both", "input": "second", "channels": 2, "options": {"shifts": 1, "stems": [stems[-1]]}},
    ]
    results = run(tmp_path / "site", cases, tmp_path)
    (tmp_path / "native.json").write_text(json.dumps(cases))
    command = [sys.executable, str(HERE / "native.py"), str(tmp_path / "both.yaml"), str(tmp_path / "native.json"), str(tmp_path)]
    subprocess.run(command, env=modules.environment("plain"), check=True)
    for name in ("all", "last"):
        assert "stems" in results[name], results[name]
        assert np.array_equal(np.fromfile(tmp_path / f"web-{name}", np.float32), np.fromfile(tmp_path / f"native-{name}", np.float32))
