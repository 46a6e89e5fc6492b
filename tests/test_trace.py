"""Tracing: what is recorded, what a replacement does, and the command `demucs-np trace`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import files
import numpy as np
import packages
import pytest
from cases import CASES, STEMS, Case
from click.testing import CliRunner, Result
from safetensors.numpy import safe_open

import demucs_np as dn
from demucs_np.commands.main import main
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.models.transformer import attention_weights
from demucs_np.operations.numpy_ops import NumpyOperations
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.weights import build
from demucs_np.weights.formats.checkpoint import Checkpoint

BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["ht_six_stems"]
MIX = draw_mix(2, 2, 15000)[None]
ATTENTION = "crosstransformer.layers.0.self_attn"

requires_matplotlib = pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")


def model_of(case: Case = CASE, backend: str = "numpy", **changed: np.ndarray) -> Any:
    config = config_from_arguments(case.klass, (), case.arguments)
    tensors = draw_tensors(1, expected_tensors(config))
    assert set(changed) <= set(tensors)
    return build(Checkpoint(Path(case.name), config, tensors | changed), backend)


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of()


@pytest.mark.parametrize("name", ["ht_six_stems", "hd_both_parts", "td_attention"])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_recording_changes_no_bit(name: str, backend: str) -> None:
    case = BY_NAME[name]
    model = model_of(case, backend)
    mix = draw_mix(2, case.channels, case.length)[None]
    plain = model(mix)
    with dn.trace(layers=["*", "*.skip"]) as taps:
        traced = model(mix)
    assert np.array_equal(plain, traced)
    assert all(tap.dtype == np.float32 and tap.flags.c_contiguous for tap in taps.values())
    same = {path: (lambda activation: activation) for path in taps}
    with dn.trace(layers=[], replace=same) as nothing:
        assert np.array_equal(plain, model(mix))
    assert nothing == {}


def test_taps_are_copies(model: Any) -> None:
    with dn.trace(layers=["encoder.0"]) as taps:
        first = model(MIX)
    kept = taps["encoder.0"].copy()
    taps["encoder.0"][:] = 7
    assert np.array_equal(model(MIX), first)
    with dn.trace(layers=["encoder.0"]) as taps:
        model(MIX)
    assert np.array_equal(taps["encoder.0"], kept)


def test_extras_are_recorded_only_by_name(model: Any) -> None:
    def recorded(*layers: str) -> list[str]:
        with dn.trace(layers=layers) as taps:
            model(MIX)
        return list(taps)

    assert not any(path.endswith((".skip", ".heads", ".weights")) for path in recorded("*"))
    assert recorded("decoder.1.skip", "encoder.2") == ["encoder.2", "decoder.1.skip"]
    with pytest.raises(ValueError, match="no activation matches"):
        recorded(f"{ATTENTION}.*s")  # not by its name


def test_skips_are_the_encoders_outputs(model: Any) -> None:
    with dn.trace(layers=["encoder.?", "tencoder.?", "*.skip"]) as taps:
        model(MIX)
    for branch in ("", "t"):
        for index in (1, 2, 3):
            assert np.array_equal(taps[f"{branch}encoder.{index}"], taps[f"{branch}decoder.{3 - index}.skip"])
    assert not np.array_equal(taps["encoder.0"], taps["decoder.3.skip"])  # it has the embedding of frequency as well


def test_attention_weights_are_the_softmax_that_attention_uses(model: Any) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((rows, 24)).astype(np.float32) for rows in (5, 7, 7))
    weights = attention_weights(q, k, 3)
    assert weights.shape == (3, 5, 7)
    by_hand = np.concatenate([weights[h] @ v[:, 8 * h : 8 * h + 8] for h in range(3)], axis=1)
    np.testing.assert_allclose(by_hand, NumpyOperations().attention(q, k, v, 3), rtol=1e-4, atol=1e-6)
    with dn.trace(layers=["*.weights", "*.heads"]) as taps:
        model(MIX)
    weights, heads = taps[f"{ATTENTION}.weights"], taps[f"{ATTENTION}.heads"]
    assert weights.shape == (1, 4, heads.shape[2], heads.shape[2])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_ablating_a_head_is_the_model_without_its_projection(backend: str) -> None:
    def silence_head_two(heads: np.ndarray) -> np.ndarray:
        heads[:, 2] = 0
        return heads

    with dn.trace(layers=[], replace={f"{ATTENTION}.heads": silence_head_two}):
        ablated = model_of(backend=backend)(MIX)
    config = config_from_arguments(CASE.klass, (), CASE.arguments)
    name = f"{ATTENTION}.out_proj.weight"
    weight = draw_tensors(1, {name: expected_tensors(config)[name]})[name]
    width = weight.shape[1] // 4
    weight[:, 2 * width : 3 * width] = 0
    without = model_of(backend=backend, **{name: weight})(MIX)
    np.testing.assert_allclose(ablated, without, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ablated, model_of(backend=backend)(MIX), atol=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_zeroing_a_skip(backend: str) -> None:
    """What comes before stays the same to the bit; the zeros are what the decoder layer was given."""
    model = model_of(backend=backend)
    with dn.trace() as plain:
        before = model(MIX)
    with dn.trace(["*", "decoder.2.skip"], replace={"decoder.2.skip": np.zeros_like}) as taps:
        after = model(MIX)
    assert not taps["decoder.2.skip"].any()
    same = [path for path in plain if np.array_equal(plain[path], taps[path])]
    changed = [path for path in plain if path not in same]
    assert {"encoder.3", "crosstransformer.layers.2", "decoder.1", "tdecoder.3"} <= set(same)
    assert changed == ["decoder.2.dconv", "decoder.2", "decoder.3.dconv", "decoder.3"]
    assert not np.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_swapping_two_stems_in_both_branches_swaps_the_stems(backend: str) -> None:
    def swapped(activation: np.ndarray) -> np.ndarray:
        stems = activation.reshape(6, -1)  # (1, stems*channels, ...)
        return stems[[1, 0, 2, 3, 4, 5]].reshape(activation.shape)

    model = model_of(backend=backend)
    plain = model(MIX)
    with dn.trace(layers=[], replace={"decoder.3": swapped, "tdecoder.3": swapped}):
        after = model(MIX)
    assert np.array_equal(after, plain[:, [1, 0, 2, 3, 4, 5]])


def test_errors(model: Any) -> None:
    with pytest.raises(ValueError, match=r"no activation matches encodr\.\*; there are tencoder\.0"), dn.trace(layers=["encodr.*"]):
        model(MIX)
    with pytest.raises(ValueError, match=r"no activation matches encoder\.9"), dn.trace(replace={"encoder.9": np.zeros_like}):
        model(MIX)
    flat = dn.trace(replace={"encoder.1": lambda x: x[..., 0, 0]})
    with pytest.raises(ValueError, match=r"replacement of encoder\.1 has shape \(1, 8\), not \(1, 8,"), flat:
        model(MIX)
    fixed = dn.trace(replace={f"{ATTENTION}.weights": np.zeros_like})
    with pytest.raises(ValueError, match=r"self_attn\.weights can be recorded, not replaced; replace .*self_attn\.heads"), fixed:
        pass
    with pytest.raises(TypeError, match=r"\['encoder\.0'\]"), dn.trace(layers="encoder.0"):
        pass
    with pytest.raises(ZeroDivisionError), dn.trace(layers=["nothing"]):  # an error inside is not hidden by the one at the end
        raise ZeroDivisionError
    with dn.trace(layers=["nothing"]) as taps:  # no model ran
        pass
    assert taps == {}
    assert np.isfinite(model(MIX)).all()  # no trace is left on


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A track and a model of half a second at 8 kHz."""
    folder = tmp_path_factory.mktemp("trace")
    case = BY_NAME["ht_mono"]
    tensors = draw_tensors(1, expected_tensors(config_from_arguments(case.klass, (), case.arguments)))
    model = packages.write(folder / "m.safetensors", tensors, packages.metadata(case.klass, case.arguments))
    return files.song(folder / "song.wav", samples=12000, samplerate=8000), model


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["trace", *(str(argument) for argument in arguments)])


