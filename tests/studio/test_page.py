"""The studio's page in the system's Chromium, with the real server: what a person does with it, from the drop to the deletion."""

from __future__ import annotations

import base64
import io
import itertools
import re
import shutil
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hub_server import Hub, Served
from studio_server import Server, wait_for

from demucs_np import Separator, load_model
from demucs_np import page as pages
from demucs_np.demo.song import DEMO_FILE
from demucs_np.web import serving
from demucs_np.web.site import build

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)
expect = sync_api.expect
RATE, SECONDS = 44100, 12
STEMS = ["drums", "bass", "other", "vocals"]
AXE = "axe-core@4.11.0"
SOUND = [
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--no-sandbox",
]


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an excerpt of the demo song, one in mono at 48 kHz, and a file that is no sound."""
    folder = tmp_path_factory.mktemp("songs")
    samples, _ = soundfile.read(DEMO_FILE, frames=SECONDS * RATE)
    soundfile.write(folder / "Sunday in June.wav", samples, RATE)
    soundfile.write(folder / "mono.flac", samples[: 3 * RATE, 0], 48000)
    (folder / "talk.m4a").write_text("these are words\n" * 10)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=SOUND)
        yield running
        running.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("library") / "studio")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def track(server: Server, songs: Path) -> dict[str, Any]:
    """A separated track."""
    return server.wait(server.upload(songs / "Sunday in June.wav", "Sunday in June.wav", model="demo")["id"], "done")


class Visit:
    """A page in a context of its own, and what went wrong in it."""

    def __init__(self, browser: Any, address: str, *, model: str = "demo", **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | context))
        self.context.add_init_script(f"localStorage.setItem('model', {model!r})")
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.sizes: dict[str, int] = {}
        self.expected: list[str] = []  # patterns of complaints that belong to the test
        self.page.on("console", lambda said: said.type in ("error", "warning") and self.wrong.append(f"{said.text} {said.location}"))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("request", lambda asked: asked.url.startswith((address, "blob:")) or self.wrong.append(f"elsewhere: {asked.url}"))
        self.address = address
        self.open()

    def _failed(self, request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # what a reload or a download ends
            self.wrong.append(f"failed: {request.url} {request.failure}")

    def open(self) -> None:
        self.page.goto(self.address)
        self.page.wait_for_selector("body[data-ready]")

    def state(self, state: str, seconds: float = 60) -> None:
        """Wait until the selected track is in a state."""
        self.page.wait_for_selector(f"#progress[data-state={state}]", state="attached", timeout=seconds * 1000)

    def choose(self, name: str) -> None:
        self.page.locator("#queue .open", has_text=name).first.click()

    def position(self) -> float:
        return float(self.page.locator("#seek").input_value())

    def close(self) -> None:
        wrong = [text for text in self.wrong if not any(re.search(pattern, text) for pattern in self.expected)]
        self.context.close()
        assert wrong == []


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    made = Visit(browser, server.address)
    yield made
    made.close()


def drop(page: Any, *paths: Path) -> None:
    """As if the files were dropped on the window."""
    files = [{"name": path.name, "content": base64.b64encode(path.read_bytes()).decode()} for path in paths]
    page.evaluate(
        """(files) => {
          const data = new DataTransfer();
          for (const file of files) data.items.add(new File([Uint8Array.from(atob(file.content), (c) => c.charCodeAt(0))], file.name));
          dispatchEvent(new DragEvent("drop", { dataTransfer: data, cancelable: true }));
        }""",
        files,
    )


def download(page: Any, button: Any) -> tuple[str, bytes]:
    with page.expect_download() as started:
        button.click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()


def test_the_whole_way(visit: Visit, server: Server, songs: Path) -> None:
    page = visit.page
    drop(page, songs / "Sunday in June.wav")
    visit.state("done")
    assert page.locator("#title").inner_text() == "Sunday in June.wav"
    assert [lane.get_attribute("data-stem") for lane in page.locator(".lane").all()] == ["mix", *STEMS]
    identity = page.locator("#queue li").first.get_attribute("data-id")

    page.locator("#play").click()
    wait_for(lambda: visit.position() > 0.3)
    expect(page.locator("#play")).to_have_attribute("aria-label", "Pause")
    wait_for(lambda: float(page.locator(".lane[data-stem=mix] meter").evaluate("meter => meter.value")) > 0.01)
    page.locator("[data-stem=vocals] .solo").click()
    expect(page.locator(".lane[data-off]")).to_have_count(4)
    wait_for(lambda: float(page.locator("[data-stem=bass] meter").evaluate("meter => meter.value")) < 0.001)

    box = page.locator("[data-stem=drums] .wave").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, box["y"] + 30, steps=3)
    page.mouse.up()
    expect(page.locator("#looping")).to_have_attribute("aria-pressed", "true")
    seen = []
    wait_for(lambda: seen.append(visit.position()) or len(seen) > 60)
    assert 5.9 < min(seen) < 6.2
    assert 6.3 < max(seen) < 6.7
    assert any(second < first for first, second in itertools.pairwise(seen))  # it went back
    page.keyboard.press("Space")

    page.locator("#save").click()
    form, save = page.locator("#saving"), page.locator("#saving button")
    page.locator("#rate").select_option("model")
    page.locator("#format").select_option("wav 32")
    name, content = download(page, save)
    assert name == "Sunday in June.zip"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == [f"Sunday in June - {stem}.wav" for stem in STEMS]
        stems = {stem: soundfile.read(io.BytesIO(archive.read(f"Sunday in June - {stem}.wav")))[0] for stem in STEMS}
    page.locator("#what").select_option("=")  # what I hear: the vocals
    page.locator("#region").check()
    name, content = download(page, save)
    assert name == "Sunday in June - what I hear.wav"
    heard, _ = soundfile.read(io.BytesIO(content))
    assert 0.5 < len(heard) / RATE < 0.7
    start = round(6.0 * RATE)
    assert any(np.array_equal(heard, stems["vocals"][at : at + len(heard)]) for at in range(start - RATE // 5, start + RATE // 5))
    page.locator("#what").select_option("bass")
    for form_of, subtype in {
        "wav 16": "PCM_16",
        "wav 24": "PCM_24",
        "flac 16": "PCM_16",
        "flac 24": "PCM_24",
        "mp3 16": "MPEG_LAYER_III",
    }.items():
        page.locator("#format").select_option(form_of)
        name, content = download(page, save)
        assert name == f"Sunday in June - bass.{form_of.split()[0]}"
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            assert file.subtype == subtype
    assert form.is_visible()

    page.reload()
    visit.state("done")
    assert page.locator("#queue li").first.get_attribute("data-id") == identity
    deleting = page.locator("#actions button", has_text="elete")
    deleting.click()
    expect(deleting).to_have_text("Really delete")
    deleting.click()
    wait_for(lambda: identity not in server.folders())
    expect(page.locator(f"#queue [data-id='{identity}']")).to_have_count(0)


def test_lanes_do_not_drift(visit: Visit, server: Server, track: dict[str, Any]) -> None:
    """The graph that is heard, rendered, against the files: each lane alone, and muted and soloed lanes together."""
    render = """async ([track, settings, start, stop]) => {
      const [{ Mixer, render }, { StudioEngine }] = [await import("/player.js"), await import("/engine-studio.js")];
      const mixer = new Mixer(track.sources);
      for (const [name, values] of Object.entries(settings)) Object.assign(mixer.lane(name), values);
      const buffer = await render(new StudioEngine(), track, mixer, { start: 0, stop: track.length });
      return [0, 1].map((side) => Array.from(buffer.getChannelData(side).subarray(start, stop)));
    }"""
    start, stop = 10 * RATE - 5000, 10 * RATE + 5000  # around where one stretch of audio ends and the next begins

    def heard(settings: dict[str, dict[str, Any]]) -> np.ndarray:
        return np.array(visit.page.evaluate(render, [track, settings, start, stop]), np.float32)

    path = f"/api/tracks/{track['id']}/stems"
    files = {
        stem: soundfile.read(io.BytesIO(server.client.get(f"{path}/{stem}.wav").content), dtype="float32")[0][start:stop].T
        for stem in STEMS
    }
    for stem in STEMS:
        assert np.abs(heard({stem: {"solo": True}}) - files[stem]).max() < 1e-7
    muted = heard({"drums": {"muted": True}})
    assert np.abs(muted - (files["bass"] + files["other"] + files["vocals"])).max() < 1e-6
    assert np.abs(muted + heard({"drums": {"solo": True}}) - sum(files.values())).max() < 1e-6
    left = heard({"bass": {"solo": True, "pan": -1, "volume": 0.5}})
    assert np.abs(left[0] - 0.5 * files["bass"].sum(axis=0)).max() < 1e-6
    assert np.abs(left[1]).max() < 1e-6


def test_a_mono_file_at_another_rate(visit: Visit, songs: Path) -> None:
    visit.page.locator("#files").set_input_files(songs / "mono.flac")
    visit.state("done")
    assert "48 kHz" in visit.page.locator("#facts").inner_text()
    visit.page.locator("#save").click()
    visit.page.locator("#what").select_option("drums")
    name, content = download(visit.page, visit.page.locator("#saving button"))
    with soundfile.SoundFile(io.BytesIO(content)) as file:
        assert (name, file.samplerate) == ("mono - drums.wav", 48000)
        assert file.frames == pytest.approx(3 * RATE, abs=1)


def test_a_broken_file_is_said_in_its_row(visit: Visit, songs: Path) -> None:
    visit.expected.append("status of 415")
    drop(visit.page, songs / "talk.m4a")
    row = visit.page.locator("#queue [data-state=refused]")
    expect(row).to_contain_text("is it audio?")
    row.get_by_text("Try again").click()
    expect(row).to_contain_text("is it audio?")
    row.get_by_text("Remove").click()
    expect(row).to_have_count(0)


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None or subprocess.run([npm, "pack", "--silent", AXE], cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip(f"needs {AXE}, from npm")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        content = archive.extractfile("package/axe.min.js")
        assert content is not None
        return content.read().decode()


def violations(page: Any) -> list[tuple[str, str, str]]:
    found = page.evaluate("async () => (await axe.run()).violations")
    return [(one["id"], node["html"], node["failureSummary"]) for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing(browser: Any, server: Server, track: dict[str, Any], songs: Path, axe: str, scheme: str, width: int) -> None:
    visit = Visit(browser, server.address, color_scheme=scheme, viewport={"width": width, "height": 800})
    page = visit.page
    page.evaluate(axe)
    page.locator("#queue .open", has_text=track["name"]).first.evaluate("row => row.click()")
    visit.state("done")
    assert violations(page) == []
    page.locator("[data-stem=bass] .mute").click()
    page.locator("[data-stem=drums] .solo").click()
    page.locator("#save").click()
    page.locator("#stems summary").click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.locator("#help").click()
    assert violations(page) == []
    page.keyboard.press("Escape")
    visit.expected.append("status of 415")
    page.locator("#files").set_input_files(songs / "talk.m4a")
    visit.state("refused")
    if width < 760:
        page.locator("#sheet").click()
    assert violations(page) == []
    visit.close()


def test_axe_finds_nothing_on_the_empty_page(browser: Any, site: str, axe: str) -> None:
    visit = Visit(browser, site)
    visit.page.evaluate(axe)
    expect(visit.page.locator("#empty")).to_be_visible()
    assert violations(visit.page) == []
    visit.close()


def test_a_stem_is_dragged_out_and_a_song_pasted_in(visit: Visit, server: Server, track: dict[str, Any], songs: Path) -> None:
    visit.choose(track["name"])
    visit.state("done")
    dragged = visit.page.locator("[data-stem=bass] .grip").evaluate(
        """grip => {
          const data = new DataTransfer();
          grip.dispatchEvent(new DragEvent("dragstart", { dataTransfer: data }));
          return data.getData("DownloadURL");
        }"""
    )
    kind, name, address = dragged.split(":", 2)
    assert (kind, name) == ("application/octet-stream", "Sunday in June - bass.wav")
    with soundfile.SoundFile(io.BytesIO(server.client.get(address).content)) as file:
        assert file.frames == track["length"]
    visit.page.evaluate(
        """content => {
          const data = new DataTransfer();
          data.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], "pasted.flac"));
          dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        }""",
        base64.b64encode((songs / "mono.flac").read_bytes()).decode(),
    )
    expect(visit.page.locator("#title")).to_have_text("pasted.flac")
    visit.state("done")


def test_the_page_is_small() -> None:
    with io.BytesIO() as packed:
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in pages.FOLDER.rglob("*"):
                archive.write(path)
        assert len(packed.getvalue()) < 400_000
    code = {path.name: path.read_text(encoding="utf-8").splitlines() for path in pages.FOLDER.glob("*.js")}
    lines = {name: sum(not re.match(r"\s*(//|/\*|\*|$)", line) for line in text) for name, text in code.items()}
    assert lines.pop("inside.js") < 350  # fetched when it is opened
    assert sum(lines.values()) < 1500


def test_it_can_be_heard_while_it_goes_on_and_cancelled(visit: Visit, songs: Path, tmp_path: Path) -> None:
    samples, _ = soundfile.read(songs / "Sunday in June.wav")
    soundfile.write(tmp_path / "long.wav", np.tile(samples, (12, 1)), RATE)  # 2:24
    page = visit.page
    page.locator("#files").set_input_files(tmp_path / "long.wav")
    visit.state("running")
    expect(page.locator("#play")).to_be_enabled(timeout=30_000)
    page.locator("#play").click()
    wait_for(lambda: visit.position() > 0.2)
    assert page.locator("#progress").get_attribute("data-state") == "running"
    assert re.fullmatch(r"separating, (\d+ %|\d:\d\d left)", page.locator("#words").inner_text())
    expect(page.locator("#save")).to_be_disabled()
    page.locator("#actions").get_by_text("Cancel").click()
    visit.state("cancelled")
    expect(page.locator("#stage")).to_be_hidden()
    page.locator("#actions").get_by_text("Try again").click()
    visit.state("running")
    visit.expected.append("status of 404")  # of what was on its way
    page.locator("#actions").get_by_text("Delete").click()
    page.locator("#actions").get_by_text("Really delete").click()
    expect(page.locator("#queue .open", has_text="long.wav")).to_have_count(0)


def test_keyboard_only(visit: Visit, track: dict[str, Any]) -> None:
    page = visit.page
    press = page.keyboard.press
    pressed = lambda selector: page.locator(selector).get_attribute("aria-pressed")  # noqa: E731
    row = page.locator(f"#queue [data-id='{track['id']}'] .open")
    for _ in range(60):
        press("Tab")
        if row.evaluate("row => row === document.activeElement"):
            break
    press("Enter")
    visit.state("done")
    press("?")
    expect(page.locator("#keys")).to_be_visible()
    press("Escape")
    press("2")
    assert pressed("[data-stem=bass] .solo") == "true"
    press("Shift+Digit3")
    assert pressed("[data-stem=other] .mute") == "true"
    page.evaluate("document.activeElement.blur()")
    press("Space")
    wait_for(lambda: visit.position() > 0.2)
    press("Space")
    at = visit.position()
    press("ArrowRight")
    assert visit.position() == pytest.approx(at + 5, abs=0.01)
    press("[")
    press("Shift+ArrowRight")
    press("]")
    assert pressed("#looping") == "true"
    expect(page.locator(".loop")).to_be_visible()
    press("l")
    assert pressed("#looping") == "false"
    press("Home")
    assert visit.position() == 0
    press("o")
    assert pressed("#ab") == "true"
    expect(page.locator(".lane[data-off]")).to_have_count(4)
    press("s")
    assert pressed("#picture") == "true"
    press("ArrowUp")
    for _ in range(60):
        press("Tab")
        if page.locator("#save").evaluate("button => button === document.activeElement"):
            break
    press("Enter")
    expect(page.locator("#what")).to_be_focused()
    press("Escape")
    expect(page.locator("#saving")).to_be_hidden()
    expect(page.locator("#save")).to_be_focused()


def test_a_phone(browser: Any, server: Server, track: dict[str, Any]) -> None:
    visit = Visit(browser, server.address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark")
    page = visit.page
    page.locator("#sheet").tap()
    page.locator("#queue .open", has_text=track["name"]).first.tap()
    visit.state("done")
    expect(page.locator("#tracks")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for name in ("#play", "#looping", "#save"):
        box = page.locator(name).bounding_box()
        assert box["y"] > 500  # under the thumb
        assert box["y"] + box["height"] <= 844
        assert box["height"] >= 40
    page.locator("#play").tap()
    wait_for(lambda: visit.position() > 0.1)
    page.locator("[data-stem=drums] .mute").tap()
    expect(page.locator("[data-stem=drums] .mute")).to_have_attribute("aria-pressed", "true")
    visit.close()


def test_the_lanes_can_be_looked_at(visit: Visit, track: dict[str, Any]) -> None:
    """What is drawn: ink where the stem sounds, in the wave and in the spectrogram, and more of it when zoomed in on a loud part."""
    ink = """canvas => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return data.filter((value, index) => index % 4 === 3).reduce((sum, alpha) => sum + alpha, 0) / data.length;
    }"""
    visit.expected.append("willReadFrequently")  # the test reads canvases
    visit.choose(track["name"])
    visit.state("done")
    canvas = visit.page.locator("[data-stem=bass] canvas")
    wait_for(lambda: canvas.evaluate(ink) > 4)
    wave = canvas.evaluate(ink)
    visit.page.keyboard.press("s")
    wait_for(lambda: canvas.evaluate(ink) != wave)
    assert canvas.evaluate(ink) > 1
    ruler = visit.page.locator(".ruler canvas")
    before = ruler.evaluate("canvas => canvas.toDataURL()")
    visit.page.mouse.move(800, 300)
    visit.page.mouse.wheel(0, -400)
    wait_for(lambda: ruler.evaluate("canvas => canvas.toDataURL()") != before)
    box = ruler.bounding_box()
    visit.page.mouse.click(box["x"] + 5, box["y"] + 5)  # scrub
    assert 0 < visit.position() < SECONDS


def test_a_take_from_the_microphone(visit: Visit) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    visit.page.locator("#record").click()
    expect(visit.page.locator("#record")).to_have_text("Stop recording")
    visit.page.wait_for_timeout(700)
    visit.page.locator("#record").click()
    expect(visit.page.locator("#title")).to_have_text(re.compile("^take "))
    visit.state("done")


def test_a_folder(visit: Visit, songs: Path) -> None:
    visit.expected.append("status of 415")
    visit.page.locator("#folders").set_input_files(songs)
    expect(visit.page.locator("#queue [data-state=refused]")).to_contain_text("talk.m4a")
    visit.page.locator("#queue [data-state=refused]").get_by_text("Remove").click()
    visit.choose("mono.flac")
    visit.state("done")


def test_a_model_is_fetched_with_progress(browser: Any, songs: Path, tmp_path: Path) -> None:
    quiet = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    with Hub() as hub:
        server = Server(tmp_path / "studio", env=quiet | {"HF_ENDPOINT": hub.address})
        visit = Visit(browser, server.address, model="htdemucs")
        page = visit.page
        expect(page.locator("#about")).to_contain_text("Licence: MIT")
        expect(page.locator("#fetch")).to_have_text("Fetch 84 MB")
        drop(page, songs / "Sunday in June.wav")
        visit.state("new")  # nothing is fetched without being asked for
        expect(page.locator("#actions button").first).to_have_text("Fetch 84 MB and separate")
        assert hub.log == []
        hub.files["/adefossez/HTDemucs/resolve/main/955717e8.safetensors"] = Served(bytes(3_000_000), slow=2.0)
        page.locator("#fetch").click()
        expect(page.locator("#about-bar")).to_be_visible()
        expect(page.locator("#fetch")).to_be_hidden(timeout=30_000)
        expect(page.locator("#model option:checked")).to_have_text("htdemucs")
        expect(page.locator("#actions button").first).to_have_text("Separate")
        visit.close()
        server.stop()


def test_a_server_that_goes_away_and_comes_back(browser: Any, tmp_path: Path) -> None:
    offline = {"HF_HUB_CACHE": str(tmp_path / "hub"), "TORCH_HOME": str(tmp_path / "torch"), "HF_HUB_OFFLINE": "1"}
    server = Server(tmp_path / "studio", env=offline)
    visit = Visit(browser, server.address)
    visit.page.locator("#model").select_option("htdemucs")
    visit.page.locator("#fetch").click()
    expect(visit.page.locator("#about em")).to_contain_text("HF_HUB_OFFLINE forbids the network")
    expect(visit.page.locator("#fetch")).to_have_text("Try again")
    visit.expected += ["ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RESET", "/api/events"]
    expect(visit.page.locator("#away")).to_be_hidden()
    server.stop()
    expect(visit.page.locator("#away")).to_be_visible()
    visit.page.locator("#demo").click()
    expect(visit.page.locator("#say")).to_contain_text("start it again with demucs-np studio")
    again = Server(tmp_path / "studio", "--port", server.address.rpartition(":")[2])
    expect(visit.page.locator("#away")).to_be_hidden(timeout=15_000)
    visit.page.locator("#demo").click()
    visit.state("done")
    visit.close()
    again.stop()


def test_the_pages_own_pictures_are_the_servers(visit: Visit, track: dict[str, Any]) -> None:
    """What `pictures.js` draws where no server is: the same peaks, and a spectrogram that differs by rounding alone."""
    compare = """async (track) => {
      const [{ Pictures }, { StudioEngine }] = [await import("/pictures.js"), await import("/engine-studio.js")];
      const [engine, pictures] = [new StudioEngine(), new Pictures(track.rate)];
      const most = (ours, theirs) => [ours.length - theirs.length, ours.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[i])), 0)];
      for (let start = 0; start < track.length; start += 100_001) {
        const part = await engine.audio(track, "vocals", start, start + 100_001);
        pictures.append([0, 1].map((side) => part.filter((_, i) => i % 2 === side)));
      }
      pictures.finish();
      return [
        most(pictures.peaks.from(0), await engine.peaks(track, "vocals", 0)),
        most(pictures.spectrogram.from(0), await engine.spectrogram(track, "vocals", 0)),
      ];
    }"""
    peaks, spectrogram = visit.page.evaluate(compare, track)
    assert peaks == [0, 0]
    assert spectrogram[0] == 0
    assert spectrogram[1] <= 1


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a static site with the demo model."""
    folder = tmp_path_factory.mktemp("site")
    build(folder)
    with serving.server(folder, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}/"
        running.shutdown()


