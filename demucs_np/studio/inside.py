"""Looking inside a model, over HTTP: its outline, a layer's activations at a time of a track, and the stems with parts switched off.

What takes long runs in one thread of its own, one after the other: a look does not wait for the track that is being separated, and no
other request waits for a look. Pictures and stems are files of the track (`FOLDER/TRACK/inside/KEY`), the newest few of which are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, Field

from ..errors import AudioError, UsageError
from ..inspection import listening, outline, plots
from ..inspection.tracing import check_layers
from ..models.ablation import Ablation
from ..models.bag import BagOfModels
from ..models.config import Config, HTDemucsConfig
from ..models.taps import trace
from ..separation.excerpt import read_excerpt
from ..weights.resolve import Member, build, resolve
from . import models
from .library import Library, Track
from .waves import header

if TYPE_CHECKING:
    from .server import Studio

SECONDS = 20.0  # of a region, at most
KEPT = 8  # results of a track
LAYER = r"t?(en|de)coder\.\d+|crosstransformer\.layers(_t)?\.\d+|lstm"
Result = TypeVar("Result")


class TraceBody(BaseModel):
    """Which activation is to be seen, of the segment that begins at `at` seconds."""

    model: str
    member: int = Field(0, ge=0, description="of a bag, which of its models")
    layer: str = Field(description="a path of the outline's `looks`; of an attention, its maps")
    at: float = Field(0, ge=0)


class AblateBody(BaseModel):
    """What is to be switched off, and which seconds are to be heard."""

    model: str
    member: int = Field(0, ge=0)
    ablate: list[str] = Field(min_length=1, max_length=1000, description="PATH or PATH:HEAD of the outline's `parts`")
    start: float = Field(0, ge=0)
    stop: float = Field(ge=0)


class Inside:
    """What the routes share."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="looking")
        self._loaded: tuple[tuple[str, int], BagOfModels] | None = None

    async def run(self, track: Track, job: Callable[[], Result]) -> Result:
        """In the thread that looks. Errors speak of the track by its name."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        except AudioError as error:
            raise AudioError(re.sub(r"^\S*/(original|mix\.wav)", lambda _: track.name, str(error))) from error

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def member(self, name: str, number: int) -> Member:
        """One model of those that the studio offers."""
        if not models.known(name):
            raise HTTPException(422, f"there is no model {name!r} here; GET /api/models lists them")
        members = resolve(name).members
        if number >= len(members):
            raise HTTPException(422, f"{name} has {len(members)} models, counted from 0")
        return members[number]

    def model(self, name: str, number: int) -> BagOfModels:
        """A bag of one, loaded by now; only the last one is kept."""
        member = self.member(name, number)
        if member.path is None:
            raise HTTPException(409, f"{name} is not on this computer yet; fetch it first")
        if self._loaded is None or self._loaded[0] != (name, number):
            self._loaded = None
            self._loaded = (name, number), BagOfModels([build(member.read(), "numba")])
        return self._loaded[1]

    def source(self, track: Track) -> Path:
        """The track as a model heard it, or as it came."""
        return self.library.path(track, "stems", "mix.wav") if track.state == "done" else self.library.path(track, "original")

    def kept(self, track: Track, key: dict[str, Any], make: Callable[[Path], dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        """The name and the facts of a result, whose files `make` writes if they are not there."""
        key |= {"took": track.took, "state": track.state == "done"}
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.library.path(track, "inside", name)
        if not (folder / "facts.json").is_file():
            scratch = self.library.path(track, "inside", f".{secrets.token_hex(4)}")
            scratch.mkdir(parents=True)
            try:
                (scratch / "facts.json").write_text(json.dumps(make(scratch)))
                os.replace(scratch, folder)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        os.utime(folder)
        for old in sorted(folder.parent.glob("[0-9a-f]*"), key=lambda path: -path.stat().st_mtime)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
        return name, json.loads((folder / "facts.json").read_text())

    def look(self, track: Track, body: TraceBody) -> dict[str, Any]:
        """One activation as a picture and numbers."""
        plots.require_matplotlib()
        bag = self.model(body.model, body.member)
        config = bag.config
        maps = body.layer in attentions(config)
        path = f"{body.layer}.weights" if maps else body.layer
        if any(sign in path for sign in "*?["):
            raise UsageError(f"{path!r} is a pattern; name one layer")
        check_layers(config, [path])
        seconds = min(float(config.segment), SECONDS)
        begin = max(0.0, min(body.at, track.seconds - seconds))

        def make(folder: Path) -> dict[str, Any]:
            excerpt, moments = read_excerpt(self.source(track), begin, int(seconds * config.samplerate), config, whole=True)
            mix = np.ascontiguousarray((excerpt - np.float32(moments.mean)) / np.float32(moments.std + 1e-8))
            with trace(layers=[path]) as taps:
                bag.models[0](mix[None])
            length = bag.models[0].valid_length(mix.shape[1]) / config.samplerate
            figure = plots.draw(path, taps[path], plots.scale_of(config, begin, length))
            figure.savefig(folder / "picture.png")
            return {"begin": begin, "seconds": length, "panels": panels(figure)} | numbers(taps[path], config, begin, length, maps)

        name, facts = self.kept(track, {"look": path, "model": body.model, "member": body.member, "begin": begin}, make)
        return {"layer": body.layer, "picture": f"/api/tracks/{track.id}/inside/{name}/picture.png"} | facts

    def hear(self, track: Track, body: AblateBody) -> dict[str, Any]:
        """A region's stems with and without parts."""
        if not 0.1 <= body.stop - body.start <= SECONDS:
            raise UsageError(f"a region lasts 0.1 to {SECONDS:g} seconds, not {body.stop - body.start:g}")
        if body.start >= track.seconds:
            raise UsageError(f"the track ends at {track.seconds:.2f} seconds, before the region begins")
        bag = self.model(body.model, body.member)
        Ablation(body.ablate).check(outline.parts(bag.config))
        rate = bag.samplerate

        def make(ablate: list[str], folder: Path) -> dict[str, Any]:
            length = int((body.stop - body.start) * rate)
            excerpt, moments = read_excerpt(self.source(track), body.start, length, bag.config, whole=True)
            for stem, wav in listening.stems_of(bag, excerpt, moments, ablate).items():
                content = np.ascontiguousarray(wav.T, "<f4").tobytes()
                (folder / f"{stem}.wav").write_bytes(header(wav.shape[0], rate, wav.shape[1]) + content)
            return {"length": excerpt.shape[1], "channels": excerpt.shape[0]}

        def stems(name: str) -> dict[str, np.ndarray]:
            folder = self.library.path(track, "inside", name)
            return {stem: np.fromfile(folder / f"{stem}.wav", "<f4", offset=len(header(2, rate, 0))) for stem in bag.sources}

        key = {"model": body.model, "member": body.member, "start": body.start, "stop": body.stop}
        plain, facts = self.kept(track, {**key, "ablate": []}, lambda folder: make([], folder))
        ablated, _ = self.kept(track, {**key, "ablate": sorted(set(body.ablate))}, lambda folder: make(body.ablate, folder))
        changes = listening.changes(stems(plain), stems(ablated))
        urls = {kind: f"/api/tracks/{track.id}/inside/{name}" for kind, name in (("plain", plain), ("ablated", ablated))}
        return {"start": body.start, "rate": rate, **facts} | {
            "stems": [
                {
                    "stem": change.stem, "plain": f"{urls['plain']}/{change.stem}.wav", "ablated": f"{urls['ablated']}/{change.stem}.wav",
                    "level": change.level, "ablated_level": change.ablated, "change": change.change, "difference": change.difference,
                }
                for change in changes
            ]
        }  # fmt: skip


