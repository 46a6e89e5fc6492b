"""The HTTP API of the studio, and its page. `demucs-np studio` and `demucs-np serve` run it; `docs/studio.md` shows it with curl."""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.types import Scope

from .. import __version__, page
from ..audio import Encoding, open_track
from ..demo.song import DEMO_FILE
from ..errors import DemucsError, UsageError
from ..weights.catalog import DEMO
from . import exporting, inside, models
from .guard import Guard
from .library import Library, Track, Wish
from .pace import Pace
from .waves import read_frames
from .worker import Worker

GIGABYTE = 10**9
AUDIO_LIMIT = 1 << 23  # samples of one answer of raw audio


class WishBody(BaseModel):
    """How to separate; as the options of the command."""

    model: str = "htdemucs"
    stems: list[str] | None = None
    shifts: int | None = Field(None, ge=0, le=20)
    overlap: float | None = Field(None, ge=0, le=0.95)

    def wish(self) -> Wish:
        return Wish(self.model, tuple(self.stems) if self.stems is not None else None, self.shifts, self.overlap)


class Studio:
    """What the routes share."""

    def __init__(self, folder: Path, max_upload: int) -> None:
        self.library = Library(folder)
        self.pace = Pace(folder / "pace.json")
        self.worker = Worker(self.library, self.pace)
        self.max_upload = max_upload
        self.fetching: dict[str, asyncio.Task[None]] = {}

    def track(self, identity: str) -> Track:
        track = self.library.get(identity)
        if track is None:
            raise HTTPException(404, "there is no such track; it may have been deleted")
        return track

    def separated(self, identity: str, stem: str | None = None) -> Track:
        """A track whose stems are there, or grow."""
        track = self.track(identity)
        if track.state not in ("done", "running"):
            raise HTTPException(409, f"this track is not separated (it is {track.state})")
        if stem is not None and stem not in (exporting.MIX, *track.sources):
            raise HTTPException(404, f"there is no stem of that name; there are {', '.join(track.sources)}")
        return track

    def enqueue(self, track: Track, wish: Wish) -> None:
        if track.state in ("queued", "running"):
            raise HTTPException(409, f"this track is {track.state} already")
        if not models.known(wish.model):
            raise HTTPException(422, f"there is no model {wish.model!r} here; GET /api/models lists them")
        stems = next(model["stems"] for model in models.offered(self.pace) if model["name"] == wish.model)
        if wish.stems is not None and (not wish.stems or not set(wish.stems) <= set(stems) or len(set(wish.stems)) != len(wish.stems)):
            raise HTTPException(422, f"stems must be some of {', '.join(stems)}")
        self.worker.enqueue(track, wish)

    def add_demo(self, separate: bool) -> Track:
        """The bundled song, queued for the bundled model if it is to be separated."""
        folder = self.library.new_folder()
        shutil.copyfile(DEMO_FILE, folder / "original")
        track = _add(self, folder, "demo song.flac")
        if separate:
            self.enqueue(track, Wish(DEMO.name))
        return track

    async def listen(self, wanted: str | None = None) -> AsyncIterator[ServerSentEvent]:
        """Everything that happens, or what happens to one track until it is at rest; first, how things are."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[dict[str, Any]]()

        def put(event: dict[str, Any]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server ends
                loop.call_soon_threadsafe(queue.put_nowait, event)

        self.library.listeners.append(put)
        try:
            for track in reversed(self.library.all()):
                if wanted in (None, track.id):
                    queue.put_nowait({"track": track.shown()})
            while True:
                event = await queue.get()
                if "end" in event:
                    return
                about = event.get("removed") or event.get("track", {}).get("id")
                if wanted is not None and about != wanted:
                    continue
                yield ServerSentEvent(data=event)
                if wanted is not None and ("removed" in event or event["track"]["state"] not in ("queued", "running")):
                    return
        finally:
            self.library.listeners.remove(put)


class Page(StaticFiles):
    """The page's files, which may do what its own policy says."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
        return response


mimetypes.add_type("text/javascript", ".js")  # what a machine's own tables may say otherwise