def test_command_writes_what_the_model_does(setting: tuple[Path, Path], tmp_path: Path) -> None:
    track, path = setting
    out = tmp_path / "taps.safetensors"
    options = ["--at", 0.25, "--layers", "encoder.*", "--layers", "crosstransformer.layers.0", "--backend", "numpy"]
    result = invoke(track, "-n", path, *options, "-o", out)
    assert result.exit_code == 0, result.output
    with safe_open(out, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        assert file.metadata() == {"format": "demucs_np trace", "track": "song.wav", "model": str(path), "at": "0.25"}
    model = dn.load_model(path, backend="numpy")
    wav, _ = dn.Separator(model, shifts=0).separate_audio_file(track)
    wav = (wav - wav.mean()) / (wav.std(ddof=1) + 1e-8)
    with dn.trace(["encoder.*", "crosstransformer.layers.0"]) as taps:
        model(wav[None, :, 2000:6000])
    assert set(found) == set(taps)
    for name, activation in taps.items():
        np.testing.assert_allclose(found[name], activation, rtol=1e-4, atol=1e-4)


def test_command_records_every_layer_of_a_short_rest_by_default(setting: tuple[Path, Path], tmp_path: Path) -> None:
    track, path = setting
    result = invoke(track, "-n", path, "--at", 1.4, "-o", tmp_path / "taps.safetensors", "--backend", "numpy")
    assert result.exit_code == 0, result.output
    assert "24 activations" in result.output


@requires_matplotlib
def test_plots(setting: tuple[Path, Path], tmp_path: Path) -> None:
    track, path = setting
    layers = ["encoder.2", "tencoder.1", "tdecoder.2", "crosstransformer.layers.1", f"{ATTENTION}.weights", f"{ATTENTION}.heads"]
    options = [word for layer in layers for word in ("--layers", layer)]
    result = invoke(track, "-n", path, *options, "--plot", tmp_path / "pictures", "--backend", "numpy")
    assert result.exit_code == 0, result.output
    names = {file.name for file in (tmp_path / "pictures").iterdir()}
    assert {f"{layer}.png" for layer in layers} == names
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "pictures").iterdir())


