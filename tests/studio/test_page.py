"""The page in the system's Chromium, with the real server: what a person does with it, from the drop to the deletion."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
import soundfile
from hub_server import Hub, Served
from studio_server import Server, wait_for
from visiting import RATE, SECONDS, STEMS, Visit, delete, download, drag_in, drop, expect, violations

from demucs_np import page as pages
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.weights.catalog import SIX_STEMS

PICTURES = os.environ.get("DEMUCS_NP_PICTURES")  # a folder: pictures of some states, to be looked at


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("library") / "studio")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def track(server: Server, songs: Path) -> dict[str, Any]:
    """A separated track."""
    return server.wait(server.upload(songs / "Sunday in June.wav", "Sunday in June.wav", model="demo")["id"], "done")


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    made = Visit(browser, server.address)
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["studio", "static"])
def test_the_whole_way(browser: Any, request: pytest.FixtureRequest, songs: Path, kind: str) -> None:
    """With both engines: drop, hear, solo, loop, save in each format, come back, delete."""
    visit = Visit(browser, request.getfixturevalue("server").address if kind == "studio" else request.getfixturevalue("site"))
    page = visit.page
    drop(page, songs / "Sunday in June.wav")
    visit.state("done", 120)
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
    save = page.locator("#saving button")
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
    places = range(round(5.8 * RATE), round(6.2 * RATE))
    start = min(places, key=lambda at: np.abs(heard[:64] - stems["vocals"][at : at + 64]).max())
    assert np.abs(heard - stems["vocals"][start : start + len(heard)]).max() < 1e-6
    bass = stems["bass"][start : start + len(heard)]
    page.locator("#what").select_option("bass")
    for form, subtype, difference in (
        ("wav 16", "PCM_16", 2**-15), ("wav 24", "PCM_24", 2**-23), ("flac 16", "PCM_16", 2**-15), ("flac 24", "PCM_24", 2**-23),
        ("mp3 16", "MPEG_LAYER_III", None),
    ):  # fmt: skip
        page.locator("#format").select_option(form)
        name, content = download(page, save)
        assert name == f"Sunday in June - bass.{form.split()[0]}"
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            assert (file.subtype, file.samplerate, file.channels) == (subtype, RATE, 2)
            saved = file.read()
        if difference is None:  # MPEG's frames add silence at both ends
            assert len(bass) <= len(saved) < len(bass) + 4000
            assert np.linalg.norm(saved) == pytest.approx(np.linalg.norm(bass), rel=0.02)
        else:
            assert np.abs(saved - bass).max() < 2 * difference  # cut toward zero, 1 being the largest integer
    assert page.locator("#saving").is_visible()
    page.keyboard.press("Escape")
    page.locator("[data-stem=vocals] .solo").click()
    page.locator("[data-stem=bass] .solo").click()
    page.locator("[data-stem=bass] [name=volume]").fill("0.5")
    page.locator("[data-stem=bass] [name=pan]").fill("-1")
    page.locator("#save").click()
    page.locator("#what").select_option("=")
    page.locator("#format").select_option("wav 32")
    _, content = download(page, save)
    mixed = soundfile.read(io.BytesIO(content))[0]
    assert np.abs(mixed[:, 0] - 0.5 * bass.sum(axis=1)).max() < 1e-6
    assert np.abs(mixed[:, 1]).max() < 1e-6
    assert visit.shifts() < 0.05

    page.reload()
    visit.state("done")
    assert page.locator("#queue li").first.get_attribute("data-id") == identity
    delete(page)
    expect(page.locator(f"#queue [data-id='{identity}']")).to_have_count(0)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator(f"#queue [data-id='{identity}']")).to_have_count(0)
    if kind == "studio":
        assert identity not in request.getfixturevalue("server").folders()
    visit.close()


def test_lanes_do_not_drift(visit: Visit, server: Server, track: dict[str, Any]) -> None:
    """The graph that is heard, rendered, against the files: each lane alone, and muted and soloed lanes together."""
    render = """async ([track, settings, start, stop]) => {
      const [{ Mixer, render }, { engine }] = [await import("/player.js"), await import("/engine-studio.js")];
      const mixer = new Mixer(track.sources);
      for (const [name, values] of Object.entries(settings)) Object.assign(mixer.lanes[name], values);
      const sides = await render(engine, track, mixer, { start: 0, stop: track.length });
      return sides.map((samples) => Array.from(samples.subarray(start, stop)));
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
    assert violations(page) == []
    page.locator("#stems").click()
    assert violations(page) == []
    page.locator("#delete").click()
    assert violations(page) == []
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
    visit.page.evaluate(
        """() => addEventListener("dragstart", ({ dataTransfer }) => {
          window.dragged = Object.fromEntries([...dataTransfer.types].map((type) => [type, dataTransfer.getData(type)]));
        })"""
    )
    box = visit.page.locator("[data-stem=bass] .grip").bounding_box()
    visit.page.mouse.move(box["x"] + 8, box["y"] + 8)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 60, box["y"] + 90, steps=6)
    dragged = visit.page.evaluate("window.dragged")
    visit.page.mouse.up()
    kind, name, address = dragged["downloadurl"].split(":", 2)
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
    delete(page)
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


