"""What the measuring scripts share: the models and their weights on disk, processes that wait their turn, tables.

As a program: `common.py checkpoint NAME FILE [--half] [--seed N]` writes a model with seeded weights, `common.py track MINUTES FILE`
a WAV file. The scripts run these in processes of their own, because the system counts a parent's memory towards its children's peak.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from demucs_np.inspection.speed import MODELS, SECONDS  # noqa: E402
from demucs_np.machine import processor  # noqa: E402
from demucs_np.weights.catalog import ARCHITECTURES  # noqa: E402

TINY = {  # for trying the scripts out
    "tiny": (
        "demucs.htdemucs.HTDemucs",
        {"sources": ["drums", "vocals"], "channels": 8, "dconv_comp": 2, "t_layers": 2, "t_heads": 2, "dconv_mode": 3, "segment": 1},
    ),
    "tiny_hdemucs": ("demucs.hdemucs.HDemucs", {"sources": ["drums", "vocals"], "channels": 4, "dconv_comp": 2, "segment": 1}),
    "tiny_demucs": ("demucs.demucs.Demucs", {"sources": ["drums", "vocals"], "channels": 4, "dconv_comp": 2, "depth": 4, "segment": 1}),
}
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {**MODELS, "htdemucs_6s": ARCHITECTURES["5c90dfd2"], **TINY}


def environment(threads: int | None = None, **extra: str) -> dict[str, str]:
    """The environment of a child: this checkout and these scripts importable, every library's own thread pool limited to `threads`."""
    env = dict(os.environ) | extra
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE), *filter(None, [env.get("PYTHONPATH")])])
    if threads is not None:
        env |= {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")}
    return env


@contextlib.contextmanager
def folder(path: Path | None) -> Iterator[Path]:
    """`path`, kept, or a temporary folder."""
    if path is None:
        with tempfile.TemporaryDirectory(prefix="demucs-np-bench-") as name:
            yield Path(name)
    else:
        path.mkdir(parents=True, exist_ok=True)
        yield path


def prepare(what: str, path: Path, *arguments: str) -> Path:
    """Run this file's `what` for `path`, if the file does not exist yet."""
    if not path.exists():
        subprocess.run([sys.executable, str(HERE / "common.py"), what, str(path), *arguments], check=True, env=environment())
    return path


def checkpoint(path: Path, name: str, *, half: bool = False, seed: int = 0) -> Path:
    """A model of KNOWN with weights drawn from a seed, as a safetensors file."""
    return prepare("checkpoint", path, name, "--seed", str(seed), *(["--half"] if half else []))


def track(path: Path, minutes: float) -> Path:
    """A stereo WAV file, 44.1 kHz, 16 bits."""
    return prepare("track", path, str(minutes))


def write_mix(path: Path, name: str) -> Path:
    """The input of one forward pass, a NumPy file (1, channels, samples): SECONDS, or the segment of a smaller model."""
    from demucs_np.parity.recipe import draw_mix

    arguments = KNOWN[name][1]
    rate = arguments.get("samplerate", 44100)
    length = int(min(float(arguments["segment"]), SECONDS) * rate)
    np.save(path, draw_mix(0, arguments.get("audio_channels", 2), length, rate)[None])
    return path


def _write_checkpoint(path: Path, name: str, half: bool, seed: int) -> None:
    from demucs_np.models.config import config_from_arguments
    from demucs_np.models.layout import expected_tensors
    from demucs_np.parity.recipe import draw_tensors
    from demucs_np.weights.convert import write_model
    from demucs_np.weights.formats.checkpoint import ModelFile
    from demucs_np.weights.formats.stored import Stored

    klass, arguments = KNOWN[name]
    config = config_from_arguments(klass, (), arguments)
    tensors = draw_tensors(seed, expected_tensors(config))
    stored = {key: Stored("F16", array.astype(np.float16)) if half else Stored("F32", array) for key, array in tensors.items()}
    write_model(path, ModelFile(path, config, [], arguments, stored))


def _write_track(path: Path, minutes: float) -> None:
    """Seconds of seeded music over and over, each time at another loudness."""
    import soundfile

    from demucs_np.parity.recipe import draw_mix

    phrase = draw_mix(1, 2, 10 * 44100).T
    count = int(minutes * 60 * 44100)
    partial = path.with_suffix(".partial")
    with soundfile.SoundFile(partial, "w", 44100, 2, "PCM_16", format="WAV") as file:
        for number in range(-(-count // len(phrase))):
            file.write(phrase[: count - number * len(phrase)] * np.float32(0.4 + 0.6 * (number * 0.37 % 1)))
    partial.replace(path)


class Engine:
    """A process that holds one engine with one model, and waits on a pipe for its turn: idle, it uses no processor time."""

    def __init__(self, python: str, engine: str, model: str, threads: int, work: Path) -> None:
        self.engine = engine
        command = [python, str(HERE / "engine.py"), engine, model, str(threads), str(work)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads))
        self.about = self.ask("load")

    def ask(self, what: str, *arguments: str) -> dict[str, Any]:
        """Send a request, wait for the answer. Raises RuntimeError if the engine has died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([what, *arguments]) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.engine} ended with status {self._process.wait()} at {what!r}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def processor_time(self) -> float:
        """Seconds of processor time used so far (Linux; elsewhere 0)."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


@dataclasses.dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    seconds: float  # wall time
    memory: float | None  # peak, bytes; None where the system does not tell, or the parent's own is larger
    output: str
    processor: float = 0.0  # seconds of processor time, of its children too; 0 where the system does not tell


def run_command(command: Sequence[str], env: Mapping[str, str]) -> Ran:
    """Run a command; raises RuntimeError with its output if it fails."""
    with tempfile.TemporaryFile("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(env), stdout=output, stderr=subprocess.STDOUT)
        memory, spent = None, 0.0
        if hasattr(os, "wait4"):
            import resource

            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            spent = usage.ru_utime + usage.ru_stime
            # Linux begins a child's peak with that of its parent.
            if usage.ru_maxrss > resource.getrusage(resource.RUSAGE_SELF).ru_maxrss:
                memory = float(usage.ru_maxrss if sys.platform == "darwin" else 1024 * usage.ru_maxrss)
        process.wait()
        seconds = time.perf_counter() - began
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}:\n{text[-2000:]}")
    return Ran(seconds, memory, text, spent)


def snr(truth: np.ndarray, other: np.ndarray) -> float:
    """Signal-to-noise ratio of `other` against `truth`, dB."""
    error = np.square(truth.astype(np.float64) - other).sum()
    return float(10 * np.log10(np.square(truth, dtype=np.float64).sum() / error)) if error else float("inf")


def heading() -> str:
    """The machine, the load, the time and the command: what a table of timings must carry."""
    import importlib.metadata

    names = ("numpy", "numba", "llvmlite")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load average {os.getloadavg()[0]:.2f} at the start" if hasattr(os, "getloadavg") else ""
    # Where somebody keeps an environment says nothing to a reader.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *words])
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {processor()}, {cores} cores, {platform.system()} {platform.machine()}{load}. "
        f"Python {platform.python_version()}, {versions}.\n`{command}`\n"
    )


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; first column left-aligned, the others right."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))) + " |"

    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])


def threads_text(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def megabytes(size: float | None) -> str:
    return "?" if size is None else f"{size / 1e6:.0f}"


def tell(text: str) -> None:
    """Progress, apart from the table."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    weights = commands.add_parser("checkpoint")
    weights.add_argument("path", type=Path)
    weights.add_argument("name", choices=list(KNOWN))
    weights.add_argument("--half", action="store_true")
    weights.add_argument("--seed", type=int, default=0)
    audio = commands.add_parser("track")
    audio.add_argument("path", type=Path)
    audio.add_argument("minutes", type=float)
    options = parser.parse_args()
    if options.what == "checkpoint":
        _write_checkpoint(options.path, options.name, options.half, options.seed)
    else:
        _write_track(options.path, options.minutes)


if __name__ == "__main__":
    main()