def test_the_same_page_without_a_server(browser: Any, site: str, songs: Path, tmp_path: Path) -> None:
    """The whole way with the engine in the browser, without a network once the page and the model are there."""
    samples, _ = soundfile.read(songs / "Sunday in June.wav", frames=6 * RATE, dtype="float32")
    song = tmp_path / "short.flac"
    soundfile.write(song, samples, RATE)
    visit = Visit(browser, site)
    page = visit.page
    assert page.evaluate("crossOriginIsolated")
    page.locator("#files").set_input_files(songs / "talk.m4a")
    expect(page.locator("#queue [data-state=refused]")).to_contain_text("the browser cannot decode it; is it audio?")
    page.locator("#queue [data-state=refused]").get_by_text("Remove").click()
    page.locator("#files").set_input_files(song)
    expect(page.locator("#words")).to_contain_text("separating", timeout=30_000)
    page.locator("#actions").get_by_text("Cancel").click()
    visit.state("cancelled")
    visit.expected.append(r"icon\.svg|ERR_INTERNET_DISCONNECTED .*icon")  # the browser asks again for the tab's icon
    visit.context.set_offline(True)
    page.locator("#actions").get_by_text("Try again").click()
    visit.state("done", 120)
    page.locator("#play").click()
    wait_for(lambda: visit.position() > 0.3)
    page.locator("[data-stem=vocals] .solo").click()
    wait_for(lambda: float(page.locator("[data-stem=bass] meter").evaluate("meter => meter.value")) < 0.001)
    page.keyboard.press("Space")

    page.locator("#save").click()
    assert [option.get_attribute("value") for option in page.locator("#format option").all()] == ["wav 16", "wav 24", "wav 32"]
    _, stems = Separator(load_model("demo")).separate_audio_file(song)
    for form, subtype, noise in (("wav 32", "FLOAT", 1e-3), ("wav 24", "PCM_24", 1e-3), ("wav 16", "PCM_16", 1e-3)):
        page.locator("#format").select_option(form)
        name, content = download(page, page.locator("#saving button"))
        assert name == "short.zip"
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == [f"short - {stem}.wav" for stem in STEMS]
            for stem in STEMS:
                with soundfile.SoundFile(io.BytesIO(archive.read(f"short - {stem}.wav"))) as file:
                    assert (file.subtype, file.samplerate) == (subtype, RATE)
                    assert np.abs(file.read(dtype="float32").T - stems[stem]).max() < noise
    page.locator("#what").select_option("=")
    name, content = download(page, page.locator("#saving button"))
    assert name == "short - what I hear.wav"
    assert np.abs(soundfile.read(io.BytesIO(content))[0].T - stems["vocals"]).max() < 1e-3

    visit.context.set_offline(False)
    page.reload()
    visit.state("done")
    page.locator("#actions").get_by_text("Delete").click()
    page.locator("#actions").get_by_text("Really delete").click()
    expect(page.locator("#queue li")).to_have_count(0)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#queue li")).to_have_count(0)
    visit.close()


def test_another_rate_without_a_server(browser: Any, site: str, songs: Path) -> None:
    visit = Visit(browser, site)
    page = visit.page
    page.locator("#files").set_input_files(songs / "mono.flac")
    visit.state("done", 120)
    assert "48 kHz" in page.locator("#facts").inner_text()
    page.locator("#save").click()
    page.locator("#what").select_option("drums")
    page.locator("#format").select_option("wav 32")
    _, content = download(page, page.locator("#saving button"))
    drums, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    assert rate == 48000
    assert len(drums) == pytest.approx(3 * RATE, abs=1)
    page.locator("#rate").select_option("model")
    _, content = download(page, page.locator("#saving button"))
    _, stems = Separator(load_model("demo")).separate_audio_file(songs / "mono.flac")
    assert np.abs(soundfile.read(io.BytesIO(content), dtype="float32")[0].T - stems["drums"]).max() < 1e-3
    visit.close()