def test_files_and_a_folder_dropped_from_the_desktop(visit: Visit, songs: Path, tmp_path: Path) -> None:
    """All that is audio in the folder and below; rows with their lengths, one in work, the others waiting."""
    (tmp_path / "album" / "second disc").mkdir(parents=True)
    shutil.copyfile(songs / "Sunday in June.wav", tmp_path / "album" / "one.wav")
    shutil.copyfile(songs / "mono.flac", tmp_path / "album" / "second disc" / "two.flac")
    (tmp_path / "album" / "cover.txt").write_text("no song")
    shutil.copyfile(songs / "mono.flac", tmp_path / "three.flac")
    drag_in(visit.page, 700, 400, tmp_path / "album", tmp_path / "three.flac")
    rows = visit.page.locator("#queue li")
    for name, length in (("one.wav", "0:12"), ("two.flac", "0:02"), ("three.flac", "0:02")):
        expect(rows.filter(has_text=name)).to_contain_text(length)
    expect(rows.filter(has_text="cover.txt")).to_have_count(0)
    for name in ("one.wav", "two.flac", "three.flac"):
        expect(rows.filter(has_text=name).first).to_contain_text("separated in", timeout=60_000)


def test_the_next_song_as_it_is_wished(visit: Visit, track: dict[str, Any]) -> None:
    """Stems and quality in words, with the time it takes; what is asked of the engine; the lanes that come of it."""
    page = visit.page
    visit.choose(track["name"])
    visit.state("done")
    words = [option.inner_text() for option in page.locator("#quality option").all()]
    assert all(re.fullmatch(rf"{name} · \d+ (s|min)", text) for name, text in zip(("fast", "normal", "best"), words, strict=True)), words
    page.locator("#quality").select_option("best")
    page.locator("#stems").click()
    for stem in ("drums", "bass", "other"):
        page.locator("#stem-list").get_by_text(stem).click()
    page.keyboard.press("Escape")
    expect(page.locator("#stems b")).to_have_text("vocals")
    with page.expect_request("**/separate") as asked:
        page.locator("#actions button").first.click()
    assert json.loads(asked.value.post_data) == {"model": "demo", "stems": ["vocals"], "shifts": 4, "overlap": 0.25}
    wait_for(lambda: page.locator(".lane").count() == 2)
    visit.state("done")
    page.locator("#quality").select_option("fast")
    with page.expect_request("**/separate") as asked:
        page.locator("#actions button").first.click()
    assert json.loads(asked.value.post_data) == {"model": "demo", "stems": ["vocals"], "shifts": 0, "overlap": 0.1}
    visit.state("done")
    page.reload()
    visit.choose(track["name"])
    expect(page.locator("#quality")).to_have_value("fast")  # it is remembered; all stems are there again
    page.locator("#quality").select_option("normal")
    page.locator("#actions button").first.click()
    expect(page.locator(".lane")).to_have_count(5)
    visit.state("done")


