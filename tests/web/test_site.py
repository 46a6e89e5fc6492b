"""The folder that is written: what is in it, and the lines for what cannot be."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from fractions import Fraction

import packages
import pytest
from click.testing import CliRunner
from sites import GOLDEN, golden_file

from demucs_np.commands.main import main
from demucs_np.errors import ModelError
from demucs_np.kernels._jit import DISABLED
from demucs_np.parity.record import load_golden
from demucs_np.web import modules, serving, site, tape

pytestmark = pytest.mark.skipif(DISABLED, reason="needs compiled kernels")
LIMIT = 120_000  # bytes of a module


def run(*args):
    return CliRunner().invoke(main, ["web", *map(str, args)])


def test_the_bundled_site(tmp_path):
    result = run("build", "-o", tmp_path / "site")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "site"
    listed = json.loads((folder / "models.json").read_text())
    (model,) = listed["models"]
    assert model["name"] == "demo"
    assert model["stems"] == ["drums", "bass", "other", "vocals"]
    (file,) = model["files"]
    assert (folder / file["address"]).stat().st_size == file["bytes"]
    assert site.sha256(folder / file["address"]) == file["sha256"]
    for name in modules.FILES.values():
        assert (folder / name).stat().st_size <= LIMIT
        assert site.sha256(folder / name) == listed["modules"][name]
    recorded = json.loads((folder / model["tape"]).read_text())
    assert recorded["modules"] == listed["modules"]
    assert (folder / model["tape"]).stat().st_size <= 100_000
    assert "tape-" in model["tape"]
    assert json.loads((folder / "package.json").read_text())["type"] == "module"  # else Node before 20.19 does not import engine.js
    assert run("build", "-o", folder).exit_code == 0  # again, over what is there


def test_every_tape_runs_on_the_modules():
    for path in sorted(GOLDEN.glob("ht_*.safetensors")):
        golden = load_golden(path)
        try:
            tape.check(golden.config)
        except ModelError:
            continue
        for name, codes in tape.record(golden.config, golden.mix.shape[2])["kernels"]:
            assert modules.KERNELS[name] == codes


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="needs ziglang (`pip install demucs-np[web]`)")
def test_the_modules_in_the_package_are_those_of_its_kernels(tmp_path):
    """Lowered and linked again with the versions that they were made with: the same bytes."""
    if modules.versions() != {name: tried[-1] for name, tried in modules.TRIED.items()}:
        pytest.skip(f"other versions than {modules.TRIED}")
    site.rebuild(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in site.BUILT.iterdir()}
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (site.BUILT / path.name).read_bytes(), f"{path.name}: make it anew with `make web-kernels`"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hd_published", r"demucs\.hdemucs\.HDemucs cannot be recorded: .*; HTDemucs can be"),
        ("td_published", r"demucs\.demucs\.Demucs cannot be recorded: .*; HTDemucs can be"),
        (
            "ht_mask",
            r"this HTDemucs cannot be recorded: it predicts magnitudes \(cac=False\), for which NumPy computes between the kernels",
        ),
        (
            "ht_quad_free_length",
            r"this HTDemucs cannot be recorded: it takes any length \(use_train_segment=False\), and a tape is of one length",
        ),
    ],
)
def test_models_that_a_page_cannot_run(tmp_path, name, why):
    path = golden_file(name, tmp_path / "model.safetensors")
    result = run("build", "-o", tmp_path / "site", "-n", path)
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
    assert re.search(why, result.output), result.output
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["hdemucs_mmi", "mdx_extra"])
def test_published_models_that_a_page_cannot_run_are_refused_before_they_are_fetched(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = run("build", "-o", tmp_path / "site", "-n", name)
    assert result.exit_code == 1
    assert re.fullmatch(rf"Error: {name}: .* cannot be recorded: .*; HTDemucs can be\n", result.output), result.output


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "site").mkdir(mode=0o500)
    result = run("build", "-o", tmp_path / "site")
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_a_segment_that_is_a_fraction_keeps_its_samples(tmp_path):
    """87/20 s are 191835 samples at 44.1 kHz; 4.35 as a float times 44100 is a little less."""
    golden = load_golden(GOLDEN / "ht_published.safetensors")
    kwargs = {**golden.config.constructor_arguments(), "segment": Fraction(87, 20)}
    path = tmp_path / "model.safetensors"
    packages.write(path, packages.draw(golden.config.klass, kwargs), packages.metadata(golden.config.klass, kwargs))
    assert run("build", "-o", tmp_path / "site", "-n", path).exit_code == 0
    recorded = json.loads(next((tmp_path / "site").glob("tape-*.json")).read_text())
    assert recorded["length"] == 191835


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "file").write_text("x")
    result = run("build", "-o", tmp_path / "file" / "site")
    assert result.exit_code == 1
    assert "cannot be written" in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_without_a_linker(tmp_path):
    """What makes the modules anew says what it needs."""
    program = "import sys; sys.modules['ziglang'] = None\nimport importlib.metadata as m\nold = m.version\n"
    program += (
        "def version(name):\n    if name == 'ziglang': raise m.PackageNotFoundError(name)\n    return old(name)\nm.version = version\n"
    )
    program += f"sys.argv = ['site', {str(tmp_path)!r}]\nimport runpy; runpy.run_module('demucs_np.web.site', run_name='__main__')"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "ziglang is not installed: it links the kernels; run `pip install demucs-np[web]`"


def test_addresses_of_published_files(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    path = tmp_path / "hub" / "models--adefossez--HTDemucs" / "snapshots" / "abc" / "955717e8.safetensors"
    assert site.published_address(path) == "https://huggingface.co/adefossez/HTDemucs/resolve/abc/955717e8.safetensors"
    assert site.published_address(tmp_path / "955717e8.safetensors") is None


def test_the_server_isolates_its_pages(tmp_path):
    site.build(tmp_path / "site", report=lambda text: None)
    with serving.server(tmp_path / "site", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        root = f"http://127.0.0.1:{server.server_address[1]}"
        with urllib.request.urlopen(f"{root}/kernels.wasm") as answer:
            assert answer.headers["Content-Type"] == "application/wasm"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert len(answer.read()) == (tmp_path / "site" / "kernels.wasm").stat().st_size
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(f"{root}/../../etc/passwd")
        port = server.server_address[1]
        result = run("serve", tmp_path / "site", "--port", port)
        assert result.exit_code in (1, 2)
        assert f"port {port} cannot be had" in result.output
        server.shutdown()
        thread.join()
    assert "holds no site; write one with `demucs-np web build" in run("serve", tmp_path).output
