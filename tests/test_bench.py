"""The bench command, the profile, and the measuring scripts, on tiny models: that they run and add up, never how fast."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from demucs_np import machine
from demucs_np.commands.main import main
from demucs_np.inspection import profiling, speed
from demucs_np.operations import operations
from demucs_np.operations.recording import UNPLACED

TESTS = Path(__file__).parent
SCRIPTS = TESTS.parent / "bench"
BASE: dict[str, Any] = {"sources": ["drums", "vocals"], "channels": 8, "dconv_comp": 2, "dconv_mode": 3, "segment": 0.25}
SMALL = {
    "htdemucs": ("demucs.htdemucs.HTDemucs", BASE | {"t_layers": 2, "t_heads": 2, "bottom_channels": 16}),
    "hdemucs": ("demucs.hdemucs.HDemucs", BASE | {"nfft": 1024, "depth": 5, "cac": False, "dconv_lstm": 3, "dconv_attn": 3}),
    "demucs": ("demucs.demucs.Demucs", BASE | {"depth": 3, "lstm_layers": 1}),
}
RATES = profiling.Rates(flop=1e10, moved=1e9)


@pytest.fixture(autouse=True)
def _small_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "MODELS", SMALL)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without measuring the machine."""
    monkeypatch.setattr(profiling, "machine_rates", lambda backend: RATES)


def run(*words: str) -> str:
    result = CliRunner().invoke(main, ["bench", *words])
    assert result.exit_code == 0, result.output
    return result.output


def test_command_prints_speed_memory_and_parity() -> None:
    output = run("--repeats", "2", "--threads", "1")
    for expected in ("htdemucs with random weights", "1 thread, numba", "as fast as it plays", "layers within 3 dB of PyTorch"):
        assert expected in output


def test_command_prints_json() -> None:
    data = json.loads(run("--repeats", "2", "--json", "-n", "demucs", "--backend", "numpy"))
    assert data["result"]["model"] == "demucs"
    assert data["result"]["backend"] == "numpy"
    assert 0 < data["result"]["fastest"] <= data["result"]["median"]
    assert data["result"]["audio"] == 0.25
    assert data["parity"]["passed"] is True
    assert data["about"]["versions"]["numpy"] == np.__version__


def test_command_fails_without_parity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demucs_np.parity.verify.LIMIT_DB", -300.0)
    result = CliRunner().invoke(main, ["bench", "--repeats", "2"])
    assert result.exit_code == 1
    assert "NO: " in result.output


def test_repeats_end_with_the_budget() -> None:
    assert speed.measure("htdemucs", repeats=50, budget=0).runs == 2


def test_golden_is_the_tests_own() -> None:
    """It is a copy of that file; when the golden files are made again, copy it again."""
    assert speed.GOLDEN.read_bytes() == (TESTS / "golden" / "ht_published.safetensors").read_bytes()


def test_peak_memory_holds_an_array() -> None:
    peak = machine.peak_memory()
    if peak is None:
        pytest.skip("this system does not tell the peak of a process's memory")
    array = np.ones(20_000_000)
    assert machine.peak_memory() >= max(peak, array.nbytes)  # type: ignore[operator]


@pytest.mark.usefixtures("rates")
def test_profile_command() -> None:
    output = run("--profile", "--repeats", "2", "--threads", "1")
    for expected in ("1 thread", "encoder.0", "crosstransformer.layers_t.1", "attention", "istft", "between operations"):
        assert expected in output
    data = json.loads(run("--profile", "--repeats", "2", "--json"))
    assert data["model"] == "htdemucs"
    assert sum(row["seconds"] for row in data["layers"]) == pytest.approx(data["seconds"])
    assert sum(row["flop"] for row in data["layers"]) == pytest.approx(sum(row["flop"] for row in data["operations"]))


@pytest.mark.parametrize("name", SMALL)
def test_both_backends_have_the_same_work(name: str) -> None:
    """What is computed follows from the operations, not from who does them; and recording changes no bit."""
    work = []
    for backend in ("numba", "numpy"):
        model = speed.seeded_model(name, backend)
        mix = speed.input_for(model)
        before = model(mix)
        with profiling.record(model) as recorded:
            during = model(mix)
        assert np.array_equal(before, during)
        assert type(model.ops) is type(operations(backend)), "the recorder is still in place"  # type: ignore[attr-defined]
        work.append([(o.path, o.label, o.flop) for o in recorded])  # `moved` holds packed weights, with their padding
    assert work[0] == work[1]


