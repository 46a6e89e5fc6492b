"""The page's look inside in the system's Chromium, with the real server, the bundled model and song."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_server import Server, wait_for
from visiting import Visit, expect, violations

ATTENTION = "crosstransformer.layers.0.self_attn"


@pytest.fixture(scope="module")
def looking(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Server]]:
    """A browser, and a studio with the demo song separated."""
    server = Server(tmp_path_factory.mktemp("inside") / "studio")
    track = server.client.post("/api/demo").json()
    server.client.post(f"/api/tracks/{track['id']}/separate", json={"model": "demo"})
    server.wait(track["id"], "done")
    yield browser, server
    server.stop()


@pytest.fixture
def page(looking: tuple[Any, Server]) -> Iterator[Any]:
    browser, server = looking
    visit = Visit(browser, server.address)
    visit.page.locator("#queue .open").first.click()
    visit.page.get_by_role("button", name="Look inside").click()
    yield visit.page
    visit.close()  # also that nothing went wrong in the console, no request failed and none left the server


def picture(page: Any) -> str:
    """The address of the picture, when it is there."""
    page.wait_for_function(
        "() => { const i = document.querySelector('#inside img'); return i && i.complete && i.naturalWidth > 100; }", timeout=60000
    )
    return str(page.locator("#inside img").get_attribute("src"))


def test_the_diagram_and_the_picture_under_the_playhead(page: Any) -> None:
    expect(page.locator("#inside .map [data-path]")).to_have_count(20)  # four times four layers and four of the transformer
    first = picture(page)
    assert "encoder.0 from 0.0 to 4.0 s" in page.locator("#inside img").get_attribute("alt")
    page.locator("[data-path='tdecoder.1']").click()
    page.wait_for_function("(old) => document.querySelector('#inside img').getAttribute('src') !== old", arg=first, timeout=60000)
    expect(page.locator("[data-path='tdecoder.1']")).to_have_attribute("aria-pressed", "true")
    second = picture(page)
    line, shown = (page.locator(f"#inside {what}").first.bounding_box() for what in (".line", "img"))
    assert line["height"] > 20  # it can be seen, in the picture
    assert shown["y"] < line["y"] < line["y"] + line["height"] < shown["y"] + shown["height"]
    page.locator("#seek").evaluate("(seek) => { seek.value = 2; seek.dispatchEvent(new Event('input')); }")
    wait_for(lambda: page.locator("#inside .line").first.bounding_box()["x"] > line["x"] + 10)
    page.locator("#seek").evaluate("(seek) => { seek.value = 9; seek.dispatchEvent(new Event('input')); }")  # it leaves the picture
    page.wait_for_function("(old) => document.querySelector('#inside img').getAttribute('src') !== old", arg=second, timeout=60000)
    assert "tdecoder.1 from 8.5 to" in page.locator("#inside img").get_attribute("alt")


def test_heads_are_small_multiples(page: Any) -> None:
    picture(page)
    page.locator("[data-path='crosstransformer.layers.0']").click()
    page.locator(f"[data-look='{ATTENTION}']").click()
    expect(page.locator("#inside figcaption")).to_contain_text("how far each looks: head 0", timeout=60000)
    expect(page.locator("#inside .line")).to_have_count(8)
    expect(page.locator(f"[data-part^='{ATTENTION}:']")).to_have_count(8)


def test_hear_it_with_and_without(page: Any) -> None:
    picture(page)
    button = page.get_by_role("button", name="Hear it")
    expect(button).to_be_disabled()
    page.locator("[data-path='decoder.2']").click()
    page.locator("[data-part='decoder.2.skip']").click()
    expect(page.locator("[data-part='decoder.2.skip']")).to_have_attribute("aria-checked", "false")
    expect(page.locator("[data-path='decoder.2']")).to_have_attribute("data-off", "")
    with page.expect_response(lambda answer: answer.url.endswith("/ablate"), timeout=60000) as answered:
        button.click()
    stems = answered.value.json()["stems"]
    most = max(stems, key=lambda stem: stem["difference"])
    expect(page.locator(f"#inside [data-stem='{most['stem']}']")).to_have_attribute("aria-pressed", "true", timeout=60000)
    expect(page.locator("#inside [data-stem]")).to_have_count(4)
    flip = page.get_by_role("button", name="A|B without it")
    expect(flip).to_have_attribute("aria-pressed", "false")
    flip.click()
    expect(flip).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#inside [data-stem][aria-pressed=true]")).to_have_count(0)
    if folder := os.environ.get("DEMUCS_NP_PICTURES"):
        page.screenshot(path=Path(folder) / "inside.png", full_page=True)
    page.get_by_role("button", name="Switch all on").click()
    expect(page.locator("#inside [data-off]")).to_have_count(0)
    page.get_by_role("button", name="Look inside").click()
    expect(page.locator("#inside")).to_be_hidden()


def test_axe_finds_nothing(page: Any, axe: str) -> None:
    """With a layer's heads, something switched off and what is heard without it; at both widths, in both themes."""
    picture(page)
    page.locator("[data-path='crosstransformer.layers.0']").click()
    page.locator(f"[data-look='{ATTENTION}']").click()
    expect(page.locator("#inside figcaption")).to_contain_text("how far each looks: head 0", timeout=60000)
    page.locator(f"[data-part='{ATTENTION}:1']").click()
    page.get_by_role("button", name="Hear it").click()
    expect(page.locator("#inside [data-stem][aria-pressed=true]")).to_have_count(1, timeout=60000)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            assert violations(page) == []
            assert page.evaluate("document.documentElement.scrollWidth") == width
            if folder := os.environ.get("DEMUCS_NP_PICTURES"):
                page.locator("#inside").scroll_into_view_if_needed()
                page.screenshot(path=Path(folder) / f"inside-{width}-{scheme}.png")
