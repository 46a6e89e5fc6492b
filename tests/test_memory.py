"""Memory: what a pass will take is known before it runs, what is free is read from the system, and segments are cut to fit."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile

from demucs_np import Separator, Stream, load_model, machine
from demucs_np.errors import AudioWarning, UsageError
from demucs_np.inspection.speed import MODELS
from demucs_np.kernels.arena import Arena, PlannedArena
from demucs_np.machine import free_memory, parse_size
from demucs_np.models.bag import BagOfModels
from demucs_np.models.config import config_from_arguments
from demucs_np.models.hdemucs import HDemucs
from demucs_np.models.late import LateModel, outline
from demucs_np.models.layout import expected_tensors
from demucs_np.operations import planning
from demucs_np.operations.compiled import use_arena
from demucs_np.operations.planning import arena_peak
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.separation import fitting
from demucs_np.separation.apply import Options
from demucs_np.weights.convert import write_model
from demucs_np.weights.formats.checkpoint import ModelFile
from demucs_np.weights.formats.stored import Stored

GOLDENS = sorted((Path(__file__).parent / "golden").glob("*.safetensors"))
LARGE = {"channels": 16, "segment": 44}  # of its pass at 44 s, 200 MB


def hdemucs(seed=0, **arguments):
    """(configuration, tensors) of a small model."""
    config = config_from_arguments("demucs.hdemucs.HDemucs", (), {"sources": ["drums", "vocals"], **arguments})
    return config, draw_tensors(seed, expected_tensors(config))


def write(path, seed=0, **arguments):
    """Such a model's file."""
    config, tensors = hdemucs(seed, **arguments)
    stored = {name: Stored("F32", tensor) for name, tensor in tensors.items()}
    write_model(path, ModelFile(path, config, [], {"sources": ["drums", "vocals"], **arguments}, stored))


@pytest.fixture(scope="module")
def bag():
    return BagOfModels([HDemucs(*hdemucs(channels=4, segment=44), "numba")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Model files, a bag of them, and a song of 50 s."""
    path = tmp_path_factory.mktemp("memory")
    write(path / "large.safetensors", **LARGE)
    for seed in range(2):
        write(path / f"member{seed}.safetensors", seed, channels=24, segment=3)
    (path / "bag.yaml").write_text("models: [member0, member1]\nweights: [[1, 2], [3, 1]]\n")
    noise = 0.1 * np.random.default_rng(0).standard_normal((50 * 44100, 2), np.float32)
    soundfile.write(path / "song.wav", noise, 44100)
    return path


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_what_a_pass_takes_is_known_before_it_runs(path):
    golden = load_golden(path)
    model, arena = seeded_model(golden, "numba"), Arena()
    planned = arena_peak(model, golden.mix.shape[-1])
    with use_arena(arena):
        model(golden.mix)
    assert planned == arena.peak


@pytest.mark.parametrize(("name", "most"), [("hdemucs", 1.05), ("demucs", 1.01)])
def test_buffers_lie_where_they_leave_little_unused(name, most):
    """Of the published configurations, beside what is in use at once."""
    klass, arguments = MODELS[name]
    model = outline(config_from_arguments(klass, (), arguments))
    size = high = 0

    class Counting(PlannedArena):
        def take(self, *shape):
            nonlocal size, high
            array = super().take(*shape)
            size += 4 * array.size
            high = max(high, size)
            return array

        def give(self, array):
            nonlocal size
            size -= 4 * array.size
            super().give(array)

    with mock.patch.object(planning, "PlannedArena", Counting), mock.patch.object(planning, "_plans", {}):
        plan = planning.plan_of(model, model.valid_length(44 * 44100))
    assert high <= 4 * plan.size <= most * high


def test_plans_take_no_memory_and_leave_the_model_as_it_was(bag):
    before = machine.resident_memory()
    assert arena_peak(bag.only, 200 * 44100) > 150e6
    assert machine.resident_memory() - before < 80e6  # the table that the inverse STFT needs
    assert type(bag.only.ops).__name__ == "CompiledOperations"


@pytest.mark.parametrize(
    ("text", "size"), [("2GB", 2e9), ("1500 MB", 1.5e9), ("1.5GiB", 1.5 * 2**30), ("500mb", 5e8), ("3g", 3e9), ("700Mi", 700 * 2**20)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "2", "GB", "-1GB", "0GB", "2 GBit", "1e3MB", "2GB 1MB", "nan GB"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError, match=re.escape(f'"{text}" is no size of memory: write a number with its unit')):
        parse_size(text)


def system(root, files):
    """A folder in place of /, with these files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 9000000 kB\nMemFree: 1 kB\nMemAvailable: 8000000 kB\n"}
V2, V1 = "sys/fs/cgroup/", "sys/fs/cgroup/memory/"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 8_000_000 * 1024),
        ({"proc/self/cgroup": "0::/\n"}, 8_000_000 * 1024),
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "max\n", V2 + "memory.current": "5\n"}, 8_000_000 * 1024),
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "3000\n", V2 + "memory.current": "500\n"}, 2500),
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "3000\n", V2 + "memory.high": "2000\n", V2 + "memory.current": "500\n"}, 1500),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                V2 + "a/memory.max": "1000\n",
                V2 + "a/memory.current": "400\n",
                V2 + "a/memory.stat": "anon 100\ninactive_file 250\nactive_file 7\n",
                V2 + "a/b/memory.max": "max\n",
                V2 + "a/b/memory.current": "300\n",
            },
            850,
        ),
        ({"proc/self/cgroup": "0::/as/seen/outside\n", V2 + "memory.max": "1000\n", V2 + "memory.current": "400\n"}, 600),
        ({"proc/self/cgroup": "0::/\n", V2 + "memory.max": "1000\n", V2 + "memory.current": "1400\n"}, 0),
        (
            {
                "proc/self/cgroup": "9:cpu,cpuacct:/x\n5:memory:/docker/c\n1:name=systemd:/\n0::/\n",
                V1 + "memory.limit_in_bytes": "9223372036854771712\n",
                V1 + "docker/c/memory.limit_in_bytes": "7000\n",
                V1 + "docker/c/memory.usage_in_bytes": "6000\n",
                V1 + "docker/c/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n",
            },
            1500,
        ),
        ({"proc/self/cgroup": "5:memory:/docker/c\n", V1 + "memory.limit_in_bytes": "7000\n", V1 + "memory.usage_in_bytes": "10\n"}, 6990),
    ],
)
def test_what_is_free(tmp_path, monkeypatch, files, free):
    monkeypatch.setattr(machine, "address_space", lambda: None)
    assert free_memory(system(tmp_path, MEMINFO | files)) == free


