"""`--page`: a page beside the stems that opens by a double click, in Chromium from the folder itself."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from demucs_np.commands.main import main
from demucs_np.errors import DemucsError
from demucs_np.page import song

RATE = 44100
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEMS = {"drums": 0.8, "bass": 0.4, "vocals": 0.2}
NAME = "A \"quoted\" & <b>bold</b> <script>alert(1)</script> 'song'"


def write_stems(folder: Path, ending: str = "wav") -> dict[str, Path]:
    """Three seconds each: silence, then a tone."""
    time = np.arange(3 * RATE) / RATE
    files = {}
    for number, (stem, loudness) in enumerate(STEMS.items()):
        tone = loudness * np.sin(2 * np.pi * 220 * (number + 1) * time) * (time > 1)
        files[stem] = folder / f"{stem} #{number}.{ending}"
        soundfile.write(files[stem], np.stack([tone, tone], axis=1), RATE)
    return files


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python (pip install playwright)")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"])
        yield running
        running.close()


def visit(browser: Any, path: Path, **context: Any) -> tuple[Any, list[str]]:
    page = browser.new_context(**context).new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog {dialog.message}"))
    page.goto(path.as_uri())
    return page, complaints


STATE = "() => lanes.map(l => ({ muted: l.audio.muted, paused: l.audio.paused, at: l.audio.currentTime, volume: l.audio.volume }))"


@pytest.mark.parametrize("ending", ["wav", "flac", "mp3"])
def test_it_plays_from_the_folder(browser: Any, tmp_path: Path, ending: str) -> None:
    path = song.write(write_stems(tmp_path, ending), NAME)
    page, complaints = visit(browser, path)
    assert page.title() == NAME
    assert page.locator("h1").inner_text() == NAME
    assert page.locator(".lane strong").all_inner_texts() == list(STEMS)
    page.click("#play")
    page.wait_for_function("() => lanes.every(l => !l.audio.paused && l.audio.currentTime > 0.4)")
    times = [lane["at"] for lane in page.evaluate(STATE)]
    assert max(times) - min(times) < 0.1
    page.keyboard.press("2")
    assert [lane["muted"] for lane in page.evaluate(STATE)] == [True, False, True]
    page.keyboard.press("2")
    page.keyboard.press("Shift+Digit1")
    assert [lane["muted"] for lane in page.evaluate(STATE)] == [True, False, False]
    page.locator("input[aria-label='Volume of vocals']").fill("0.25")
    assert page.evaluate(STATE)[2]["volume"] == 0.25
    page.click("#play")
    assert all(lane["paused"] for lane in page.evaluate(STATE))
    box = page.locator(".wave").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 20)
    assert all(abs(lane["at"] - 1.5) < 0.1 for lane in page.evaluate(STATE))
    assert complaints == []
    page.context.close()


COLUMNS = """() => lanes.map(({ canvas }) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), sums = [0, 0, 0, 0];
  for (let i = 3; i < data.length; i += 4) sums[Math.floor(4 * (((i - 3) / 4) % canvas.width) / canvas.width)] += data[i];
  return sums;
})"""


def test_it_shows_what_sounds(browser: Any, tmp_path: Path) -> None:
    """Waveforms as high as the stems are loud, and spectra, where there is sound: not in the first second. On a phone, in the dark."""
    page, complaints = visit(
        browser, song.write(write_stems(tmp_path), "song"), viewport={"width": 390, "height": 844}, color_scheme="dark"
    )
    first, *others = waves = page.evaluate(COLUMNS)
    assert all(lane[2] > 5 * lane[0] and lane[3] > 5 * lane[0] for lane in waves)
    assert first[3] > 1.7 * others[0][3] > 3 * others[1][3]
    page.keyboard.press("s")
    assert page.locator("#picture").get_attribute("aria-pressed") == "true"
    assert all(lane[3] > 5 * lane[0] for lane in page.evaluate(COLUMNS))
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    unnamed = "() => [...document.querySelectorAll('button, input')].filter(x => !(x.getAttribute('aria-label') || x.textContent)).length"
    assert page.evaluate(unnamed) == 0
    assert complaints == []
    page.context.close()


def test_the_command(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a song.wav", np.random.default_rng(0).standard_normal((9000, 2)) / 10, RATE)
    command = [
        sys.executable,
        "-m",
        "demucs_np",
        "-n",
        "demo",
        "--page",
        "--flac",
        "-o",
        str(tmp_path / "out"),
        str(tmp_path / "a song.wav"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    page = (tmp_path / "out" / "demo" / "a song" / "index.html").read_text()
    assert all(f'"file": "./{stem}.flac"' in page for stem in ("drums", "bass", "other", "vocals"))
    assert "http" not in page.replace("http-equiv", "")  # nothing from elsewhere


def test_bad_input(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--page", "--filename", "{stem}.{ext}", str(tmp_path / "song.wav")])
    assert result.exit_code == 2
    assert "--page needs a folder for each track: write {track}/ in --filename." in result.output
    files = write_stems(tmp_path)
    (tmp_path / "index.html").mkdir()
    with pytest.raises(DemucsError, match=r"index\.html: cannot be written"):
        song.write(files, "song")
