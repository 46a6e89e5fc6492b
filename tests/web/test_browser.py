"""The engine in Chromium: with threads and without, with what can go wrong on the way to the weights, stopped, and twice in a row."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from web_server import Server

from demucs_np import Separator
from demucs_np.demo.run import DEMO_MODEL
from demucs_np.demo.sdr import sdr
from demucs_np.demo.song import DEMO_FILE, DEMO_SECONDS, DEMO_SEED, STEMS, make_song
from demucs_np.kernels._jit import DISABLED
from demucs_np.web import site

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python (pip install playwright)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("needs Chromium", allow_module_level=True)
pytestmark = pytest.mark.skipif(DISABLED, reason="needs compiled kernels")
RATE, SECONDS = 44100, 8

SEPARATE = """async ({ options, how }) => {
  const notes = [], stages = [];
  const onprogress = p => (p.message ? notes.push(p.message) : stages.push(p.stage));
  try {
    const e = await engine.Engine.open({ model: "demo", onprogress, ...options });
    const stems = await e.separate(await track("mix"), { shifts: 0, ...how });
    await post("stems", stems);
    const memory = e.memory, threads = e.threads;
    e.close();
    return { names: [...stems.keys()], memory, threads, notes, stages: [...new Set(stages)], isolated: crossOriginIsolated };
  } catch (error) {
    return { code: error.code, message: error.message, notes };
  }
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled site, and beside it the beginning of the demo's song."""
    path = tmp_path_factory.mktemp("browser")
    site.build(path / "site", report=lambda text: None)
    (path / "more").mkdir()
    samples, _ = soundfile.read(DEMO_FILE, frames=SECONDS * RATE, dtype="float32")
    samples.T.tofile(path / "more" / "mix")
    return path


@pytest.fixture
def server(folder: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    running = Server(folder / "site", folder / "more", isolated=getattr(request, "param", True))
    yield running
    running.close()


class Visit:
    """A page of a context of its own; what it complains of is kept."""

    def __init__(self, browser: Any, address: str) -> None:
        self.context = browser.new_context()
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.go(address)

    def go(self, address: str) -> None:
        self.page.goto(address)
        self.page.wait_for_function("window.ready")

    def separate(self, options: dict[str, Any] | None = None, **how: Any) -> Any:
        return self.page.evaluate(SEPARATE, {"options": options or {}, "how": how})


@pytest.fixture
def visit(browser: Any, server: Server) -> Iterator[Visit]:
    visiting = Visit(browser, f"{server.root}/test.html")
    yield visiting
    visiting.context.close()


def stems_of(server: Server) -> np.ndarray:
    return np.frombuffer(server.posted["stems"], np.float32).reshape(len(STEMS), 2, -1)


@pytest.fixture(scope="module")
def native(folder: Path) -> np.ndarray:
    mix = np.fromfile(folder / "more" / "mix", np.float32).reshape(2, -1)
    _, stems = Separator(DEMO_MODEL, shifts=0).separate_array(mix, RATE)
    return np.stack([stems[name] for name in STEMS])


def test_two_threads_and_one(visit: Visit, server: Server, native: np.ndarray) -> None:
    """The stems are the native engine's, and as close to the true ones; threads do not change a bit; nor does memory grow."""
    true = make_song(DEMO_SEED, DEMO_SECONDS)
    results, outputs = [], []
    for options in ({"threads": 2}, {"threads": 1}, {"threads": 2}, {"threads": 2, "relaxed": False}):
        results.append(visit.separate(options))
        assert results[-1].get("names") == list(STEMS), results[-1]
        outputs.append(stems_of(server))
    assert [result["threads"] for result in results] == [2, 1, 2, 2]
    assert all(result["isolated"] for result in results)
    assert results[0]["memory"] == results[2]["memory"]
    assert np.array_equal(outputs[0], outputs[1])
    assert np.array_equal(outputs[0], outputs[2])
    for ours in (outputs[0], outputs[3]):
        for name, estimate, reference in zip(STEMS, ours, native, strict=True):
            assert sdr(reference, estimate) > 90
            part = true[name][:, : SECONDS * RATE]
            assert abs(sdr(part, estimate) - sdr(part, reference)) < 0.01
    assert visit.complaints == []


@pytest.mark.parametrize("server", [False], indirect=True)
def test_without_isolation_there_is_one_thread(visit: Visit, server: Server, native: np.ndarray) -> None:
    result = visit.separate()
    assert result.get("threads") == 1, result
    assert not result["isolated"]
    assert any(note.startswith("this page is not isolated, so there is one thread") for note in result["notes"])
    assert sdr(native, stems_of(server)) > 90
    assert visit.complaints == []


@pytest.mark.parametrize("server", [False], indirect=True)
def test_the_service_worker_isolates(visit: Visit, server: Server, native: np.ndarray) -> None:
    with visit.page.expect_navigation():
        visit.page.evaluate("() => { engine.isolate(); }")
    visit.page.wait_for_function("window.ready")
    result = visit.separate({"threads": 2})
    assert result.get("isolated"), result
    assert result["threads"] == 2
    assert sdr(native, stems_of(server)) > 90
    assert visit.complaints == []


def test_weights_are_fetched_once(visit: Visit, server: Server) -> None:
    for _ in range(2):
        assert "names" in visit.separate({"threads": 1}, stems=["drums"])
    visit.page.reload()
    visit.page.wait_for_function("window.ready")
    assert "names" in visit.separate({"threads": 1}, stems=["drums"])
    assert server.asked == [None]
    again = visit.separate({"threads": 1, "cache": False}, stems=["drums"])
    assert "names" in again
    assert server.asked == [None, None]


def test_stored_weights_that_are_damaged_are_fetched_again(visit: Visit, server: Server) -> None:
    assert "names" in visit.separate({"threads": 1}, stems=["drums"])
    spoil = """async () => {
      const store = await caches.open("demucs-np-weights"), [key] = await store.keys();
      const bytes = new Uint8Array(await (await store.match(key)).arrayBuffer());
      bytes[bytes.length - 1] ^= 1;
      await store.put(key, new Response(bytes));
    }"""
    visit.page.evaluate(spoil)
    result = visit.separate({"threads": 1}, stems=["drums"])
    assert result["notes"] == ["the stored weights were damaged and are fetched again"]
    assert server.asked == [None, None]


def test_a_broken_connection_is_resumed(visit: Visit, server: Server) -> None:
    server.cut = [1_000_000, 2_500_000]
    assert "names" in visit.separate({"threads": 1}, stems=["drums"])
    assert len(server.asked) == 3
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.asked if asked]  # what came, a browser may lose the end of
    assert starts
    assert starts == sorted(starts)
    assert starts[-1] <= 2_500_000


def test_a_server_without_ranges(visit: Visit, server: Server) -> None:
    server.cut, server.ranges = [1_000_000], False
    assert "names" in visit.separate({"threads": 1}, stems=["drums"])
    assert len(server.asked) == 2


def test_weights_with_another_checksum(visit: Visit, server: Server) -> None:
    server.damaged = True
    result = visit.separate({"threads": 1})
    assert result["code"] == "weights"
    assert "is damaged: its SHA-256 is" in result["message"]


def test_cancel_in_the_middle(visit: Visit, server: Server) -> None:
    """Within a segment, promptly; the engine then works on."""
    program = """async () => {
      const e = await engine.Engine.open({ model: "demo", threads: 2 }), mix = await track("mix"), controller = new AbortController();
      const began = performance.now();
      let asked = 0, at = 0;
      const onprogress = p => {
        if (p.stage !== "separate" || p.done <= 0.3 || asked) return;
        [asked, at] = [performance.now(), p.done];
        controller.abort();
      };
      const failed = await e.separate(mix, { shifts: 0, onprogress, signal: controller.signal }).catch(error => error.code);
      const waited = performance.now() - asked;
      const stems = await e.separate(mix.map(x => x.slice(0, 44100)), { shifts: 0 });
      e.close();
      const closed = await e.separate(mix, { shifts: 0 }).catch(error => error.code);
      return { failed, at, waited, length: stems.get("drums")[0].length, closed };
    }"""
    result = visit.page.evaluate(program)
    assert result["failed"] == "aborted"
    assert 0.3 < result["at"] < 1  # not at the end of a segment
    assert result["length"] == 44100
    assert result["closed"] == "closed"


def test_a_full_store_is_told_and_does_no_harm(visit: Visit, server: Server) -> None:
    visit.page.evaluate("() => { Cache.prototype.put = () => Promise.reject(new DOMException('full', 'QuotaExceededError')); }")
    result = visit.separate({"threads": 1}, stems=["drums"])
    assert "names" in result
    assert result["notes"] == ["the weights cannot be stored (full): they are fetched again next time"]


def test_memory_that_is_refused(visit: Visit) -> None:
    """In the worker that asks for it: said with how much, and what would help."""
    spoil = """() => {
      const Real = Worker;
      window.Worker = class extends Real {
        constructor(url, options) {
          const refuse = 'WebAssembly.Memory = function () { throw new RangeError("could not allocate memory"); };';
          const code = `${refuse} import(${JSON.stringify(String(url))});`;
          super(URL.createObjectURL(new Blob([code], { type: "text/javascript" })), options);
        }
      };
    }"""
    visit.page.evaluate(spoil)
    result = visit.separate({"threads": 1})
    assert result["code"] == "memory", result
    assert "the browser does not give the" in result["message"]
    assert (
        "MB that the model needs (could not allocate memory); close other pages, or take fewer threads or a smaller model"
        in result["message"]
    )


def test_a_browser_without_vectors(visit: Visit) -> None:
    visit.page.evaluate(
        "() => { const real = WebAssembly.validate; WebAssembly.validate = bytes => bytes.length > 31 ? false : real(bytes); }"
    )
    assert "names" in visit.separate({"threads": 1}, stems=["drums"])  # without the relaxed ones: the plain module
    asked = visit.separate({"threads": 1, "relaxed": True})
    assert (asked["code"], asked["message"]) == ("simd", "this browser has no relaxed SIMD; leave `relaxed` out")
    visit.page.evaluate("() => { WebAssembly.validate = () => false; }")
    none = visit.separate({"threads": 1})
    assert none["code"] == "simd"
    assert none["message"].startswith("this browser has no WebAssembly SIMD; take a current one")