def test_a_system_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "address_space", lambda: None)
    assert free_memory(tmp_path) is None


def test_the_longest_segment_that_fits(bag, monkeypatch):
    options = Options()
    whole, half = (fitting.needed(bag, dataclasses.replace(options, segment=seconds), 2) for seconds in (44, 22))
    held = 0

    def fit(free, **how):
        monkeypatch.setattr(fitting, "free_memory", lambda: free - held)
        return fitting.fitted(bag, Options(**how), 2, None)

    with use_arena(Arena()):
        assert fit(whole + 1) == (options, "")
        fitted, line = fit(half)
        assert 21 <= fitted.segment <= 22
        assert fitting.needed(bag, fitted, 2) <= half
        assert re.fullmatch(
            rf"segments of {fitted.segment:g} s instead of 44 s, which need \d+ MB of memory: \d+ MB are free; "
            "--memory sets another limit, --segment another length",
            line,
        )
        with pytest.raises(UsageError, match=r"^there is not enough memory: segments of 44 s need \d+ MB, .*; --segment 2[12] would fit"):
            fit(half, segment=44)
        with pytest.raises(UsageError, match=r"even those of 2 s do not fit; free .*, or go on all the same with --memory "):
            fit(1e6)
        assert fit(half, segment=10)[0].segment == 10


def test_the_limit_counts_what_the_process_has(bag):
    rest = fitting.needed(bag, Options(segment=22), 2)
    with use_arena(Arena()):
        options, line = fitting.fitted(bag, Options(), 2, machine.resident_memory() + int(rest))
    assert 15 <= options.segment <= 30  # what the process has changes a little by asking
    assert "are left of --memory beside the loaded model" in line


def test_a_fixed_segment_is_refused(monkeypatch):
    golden = load_golden(next(path for path in GOLDENS if path.stem == "ht_published"))
    model = BagOfModels([seeded_model(golden, "numba")])
    monkeypatch.setattr(fitting, "free_memory", lambda: 1000)
    with use_arena(Arena()), pytest.raises(UsageError, match=r"and this model takes no shorter ones; free .*, or go on all the same with "):
        fitting.fitted(model, Options(), 2, None)


def test_what_is_not_compiled_is_not_limited(monkeypatch):
    monkeypatch.setattr(fitting, "free_memory", lambda: 1000)
    model = BagOfModels([HDemucs(*hdemucs(channels=4, segment=44), "numpy")])
    assert fitting.fitted(model, Options(), 2, None) == (Options(), "")


