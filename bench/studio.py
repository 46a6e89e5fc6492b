"""The studio: how soon its page can be used, how soon a dropped song sounds, what it adds to a separation, and what a long track needs.

    python bench/studio.py [--minutes 10] [--model demo]

Chromium is the system's (needs Playwright for Python). Memory is the resident set of Chromium's renderer process that holds the page.
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
from studio_server import wait_for  # noqa: E402


def start(folder: Path) -> tuple[subprocess.Popen[str], str, float]:
    """The studio's process, its address, and when it was started."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "demucs_np", "studio", str(folder), "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    return process, found[0], began


def renderers() -> float:
    """Resident megabytes of the largest renderer of Chromium, of this user."""
    largest = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"--type=renderer" in (folder / "cmdline").read_bytes():
                largest = max(largest, int((folder / "statm").read_text().split()[1]) * 4096)
        except OSError:  # it has ended
            continue
    return largest / 1e6


def song(path: Path, seconds: float) -> Path:
    """The demo song again and again."""
    samples, rate = soundfile.read(DEMO_FILE, dtype="float32")
    with soundfile.SoundFile(path, "w", rate, 2, "PCM_16") as file:
        left = round(seconds * rate)
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)
    return path


def sounding(page: Any) -> bool:
    return float(page.locator(".lane[data-stem=mix] meter").evaluate("meter => meter.value")) > 0.001


def separate(page: Any, path: Path) -> dict[str, float]:
    """Give the page a file and play it: seconds until it sounds, until it is done, and from then on until its lanes are drawn."""
    began = time.perf_counter()
    page.locator("#files").set_input_files(path)
    wait_for(lambda: not page.locator("#play").is_disabled() and path.name in page.locator("#title").inner_text(), 600)
    page.locator("#play").click()
    wait_for(lambda: sounding(page), 60)
    times = {"sound": time.perf_counter() - began}
    page.wait_for_selector("#progress[data-state=done]", state="attached", timeout=3_600_000)
    times["done"] = time.perf_counter() - began
    ink = """canvas => canvas.getContext("2d").getImageData(canvas.width - 9, 0, 8, canvas.height).data
      .filter((value, i) => i % 4 === 3 && value).length"""
    wait_for(lambda: page.locator("[data-stem=drums] canvas").evaluate(ink) > 16, 60)
    times["drawn"] = time.perf_counter() - began - times["done"]
    return times


def command(path: Path, model: str, folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "demucs_np", "-n", model, "-o", str(folder), "--float32", str(path)],
        check=True, capture_output=True, cwd=ROOT,
    )  # fmt: skip
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--minutes", type=float, default=10, help="of the long track")
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
        while True:
            try:
                page.goto(address)
                break
            except Exception:
                time.sleep(0.02)
        page.wait_for_selector("body[data-ready]")
        rows.append(["from the command to a usable page", f"{time.perf_counter() - began:.2f} s"])
        tell(rows[-1][1])
        cold = separate(page, song(folder / "cold.wav", 24))
        rows.append(["demo song, from drop to sound, kernels loaded for the first time", f"{cold['sound']:.2f} s"])
        warm = separate(page, song(folder / "warm.wav", 24))
        rows.append(["demo song, from drop to sound, the second time", f"{warm['sound']:.2f} s"])
        tell(f"{cold} {warm}")
        page.keyboard.press("Space")
        long = song(folder / "long.wav", options.minutes * 60)
        times = separate(page, long)
        tell(str(times))
        rows.append([f"{options.minutes:g} minutes: from drop to sound", f"{times['sound']:.2f} s"])
        rows.append([f"{options.minutes:g} minutes: lanes drawn after the end", f"{times['drawn']:.2f} s"])
        memory = [renderers()]
        for part in np.linspace(0.05, 0.95, 12):  # played here and there
            page.locator("#seek").evaluate(f"seek => (seek.value = seek.max * {part}, seek.dispatchEvent(new Event('input')))")
            page.wait_for_timeout(800)
            memory.append(renderers())
        rows.append([f"{options.minutes:g} minutes: memory of the page, at most", f"{max(memory):.0f} MB"])
        page.keyboard.press("Space")
        identity = page.locator("#queue [aria-current=true]").evaluate("row => row.parentElement.dataset.id")
        took = page.evaluate(f"async () => (await (await fetch('api/tracks/{identity}')).json()).took")
        context.close()
        process.terminate()
        process.communicate()
        alone = command(long, options.model, folder / "stems")
        rows.append([f"{options.minutes:g} minutes: the studio, with pictures of the stems, while it is played", f"{took:.1f} s"])
        rows.append([f"{options.minutes:g} minutes: the command, with its start", f"{alone:.1f} s"])
        browser.close()
    print(head)
    print(markdown(["", ""], rows))


if __name__ == "__main__":
    main()
