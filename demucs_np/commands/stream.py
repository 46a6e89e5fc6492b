"""`demucs-np stream`: options of the pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..errors import UsageError
from . import completion
from .separate import Real, Size


@click.command()
@click.option(
    "-n", "--name", default="htdemucs", show_default=True, shell_complete=completion.models,
    help="Model: a published name, or the path of a .safetensors file.",
)  # fmt: skip
@click.option("--repo", type=click.Path(path_type=Path), help="Folder with models (.safetensors, .th) and bags (.yaml), for use with -n.")
@click.option("--rate", type=click.IntRange(min=1), help="Sample rate of both sides, in Hz.  [default: 44100]")
@click.option("--channels", type=click.IntRange(min=1), help="Channels that come in.  [default: 2]")
@click.option(
    "--format", "kind", type=click.Choice(["f32", "s16"]),
    help="Samples of both sides: 32-bit floats or 16-bit integers, little-endian, channels interleaved.  [default: f32]",
)  # fmt: skip
@click.option("--wav", is_flag=True, help="WAV on both sides: rate, channels and format are those of the header that comes in.")
@click.option(
    "--stems",
    metavar="A,B",
    shell_complete=completion.stems,
    help="Stems that go out, their channels side by side in this order.  [default: all]",
)
@click.option("--mix", metavar="A=1,B=0.5", help="Send out one mix of stems with these gains; stems that are not named are left out.")
@click.option("--hop", type=float, help="Low delay: seconds from one window to the next.  [default: whole windows, a delay of a segment]")
@click.option("--lookahead", type=float, help="With --hop: seconds of a window after what is given out.  [default: 0.5]")
@click.option("--segment", type=Real(min=0, min_open=True), help="Length of the windows in seconds.")
@click.option(
    "--loudness", metavar="MEAN,STD", help="Mean and standard deviation to hear the sound at.  [default: those of all that was heard]"
)
@click.option(
    "--max-lag", type=Real(min=0, min_open=True),
    help="For live sound: when the work is more than so many seconds behind, skip them with a cross-fade.",
)  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads; the result is the same for any number.  [default: all cores]")
@click.option(
    "--memory", metavar="SIZE", type=Size(),
    help="Keep within so much memory, as in 2GB, by shorter segments where the model allows them.  [default: what is free]",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Say nothing of delay and lag on standard error.")
@click.option("-v", "--verbose", is_flag=True, help="Show tracebacks.")
def stream(
    name: str, repo: Path | None, rate: int | None, channels: int | None, kind: str | None, wav: bool, stems: str | None,
    mix: str | None, hop: float | None, lookahead: float | None, segment: float | None, loudness: str | None, max_lag: float | None,
    threads: int | None, memory: int | None, quiet: bool, verbose: bool,
) -> None:  # fmt: skip
    """Separate sound while it comes in: from standard input to standard output.

    \b
    Karaoke from a radio station:
      ffmpeg -v error -i URL -f wav - | demucs-np stream --wav --mix drums=1,bass=1,other=1 --hop 2.5 | ffplay -v error -nodisp -
    """
    if mix is not None and stems is not None:
        raise click.UsageError("--stems and --mix exclude each other.")
    if wav and (rate or channels or kind):
        raise click.UsageError("--wav takes rate, channels and format from the header: leave out --rate, --channels and --format.")
    for end, side, what in ((sys.stdin, "input", "sound into this command"), (sys.stdout, "output", "the sound into a player or a file")):
        if end is None or end.isatty():
            state = "closed" if end is None else "a terminal"
            raise UsageError(f"standard {side} is {state}: pipe {what}, as `demucs-np stream --help` shows")
    from ..separation.pipe import Feed, Pipe, Sound, parse_mix, read_header, write_all
    from ..separation.stream import Stream
    from ..weights import load_model

    def tell(line: str) -> None:
        if not quiet:
            click.echo(line, err=True)

    feed = Feed(sys.stdin.fileno())
    level = _loudness(loudness)
    model = load_model(name, repo=repo, memory=memory)
    gains = None if mix is None else parse_mix(mix, model.sources)
    wanted = list(gains) if gains else None if stems is None else [stem.strip() for stem in stems.split(",")]
    sound = read_header(feed) if wav else Sound(rate or 44100, channels or 2, kind or "f32")  # type: ignore[arg-type]
    separated = Stream(
        model, samplerate=sound.rate, channels=sound.channels, stems=wanted, hop=hop, lookahead=lookahead, segment=segment,
        loudness=level, threads=threads, memory=memory,
    )  # fmt: skip
    names = "a mix of " + ", ".join(gains) if gains else ", ".join(separated.stems)
    count = separated.channels_out * (1 if gains else len(separated.stems))
    tell(f"{sound.channels} channels at {sound.rate} Hz ({sound.format}) in; {names} out, {count} channels, {separated.delay:.1f} s later")
    try:
        Pipe(feed, sound, separated, gains, write_all(sys.stdout.fileno()), max_lag=max_lag, tell=tell).run()
    except BrokenPipeError:  # whoever listened has gone
        return
    except MemoryError:
        line = separated.shortage(model)
    else:
        return
    raise UsageError(line)  # with nothing of the computation held any more


def _loudness(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        mean, std = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f'"{text}" is not a loudness: give a mean and a standard deviation, as in 0,0.1') from error
    return mean, std