def attentions(config: Config) -> list[str]:
    """Paths of the attentions whose maps can be seen."""
    return [path.removesuffix(".weights") for path in outline.extras(config) if path.endswith(".weights")]


def groups(config: Config) -> list[dict[str, Any]]:
    """The layers of a model by encoder, transformer and decoder, each with what can be seen of it and what can be switched off."""
    modules, parts, maps = outline.modules(config), outline.parts(config), attentions(config)
    found: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("encoder", "tencoder", "crosstransformer", "lstm", "decoder", "tdecoder")
    }
    for module in modules:
        if not re.fullmatch(LAYER, module.path):
            continue
        inside = [path for path in [other.path for other in modules if other.traced] + maps if f"{path}.".startswith(f"{module.path}.")]
        own: list[dict[str, Any]] = [
            {"path": path, "heads": heads} for path, heads in parts.items() if f"{path}.".startswith(f"{module.path}.")
        ]
        found[module.path.partition(".")[0]].append(
            {
                "path": module.path, "class": module.kind, "shape": module.shape, "parameters": module.parameters,
                "multiply_adds": module.multiply_adds, "heads": max((part["heads"] for part in own), default=0), "looks": inside,
                "parts": own,
            }
        )  # fmt: skip
    return [{"name": name, "layers": layers} for name, layers in found.items() if layers]