def create_app(folder: Path, *, token: str | None = None, host: str = "localhost", max_upload: int = 2 * GIGABYTE) -> FastAPI:
    """The application for a folder, served under a `host` name. Raises DemucsError if the folder cannot be had."""
    studio = Studio(folder, max_upload)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        studio.worker.start()
        try:
            yield
        finally:
            await run_in_threadpool(studio.worker.stop)
            await run_in_threadpool(looking.close)
            studio.library.close()

    app = FastAPI(title="demucs_np studio", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.studio = studio
    _general_routes(app, studio)
    _track_routes(app, studio)
    _result_routes(app, studio)
    looking = inside.add_routes(app, studio)
    app.mount("/", Page(directory=page.FOLDER, html=True))
    app.add_middleware(Guard, token=token, host=host)

    @app.exception_handler(DemucsError)
    async def refused(_: Request, error: DemucsError) -> Response:
        return JSONResponse({"detail": str(error)}, 422)

    return app


def _general_routes(app: FastAPI, studio: Studio) -> None:
    @app.get("/api/health")
    def health() -> dict[str, Any]:
        """That the server runs, and how much room there is."""
        usage = shutil.disk_usage(studio.library.folder)
        return {
            "status": "ok",
            "version": __version__,
            "tracks": len(studio.library.all()),
            "free": usage.free,
            "max_upload": studio.max_upload,
        }

    @app.get("/api/models")
    def list_models() -> list[dict[str, Any]]:
        """The models, their stems, what there is to fetch in MB, and their pace: seconds for a second of audio, without overlap."""
        return models.offered(studio.pace)

    @app.post("/api/models/{name}/fetch", status_code=202)
    async def fetch(name: str) -> dict[str, Any]:
        """Begin to download a model; /api/events tells how far it is."""
        if not models.known(name):
            raise HTTPException(404, "there is no model of that name")
        if name not in studio.fetching:
            studio.fetching[name] = asyncio.create_task(_fetch(studio, name))
        return {"model": name}

    @app.get("/api/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        """All that happens, as server-sent events: {"track": ...}, {"removed": id}, {"model": name, "part": ..., "error": ...}."""
        async for event in studio.listen():
            yield event


async def _fetch(studio: Studio, name: str) -> None:
    tell = studio.library.tell
    try:
        await run_in_threadpool(models.fetch, name, lambda part: tell({"model": name, "part": part}))
        tell({"model": name, "part": 1.0, "done": True})
    except DemucsError as error:
        tell({"model": name, "error": str(error)})
    finally:
        studio.fetching.pop(name, None)


def _track_routes(app: FastAPI, studio: Studio) -> None:
    library = studio.library

    @app.get("/api/tracks")
    def list_tracks() -> list[dict[str, Any]]:
        """All tracks, newest first."""
        return [track.shown() for track in library.all()]

    @app.post("/api/tracks", status_code=201)
    async def upload(
        request: Request,
        name: str = "track",
        model: Annotated[str | None, Query(description="separate with this model at once")] = None,
    ) -> dict[str, Any]:
        """Upload a file: the body is its bytes, `name` what it is called. Its id is that of the job, if one is begun."""
        track = await _receive(studio, request, name)
        if model is not None:
            try:
                studio.enqueue(track, Wish(model))
            except HTTPException:
                library.remove(track)
                raise
        return track.shown()

    @app.post("/api/demo", status_code=201)
    def add_demo() -> dict[str, Any]:
        """The bundled song, as if it had been uploaded."""
        return studio.add_demo(separate=False).shown()

    @app.get("/api/tracks/{identity}")
    def get_track(identity: str) -> dict[str, Any]:
        """One track."""
        return studio.track(identity).shown()

    @app.delete("/api/tracks/{identity}", status_code=204)
    def delete_track(identity: str) -> None:
        """Stop it if it is in work, and delete all its files."""
        track = studio.track(identity)
        studio.worker.cancel(track)
        studio.worker.wait(track)
        library.remove(track)

    @app.post("/api/tracks/{identity}/separate", status_code=202)
    def separate(identity: str, body: WishBody) -> dict[str, Any]:
        """Queue it, or queue it again with other options."""
        track = studio.track(identity)
        studio.enqueue(track, body.wish())
        return track.shown()

    @app.post("/api/tracks/{identity}/cancel")
    def cancel(identity: str) -> dict[str, Any]:
        """Take it out of the queue, or stop it after the segment in work."""
        track = studio.track(identity)
        studio.worker.cancel(track)
        return track.shown()

    @app.get("/api/tracks/{identity}/events", response_class=EventSourceResponse)
    async def track_events(identity: str) -> AsyncIterator[ServerSentEvent]:
        """What happens to a track, until it is done, failed or cancelled."""
        async for event in studio.listen(identity):
            yield event


async def _receive(studio: Studio, request: Request, name: str) -> Track:
    """The body on disk, block by block; nothing is left of one that is too large or broken."""
    limit = f"the file is larger than {studio.max_upload / GIGABYTE:g} GB; --max-upload allows more"
    if int(request.headers.get("content-length") or 0) > studio.max_upload:
        raise HTTPException(413, limit)
    folder = studio.library.new_folder()
    try:
        size = 0
        with open(folder / "original", "wb") as file:
            async for chunk in request.stream():
                size += len(chunk)
                if size > studio.max_upload:
                    raise HTTPException(413, limit)
                await run_in_threadpool(file.write, chunk)
        return await run_in_threadpool(_add, studio, folder, name)
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HTTPException(507, f"the file cannot be kept ({error.strerror}); free some space") from error
    except BaseException:  # also a client that goes away
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _add(studio: Studio, folder: Path, name: str) -> Track:
    """The track of an upload. Raises HTTPException if it is no audio."""
    path = folder / "original"
    try:
        with open_track(path) as track:
            rate, channels = track.samplerate, track.channels
            samples = sum(block.shape[1] for block in track.blocks()) if track.samples is None else track.samples
        if samples <= 0:
            raise UsageError("the file holds no samples; export it again")
    except DemucsError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HTTPException(415, str(error).replace(f"{path}: ", "").replace(str(path), name)) from error
    return studio.library.add(folder, name, rate, channels, samples)


def _result_routes(app: FastAPI, studio: Studio) -> None:
    library = studio.library

    @app.get("/api/tracks/{identity}/original")
    def original(identity: str) -> Response:
        """The file that was uploaded; takes range requests."""
        track = studio.track(identity)
        return FileResponse(library.path(track, "original"), media_type="application/octet-stream", filename=track.name)

    @app.get("/api/tracks/{identity}/stems/{stem}.wav")
    def stem_file(identity: str, stem: str) -> Response:
        """A finished stem, or "mix", as it is kept: WAV of 32-bit floats at the model's rate; takes range requests."""
        track = studio.separated(identity, stem)
        path = library.path(track, "stems", f"{stem}.wav")
        if track.state != "done":
            raise HTTPException(409, "this track is not finished yet")
        return FileResponse(path, media_type="audio/wav", filename=f"{track.name.rsplit('.', 1)[0]} - {stem}.wav")

    @app.get("/api/tracks/{identity}/audio/{stem}")
    def raw_audio(identity: str, stem: str, start: Annotated[int, Query(ge=0)], stop: Annotated[int, Query(ge=0)]) -> Response:
        """Samples start ... stop - 1 of a stem as interleaved little-endian float32, also while it grows; fewer where it ends."""
        track = studio.separated(identity, stem)
        separation = studio.worker.separation(track)
        folder = "work" if track.state == "running" and separation is not None else "stems"
        stop = min(stop, track.ready, start + AUDIO_LIMIT)
        try:
            frames = read_frames(library.path(track, folder, f"{stem}.wav"), track.stem_channels, start, stop)
        except FileNotFoundError:  # it has just been finished
            frames = read_frames(library.path(track, "stems", f"{stem}.wav"), track.stem_channels, start, stop)
        return Response(frames.tobytes(), media_type="application/octet-stream")

    def picture(identity: str, stem: str, kind: str, start: int) -> Response:
        track = studio.track(identity)
        if stem not in (exporting.MIX, *track.sources):
            raise HTTPException(404, f"there is no stem of that name; there are {', '.join(track.sources)}")
        separation = studio.worker.separation(track)
        writer = separation.writers.get(stem) if separation else None
        if writer is not None and track.state == "running":
            content = bytes(getattr(writer.pictures, kind))
        elif track.state == "done":
            content = library.path(track, "stems", f"{stem}.{kind}").read_bytes()
        else:  # nothing to be seen
            content = b""
        return Response(content[start:], media_type="application/octet-stream")

    @app.get("/api/tracks/{identity}/peaks/{stem}")
    def peaks(identity: str, stem: str, start: Annotated[int, Query(ge=0)] = 0) -> Response:
        """From byte `start` on: for every 256 samples the least and the greatest, int8, 127 being 1."""
        return picture(identity, stem, "peaks", start)

    @app.get("/api/tracks/{identity}/spectrogram/{stem}")
    def spectrogram(identity: str, stem: str, start: Annotated[int, Query(ge=0)] = 0) -> Response:
        """From byte `start` on: for every 2048 samples 96 bands from 40 Hz to 16 kHz, uint8, 0 being -90 dB and 255 0 dB."""
        return picture(identity, stem, "spectrogram", start)

    @app.get("/api/tracks/{identity}/export")
    def export(
        identity: str,
        stems: Annotated[str | None, Query(description="drums,bass: a file each; several come as a ZIP")] = None,
        mix: Annotated[str | None, Query(description="drums:0.5:-1,bass: one file, of STEM[:GAIN[:PAN]]")] = None,
        format: str = "wav",
        bits: int = 16,
        rate: Annotated[str, Query(pattern="^(original|model)$")] = "original",
        start: Annotated[int, Query(ge=0, description="first sample, at the stems' rate")] = 0,
        stop: Annotated[int | None, Query(ge=1)] = None,
    ) -> Response:
        """Save stems, or a mix of them, whole or in part, as WAV (16, 24, 32 bits), FLAC (16, 24) or MP3 (320 kbit/s)."""
        track = studio.separated(identity)
        if track.state != "done":
            raise HTTPException(409, "this track is not finished yet")
        names = [exporting.MIX, *track.sources]
        groups = {voice.stem: [voice] for voice in exporting.parse_voices(stems or ",".join(track.sources), names)}
        if mix is not None:
            groups = {"what I hear": exporting.parse_voices(mix, names)}
        stop = min(stop or track.length, track.length)
        if start >= stop:
            raise HTTPException(422, f"samples {start} to {stop} are nothing; the track has {track.length}")
        encoding = Encoding(format, bits if format != "mp3" else 16)  # type: ignore[arg-type]
        wanted = exporting.Wanted(groups, encoding, track.samplerate if rate == "original" else track.rate, start, stop)
        with _scratch(library.folder) as folder:
            path = exporting.export(library, track, wanted, folder)
        return FileResponse(path, filename=path.name, background=BackgroundTask(shutil.rmtree, folder, True))


@contextlib.contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A folder that is removed if the block fails, and else by whoever sends what is in it."""
    folder = Path(tempfile.mkdtemp(prefix=".export-", dir=parent))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
