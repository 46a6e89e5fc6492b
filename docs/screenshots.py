"""Take the pictures of docs/studio.md: `python docs/screenshots.py [--all]`. Needs Playwright for Python and Chromium."""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from demucs_np.demo.song import DEMO_FILE

FOLDER = Path(__file__).parent / "pictures"
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "studio"))
from studio_server import Server, wait_for  # noqa: E402

COLOURS = 192  # of a picture: few, and it is a third of its size
SIZES = {"laptop": {"width": 1280, "height": 800}, "phone": {"width": 390, "height": 844}}


def take(page: Any, name: str, size: str, scheme: str, everything: bool) -> None:
    """Keep a picture; those that the docs do not show go beside them only if everything is wanted."""
    shown = {
        ("empty", "laptop", "light"), ("separating", "laptop", "dark"), ("finished", "laptop", "light"), ("spectrogram", "laptop", "dark"),
        ("save", "laptop", "light"), ("error", "laptop", "light"), ("finished", "phone", "dark"),
        ("tracks", "phone", "light"), ("inside", "laptop", "light"), ("inside", "phone", "dark"),
    }  # fmt: skip
    if everything or (name, size, scheme) in shown:
        page.wait_for_timeout(250)
        picture = (
            Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        )
        picture.save(FOLDER / f"studio-{name}-{size}-{scheme}.png", optimize=True)


def tour(page: Any, server: Server, songs: Path, size: str, scheme: str, everything: bool) -> None:
    def taken(name: str) -> None:
        take(page, name, size, scheme, everything)

    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    taken("empty")
    page.locator("#model").select_option("demo")
    page.locator("#files").set_input_files(songs / "Sunday in June.flac")
    page.wait_for_selector("#progress[data-state=running]")
    wait_for(lambda: not page.locator("#play").is_disabled(), 300)  # kernels may be compiled first
    page.locator("#play").click()
    page.wait_for_timeout(700)
    taken("separating")
    page.wait_for_selector("#progress[data-state=done]", state="attached", timeout=120_000)
    page.locator("#files").set_input_files(songs / "interview.m4a")
    page.wait_for_selector("#progress[data-state=refused]")
    taken("error")
    page.evaluate("document.querySelector('#queue [data-state=done] .open').click()")
    page.wait_for_selector("#progress[data-state=done]", state="attached")
    box = page.locator("[data-stem=drums] .wave").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 25, steps=4)
    page.mouse.up()
    page.locator("[data-stem=bass] .mute").click()
    page.locator("#play").click()
    page.wait_for_timeout(1500)
    page.keyboard.press("Space")
    taken("finished")
    page.keyboard.press("s")
    taken("spectrogram")
    page.keyboard.press("s")
    page.locator("#save").click()
    taken("save")
    page.keyboard.press("Escape")
    page.locator("#delete").click()
    taken("delete")
    page.locator("#stems").click()
    taken("stems")
    page.locator("#help").click()
    taken("help")
    page.keyboard.press("Escape")
    if size == "phone":
        page.locator("#sheet").click()
        taken("tracks")
        page.keyboard.press("Escape")
    page.locator("#looking").click()
    page.locator("[data-path='crosstransformer.layers.0']").click(timeout=60_000)
    page.locator("#inside .looks button").last.click()
    wait_for(lambda: "how far each looks" in page.locator("#inside figcaption").inner_text(), 60)
    page.locator("#inside .parts button").nth(2).click()
    page.locator("#inside .map").evaluate("map => map.scrollIntoView({ block: 'start' })")
    taken("inside")


def main() -> None:
    everything = "--all" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as work, sync_playwright() as playwright:
        songs = Path(work)
        shutil.copyfile(DEMO_FILE, songs / "Sunday in June.flac")
        (songs / "interview.m4a").write_text("these are words\n" * 10)
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--autoplay-policy=no-user-gesture-required", "--no-sandbox"])
        for size, viewport in SIZES.items():
            for scheme in ("light", "dark"):
                server = Server(songs / f"{size}-{scheme}")
                context = browser.new_context(viewport=viewport, color_scheme=scheme)
                tour(context.new_page(), server, songs, size, scheme, everything)
                context.close()
                server.stop()
        browser.close()


if __name__ == "__main__":
    main()
