"""The command, as people meet it: options, files, messages, exit statuses."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from fakes import SOURCES, FakeModel
from files import BAD, float_wav, song

import demucs_np
import demucs_np.weights
from demucs_np import BagOfModels, Event, __version__
from demucs_np.commands.main import COMMANDS, main
from demucs_np.commands.terminal import Bar, clock
from demucs_np.jobs import forget_models

FAKE_COMMAND = """
import sys, time
sys.path.insert(0, sys.argv.pop(1))
from fakes import FakeModel
import demucs_np
import demucs_np.weights
model = FakeModel()
model.before = lambda: time.sleep(0.15)
demucs_np.weights.load_model = lambda *_, **__: model
from demucs_np.commands.main import COMMANDS, main
main()
"""


class Loader:
    """Stands for load_model."""

    def __init__(self) -> None:
        self.model: Any = FakeModel(gain=0.1)  # its stems do not clip
        self.asked: list[tuple[object, ...]] = []

    def __call__(self, name: str, *, repo: Path | None, backend: str, memory: int | None) -> Any:
        self.asked.append((name, repo, backend))
        return self.model


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    fake = Loader()
    monkeypatch.setattr(demucs_np.weights, "load_model", fake)
    forget_models()
    yield fake
    forget_models()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    song(tmp_path / "song.wav")
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def files(folder: Path | str = "separated") -> set[str]:
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def stems(track: str = "song", names: tuple[str, ...] = SOURCES, ext: str = "wav") -> set[str]:
    return {f"htdemucs/{track}/{name}.{ext}" for name in names}


# ---- what is written


@pytest.mark.parametrize("word", [["separate"], []])
def test_a_song_as_with_demucs(loader: Loader, word: list[str]) -> None:
    result = run(*word, "song.wav")
    assert (result.exit_code, result.stderr) == (0, "")
    assert files() == stems()
    assert loader.asked == [("htdemucs", None, "numba")]
    assert soundfile.info("separated/htdemucs/song/bass.wav").subtype == "PCM_16"


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("args", "ext", "subtype"),
    [
        (["--int24"], "wav", "PCM_24"),
        (["--float32"], "wav", "FLOAT"),
        (["--flac"], "flac", "PCM_16"),
        (["--flac", "--int24"], "flac", "PCM_24"),
        (["--mp3", "--mp3-bitrate", "128", "--mp3-preset", "5"], "mp3", "MPEG_LAYER_III"),
    ],
)
def test_formats(loader: Loader, args: list[str], ext: str, subtype: str) -> None:
    loader.model = FakeModel(samplerate=16000, gain=0.1)
    result = run(*args, "song.wav")
    assert (result.exit_code, result.stderr) == (0, "")
    assert files() == stems(ext=ext)
    assert soundfile.info(f"separated/htdemucs/song/bass.{ext}").subtype == subtype


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("args", "names"),
    [
        (["--two-stems", "vocals"], ("vocals", "no_vocals")),
        (["--two-stems=vocals", "--other-method", "minus"], ("vocals", "minus_vocals")),
        (["--two-stems=vocals", "--other-method", "none"], ("vocals",)),
        (["--stems", "bass, drums"], ("bass", "drums")),
    ],
)
def test_which_stems(args: list[str], names: tuple[str, ...]) -> None:
    assert run("song.wav", *args).exit_code == 0
    assert files() == stems(names=names)


@pytest.mark.usefixtures("loader")
def test_where_to(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(folder / "hub"))
    bag = folder / "hub/models--me--Demucs-mine/snapshots/main/mine.yaml"
    bag.parent.mkdir(parents=True)
    bag.write_text("models: [one]")
    assert run("-o", "a/b", "-n", "hf://me/mine", "--filename", "{stem}/{track}-{trackext}.{ext}", "song.wav").exit_code == 0
    assert files("a/b") == {f"me_mine/{name}/song-wav.wav" for name in SOURCES}


def test_a_model_from_a_file_names_its_folder(loader: Loader) -> None:
    Path("mine.safetensors").write_text("")
    assert run("-n", "./mine.safetensors", "--backend", "numpy", "song.wav").exit_code == 0
    assert files() == {f"mine/song/{name}.wav" for name in SOURCES}
    assert loader.asked == [("./mine.safetensors", None, "numpy")]


def test_same_seed_same_files(loader: Loader) -> None:
    loader.model = FakeModel()  # so loud that clip modes differ
    assert "Note: song.wav: against clipping, bass (1." in run("song.wav").stderr

    def bass(*args: str) -> bytes:
        assert run(*args, "song.wav").exit_code == 0
        return Path("separated/htdemucs/song/bass.wav").read_bytes()

    assert bass() == bass("--threads", "3") == bass("--seed", "0")
    assert len({bass(), bass("--seed", "1"), bass("--shifts", "0"), bass("--shifts", "2"), bass("--overlap", "0.5")}) == 5
    assert len({bass(), bass("--no-split"), bass("--segment", "0.3"), bass("--clip-mode", "clamp"), bass("--clip-mode", "tanh")}) == 5


def test_what_is_written_and_how(loader: Loader) -> None:
    loader.model = FakeModel(gain=0.1)
    result = run("--no-model-folder", "--residual", "--rate", "original", "--start", "0:00.5", "--duration", "0.25", "song.wav")
    assert (result.exit_code, result.stderr) == (0, "")
    assert files() == {f"song/{name}.wav" for name in (*SOURCES, "residual")}
    assert soundfile.info("separated/song/residual.wav").frames == 250
    before = len(loader.model.calls)
    assert run("--tta", "song.wav").exit_code == 0
    assert len(loader.model.calls) - before > 2 * 3


@pytest.mark.usefixtures("loader")
def test_options_for_compatibility() -> None:
    result = run("-j", "4", "-d", "cuda", "song.wav")
    assert (result.exit_code, result.stderr) == (0, "")


# ---- what goes wrong


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_track_fails_and_the_others_are_done(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    Path(name).write_bytes(BAD[name][0])
    song(Path("other.wav"))
    result = run("song.wav", name, "missing.wav", ".", "other.wav")
    assert result.exit_code == 1
    assert files() == stems() | stems("other")
    lines = result.stderr.splitlines()
    assert lines[0] == "Error: missing.wav: cannot be read (no such file or directory); if the path contains spaces, put quotes around it"
    assert lines[1] == "Error: .: is a folder, not an audio file; name the files in it"
    assert lines[2].startswith(f"Error: {name}: ")
    assert lines[3:] == ["3 of 5 tracks failed."]


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("special", "text"),
    [
        ((float("nan"),), "Error: bad.wav: sample 100 (0.100 s) of channel 1 is nan; repair the file or export it again\n"),
        ((float("inf"),), "Error: bad.wav: sample 100 (0.100 s) of channel 1 is inf; repair the file or export it again\n"),
    ],
)
def test_bad_samples(special: tuple[float, ...], text: str) -> None:
    float_wav(Path("bad.wav"), *special)
    result = run("bad.wav")
    assert (result.exit_code, result.output) == (1, text)


@pytest.mark.usefixtures("loader")
def test_one_sample() -> None:
    soundfile.write("one.wav", np.zeros((1, 2)), 1000)
    result = run("one.wav")
    assert (result.exit_code, result.output) == (1, "Error: one.wav: has 1 samples at 1000 Hz, too few to be separated\n")


@pytest.mark.usefixtures("loader")
def test_the_folder_of_a_track_can_name_its_stems() -> None:
    for disc in ("disc1", "disc2"):
        Path(disc).mkdir()
        song(Path(disc, "01.wav"))
    assert run("--filename", "{parent}/{track}/{stem}.{ext}", "disc1/01.wav", "disc2/01.wav").exit_code == 0
    assert files() == stems("disc1/01") | stems("disc2/01")


@pytest.mark.usefixtures("loader")
def test_a_failed_track_keeps_no_name_from_the_next() -> None:
    Path("song.jpg").write_bytes(b"\xff\xd8\xff\xe0 picture")
    Path("song.lrc").write_text("[00:01] words")
    result = run("song.jpg", "song.lrc", "song.wav")
    assert result.exit_code == 1
    assert [line.split(":")[1] for line in result.stderr.splitlines()[:-1]] == [" song.jpg", " song.lrc"]
    assert files() == stems()


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize("name", ["...wav", "..wav"])
def test_names_of_dots_stay_in_the_folder_of_the_model(name: str) -> None:
    song(Path("song.wav")).rename(name)
    assert run(name).exit_code == 0
    assert files(".") == {name} | {f"separated/htdemucs/{name}/{stem}.wav" for stem in SOURCES}


def test_nothing_is_loaded_for_tracks_that_are_not_there(loader: Loader) -> None:
    result = run("missing.wav", ".")
    assert result.exit_code == 1
    assert loader.asked == []


@pytest.mark.usefixtures("loader")
def test_unwritable_folder() -> None:
    result = run("-o", "song.wav/out", "song.wav")
    assert result.exit_code == 1
    assert (
        result.output
        == "Error: song.wav: song.wav/out/htdemucs: cannot be written to (not a directory); choose another folder or free some space\n"
    )


@pytest.mark.usefixtures("loader")
def test_tracks_of_one_name_do_not_overwrite_each_other() -> None:
    Path("more").mkdir()
    song(Path("more/song.wav"), seed=1)
    result = run("song.wav", "more/song.wav", "song.wav")
    assert result.exit_code == 1
    assert "Error: more/song.wav: its stems would overwrite those of song.wav; put {parent} or {trackext} into --filename" in result.output
    assert files() == stems()


def test_unexpected_errors_are_one_line_and_verbose_shows_more(loader: Loader) -> None:
    def fail() -> None:
        raise ZeroDivisionError("first line\nsecond line")

    loader.model.before = fail
    result = run("song.wav")
    assert result.exit_code == 1
    assert result.output == "Error: song.wav: unexpected ZeroDivisionError (first line); -v shows where, please report it\n"
    assert "Traceback" in run("-v", "song.wav").output


@pytest.mark.usefixtures("loader")
@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "Name at least one track"),
        (["song.wav", "--stems", "piano"], 'stem "piano" is not in this model: choose from drums, bass, other, vocals'),
        (["song.wav", "--two-stems", "piano"], 'stem "piano" is not in this model'),
        (["song.wav", "--two-stems", "bass", "--stems", "bass"], "--stems and --two-stems exclude each other"),
        (["song.wav", "--flac", "--mp3"], "--flac and --mp3 exclude each other"),
        (["song.wav", "--int24", "--float32"], "--int24 and --float32 exclude each other"),
        (["song.wav", "--flac", "--float32"], "--float32 and --flac exclude each other"),
        (["song.wav", "--mp3", "--float32"], "--float32 and --mp3 exclude each other"),
        (["song.wav", "--start", "1:2:3:4"], "'1:2:3:4' is no time: write seconds (90.5)"),
        (["song.wav", "--rate", "CD"], "'CD' is no sample rate: write Hz (48000), or original"),
        (["song.wav", "--rate", "1"], "must be 'original' or 1000 to 768000 Hz"),
        (["song.wav", "--duration", "0"], "the duration is 0.0 seconds, but must be above 0"),
        (["song.wav", "--no-split", "--segment", "5"], "--no-split and --segment exclude each other"),
        (["song.wav", "--overlap", "1"], "is not in the range 0<=x<1"),
        (["song.wav", "--threads", "0"], "is not in the range"),
        (["song.wav", "--filename", "{song}.wav"], "is not a name for the files"),
        (["song.wav", "--filename", "{track}.wav"], "put {stem} into it"),
        (["song.wav", "--wrong"], "No such option"),
    ],
)
def test_wrong_usage(args: list[str], text: str) -> None:
    result = run("separate", *args)
    assert result.exit_code == 2
    assert text in result.output
    assert "Traceback" not in result.output
    assert not Path("separated").exists()


def test_segment_beyond_the_model(loader: Loader) -> None:
    loader.model = BagOfModels([FakeModel(), FakeModel("htdemucs")])
    result = run("--segment", "5", "song.wav")
    assert (result.exit_code, result.output) == (
        2,
        "Error: a segment of 5.0 seconds is longer than this model allows: choose at most 0.4\n",
    )


def test_a_mistyped_command_is_not_taken_for_a_track(loader: Loader) -> None:
    result = run("seperate", "song.wav")
    assert result.exit_code == 2
    assert "There is no command and no file 'seperate': did you mean separate?" in result.output
    assert loader.asked == []
    song(Path("song.wav")).rename("seperate")
    assert run("seperate").exit_code == 0


@pytest.mark.usefixtures("loader")
def test_the_files_are_listed_for_the_next_program() -> None:
    result = run("song.wav")
    assert result.stdout.splitlines() == [str(Path("separated", "htdemucs", "song", f"{name}.wav")) for name in SOURCES]


@pytest.mark.skipif(os.name != "posix", reason="needs a shell that closes files")
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """As from a scheduler, or a program without a console: the work is done, and nothing is written into the files."""
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).standard_normal((8000, 2)) / 10, 44100)
    shell = f"{sys.executable} -m demucs_np -n demo -o {tmp_path / 'out'} {tmp_path / 'song.wav'} {closed}"
    assert subprocess.run(shell, shell=True, cwd=tmp_path).returncode == 0
    for stem in ("drums", "bass", "other", "vocals"):
        samples, _ = soundfile.read(tmp_path / "out" / "demo" / "song" / f"{stem}.wav")
        assert len(samples) == 8000
    shell = f"{sys.executable} -m demucs_np -n demo -o {tmp_path / 'out'} {tmp_path / 'nothing.wav'} {closed}"
    assert subprocess.run(shell, shell=True, cwd=tmp_path).returncode == 1


def test_commands_that_take_long_say_what_they_do(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.wav", np.random.default_rng(0).standard_normal((8000, 2)) / 10, 44100)
    traced = ["trace", str(tmp_path / "song.wav"), "-n", "demo", "-o", str(tmp_path / "taps.safetensors")]
    for words, text in ((traced, b"running one segment of song.wav"), (["bench", "--repeats", "2"], b"running htdemucs up to 3 times")):
        terminal, end = pty.openpty()
        with subprocess.Popen([sys.executable, "-m", "demucs_np", *words], stderr=end, stdout=subprocess.DEVNULL) as running:
            os.close(end)
            assert text in os.read(terminal, 1000)
            running.kill()
        os.close(terminal)


def test_sig_is_a_name(loader: Loader) -> None:
    assert run("-s", "955717e8", "song.wav").exit_code == 0
    assert loader.asked == [("955717e8", None, "numba")]


def test_what_cannot_be_written_is_found_before_the_separation(loader: Loader) -> None:
    def fail() -> None:
        raise AssertionError("the model ran")

    loader.model.before = fail
    Path("separated/htdemucs/song/drums.wav").mkdir(parents=True)
    result = run("song.wav")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: song.wav: separated/htdemucs/song/drums.wav: is a folder, so no stem can have its name; rename it or choose another "
        "--filename\n",
    )
    result = run("--filename", "{track}/{stem}" + "x" * 300 + ".{ext}", "song.wav")
    assert result.exit_code == 1
    assert "cannot be written (file name too long); choose another --filename" in result.stderr
    assert files() == set()


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user: Linux, as root")
def test_other_peoples_files(loader: Loader, folder: Path) -> None:
    folder.chmod(0o755)
    for parent in list(folder.parents)[:3]:
        parent.chmod(0o755)
    song(Path("secret.wav")).chmod(0o600)
    Path("separated/htdemucs/song").mkdir(parents=True)
    Path("separated/htdemucs").chmod(0o777)

    def fail() -> None:
        raise AssertionError("the model ran")

    loader.model.before = fail
    os.seteuid(65534)
    try:
        result = run("secret.wav", "song.wav")
    finally:
        os.seteuid(0)
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "Error: secret.wav: cannot be read (permission denied)",
        "Error: song.wav: separated/htdemucs/song: cannot be written to (permission denied); choose another folder or free some space",
        "2 of 2 tracks failed.",
    ]


@pytest.mark.usefixtures("loader")
def test_what_a_killed_run_left_is_removed() -> None:
    assert run("song.wav").exit_code == 0
    old, new = (Path(f"separated/htdemucs/song/.demucs-np-{name}.part") for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    assert run("song.wav").exit_code == 0
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full, setpriv and ulimit are Linux's")
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("models list >/dev/full", "Error: the output: no space left on device; "),
        ("models list", "Error: /nobody/here: permission denied; "),
        ("-n demo -o {folder} {folder}/song.wav", "Error: {folder}/song.wav: there is not enough memory: segments of 4 s need "),
    ],
)
def test_no_tracebacks(line: str, text: str, folder: Path) -> None:
    limit = "ulimit -v 450000; " if "memory" in text else ""
    line, text = line.format(folder=folder), text.format(folder=folder)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    shell = f"{limit}{sys.executable} -m demucs_np {line}"
    if "permission" in text:
        if os.geteuid() != 0:
            pytest.skip("needs root, to become another user")
        hidden = folder / "hidden"
        hidden.mkdir(mode=0o700)
        environment["HF_HOME"] = environment["TORCH_HOME"] = str(hidden)
        shell = f"setpriv --reuid 65534 --clear-groups {shell}"
        text = f"Error: {hidden}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(text)
    assert len(done.stderr.splitlines()) == 1


# ---- the rest


def test_public_names() -> None:
    for name in demucs_np.__all__:
        assert getattr(demucs_np, name) is not None
    assert set(demucs_np.__all__) <= set(dir(demucs_np))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        demucs_np.nothing  # noqa: B018


def test_help_and_version() -> None:
    assert run("--version").output == f"demucs-np, version {__version__}\n"
    for args in (["--help"], ["-h"]):
        assert "Separate tracks into stems" in run(*args).output
    assert "--two-stems" in run("separate", "--help").output
    assert run().exit_code in (0, 2)
    assert "Commands" in run().output


def test_list_models() -> None:
    result = run("--list-models")
    assert result.exit_code == 0
    assert result.output.startswith("Bag of models:\n    ")
    assert "\n    htdemucs_ft\n" in result.output
    assert "\nSingle models:\n    " in result.output


def test_help_is_quick_and_imports_compile_nothing() -> None:
    heavy = ("numba", "numpy", "torch", "scipy", "soundfile")
    code = f"import sys, demucs_np, demucs_np.commands.main; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "demucs_np", "--help"], capture_output=True, check=True)
    assert time.monotonic() - start < 2  # 0.15 s on an idle machine


def command(*args: str, **options: Any) -> subprocess.Popen[str]:
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, "-c", FAKE_COMMAND, here, *args], text=True, preexec_fn=_hear_hang_ups, **options)


def _hear_hang_ups() -> None:
    """Whoever runs the tests under `nohup` has them ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted(number: signal.Signals) -> None:
    song(Path("long.wav"), 60_000)
    with command("song.wav", "long.wav", stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 60
        while not (files() >= stems() if Path("separated").exists() else False) and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(number)
        start = time.monotonic()
        _, errors = process.communicate(timeout=20)
    assert time.monotonic() - start < 2
    assert process.returncode == 128 + number
    said = [line for line in errors.splitlines() if not line.startswith("Note: ")]  # of the track that was done
    assert said == ["Interrupted."]
    assert files() == stems()
    assert not Path("separated/htdemucs/long").exists()


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_interrupted_at_once() -> None:
    """Whatever the moment, there is one line and no traceback."""
    for wait in (0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.3):
        # the handler that `run` sets first stands before the line that is waited for
        code = "import signal; from demucs_np.__main__ import _leave, run; signal.signal(signal.SIGINT, _leave); print(flush=True); run()"
        process = subprocess.Popen(
            [sys.executable, "-c", code, "song.wav", "-n", "demo"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait - 0.06)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert errors == "Interrupted.\n"
        assert process.returncode == 130


def on_a_terminal(*args: str) -> tuple[int, str]:
    """Exit status and what a terminal of 80 columns was sent."""
    mine, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "PYTHONIOENCODING": "utf-8"}
    with command(*args, stdout=theirs, stderr=theirs, stdin=theirs, env=environment) as process:
        os.close(theirs)
        output = b""
        while select.select([mine], [], [], 60)[0]:
            try:
                data = os.read(mine, 4096)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            output += data
        process.wait(timeout=20)
    os.close(mine)
    return process.returncode, output.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals differ")
def test_progress_on_a_terminal() -> None:
    status, output = on_a_terminal("song.wav")
    assert status == 0
    assert f"Separated tracks will be stored in {Path('separated/htdemucs').resolve()}\r\n" in output
    assert "song.wav  separating  ━" in output
    assert "0:01 left" in output or "0:00 left" in output
    assert output.rstrip().endswith("song.wav: drums, bass, other, vocals in 0:01") or "vocals in 0:0" in output.splitlines()[-1]
    assert all(len(line.split("\x1b[K")[0]) < 80 for line in output.split("\r") if "separating" in line)


def test_a_terminal_is_told_that_kernels_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    from demucs_np.kernels import ahead, cache

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    plan = ahead.Plan()
    monkeypatch.setattr(ahead, "plan", plan)
    plan.add(["stft._stft_tiles", "signal._pad_tiles", "signal._copy_tiles"], with_helper=False)
    with Bar(stream).telling():
        for kernel in ("signal._pad_tiles", "stft._stft_tiles"):
            assert not plan.begin(kernel)
            cache.compiling()
    cache.compiling()
    assert stream.getvalue().count("Compiling the kernels for this machine") == 1
    assert [f"kernel {number} of 3" in stream.getvalue() for number in (1, 2, 3)] == [True, True, False]


def test_bar_is_silent_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar(sys.stderr)
    bar.title = "song.wav"
    bar(Event("separate", 0, 4, None))
    bar.line("text")
    bar.clear()
    assert capsys.readouterr().err == ""


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 41.4, 725, 3723)] == ["0:00", "0:41", "12:05", "1:02:03"]


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "separate"])
def test_every_command_has_help(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.output
