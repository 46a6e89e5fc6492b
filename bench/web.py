"""The engine in a browser: one full-size segment in Node and in Chromium, beside ONNX Runtime Web and our own native engine, in turn.

    python bench/web.py [--upstream-python PATH] [--track]

Node 24 and onnxruntime-web come from npm into the working folder. The native engine is there twice: as it runs on this machine, and
held to the 4 lanes that WebAssembly has. ONNX Runtime Web runs the graph that `export_onnx.py` writes, which needs --upstream-python, an
environment with torch, demucs, onnx and onnxscript; with it the accuracy is measured too, against upstream in float64. `--track` also
runs a track of three minutes in Chromium and by the command. Needs Playwright for Python and Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, Engine, checkpoint, environment, folder, heading, markdown, run_command, snr, tell, track, write_mix

from demucs_np.web import modules, serving, site

NODE, ORT = "node@24", "onnxruntime-web@1.30.0"
NAME = "htdemucs"
TRUTH = """
import sys, numpy as np, torch
from safetensors.numpy import load_file
from demucs_np.parity.upstream import build
sys.path.insert(0, {bench!r})
from common import KNOWN
weights, mix = load_file("htdemucs.safetensors"), torch.from_numpy(np.load("mix.npy"))
with torch.inference_mode():
    np.save("torch32.npy", build(*KNOWN["htdemucs"], weights)(mix).numpy())
    torch.set_default_dtype(torch.float64)  # so that its tables are in float64 too
    model = build(*KNOWN["htdemucs"], {{name: tensor.astype(np.float64) for name, tensor in weights.items()}}).double()
    np.save("torch64.npy", model(mix.double()).numpy())
