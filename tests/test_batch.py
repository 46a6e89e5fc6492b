"""A library as people meet it: found, done, gone on with; lost workers, torn journals, full disks, two runs at once."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import IO

import click
import pytest
from click.testing import CliRunner, Result
from files import song

from demucs_np.batch import sharing
from demucs_np.batch.journal import open_journal, read_journals
from demucs_np.batch.library import in_shard
from demucs_np.batch.sharing import process_count
from demucs_np.batch.sources import find
from demucs_np.batch.workers import LocalWorkers
from demucs_np.commands.main import main
from demucs_np.errors import AudioError, DemucsError, UsageError
from demucs_np.jobs import Job, LostError, run_all, spread
from demucs_np.threads import default_threads

COMMAND = [sys.executable, "-m", "demucs_np", "batch"]


def run(*args: str) -> Result:
    return CliRunner().invoke(main, ["batch", *args])


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the journals."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"
    }


def records(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in sorted(out.glob("*.jsonl")) for line in path.read_text().splitlines()]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Four tracks, each another second of sound, in a tree."""
    folder = tmp_path / "library"
    (folder / "b").mkdir(parents=True)
    for number, name in enumerate(["b/one.wav", "b/two.flac", "three.wav", "four.flac"]):
        song(folder / name, samples=44100, samplerate=44100, seed=number)
    return folder