def test_separator_takes_a_size():
    assert Separator("demo", memory="1.5GB").memory == 1_500_000_000
    with pytest.raises(UsageError, match="is no size"):
        Separator("demo", memory="much")


def test_the_longest_window_of_a_stream_that_fits(bag, monkeypatch):
    def start(free, **how):
        monkeypatch.setattr(fitting, "free_memory", lambda: free)
        with use_arena(Arena()):
            return Stream(bag, stems=["vocals"], **how)

    def need(seconds, ratio=1.0, **how):
        cuts = start(1e12, **how)._cuts
        return fitting.needed_live(bag, cuts.windows(seconds), 1, ratio)

    assert start(need(None) + 1).delay == 44
    with pytest.warns(AudioWarning, match=r"^segments of 2[12] s instead of 44 s, which need \d+ MB of memory: \d+ MB are free; --memory"):
        assert 21 <= start(need(22)).delay <= 22
    low = {"hop": 2.5, "lookahead": 0.5}
    assert start(need(None, **low) + 1, **low).delay == 3
    with pytest.warns(AudioWarning, match=r"^segments of [56] s instead of 10 s"):
        assert start(need(6, **low), **low).delay == 3
    with pytest.raises(UsageError, match=r"^there is not enough memory: segments of 10 s need .*, and even those of 3 s do not fit; free "):
        start(1e6, **low)
    with pytest.raises(UsageError, match=r"^there is not enough memory: segments of 30 s need .*; --segment 1[345] would fit$"):
        start(need(15), segment=30)
    assert need(None, ratio=4.0) > need(None) + 3 * 2 * 4 * 2 * 30 * 44100  # what goes out at four times the rate
    demo = load_model("demo")
    monkeypatch.setattr(fitting, "free_memory", lambda: 1000)
    with use_arena(Arena()), pytest.raises(UsageError, match=r"and this model takes no shorter ones; free .*, or go on all the same with "):
        Stream(demo)


def test_models_of_a_bag_are_opened_in_turn_where_there_is_not_the_memory_for_all(folder):
    bag = folder / "bag.yaml"
    lines = []
    together = load_model(bag, report=lines.append)
    assert lines == []
    in_turn = load_model(bag, report=lines.append, memory=1)
    assert lines == [f"{bag}: there is not the memory for 2 models at once; each is opened when its turn comes"]
    assert [type(model) for model in in_turn.models] == [LateModel] * 2
    noise = 0.1 * np.random.default_rng(1).standard_normal((2, 5 * 44100), np.float32)
    _, expected = Separator(together, stems=["vocals"]).separate_array(noise, 44100)
    _, found = Separator(in_turn, stems=["vocals"]).separate_array(noise, 44100)
    assert np.array_equal(found["vocals"], expected["vocals"])
    opened = [model.opened() for model in in_turn.models]
    assert in_turn.models[1].turn.size == in_turn.models[1].size > 0
    assert all(a.encoder[0].conv.packed.nbytes for a in opened)
    for late, network in zip(in_turn.models, opened, strict=True):
        assert 0 <= packed_bytes(network) - late.size <= 3e5  # norms, scales


def packed_bytes(model):
    """Of all arrays that a model holds."""
    arrays = {}

    def visit(value):
        if isinstance(value, np.ndarray):
            arrays[id(value)] = value.nbytes
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            for item in vars(value).values():
                visit(item)

    visit(model)
    return sum(arrays.values())


# Linux begins `ru_maxrss` of a child with that of its parent: the process itself tells its peak.
COMMAND = """
import atexit, runpy, sys
from demucs_np.machine import peak_memory
atexit.register(lambda: print("peak", int(peak_memory()), file=sys.stderr))
runpy.run_module("demucs_np", run_name="__main__")
"""


def run(folder, *options, limit="", out=None, model="large.safetensors"):
    """(exit status, lines on standard error, peak in bytes) of the command, its song in `folder`."""
    out = folder / "out" if out is None else out
    words = ["-n", str(folder / model), "--shifts", "0", "-o", str(out), *options, str(folder / "song.wav")]
    return finished(f"{limit}{shlex.join([sys.executable, '-c', COMMAND, *words])} > {os.devnull}")


def pipe(folder, *options, limit=""):
    """The same of a stream of the song, and how many samples came out."""
    words = ["stream", "-n", str(folder / "large.safetensors"), "--wav", "--stems", "vocals", *options]
    command = f"{shlex.join([sys.executable, '-c', COMMAND, *words])} < {folder / 'song.wav'} > {folder / 'out.wav'}"
    status, errors, peak = finished(limit + command)
    return status, errors, peak, (os.path.getsize(folder / "out.wav") - 44) // 4