def test_plots_without_matplotlib(setting: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = invoke(setting[0], "-n", setting[1], "--plot", tmp_path)
    assert result.exit_code == 2
    assert "pip install 'demucs-np[plots]'" in result.output


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (["--layers", "encodr.1", "-o", "x"], 2, "no layer matches 'encodr.1' (the nearest is encoder.1); `demucs-np inspect MODEL` lists"),
        (["--layers", "encoder.1.conv", "-o", "x"], 2, "no layer matches 'encoder.1.conv'"),
        (["--layers", "decoder.?.*kip", "-o", "x"], 2, "no layer matches"),
        ([], 2, "nothing to write: give -o FILE.safetensors, --plot FOLDER, or --ablate PATH with --listen FOLDER"),
        (["--at", "9", "-o", "x"], 1, "song.wav: is 1.50 s long; choose an --at before its end"),
        (["-o", "song.wav/taps"], 1, "song.wav/taps: cannot be written (not a directory); choose another place or free some space"),
        (["-o", "n" * 300], 1, "cannot be written (file name too long); choose another place"),
    ],
)
def test_bad_options(
    options: list[str], status: int, text: str, setting: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "song.wav").write_bytes(setting[0].read_bytes())
    result = invoke("song.wav", "-n", setting[1], "--backend", "numpy", *options)
    assert result.exit_code == status
    assert text in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["song.wav"]


def test_bad_track_and_model(setting: tuple[Path, Path], tmp_path: Path) -> None:
    track, model = setting
    assert "nowhere.wav: cannot be read" in invoke(tmp_path / "nowhere.wav", "-n", model, "-o", tmp_path / "x").output
    result = invoke(track, "-n", "htdemucs_ft", "-o", tmp_path / "x")
    assert result.exit_code == 2
    assert "htdemucs_ft is a bag of 4 models; name one of them" in result.output


@requires_matplotlib
def test_pictures_say_seconds_hertz_and_names() -> None:
    from demucs_np.inspection.plots import draw, scale_of

    scale = scale_of(config_from_arguments(CASE.klass, (), CASE.arguments), 2.0, 0.5)
    last = draw("decoder.3", np.random.default_rng(0).standard_normal((1, 24, 64, 20)).astype(np.float32), scale)
    shown = [axis for axis in last.axes if axis.get_visible()]
    titles = {axis.get_title() for axis in shown}
    assert titles - {""} <= {
        f"{stem} {side} {part}" for stem in [*STEMS, "guitar", "piano"] for side in ("left", "right") for part in ("re", "im")
    }
    assert shown[0].images[0].get_extent() == [2.0, 2.5, 0.0, 22050.0]
    assert {axis.get_xlabel() for axis in shown} >= {"s"}
    assert {axis.get_ylabel() for axis in shown} >= {"Hz", "sign(x) |x|^0.3"}
    weights = draw(f"{ATTENTION}.weights", np.full((1, 2, 30, 30), 1 / 30, np.float32), scale)
    assert {axis.get_xlabel() for axis in weights.axes} >= {"keys, s"}
    assert weights.axes[0].images[0].get_extent() == [2.0, 2.5, 2.5, 2.0]