@pytest.fixture(scope="module")
def long_library(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Four tracks that take a while, and what an undisturbed run makes of them."""
    folder = tmp_path_factory.mktemp("long")
    for number in range(4):
        song(folder / f"{number}.wav", samples=44100 * 6, samplerate=44100, seed=number)
    assert run(str(folder), "-n", "demo", "-o", str(folder / "expected")).exit_code == 0
    return folder, tree(folder / "expected")


def test_a_tree_is_mirrored_and_not_done_twice(library: Path) -> None:
    out = library / "out"  # within the sources: results are no tracks
    first = run(str(library), "-o", str(out), "-n", "demo", "--flac")
    assert first.exit_code == 0, first.output
    assert "4 tracks done" in first.output
    names = [f"demo/{track}/{stem}.flac" for track in ("b/one", "b/two", "four", "three") for stem in ("bass", "drums", "other", "vocals")]
    assert sorted(tree(out)) == names
    before = tree(out)
    assert "0 tracks done" in run(str(library), "-o", str(out), "-n", "demo", "--flac").output
    (out / "demo/b/one/bass.flac").unlink()  # a file that is gone, one that is shorter, an input that is another
    (out / "demo/three/drums.flac").write_bytes(b"")
    song(library / "four.flac", samples=44100, samplerate=44100, seed=3)
    again = run(str(library), "-o", str(out), "-n", "demo", "--flac")
    assert "3 tracks done" in again.output
    assert "1 were done before" in again.output
    assert tree(out) == before
    assert "4 tracks done" in run(str(library), "-o", str(out), "-n", "demo", "--flac", "--shifts", "0").output
    assert "4 tracks done" in run(str(library), "-o", str(out), "-n", "demo", "--flac", "--shifts", "0", "--force").output


def test_all_options_of_separate_are_options_here() -> None:
    context = click.Context(main)
    separate, batch = (main.get_command(context, name) for name in ("separate", "batch"))
    assert separate is not None
    assert batch is not None
    other = {"tracks", "device", "jobs", "list_models", "page"}
    assert {option.name for option in separate.params} - other <= {option.name for option in batch.params}


def test_the_journal_says_what_was_written(library: Path) -> None:
    import hashlib

    out = library / "out"
    assert run(str(library), "-o", str(out), "-n", "demo").exit_code == 0
    found = records(out)
    assert len(found) == 4
    for record in found:
        assert record["status"] == "done"
        assert record["audio_seconds"] == pytest.approx(1.0, abs=0.001)
        files = record["files"]
        assert isinstance(files, dict)
        assert len(files) == 4
        for file in files.values():
            data = (out / file["path"]).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])


def test_failures_are_listed_and_tried_again_when_asked(library: Path) -> None:
    (library / "words.wav").write_text("these are words\n" * 20)
    args = (str(library), "-o", str(library / "out"), "-n", "demo")
    for more, tried in (((), True), ((), False), (("--retry-failed",), True)):
        done = run(*args, *more)
        assert done.exit_code == 1
        assert done.output.count("Failed: ") == 1
        assert ("words.wav: failed" in done.output) == tried
    song(library / "words.wav", samples=44100, samplerate=44100)
    assert run(*args).exit_code == 0, "another input is tried without being asked"


def test_dry_run_writes_nothing(library: Path) -> None:
    done = run(str(library), "-o", str(library / "out"), "-n", "demo", "--dry-run")
    assert done.exit_code == 0
    said = r"4 tracks to do, 0 done, 0 failed before: about 0:0[4-9] of audio, 0:\d\d of work on this machine, \d MB of results\n"
    assert re.fullmatch(said, done.output), done.output
    assert not (library / "out").exists()


def test_how_many_processes_are_fastest() -> None:
    track = 5_000_000
    assert [process_count([track] * count, 2, 9) for count in (1, 3, 4, 5, 6, 40, 41)] == [1, 1, 2, 1, 2, 2, 2]
    assert process_count([10 * track], 2, 9) == 1, "a track is not shared"
    assert process_count([track] * 8 + [20 * track], 2, 9) == 1, "a long one at the end is done on all cores"
    assert process_count([20 * track] + [track] * 20, 2, 9) == 2
    assert process_count([track] * 40, 2, 1) == 1, "there is memory for one"
    assert process_count([track] * 100, 1, 9) == 1
    assert process_count([track // 100] * 100, 2, 9) == 1, "the start of processes would count"
    assert process_count([track] * 1000, 16, 99) == 16
    assert process_count([track] * 1000, 16, 9) == 8, "as many as there is memory for, each with its share of the cores"
    assert process_count([track] * 4, 16, 99) == 4


@pytest.mark.skipif(default_threads() < 2, reason="one core has nothing to share")
def test_a_library_is_shared_among_processes(
    long_library: tuple[Path, dict[str, bytes]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, expected = long_library
    monkeypatch.setattr(sharing, "ENOUGH", 1.0)
    many = process_count([1] * 4, default_threads(), 99)
    args = [f"{folder}/*.wav", "-n", "demo", "-o", str(tmp_path / "out")]
    assert f"; by {many} processes\n" in run(*args, "--dry-run").output
    assert "processes" not in run(*args, "--dry-run", "--memory", "200MB").output
    done = run(*args)
    assert done.exit_code == 0
    assert f"4 tracks, by {many} processes; --workers 1 does one at a time.\n" in done.output
    assert tree(tmp_path / "out") == expected


def test_sources(library: Path) -> None:
    for name in (".hidden.wav", "half.wav.part", "notes.md", ".cache/x.wav"):
        (library / name).parent.mkdir(exist_ok=True)
        (library / name).touch()
    (library / "b" / "circle").symlink_to(library)
    everything = ["four.flac", "three.wav", "b/one.wav", "b/two.flac"]
    assert [track.relative for track in find([str(library)])] == everything
    assert [track.relative for track in find([f"{library}/**/*.wav"])][-2:] == ["b/one.wav", "three.wav"]
    assert [track.relative for track in find([str(library / "b" / "one.wav")])] == ["one.wav"]
    (library / "list.txt").write_text("# mine\nb/one.wav\n\nthree.wav\n")
    (library / "list.csv").write_text("track,shifts,flac\nb/one.wav,2,true\nthree.wav,,\n")
    (library / "list.jsonl").write_text('{"track": "b/one.wav", "two_stems": "vocals"}\n{"track": "three.wav"}\n')
    for name, options in (("txt", {}), ("csv", {"shifts": "2", "flac": "true"}), ("jsonl", {"two-stems": "vocals"})):
        one, three = find([str(library / f"list.{name}")])
        assert (one.relative, one.options, three.relative, three.options) == ("b/one.wav", options, "three.wav", {})


def test_rows_have_options_of_their_own(library: Path) -> None:
    (library / "list.csv").write_text("track,two-stems,mp3\nb/one.wav,vocals,yes\nthree.wav,,\n")
    out = library / "out"
    assert run(str(library / "list.csv"), "-o", str(out), "-n", "demo", "--stems", "bass").exit_code == 2
    assert run(str(library / "list.csv"), "-o", str(out), "-n", "demo").exit_code == 0
    assert sorted(tree(out)) == ["demo/b/one/no_vocals.mp3", "demo/b/one/vocals.mp3"] + [
        f"demo/three/{stem}.wav" for stem in ("bass", "drums", "other", "vocals")
    ]


BAD = [
    ("a.csv", "track,shifts\nb/one.wav,1\nthree.wav,many\n", r"a.csv, row 3: .*'many' is not a valid integer"),
    ("a.csv", "track,shits\nb/one.wav,1\n", "a.csv, row 2: there is no option 'shits'"),
    ("a.csv", "name\nb/one.wav\n", "a.csv, row 1: has no column `track`"),
    ("a.csv", "track\nb/one.wav\nb/two.flac,3\n", "a.csv, row 3: has more cells"),
    ("a.txt", "b/one.wav\nnothere.wav\n", r"a.txt, row 2: .*nothere.wav: cannot be read \(no such file"),
    ("a.jsonl", '{"track": "b/one.wav"}\n{"track"\n', "a.jsonl, row 2: is not JSON"),
    ("a.jsonl", '{"shifts": 1}\n', "a.jsonl, row 1: names no track"),
    ("a.jsonl", '{"track": "b/one.wav", "stems": ["bass"]}\n', "a.jsonl, row 1: must be an object"),
    ("a.txt", "", "a.txt: no audio files are there"),
    ("a.csv", "track,n\nb/one.wav,htdemuc\n", "a.csv, row 2: unknown model 'htdemuc'"),
    ("a.csv", "track,stems\nb/one.wav,flute\n", 'a.csv, row 2: stem "flute" is not in this model'),
    ("a.csv", "track,rate\nb/one.wav,5\n", "a.csv, row 2: the rate of the files is 5"),
    ("a.csv", "track,segment\nb/one.wav,500\n", "a.csv, row 2: a segment of 500.0 seconds is longer"),
    ("a.csv", "track,filename\nb/one.wav,{foo}\n", 'a.csv, row 2: "{foo}" is not a name for the files'),
    ("a.csv", "track,two-stems,stems\nb/one.wav,vocals,bass\n", "a.csv, row 2: .*"),
    ("a.csv", 'track,shifts\n"b/one.wav,1\n', "a.csv, row 2: is not CSV"),
    ("a.csv", "track,flac\nb/one.wav,maybe\n", "a.csv, row 2: flac is 'maybe', but must be true or false"),
]


@pytest.mark.parametrize(("name", "text", "expected"), BAD)
def test_bad_manifests_are_one_line(library: Path, name: str, text: str, expected: str) -> None:
    (library / name).write_text(text)
    done = run(str(library / name), "-o", str(library / "out"), "-n", "demo")
    assert done.exit_code in (1, 2)
    assert len(done.output.strip().splitlines()) == 1
    assert re.search(expected, done.output), done.output
    assert not tree(library / "out")


def test_two_tracks_that_would_write_one_file(library: Path) -> None:
    song(library / "b" / "one.flac", samples=44100, samplerate=44100)
    for more in ((), ("--shard", "1/2"), ("--shard", "2/2")):
        done = run(str(library), "-o", str(library / "out"), "-n", "demo", *more)
        assert done.exit_code == 2
        (line,) = done.output.strip().splitlines()
        assert "one.wav: its stems would overwrite those of" in line
    assert run(str(library), "-o", str(library / "out"), "-n", "demo", "--filename", "{track}.{trackext}/{stem}.{ext}").exit_code == 0


def test_a_track_that_is_named_twice(library: Path) -> None:
    args = ("-o", str(library / "out"), "-n", "demo", "--dry-run")
    assert run(str(library), str(library), *args).output.startswith("4 tracks to do")
    (library / "a.csv").write_text("track,shifts\nthree.wav,1\nthree.wav,2\n")
    done = run(str(library / "a.csv"), *args)
    assert done.exit_code == 2
    (line,) = done.output.strip().splitlines()
    assert re.fullmatch(r"Error: a.csv, row 3: .*three.wav is there twice, with other options but the same files; keep one", line)


def test_other_bad_input(library: Path, tmp_path: Path) -> None:
    for args, expected in (
        (["nothere"], "Error: nothere: cannot be read (no such file or directory)\n"),
        ([str(library), "--shard", "0/2"], 'Error: --shard 0/2: must be I/N with I from 1 to N, as in "1/8"\n'),
        ([str(library), "-n", "htdemux"], "Error: unknown model 'htdemux': did you mean htdemucs?"),
        ([str(library), "--stems", "flute"], "Error: "),
        ([str(library), "--ship-weights"], "--ship-weights is for --dask"),
        (["https+x://a/b"], "Error: https+x://a/b: fsspec has no file system for https+x://"),
    ):
        done = run(*args, "-o", str(tmp_path / "out"), *([] if "-n" in args else ["-n", "demo"]))
        assert done.exit_code in (1, 2)
        assert expected in done.output
        assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["in", "--dask", "local"], 'Error: --dask needs Dask; install it with `pip install "demucs-np[cluster]"`'),
        (["s3://a/b"], 'Error: s3://a/b: addresses need fsspec; install it with `pip install "demucs-np[remote]"`'),
    ],
)
def test_extras_that_are_missing_are_named(library: Path, args: list[str], expected: str) -> None:
    code = "import sys; sys.modules['fsspec'] = sys.modules['dask'] = None; from demucs_np.commands.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "batch", *args, "-n", "demo"], cwd=library, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (2, expected)


@pytest.mark.parametrize("count", [1, 3, 16])
def test_shards_are_disjoint_and_complete(count: int) -> None:
    names = [f"album {number // 10}/{number}.mp3" for number in range(1000)]
    parts = [[name for name in names if in_shard(name, (part, count))] for part in range(1, count + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert min(map(len, parts)) > 500 / count


def test_shards_merge(library: Path) -> None:
    out = library / "out"
    for part in ("1/3", "2/3", "3/3"):
        assert run(str(library), "-o", str(out), "-n", "demo", "--shard", part).exit_code == 0
    assert len(records(out)) == 4
    done = run(str(library), "-o", str(out), "-n", "demo")
    assert "0 tracks done" in done.output
    assert "4 were done before" in done.output


def line(key: str, **more: object) -> dict[str, object]:
    return {"key": key, "status": "done", "at": 1.0, **more}


def test_a_torn_line_does_no_harm(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path))
    for key in "ab":
        journal.append(line(key))
    journal.close()
    path = tmp_path / "demucs-np.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        journal = open_journal(str(tmp_path))
        journal.append(line("c"))
        journal.close()
        kept = [key for key, end in zip("ab", (len(whole) // 2 - 1, len(whole) - 1), strict=True) if cut >= end]
        assert list(read_journals(str(tmp_path))) == [*kept, "c"], cut


def test_the_latest_line_counts(tmp_path: Path) -> None:
    for shard, at, status in (((1, 2), 2.0, "failed"), ((2, 2), 3.0, "done"), (None, 1.0, "failed")):
        journal = open_journal(str(tmp_path), shard)
        journal.append(line("a", at=at, status=status))
        journal.close()
    assert read_journals(str(tmp_path))["a"]["status"] == "done"


def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    journal = open_journal(str(tmp_path))
    with pytest.raises(UsageError, match="another run writes it"):
        open_journal(str(tmp_path))
    open_journal(str(tmp_path), (1, 2)).close()
    journal.close()
    open_journal(str(tmp_path)).close()


def double(number: int) -> int:
    return 2 * number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def die_once(path: str) -> str:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return path


def test_a_task_that_kills_its_worker_twice_has_failed(tmp_path: Path) -> None:
    with LocalWorkers(2) as workers:
        done = dict(spread(die_at_three, range(8), workers, 2))
        assert {number: value for number, value in done.items() if number != 3} == {
            number: 2 * number for number in range(8) if number != 3
        }
        assert isinstance(done[3], LostError)
        once = str(tmp_path / "once")
        assert list(spread(die_once, [once], workers, 2)) == [(once, once)]


def value_of(name: str) -> str | None:
    return os.environ.get(name)


def test_workers_have_the_environment_of_their_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the moment in which they begin, though the process that they are forked off began before."""
    for value in ("1", "2"):
        monkeypatch.setenv("DEMUCS_NP_TESTED", value)
        before = dict(os.environ)
        with LocalWorkers(1) as workers:
            assert dict(os.environ) == before
            assert list(spread(value_of, ["DEMUCS_NP_TESTED"], workers, 1)) == [("DEMUCS_NP_TESTED", value)]
            blas = "OPENBLAS_NUM_THREADS"
            assert list(spread(value_of, [blas], workers, 1)) == [(blas, os.environ.get(blas))]


def test_a_worker_that_is_lost_between_tasks_is_replaced() -> None:
    with LocalWorkers(1) as workers:
        assert list(spread(double, [1], workers, 1)) == [(1, 2)]
        os.kill(workers.processes[0], signal.SIGKILL)
        assert list(spread(double, [2], workers, 1)) == [(2, 4)]


@pytest.fixture(params=["here", "threads", "processes", "workers"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    if request.param == "here":
        yield None
        return
    with {
        "threads": lambda: ThreadPoolExecutor(2),
        "processes": lambda: ProcessPoolExecutor(2, get_context("spawn")),
        "workers": lambda: LocalWorkers(2),
    }[request.param]() as made:
        yield made


def test_jobs_run_on_any_executor(library: Path, executor: Executor | None) -> None:
    jobs = [Job(track.address, str(library / "out"), "demo", threads=1) for track in find([str(library)])]
    results = {result.job: result for result in run_all([*jobs, Job("nothere.wav", "out", "demo")], executor, window=2)}
    assert [results[job].status for job in jobs] == ["done"] * 4
    assert [result.error for result in results.values() if result.status == "failed"] == [
        "nothere.wav: cannot be read (no such file or directory); if the path contains spaces, put quotes around it"
    ]


def begun(command: list[str]) -> tuple[subprocess.Popen[str], IO[str]]:
    """The command when it has done the first track of four, and what it says on standard error."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "[1/4]" in process.stderr.readline()
    return process, process.stderr


def workers_of(pid: int) -> list[int]:
    """By what Linux tells: children of the process that forks, which is a child of the client."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if b"multiprocessing.forkserver" in (entry / "cmdline").read_bytes():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [worker for worker, parent in parents.items() if parents.get(parent) == pid]


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is needed to find the workers")


@linux
def test_a_killed_worker_loses_nothing(long_library: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = long_library
    command = [*COMMAND, f"{folder}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--workers", "2"]
    process, errors = begun(command)
    with process:
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        rest = errors.read()
    assert process.returncode == 0, rest
    assert "4 tracks done" in rest
    assert len(records(tmp_path / "out")) == 4
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_one_process_that_is_killed_goes_on(long_library: tuple[Path, dict[str, bytes]], tmp_path: Path, number: signal.Signals) -> None:
    """The second track is in work, and the first has just been written beside it."""
    folder, expected = long_library
    command = [*COMMAND, f"{folder}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--threads", "1"]
    process, errors = begun(command)
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 130)
    assert time.monotonic() - began < 2
    errors.close()
    if number == signal.SIGINT:
        assert tree(tmp_path / "out") == {name: data for name, data in expected.items() if name.startswith("demo/0/")}
    assert [record["track"] for record in records(tmp_path / "out")] == ["0.wav"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "3 tracks done" in done.stderr
    assert tree(tmp_path / "out") == expected


@linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_is_killed_goes_on(long_library: tuple[Path, dict[str, bytes]], tmp_path: Path, number: signal.Signals) -> None:
    folder, expected = long_library
    command = [*COMMAND, f"{folder}/*.wav", "-o", str(tmp_path / "out"), "-n", "demo", "--workers", "2"]
    process, errors = begun(command)
    time.sleep(0.3)
    workers = workers_of(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    assert process.wait() == (-9 if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its client"
        time.sleep(0.02)
    if number == signal.SIGINT:
        assert set(tree(tmp_path / "out")) <= set(expected), "an interruption tidies up"
    errors.close()
    before = len(records(tmp_path / "out"))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{4 - before} tracks done" in done.stderr
    assert tree(tmp_path / "out") == expected


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("mount"):
        pytest.skip("root, which may mount a small disk")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this system mounts no tmpfs")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["here", "workers"])
def test_a_full_disk_stops_the_run_and_the_next_goes_on(library: Path, small_disk: Path, workers: list[str]) -> None:
    """Room for the files of one track and what another needs meanwhile, not for two."""
    args = [f"{library}/**/*.*", "-o", str(small_disk), "-n", "demo", "--float32", "--stems", "bass", "--threads", "1", *workers]
    first = run(*args)
    assert first.exit_code == 1
    assert "no space left on device" in first.output
    assert "free some space and run it again" in first.output
    assert all(record["status"] == "done" for record in records(small_disk))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    second = run(*args)
    assert second.exit_code == 0
    assert f"{4 - int(second.output.split(' were done before')[0].split()[-1])} tracks done" in second.output
    assert sorted(tree(small_disk)) == [f"demo/{track}/bass.wav" for track in ("b/one", "b/two", "four", "three")]


def test_where_nothing_can_be_written(library: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AudioError, match="cannot be written"):
        open_journal(str(tmp_path / "file" / "out"))
    with pytest.raises(DemucsError):
        list(find([str(tmp_path / "nothing")]))