def numbers(activation: np.ndarray, config: Config, begin: float, seconds: float, maps: bool) -> dict[str, Any]:
    """What the picture shows, in numbers; of attention also when its tokens are, and how far each head looks."""
    facts: dict[str, Any] = {
        "shape": activation.shape, "minimum": float(activation.min()), "maximum": float(activation.max()),
        "mean": float(activation.mean(dtype=np.float64)), "rms": float(np.sqrt(np.mean(np.square(activation, dtype=np.float64)))),
    }  # fmt: skip
    if maps:
        queries, keys = (token_times(config, count, begin, seconds) for count in activation.shape[2:])
        reach = [float((head * np.abs(queries[:, None] - keys)).sum() / len(queries)) for head in activation[0]]
        facts |= {"heads": [{"head": number, "reach": value} for number, value in enumerate(reach)]}
        facts |= {"queries": np.round(queries, 4).tolist(), "keys": np.round(keys, 4).tolist()}
    return facts


def token_times(config: Config, count: int, begin: float, seconds: float) -> np.ndarray:
    """In the middle of each of the transformer's tokens, s: those of the frequency branch are T times F, those of the other T."""
    assert isinstance(config, HTDemucsConfig)
    shape = next(module.shape for module in outline.modules(config) if module.path == f"encoder.{config.depth - 1}")
    rows = shape[2] if shape is not None and len(shape) == 4 and count == shape[2] * shape[3] else 1
    return np.asarray(begin + (np.arange(count) // rows + 0.5) * seconds * rows / count, np.float32)


def panels(figure: Any) -> list[dict[str, Any]]:
    """Where the panels lie in the picture, as parts of its width and height from the left and the top, and their titles."""
    found = []
    for axes in figure.axes:
        if axes.get_visible() and axes.get_label() != "<colorbar>":
            left, bottom, width, height = axes.get_position().bounds
            found.append({"title": axes.get_title(), "left": left, "top": 1 - bottom - height, "width": width, "height": height})
    return found


def add_routes(app: FastAPI, studio: Studio) -> Inside:
    """Routes for looking inside. The result is to be closed."""
    inside = Inside(studio.library)

    @app.get("/api/models/{name}/inside")
    def model_outline(name: str, member: int = 0) -> dict[str, Any]:
        """What a model is made of: groups of layers, with what can be seen of each (`looks`) and switched off (`parts`)."""
        if not models.known(name):
            raise HTTPException(404, "there is no model of that name")
        config, bag = inside.member(name, member).config(), resolve(name).members
        whole = outline.modules(config)[0]
        return {
            "model": name, "member": member, "members": [one.name for one in bag], "class": whole.kind, "sources": list(config.sources),
            "samplerate": config.samplerate, "seconds": min(float(config.segment), SECONDS), "longest": SECONDS,
            "parameters": whole.parameters, "multiply_adds": whole.multiply_adds, "groups": groups(config),
        }  # fmt: skip

    @app.post("/api/tracks/{identity}/trace")
    async def look(identity: str, body: TraceBody) -> dict[str, Any]:
        """One layer's activations of the segment at a time: a picture, where its panels are, and numbers."""
        track = studio.track(identity)
        return await inside.run(track, lambda: inside.look(track, body))

    @app.post("/api/tracks/{identity}/ablate")
    async def hear(identity: str, body: AblateBody) -> dict[str, Any]:
        """The stems of a region, at most 20 seconds, with and without parts of the model."""
        track = studio.track(identity)
        return await inside.run(track, lambda: inside.hear(track, body))

    @app.get("/api/tracks/{identity}/inside/{key}/{name}")
    def result(identity: str, key: str, name: str) -> Response:
        """A picture, or a stem: WAV of 32-bit floats; takes range requests."""
        track = studio.track(identity)
        if not re.fullmatch(r"[0-9a-f]{16}", key) or not re.fullmatch(r"\w[\w -]*\.(png|wav)", name):
            raise HTTPException(404, "there is no such result")
        path = studio.library.path(track, "inside", key, name)
        if not path.is_file():
            raise HTTPException(404, "there is no such result any more; ask for it again")
        return FileResponse(path, media_type="image/png" if name.endswith(".png") else "audio/wav")

    return inside