def finished(line):
    done = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
    *errors, last = done.stderr.splitlines()
    return done.returncode, [line for line in errors if line.startswith(("Error:", "Note:")) or "at once" in line], int(last[5:])


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of processes are Linux's")
def test_the_command_keeps_within_its_memory(folder):
    status, errors, peak = run(folder, "--memory", "8GB")
    assert (status, errors) == (0, [])
    for less in (50e6, 100e6):
        status, errors, lower = run(folder, "--memory", f"{(peak - less) / 1e6:.0f}MB")
        assert status == 0
        (line,) = errors
        assert re.match(r"Note: .*song\.wav: segments of \d+ s instead of 44 s, .*; --memory sets another limit", line)
        assert lower <= peak - less


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit is Linux's")
def test_memory_that_runs_out(folder, tmp_path):
    """`--memory` says that there is more than `ulimit -v` gives."""
    status, errors, _ = run(
        folder, "--memory", "8GB", "-o", str(tmp_path / "none"), limit="export OPENBLAS_NUM_THREADS=1; ulimit -v 800000; "
    )
    assert status == 1
    (line,) = errors
    assert re.fullmatch(
        r"Error: .*song\.wav: there is not enough memory: segments of 44 s need \d+ MB beside the loaded model, --segment 11 \d+ MB; "
        r"choose shorter ones, free some, or lift the limit \(`ulimit -v`\)",
        line,
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of processes are Linux's")
def test_a_stream_keeps_within_its_memory(folder):
    status, errors, peak, count = pipe(folder, "--memory", "8GB")
    assert (status, errors, count) == (0, [], 50 * 44100)
    less = 100e6
    status, errors, lower, count = pipe(folder, "--memory", f"{(peak - less) / 1e6:.0f}MB")
    assert (status, count) == (0, 50 * 44100)
    (line,) = errors
    assert re.match(
        r"Note: segments of \d+ s instead of 44 s, .* are left of --memory beside the loaded model; --memory sets another", line
    )
    assert lower <= peak - less
    status, errors, _, _ = pipe(folder, "--memory", "50MB")
    assert status == 2
    assert re.fullmatch(
        r"Error: there is not enough memory: segments of 44 s need .*, and even those of 2 s do not fit; --memory .* would do", *errors
    )


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit is Linux's")
def test_a_stream_and_ulimit(folder):
    """By itself it takes what there is; told that there is more, it ends with a line."""
    limit = "export OPENBLAS_NUM_THREADS=1; ulimit -v 800000; "
    status, errors, _, count = pipe(folder, "--threads", "1", limit=limit)
    assert (status, count) == (0, 50 * 44100)
    assert re.match(r"Note: segments of \d+ s instead of 44 s, .* are free; --memory sets another limit", *errors)
    status, errors, _, _ = pipe(folder, "--memory", "8GB", "--threads", "1", limit=limit)
    assert status == 2
    assert re.fullmatch(
        r"Error: there is not enough memory: segments of 44 s need \d+ MB beside the loaded model, --segment 11 \d+ MB; .*", *errors
    )


@pytest.mark.skipif(sys.platform != "linux", reason="peaks of processes are Linux's")
def test_a_bag_keeps_within_its_memory(folder):
    """Its models in turn before its segments are shorter."""
    status, errors, peak = run(folder, "--memory", "8GB", "--duration", "5", model="bag.yaml")
    assert (status, errors) == (0, [])
    whole = {path: path.read_bytes() for path in (folder / "out" / "bag").rglob("*.wav")}
    # Where nothing fits it says what would do: that is reckoned, while a peak is measured lower where the machine is short of memory.
    status, errors, _ = run(folder, "--memory", "50MB", "--duration", "5", model="bag.yaml")
    turns = f"{folder / 'bag.yaml'}: there is not the memory for 2 models at once; each is opened when its turn comes"
    assert status == 1
    assert errors[0] == turns
    enough = int(re.fullmatch(r"Error: .*; --memory (\d+)MB would do", errors[1])[1])
    status, errors, lower = run(folder, "--memory", f"{enough}MB", "--duration", "5", model="bag.yaml")
    assert (status, errors) == (0, [turns])
    assert lower <= enough * 1e6
    assert lower <= peak - 25e6  # of 108 MB that the weights of each have
    assert whole
    assert all(path.read_bytes() == content for path, content in whole.items())
