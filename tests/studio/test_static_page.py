"""The page where no server is: the engine in the browser, and tracks in its own store."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from studio_server import wait_for
from visiting import RATE, STEMS, Visit, download, expect

from demucs_np import Separator, load_model
from demucs_np.web import serving
from demucs_np.web.site import build


def test_without_a_network(browser: Any, site: str, songs: Path) -> None:
    """A broken file, cancel, and the whole of it without a network once the page and the model are there."""
    visit = Visit(browser, site)
    page = visit.page
    assert page.evaluate("crossOriginIsolated")
    page.locator("#files").set_input_files(songs / "talk.m4a")
    expect(page.locator("#queue [data-state=refused]")).to_contain_text("the browser cannot decode it; is it audio?")
    page.locator("#queue [data-state=refused]").get_by_text("Remove").click()
    page.locator("#files").set_input_files(songs / "Sunday in June.wav")
    expect(page.locator("#words")).to_contain_text("separating", timeout=30_000)
    page.locator("#actions").get_by_text("Cancel").click()
    visit.state("cancelled")
    visit.expected.append(r"icon\.svg|ERR_INTERNET_DISCONNECTED .*icon")  # the browser asks again for the tab's icon
    visit.context.set_offline(True)
    page.locator("#actions").get_by_text("Try again").click()
    visit.state("done", 120)
    page.locator("#play").click()
    wait_for(lambda: visit.position() > 0.3)
    page.keyboard.press("Space")
    _, stems = Separator(load_model("demo")).separate_audio_file(songs / "Sunday in June.wav")
    page.locator("#save").click()
    for form, ending in (("wav 32", "wav"), ("flac 24", "flac"), ("mp3 16", "mp3")):
        page.locator("#format").select_option(form)
        name, content = download(page, page.locator("#saving button"))
        assert name == "Sunday in June.zip"
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.namelist() == [f"Sunday in June - {stem}.{ending}" for stem in STEMS]
            for stem in STEMS if ending != "mp3" else ():
                saved, rate = soundfile.read(io.BytesIO(archive.read(f"Sunday in June - {stem}.{ending}")), dtype="float32")
                assert rate == RATE
                assert np.abs(saved.T - stems[stem]).max() < 1e-3
    visit.context.set_offline(False)
    visit.close()


def test_what_was_cut_off_begins_again(browser: Any, site: str, songs: Path) -> None:
    """Two songs in the queue, and the page is loaded anew; another tab waits until this one is closed."""
    visit = Visit(browser, site)
    page = visit.page
    page.locator("#files").set_input_files([songs / "Sunday in June.wav", songs / "mono.flac"])
    expect(page.locator("#words")).to_contain_text("separating", timeout=30_000)
    expect(page.locator("#queue [data-state=queued]")).to_contain_text("0:02 · waiting")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator("#queue [data-state=queued]")).to_contain_text("mono.flac")
    other = visit.context.new_page()
    other.goto(site)
    expect(other.locator("#away")).to_contain_text("open in another tab")
    for name in ("Sunday in June.wav", "mono.flac"):
        expect(page.locator("#queue li", has_text=name)).to_contain_text("separated in", timeout=120_000)
    page.close()
    expect(other.locator("#away")).to_be_hidden()
    expect(other.locator("#queue [data-state=done]")).to_have_count(2)
    visit.close()


def test_a_model_is_fetched_when_it_is_asked_for(browser: Any, tmp_path: Path, songs: Path) -> None:
    """From an address, with size, licence and progress; it stays, and what was fetched separates."""
    build(tmp_path)
    models = json.loads((tmp_path / "models.json").read_text())
    with serving.server(tmp_path, 0) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{running.server_address[1]}/"
        (file,) = models["models"][0]["files"]
        file["address"] = address + file["address"]
        (tmp_path / "models.json").write_text(json.dumps(models))
        visit = Visit(browser, address)
        page = visit.page
        expect(page.locator("#fetch")).to_have_text(f"Fetch {-(-file['bytes'] // 10**6)} MB")
        expect(page.locator("#about")).to_contain_text("Licence: MIT")
        page.locator("#files").set_input_files(songs / "mono.flac")
        visit.state("new")  # nothing is fetched without being asked for
        page.locator("#fetch").click()
        expect(page.locator("#fetch")).to_be_hidden(timeout=30_000)
        page.reload()
        expect(page.locator("#fetch")).to_be_hidden()
        page.locator("#actions").get_by_text("Separate").click()
        visit.state("done", 120)
        visit.close()
        running.shutdown()


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
