"""The page in the system's Chromium: what a person does with it."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)
expect = sync_api.expect
RATE, SECONDS = 44100, 12
STEMS = ["drums", "bass", "other", "vocals"]
SOUND = [
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--no-sandbox",
]


class Visit:
    """A page in a context of its own, and what went wrong in it."""

    def __init__(self, browser: Any, address: str, *, model: str = "demo", **context: Any) -> None:
        self.context = browser.new_context(**({"viewport": {"width": 1280, "height": 800}} | context))
        self.context.add_init_script(f"localStorage.setItem('model', {model!r})")
        self.context.add_init_script(
            """window.shifts = 0;
            new PerformanceObserver((list) => {
              for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
            }).observe({ type: "layout-shift", buffered: true });"""
        )
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

    def shifts(self) -> float:
        """How much of the page has jumped since it was opened, as web vitals count it: 0.1 is said to be good."""
        return float(self.page.evaluate("window.shifts"))

    def position(self) -> float:
        return float(self.page.locator("#seek").input_value())

    def close(self) -> None:
        wrong = [text for text in self.wrong if not any(re.search(pattern, text) for pattern in self.expected)]
        self.context.close()
        assert wrong == []


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


def drag_in(page: Any, x: float, y: float, *paths: Path) -> None:
    """Files and folders dragged from the desktop and dropped, as the browser itself hands them over."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})
    session.detach()


def download(page: Any, button: Any) -> tuple[str, bytes]:
    with page.expect_download() as started:
        button.click()
    return started.value.suggested_filename, Path(started.value.path()).read_bytes()


def delete(page: Any) -> None:
    """The selected track, by the two clicks that it takes."""
    page.locator("#delete").click()
    page.locator("#sure button").click()


def violations(page: Any) -> list[tuple[str, str, str]]:
    found = page.evaluate("async () => (await axe.run()).violations")
    return [(one["id"], node["html"], node["failureSummary"]) for one in found for node in one["nodes"]]