@pytest.mark.parametrize("name", SMALL)
def test_every_operation_has_its_place(name: str) -> None:
    model = speed.seeded_model(name)
    with profiling.record(model) as recorded:
        model(speed.input_for(model))
    layers = {o.layer for o in recorded}
    known = {"encoder", "decoder", "tencoder", "tdecoder", "crosstransformer", "channel_upsampler", "channel_upsampler_t", "lstm"}
    known |= {"channel_downsampler", "channel_downsampler_t", "freq_emb", *UNPLACED}
    assert {layer.partition(".")[0] for layer in layers} <= known
    assert {"encoder.0", f"decoder.{SMALL[name][1].get('depth', 4) - 1}"} <= layers
    assert all(o.moved > 0 for o in recorded)


def test_arithmetic_of_a_known_model() -> None:
    """One encoder and one decoder layer over the waveform, nothing else: 2 multiply-adds counted by hand."""
    arguments = {"sources": ["a"], "channels": 4, "depth": 1, "dconv_mode": 0, "lstm_layers": 0, "resample": False, "segment": 0.1}
    speed.MODELS["demucs"] = ("demucs.demucs.Demucs", arguments)
    try:
        model = speed.seeded_model("demucs", "numpy")
    finally:
        speed.MODELS["demucs"] = SMALL["demucs"]
    mix = speed.input_for(model)
    with profiling.record(model) as recorded:
        model(mix)
    padded = model.valid_length(mix.shape[2])
    steps = (padded - 8) // 4 + 1
    conv, rewrite, back_rewrite, back = (o.flop for o in recorded if o.flop)
    assert conv == 2 * steps * 8 * 2 * 4
    assert rewrite == 2 * steps * 4 * 8
    assert back_rewrite == 2 * steps * 3 * 4 * 8
    # as windows of two inputs for each group of four outputs, one more group than inputs
    assert back == 2 * (steps + 1) * (2 * 4) * (4 * 2)


def test_machine_rates_are_positive() -> None:
    rates = profiling.machine_rates(repeats=1)
    assert rates.flop > 1e8
    assert rates.moved > 1e7


def script(name: str, *words: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPTS / name), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_compare_with_nobody(tmp_path: Path) -> None:
    """Where no peer is installed, our own figures."""
    results = tmp_path / "results.json"
    words = ["--models", "tiny_demucs", "--threads", "1", "--rounds", "1", "--repeats", "2", "--warm-up", "1", "--pause", "0"]
    output = script("compare.py", *words, "--work", str(tmp_path), "--json", str(results))
    assert "| tiny_demucs, demucs_np |" in output
    assert len(json.loads(results.read_text())["results"][0]["times"]) == 2


def test_scaling(tmp_path: Path) -> None:
    output = script("scaling.py", "--model", "tiny_demucs", "--rounds", "1", "--work", str(tmp_path))
    assert "the same bits on every number of threads" in output


def test_track(tmp_path: Path) -> None:
    output = script("track.py", "--model", "tiny", "--minutes", "0.03", "--work", str(tmp_path), "--threads", "1")
    assert "| demucs_np" in output


def test_start_up_marks(tmp_path: Path) -> None:
    """The child of startup.py, whose marks the table is made from."""
    weights, wav = tmp_path / "tiny.safetensors", tmp_path / "short.wav"
    script("common.py", "checkpoint", str(weights), "tiny", "--half")
    script("common.py", "track", str(wav), "0.02")
    marks = json.loads(script("startup.py", "--child", str(weights), str(wav), str(tmp_path / "out"), "1").splitlines()[-1])
    assert list(marks) == ["load begins", "load ends", "first tile", "first segment"]
    assert sorted(marks.values()) == list(marks.values())


def test_bag(tmp_path: Path) -> None:
    output = script("bag.py", "--model", "tiny", "--seconds", "1", "--repeats", "1", "--threads", "1", "--work", str(tmp_path))
    assert "| vocals alone" in output


def test_stream(tmp_path: Path) -> None:
    """Quality, delay and exactness of streams, each table with the lines it should have."""
    output = script("stream.py", "quality", "--songs", "1", "--seconds", "5", "--hops", "3.5", "5", "--threads", "1")
    for line in ("SDR of 1 songs", "| 3.5 s ", "| 5 s                             |     - |", "| whole windows, running loudness |"):
        assert line in output
    words = ["--models", "tiny", "--threads", "1", "--work", str(tmp_path)]
    assert "| tiny  |   0.3 |         0.2 |" in script("stream.py", "live", "--hops", "0.3", "--lookahead", "0.2", "--seconds", "2", *words)
    assert re.search(r"tiny +\| +1 \| +176400 \| +the same bits", script("stream.py", "exact", "--seconds", "1", *words))
