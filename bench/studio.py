"""The studio: how soon its page can be used, how soon a dropped song sounds, what a long track needs, and what it adds to a separation.

    python bench/studio.py [--model demo] [--minutes 10] [--track 4] [--runs 3]

Chromium is the system's (needs Playwright for Python). Memory of the page is the largest resident set of a renderer of that Chromium, seen
while the track is played here and there; memory of the server is the most it had. What the studio adds: a track of `--track` minutes by the
command and by a studio that has separated one before, in turns, the fastest of `--runs`; the page is not open. That studio has started
already, the command has not: what is added is told of the command's whole time, and of its time without what a second of audio takes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import heading, markdown, tell
from playwright.sync_api import sync_playwright

from demucs_np.demo.song import DEMO_FILE

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "studio"))
from studio_server import Server, wait_for  # noqa: E402

PLACES = np.linspace(0.95, 0.05, 12)  # of a track, to which is gone


def start(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """The studio's process, its address, and when it was started."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "demucs_np", "studio", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    return process, found[0], began


def open_page(page: Any, address: str) -> None:
    """As soon as the server answers, until the page can be used."""
    while True:
        try:
            page.goto(address)
            break
        except Exception:
            time.sleep(0.02)
    page.wait_for_selector("body[data-ready]")


def page_memory(browser: Any) -> float:
    """Resident megabytes of the browser's largest renderer."""
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    sizes = [int(Path(f"/proc/{one['id']}/statm").read_text().split()[1]) * 4096 for one in processes if one["type"] == "renderer"]
    return max(sizes) / 1e6


def most_memory(process: int) -> float:
    """The most resident megabytes that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def song(path: Path, seconds: float) -> Path:
    """The demo song again and again."""
    samples, rate = soundfile.read(DEMO_FILE, dtype="float32")
    with soundfile.SoundFile(path, "w", rate, 2, "PCM_16") as file:
        left = round(seconds * rate)
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)
    return path


def sounding(page: Any, lanes: str = ".lane[data-stem=mix]") -> bool:
    """Whether all of these lanes' meters move."""
    return bool(page.evaluate(f"[...document.querySelectorAll('{lanes} meter')].every(meter => meter.value > 0.001)"))


def separate(page: Any, path: Path) -> dict[str, float]:
    """Give the page a file and play it: seconds until it sounds, until it is done, and from then on until its lanes are drawn."""
    began = time.perf_counter()
    page.locator("#files").set_input_files(path)
    wait_for(lambda: not page.locator("#play").is_disabled() and path.name in page.locator("#title").inner_text(), 600)
    page.locator("#play").click()
    wait_for(lambda: sounding(page), 60)
    times = {"sound": time.perf_counter() - began}
    page.wait_for_selector("#progress[data-state=done]", state="attached", timeout=7_200_000)
    times["done"] = time.perf_counter() - began
    ink = """canvas => canvas.getContext("2d").getImageData(canvas.width - 9, 0, 8, canvas.height).data
      .filter((value, i) => i % 4 === 3 && value).length"""
    wait_for(lambda: page.locator("[data-stem=drums] canvas").evaluate(ink) > 16, 60)
    times["drawn"] = time.perf_counter() - began - times["done"]
    return times


def go_around(page: Any, browser: Any) -> tuple[float, float]:
    """Play at PLACES until all lanes have sounded there: the longest wait in seconds, and the page's largest memory in MB."""
    memory, longest = page_memory(browser), 0.0
    for place in PLACES:
        page.evaluate("document.querySelectorAll('meter').forEach(meter => (meter.value = 0))")
        began = time.perf_counter()
        page.locator("#seek").evaluate(f"seek => (seek.value = seek.max * {place}, seek.dispatchEvent(new Event('input')))")
        wait_for(lambda: sounding(page, ".lane"), 30)
        longest = max(longest, time.perf_counter() - began)
        page.wait_for_timeout(500)
        memory = max(memory, page_memory(browser))
    return longest, memory