"""
PAGE = b"""<!doctype html><title>bench</title><link rel="icon" href="data:,"><script type="module">
import { Engine } from "./engine.js";
const floats = async name => new Float32Array(await (await fetch(name)).arrayBuffer());
const engines = {};
window.load = async (kind, threads) => {
  const mix = await floats("mix.f32"), n = mix.length / 2;
  if (kind === "ours") {
    const engine = await Engine.open({ model: "htdemucs", threads });
    engines.run = () => engine.separate([mix.slice(0, n), mix.slice(n)], { shifts: 0, overlap: 0, normalize: false });
    engines.memory = () => engine.memory;
  } else {
    const ort = await import("./onnxruntime-web/dist/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = threads;
    const session = await ort.InferenceSession.create("htdemucs.onnx", {
      externalData: [{ path: "htdemucs.onnx.data", data: "htdemucs.onnx.data" }], executionProviders: ["wasm"],
    });
    const spectrum = new ort.Tensor("float32", await floats("spectrum.f32"), [1, 4, 2048, 336]);
    engines.run = () => session.run({ spectrum, mix: new ort.Tensor("float32", mix, [1, 2, n]) });
    engines.memory = () => 0;
  }
};
window.once = async () => { const began = performance.now(); await engines.run(); return (performance.now() - began) / 1000; };
window.memory = () => engines.memory();
window.firstSegment = async () => {  // from a click, weights in the store
  const began = performance.now(), engine = await Engine.open({ model: "htdemucs" }), opened = performance.now();
  engine.close();
  return (opened - began) / 1000;
};
window.wholeTrack = async (name, rate) => {
  const all = await floats(name), n = all.length / 2, engine = await Engine.open({ model: "htdemucs" }), began = performance.now();
  let samples = 0;
  const blocks = engine.blocks([all.slice(0, n), all.slice(n)], { sampleRate: rate });
  for await (const block of blocks) samples += block.stems.get("drums")[0].length;
  const seconds = (performance.now() - began) / 1000, result = { seconds, samples, memory: engine.memory, threads: engine.threads };
  engine.close();
  return result;
};
window.ready = true;
</script>"""


class Node:
    """`web_engine.mjs`, as `common.Engine` is `engine.py`."""

    def __init__(self, node: str, kind: str, threads: int, work: Path, module: str = "relaxed") -> None:
        command = [node, str(HERE / "web_engine.mjs"), kind, str(threads), str(work), str(work), module]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask("load")

    def ask(self, what: str, *arguments: str) -> dict[str, Any]:
        """As `Engine.ask`."""
        return Engine.ask(self, what, *arguments)  # type: ignore[arg-type]

    engine = "Node"

    def run(self) -> float:
        return float(self.ask("run")["seconds"])

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Native(Engine):
    def run(self) -> float:
        return float(self.ask("run")["seconds"])


class Tab:
    """An engine in a page of a browser of its own."""

    def __init__(self, playwright: Any, root: str, kind: str, threads: int) -> None:
        self.browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        self.page = self.browser.new_page()
        self.page.set_default_timeout(1_200_000)
        self.page.goto(f"{root}/bench.html")
        self.page.wait_for_function("window.ready")
        if kind:
            self.page.evaluate("([kind, threads]) => load(kind, threads)", [kind, threads])

    def run(self) -> float:
        return float(self.page.evaluate("() => once()"))

    def close(self) -> None:
        self.browser.close()


@contextlib.contextmanager
def served(work: Path) -> Iterator[str]:
    """The site with the bench's page in it."""
    (work / "site" / "bench.html").write_bytes(PAGE)
    for name in ("mix.f32", "spectrum.f32", "htdemucs.onnx", "htdemucs.onnx.data", "track.f32"):
        if (work / name).exists() and not (work / "site" / name).exists():
            (work / "site" / name).symlink_to((work / name).resolve())
    link = work / "site" / "onnxruntime-web"
    if not link.exists():
        link.symlink_to((work / "node_modules" / "onnxruntime-web").resolve())
    handler = type("H", (serving.Handler,), {"extensions_map": {**serving.Handler.extensions_map, ".mjs": "text/javascript"}})
    server = serving.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(work / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@contextlib.contextmanager
def held_to(lanes: int | None) -> Iterator[None]:
    """The environment of the module, for processes that start within."""
    before = dict(os.environ)
    if lanes:
        os.environ.update(modules.ENVIRONMENT)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def segments(work: Path, threads: int, repeats: int, playwright: Any, root: str, with_onnx: bool) -> list[list[object]]:
    """Rows: engine, minimum, median, ratio to ours in the same host."""
    node = str(work / "node_modules" / "node" / "bin" / "node")
    makers: dict[str, Any] = {
        "native, this machine": lambda: Native(sys.executable, "ours", NAME, threads, work),
        "native, 4 lanes": lambda: Native(sys.executable, "ours", NAME, threads, work),
        "ours, Node 24": lambda: Node(node, "ours", threads, work),
        "ours, Chromium": lambda: Tab(playwright, root, "ours", threads),
    }
    if with_onnx:
        if threads == 1:  # in Node its threads do not start
            makers["ONNX Runtime Web, Node 24"] = lambda: Node(node, "onnx", threads, work)
        makers["ONNX Runtime Web, Chromium"] = lambda: Tab(playwright, root, "onnx", threads)
    times: dict[str, list[float]] = {name: [] for name in makers}
    running = {}
    for name, make in makers.items():
        tell(f"{threads} threads: starting {name}")
        with held_to(4 if name.endswith("4 lanes") else None):
            running[name] = make()
        running[name].run()  # warm: engines replace baseline code, Numba reads its cache
    for number in range(repeats):
        for name, engine in running.items():
            time.sleep(0.5)
            times[name].append(engine.run())
            tell(f"  {number + 1}/{repeats} {name}: {times[name][-1]:.2f} s")
    if threads == 1:
        (work / "profile.json").write_text(json.dumps(running["ours, Node 24"].ask("profile")))
    for engine in running.values():
        engine.close()
    rows: list[list[object]] = []
    for name, values in times.items():
        host = name.rpartition(", ")[2]
        peer = min(times[f"ours, {host}"]) if f"ours, {host}" in times else min(times["ours, Node 24"])
        rows.append([name, threads, f"{min(values):.2f}", f"{statistics.median(values):.2f}", f"{peer / min(values):.2f}"])
    return rows


def accuracy(work: Path, python: str | None) -> list[list[object]]:
    """SNR in dB of both modules against the native engine, and of all against upstream in float64."""
    node = str(work / "node_modules" / "node" / "bin" / "node")
    outputs = {}
    for module in ("plain", "relaxed"):
        engine = Node(node, "ours", 1, work, module)
        engine.run()
        engine.ask("save", str(work / f"{module}.f32"))
        tell(f"{module}: memory {engine.ask('memory')}")
        engine.close()
        outputs[f"{module} module"] = np.fromfile(work / f"{module}.f32", np.float32)
    native = Native(sys.executable, "ours", NAME, 1, work)
    native.run()
    native.ask("save", str(work / "native.npy"))
    native.close()
    outputs["native"] = np.load(work / "native.npy").reshape(-1)
    truth = None
    if python:
        if not (work / "torch64.npy").exists():
            tell("upstream in float64")
            subprocess.run([python, "-c", TRUTH.format(bench=str(HERE))], check=True, cwd=work, env=environment())
        truth = np.load(work / "torch64.npy").reshape(-1)
        outputs["PyTorch, float32"] = np.load(work / "torch32.npy").reshape(-1)
    return [
        [name, f"{snr(outputs['native'], value):.1f}", "" if truth is None else f"{snr(truth, value):.1f}"]
        for name, value in outputs.items()
    ]


def prepared(work: Path, python: str | None) -> bool:
    """Everything that is measured, in the folder; whether the graph for ONNX Runtime is there."""
    checkpoint(work / f"{NAME}.safetensors", NAME)
    mix = np.load(write_mix(work / "mix.npy", NAME)) if not (work / "mix.npy").exists() else np.load(work / "mix.npy")
    mix[0].tofile(work / "mix.f32")
    if not (work / "node_modules" / "node").exists() or not (work / "node_modules" / "onnxruntime-web").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", str(work), NODE, ORT], check=True)
    if not (work / "site" / "models.json").exists():
        site.build(work / "site", [str(work / f"{NAME}.safetensors")], report=tell)
    if python and not (work / f"{NAME}.onnx").exists():
        tell("exporting the graph")
        arguments = [NAME, str(work / f"{NAME}.safetensors"), str(work / f"{NAME}.onnx")]
        subprocess.run([python, str(HERE / "export_onnx.py"), *arguments], check=True, env=environment(), cwd=HERE)
    if (work / f"{NAME}.onnx").exists() and not (work / "spectrum.f32").exists():
        np.random.default_rng(0).standard_normal((1, 4, 2048, 336)).astype(np.float32).tofile(work / "spectrum.f32")
    return (work / f"{NAME}.onnx").exists()


def whole(work: Path, playwright: Any) -> list[list[object]]:
    """Three minutes in Chromium, and by the command."""
    import soundfile

    path = track(work / "track.wav", 3)
    samples, rate = soundfile.read(path, dtype="float32")
    samples.T.tofile(work / "track.f32")
    with served(work) as root:
        tab = Tab(playwright, root, "", 0)
        opened = [tab.page.evaluate("() => firstSegment()") for _ in range(3)]
        tell(f"opened, the first time and then from the store: {opened}")
        page = tab.page.evaluate("rate => wholeTrack('track.f32', rate)", rate)
        tab.close()
    command = [sys.executable, "-m", "demucs_np", "-n", str(work / f"{NAME}.safetensors"), "-o", str(work / "out"), str(path)]
    native = run_command(command, environment())
    return [
        [f"Chromium, {page['threads']} threads", f"{page['seconds']:.0f}", f"{page['memory'] / 1e6:.0f}", f"{min(opened[1:]):.1f}"],
        ["the command", f"{native.seconds:.0f}", "?" if native.memory is None else f"{native.memory / 1e6:.0f}", ""],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="a folder to keep what is made (default: a temporary one)")
    parser.add_argument("--upstream-python", help="Python with torch, demucs, onnx and onnxscript")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--track", action="store_true", help="three minutes in Chromium too")
    parser.add_argument("--only-track", action="store_true")
    options = parser.parse_args()
    if options.upstream_python:
        options.upstream_python = os.path.abspath(options.upstream_python)
    from playwright.sync_api import sync_playwright

    with folder(options.work) as work, sync_playwright() as playwright:
        with_onnx = prepared(work, options.upstream_python)
        print(heading())
        if not options.only_track:
            print(markdown(["module", "dB to native", "dB to float64"], accuracy(work, options.upstream_python)), "\n")
            rows: list[list[object]] = []
            for threads in options.threads:
                with served(work) as root:
                    rows += segments(work, threads, options.repeats, playwright, root, with_onnx)
            print(markdown(["one segment", "threads", "least s", "median s", "ours / it"], rows), "\n")
        if options.track or options.only_track:
            print(markdown(["three minutes", "s", "MB", "s to open"], whole(work, playwright)))


if __name__ == "__main__":
    main()