def test_six_stems(browser: Any, songs: Path, tmp_path: Path) -> None:
    """A model of six stems: a lane each, on a laptop without scrolling, on a phone without a part outside."""
    golden = load_golden(Path(__file__).parents[1] / "golden" / "ht_published.safetensors")
    config = replace(golden.config, sources=SIX_STEMS)
    tensors = draw_tensors(6, expected_tensors(config))
    (tmp_path / "own").mkdir()
    packages.write(tmp_path / "own" / "six.safetensors", tensors, packages.metadata(config.klass, config.constructor_arguments()))
    server = Server(tmp_path / "studio", env={"DEMUCS_NP_MODELS": str(tmp_path / "own")})
    visit = Visit(browser, server.address, model="six")
    page = visit.page
    page.locator("#files").set_input_files(songs / "mono.flac")
    visit.state("done", 120)
    expect(page.locator(".lane")).to_have_count(7)
    assert [lane.get_attribute("data-stem") for lane in page.locator(".lane").all()] == ["mix", *SIX_STEMS]
    hues = {lane.evaluate("lane => getComputedStyle(lane).getPropertyValue('--hue')") for lane in page.locator(".lane").all()}
    assert len(hues) == 7
    page.keyboard.press("6")
    expect(page.locator("[data-stem=piano] .solo")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("6")
    page.locator("#play").click()
    wait_for(lambda: float(page.locator("[data-stem=guitar] meter").evaluate("meter => meter.value")) > 0.001)
    page.keyboard.press("Space")
    for width, height in ((1280, 800), (390, 844)):
        page.set_viewport_size({"width": width, "height": height})
        boxes = [lane.bounding_box() for lane in page.locator(".lane").all()]
        assert all(above["y"] + above["height"] <= below["y"] + 1 for above, below in itertools.pairwise(boxes))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        footer = page.locator("footer").bounding_box()
        assert footer["y"] + footer["height"] <= height  # on the laptop below the lanes, on the phone over them
        if width > 760:
            assert boxes[-1]["y"] + boxes[-1]["height"] <= footer["y"]
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"six-{width}.png")
    page.locator("#save").click()
    _, content = download(page, page.locator("#saving button"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.namelist()) == 6
    visit.close()
    server.stop()


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
    expect(visit.page.locator("#say")).to_contain_text("Start it again with demucs-np studio")
    again = Server(tmp_path / "studio", "--port", server.address.rpartition(":")[2])
    expect(visit.page.locator("#away")).to_be_hidden(timeout=15_000)
    visit.page.locator("#demo").click()
    visit.state("done")
    visit.close()
    again.stop()


def test_the_pages_own_pictures_are_the_servers(visit: Visit, track: dict[str, Any]) -> None:
    """What `pictures.js` draws where no server is: the same peaks, and a spectrogram that differs by rounding alone."""
    compare = """async (track) => {
      const [{ peaks, spectrogram }, { engine }] = [await import("/pictures.js"), await import("/engine-studio.js")];
      
      const most = (ours, theirs) => [ours.length - theirs.length, ours.reduce((most, x, i) => Math.max(most, Math.abs(x - theirs[i])), 0)];
      const stem = await engine.audio(track, "vocals", 0, track.length);
      return [
        most(peaks(stem), await engine.picture(track, "vocals", "peaks", 0)),
        most(spectrogram(stem, track.rate), await engine.picture(track, "vocals", "spectrogram", 0)),
      ];
    }"""
    peaks, spectrogram = visit.page.evaluate(compare, track)
    assert peaks == [0, 0]
    assert spectrogram[0] == 0
    assert spectrogram[1] <= 1