def command(path: Path, model: str, folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "demucs_np", "-n", model, "-o", str(folder), "--float32", str(path)],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    return time.perf_counter() - began


def added(folder: Path, model: str, minutes: float, runs: int) -> list[list[str]]:
    """The same track by the command and by a studio, in turns."""
    path, short = song(folder / "track.wav", minutes * 60), song(folder / "short.wav", 1)
    server = Server(folder / "server")
    server.wait(server.upload(song(folder / "first.wav", 12), model=model)["id"], "done")
    command(short, model, folder / "stems")
    times: dict[str, list[float]] = {"start": [], "command": [], "studio": []}
    for _ in range(runs):
        times["start"].append(command(short, model, folder / "stems"))
        times["command"].append(command(path, model, folder / "stems"))
        began = time.perf_counter()
        identity = server.upload(path, model=model)["id"]
        server.wait(identity, "done")
        times["studio"].append(time.perf_counter() - began)
        server.client.delete(f"/api/tracks/{identity}")
        tell(str(times))
    server.stop()
    start, alone, studio = (min(times[name]) for name in ("start", "command", "studio"))
    return [
        ["a second of audio: the command, from its start to its end", f"{start:.2f} s"],
        [f"{minutes:g} minutes: the command, from its start to its end", f"{alone:.2f} s"],
        [f"{minutes:g} minutes: the studio, from the upload to the end, with pictures of the stems", f"{studio:.2f} s"],
        ["what the studio adds to the command's time", f"{100 * (studio / alone - 1):+.1f} %"],
        ["what the studio adds to the command's time without its start", f"{100 * (studio / (alone - start) - 1):+.1f} %"],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=10, help="of the long track")
    parser.add_argument("--track", type=float, default=4, help="minutes of the track that the command separates, too (0: none)")
    parser.add_argument("--runs", type=int, default=3, help="of each")
    options = parser.parse_args()
    head, rows = heading(), []
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        folder = Path(work)
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--autoplay-policy=no-user-gesture-required", "--no-sandbox"])
        context = browser.new_context()
        context.add_init_script(f"localStorage.setItem('model', {options.model!r})")
        page = context.new_page()
        process, address, began = start(folder / "studio")
        open_page(page, address)
        rows.append(["from the command to a usable page", f"{time.perf_counter() - began:.2f} s"])
        tell(rows[-1][1])
        cold = separate(page, song(folder / "cold.wav", 24))
        rows.append(["demo song, from drop to sound, kernels loaded for the first time", f"{cold['sound']:.2f} s"])
        warm = separate(page, song(folder / "warm.wav", 24))
        rows.append(["demo song, from drop to sound, the second time", f"{warm['sound']:.2f} s"])
        tell(f"{cold} {warm}")
        page.keyboard.press("Space")
        name = f"{options.minutes:g} minutes"
        times = separate(page, song(folder / "long.wav", options.minutes * 60))
        tell(str(times))
        rows.append([f"{name}: from drop to sound", f"{times['sound']:.2f} s"])
        rows.append([f"{name}: from drop to the end, while it is played", f"{times['done']:.1f} s"])
        rows.append([f"{name}: lanes drawn after the end", f"{times['drawn']:.2f} s"])
        longest, memory = go_around(page, browser)
        rows.append([f"{name}: until all lanes sound at another place, at most", f"{longest:.2f} s"])
        rows.append([f"{name}: memory of the page, at most", f"{memory:.0f} MB"])
        rows.append([f"{name}: memory of the server, at most", f"{most_memory(process.pid):.0f} MB"])
        context.close()
        browser.close()
        process.terminate()
        process.communicate()
        if options.track:
            rows += added(folder, options.model, options.track, options.runs)
    print(head)
    print(markdown(["", ""], rows))


if __name__ == "__main__":
    main()
