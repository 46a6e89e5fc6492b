"""Parity with upstream in PyTorch, run live: full-size models layer by layer over whole activations, tracks, and files."""

import random
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, STEMS, Case
from demucs.apply import BagOfModels as ReferenceBag
from demucs.apply import apply_model as reference_apply
from make_goldens import FOLDER, make
from numpy.typing import NDArray

import demucs_np as dn
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.named import verify_file
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.parity.record import SAMPLES, SKETCH, Golden, Layer, decibels, load_golden, total
from demucs_np.parity.upstream import build, digest, fingerprint, float32_taps, run
from demucs_np.parity.verify import LIMIT_DB, judge, verify_golden
from demucs_np.weights import build as build_ours
from demucs_np.weights.formats.checkpoint import Checkpoint

pytestmark = pytest.mark.torch

SEGMENT = Fraction(39, 5)  # of the published HTDemucs models
SIX = [*STEMS, "guitar", "piano"]
HTDEMUCS, HDEMUCS, DEMUCS = "demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"
FULL_SIZE: dict[str, tuple[str, dict[str, Any], float]] = {  # name -> class, constructor's arguments, seconds of input
    "htdemucs": (HTDEMUCS, {"sources": [*STEMS], "bottom_channels": 512, "dconv_mode": 3, "segment": SEGMENT}, 7.8),
    "htdemucs_6s": (HTDEMUCS, {"sources": SIX, "dconv_mode": 3, "segment": SEGMENT}, 7.8),
    "hdemucs": (HDEMUCS, {"sources": [*STEMS], "segment": 44}, 7.8),
    "hdemucs 44 s": (HDEMUCS, {"sources": [*STEMS], "segment": 44}, 44),
    "demucs": (DEMUCS, {"sources": [*STEMS], "segment": 44}, 7.8),
}
SMALL: dict[str, Any] = {"sources": [*STEMS], "channels": 8, "bottom_channels": 16, "dconv_mode": 3, "dconv_comp": 4, "t_heads": 4}
SMALL |= {"t_layers": 3, "segment": Fraction(1, 2)}


def case_named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def bag_of(model: Any) -> dn.BagOfModels:
    """A network alone is a bag of one."""
    return model if isinstance(model, dn.BagOfModels) else dn.BagOfModels([model])


def ours(klass: str, arguments: Mapping[str, Any], seed: int, backend: str = "numba") -> Any:
    config = config_from_arguments(klass, (), arguments)
    return build_ours(Checkpoint(Path("seeded"), config, draw_tensors(seed, expected_tensors(config))), backend)


def compare(reference: torch.nn.Module, mix: NDArray[np.float32], mine: Mapping[str, NDArray]) -> dict[str, Layer]:
    """Print the table, and assert the limit in every layer over its whole activation.

    Also that the fingerprints of a golden file, which are returned, judge the same: a sketch measures the error to within 1 dB (five
    standard deviations for 1021 sums), and shows a relative error of 1e-5 in any one layer.
    """
    single, layers = float32_taps(reference, mix), {}
    excess, misjudged, missed = {}, {}, []

    def visit(name: str, truth: NDArray[np.float64]) -> None:
        assert mine[name].shape == truth.shape, name
        assert mine[name].dtype == np.float32, name
        layer = layers[name] = fingerprint(name, truth, single.pop(name), SAMPLES, SKETCH)
        own = decibels(layer.norm, total(mine[name] - truth)[1])
        report = judge(layer, mine[name])
        excess[name], misjudged[name] = report.pytorch - own, report.ours - own
        if judge(layer, mine[name] * np.float32(1 + 1e-5)).passed:
            missed.append(name)
        print(f"{name:32} ours {own:6.1f} dB ({misjudged[name]:+.2f} by its sketch), PyTorch {report.pytorch:6.1f}, {excess[name]:+5.1f}")

    run(reference, mix, visit, double=True)
    assert {name: value for name, value in excess.items() if not value <= LIMIT_DB} == {}
    assert {name: value for name, value in misjudged.items() if not abs(value) <= 1} == {}
    assert missed == []
    return layers


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_layer_by_layer(name: str, tmp_path: Path) -> None:
    klass, arguments, seconds = FULL_SIZE[name]
    mix = draw_mix(2, 2, int(seconds * 44100))
    with dn.trace() as taps:
        output = ours(klass, arguments, 1)(mix[None])
    reference = build(klass, arguments, 1)
    layers = compare(reference, mix[None], {**taps, "output": output})
    source = {"seed": 2, "channels": 2, "length": mix.shape[1]}
    Golden(klass, arguments, {"seed": 1, "sha256": digest(reference)}, source, {}, layers).save(tmp_path / "golden.safetensors")
    assert (tmp_path / "golden.safetensors").stat().st_size < 3e6
    if name == "htdemucs":
        report = verify_file(tmp_path / "golden.safetensors")
        assert report.passed, str(report)


def test_full_size_numpy_backend() -> None:
    klass, arguments, seconds = FULL_SIZE["htdemucs"]
    mix = draw_mix(3, 2, int(seconds * 44100))[None]
    with dn.trace() as taps:
        output = ours(klass, arguments, 2, "numpy")(mix)
    compare(build(klass, arguments, 2), mix, {**taps, "output": output})


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fresh_weights(seed: int, backend: str) -> None:
    """PyTorch's own initial weights, whose residual branches are almost silent: nothing but the sums of each convolution counts."""
    from demucs.htdemucs import HTDemucs

    arguments = {"sources": STEMS, "channels": 16, "t_layers": 2, "bottom_channels": 64, "t_heads": 4, "segment": 4}
    torch.manual_seed(seed)
    reference, mix = HTDemucs(**arguments), draw_mix(0, 2, 4 * 44100)[None]
    tensors = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    model = build_ours(Checkpoint(Path("fresh"), config_from_arguments(HTDEMUCS, (), arguments), tensors), backend)
    with dn.trace() as taps:
        output = model(mix)
    compare(reference, mix, {**taps, "output": output})


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize(
    "changed",
    [
        {"nfft": 768, "stride": 2, "depth": 1, "t_layers": 2},  # 384 rows give 191, and lead back to 384
        {"nfft": 768, "stride": 2, "depth": 1, "kernel_size": 16, "t_layers": 1, "freq_emb": None},
        {"nfft": 512, "channels_time": 12, "depth": 2, "bottom_channels": 24, "t_layers": 0},  # two widths, which nothing joins
    ],
    ids=["rows", "rows of a wide kernel", "widths"],
)
def test_unusual_shapes(changed: dict[str, Any], backend: str) -> None:
    arguments = {"sources": STEMS, "channels": 16, "t_heads": 4, "segment": 0.1} | changed
    mix = draw_mix(4, 2, 4410)[None]
    with dn.trace() as taps:
        output = ours(HTDEMUCS, arguments, 5, backend)(mix)
    compare(build(HTDEMUCS, arguments, 5), mix, {**taps, "output": output})


@pytest.mark.parametrize("name", ["ht_published", "hd_bands", "td_published"])
def test_committed_goldens_are_what_the_reference_gives(name: str) -> None:
    committed, fresh = load_golden(FOLDER / f"{name}.safetensors"), make(case_named(name))
    assert committed.weights == fresh.weights
    assert list(committed.layers) == list(fresh.layers)
    for path, layer in fresh.layers.items():
        error = total(layer.values - committed.layers[path].values)[1]
        assert decibels(total(layer.values)[1], error) > 200, path  # float64 on another machine differs in its last digits


# Whole tracks


def snr(truth: NDArray, other: NDArray) -> float:
    truth = truth.astype(np.float64)
    return decibels(total(truth)[1], total(other - truth)[1])


def assert_track(reference: Any, model: Any, mix: NDArray[np.float32], overlap: float, limit: float = 100) -> None:
    theirs = reference_apply(reference, torch.from_numpy(mix)[None], shifts=0, overlap=overlap)[0].numpy()
    mine = dn.apply_model(bag_of(model), mix, shifts=0, overlap=overlap)
    assert mine.shape == theirs.shape
    assert snr(theirs, mine) > limit


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    return build(HTDEMUCS, SMALL, 1), ours(HTDEMUCS, SMALL, 1)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("segments", [0.3, 1, 1.5, 3.7])
def test_track(small: tuple[Any, Any], segments: float, overlap: float) -> None:
    length = int(segments * 22050)
    assert_track(*small, draw_mix(4, 2, length), overlap)


@pytest.mark.parametrize("segments", [0.3, 1.5, 3.7])
@pytest.mark.parametrize("name", ["hd_published", "hd_frequency_only", "td_published"])
def test_track_other_models(name: str, segments: float) -> None:
    case = case_named(name)
    arguments = case.arguments | {"segment": 1}
    assert_track(build(case.klass, arguments, 1), ours(case.klass, arguments, 1), draw_mix(4, 2, int(segments * 44100)), 0.25)


def test_track_full_size() -> None:
    klass, arguments, _ = FULL_SIZE["htdemucs"]
    assert_track(build(klass, arguments, 3), ours(klass, arguments, 3), draw_mix(5, 2, int(1.5 * SEGMENT * 44100)), 0.25)


def test_bag_with_weights() -> None:
    weights = [[1.0, 0.5, 0.0, 2.0], [1.0, 0.5, 1.0, 0.0]]
    reference = ReferenceBag([build(HTDEMUCS, SMALL, seed) for seed in (1, 2)], weights)
    bag = dn.BagOfModels([ours(HTDEMUCS, SMALL, seed) for seed in (1, 2)], weights)
    assert_track(reference, bag, draw_mix(6, 2, 40000), 0.25)


def test_shifts_average_what_the_reference_averages(small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the delays that our seed draws given to upstream as well."""
    reference, model = small
    draws = random.Random(7)
    offsets = [draws.randint(0, 22050) for _ in range(2)]
    monkeypatch.setattr("demucs.apply.random.randint", lambda low, high: offsets.pop(0))
    mix = draw_mix(8, 2, 30000)
    theirs = reference_apply(reference, torch.from_numpy(mix)[None], shifts=2)[0].numpy()
    assert snr(theirs, dn.apply_model(bag_of(model), mix, shifts=2, seed=7)) > 100


# Files


def invoke(*arguments: object) -> Any:
    from click.testing import CliRunner

    from demucs_np.commands.main import main

    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def decode(path: Path) -> NDArray[np.float32]:
    import soundfile

    wav, samplerate = soundfile.read(path, dtype="float32", always_2d=True)
    assert samplerate == 44100
    return np.ascontiguousarray(wav.T)


def reference_stems(reference: Any, wav: NDArray[np.float32]) -> dict[str, NDArray[np.int16]]:
    """What `demucs` writes: `Separator.separate_tensor`, then `save_audio`'s rescaling and conversion to 16 bits."""
    from demucs.api import Separator
    from demucs.audio import i16_pcm, prevent_clip

    separator = Separator.__new__(Separator)  # its constructor would download a model
    separator._model, separator._samplerate, separator._audio_channels = reference, reference.samplerate, 2
    separator._segment = None
    separator.update_parameter(device="cpu", shifts=0, overlap=0.25, split=True, jobs=0, progress=False, callback=None, callback_arg=None)
    _, stems = separator.separate_tensor(torch.from_numpy(wav))
    return {name: i16_pcm(prevent_clip(stem, "rescale")).numpy() for name, stem in stems.items()}


@pytest.mark.parametrize("klass", [HTDEMUCS])
def test_separated_files_within_one_step(klass: str, song: Path, tmp_path: Path) -> None:
    """Real music through the full-size model and the whole pipeline: 16-bit files differ by one step at most."""
    import soundfile

    arguments = FULL_SIZE["htdemucs"][1]
    reference = build(klass, arguments, 4)
    wav = decode(song)
    soundfile.write(tmp_path / "song.wav", wav.T, 44100, subtype="FLOAT")
    write_model(tmp_path / "model.safetensors", klass, arguments, reference)
    result = invoke("separate", "-n", tmp_path / "model.safetensors", "--shifts", 0, "-o", tmp_path / "out", tmp_path / "song.wav")
    assert result.exit_code == 0, result.output
    for name, theirs in reference_stems(reference, wav).items():
        (path,) = (tmp_path / "out").rglob(f"{name}.wav")
        mine, _ = soundfile.read(path, dtype="int16", always_2d=True)
        difference = np.abs(mine.T.astype(int) - theirs)
        assert difference.max() <= 1, name
        assert np.abs(theirs.astype(int)).max() > 300, name  # no silent stem


def write_model(path: Path, klass: str, arguments: Mapping[str, Any], reference: torch.nn.Module) -> None:
    """The layout in which demucs publishes models."""
    import json

    from safetensors.torch import save_file

    def encode(value: object) -> object:
        assert isinstance(value, Fraction)
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}

    metadata = {"klass": klass, "args": "[]", "kwargs": json.dumps(dict(arguments), default=encode)}
    save_file({name: tensor.contiguous() for name, tensor in reference.state_dict().items()}, path, metadata)


# The commands `golden` and `verify`


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_model(path, HTDEMUCS, SMALL, build(HTDEMUCS, SMALL, 5))
    return path


@pytest.fixture(scope="module")
def golden_file(model_file: Path) -> Path:
    path = model_file.with_name("model.golden.safetensors")
    result = invoke("golden", model_file, "-o", path)
    assert result.exit_code == 0, result.output
    return path


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_verify_command(model_file: Path, golden_file: Path, backend: str, tmp_path: Path) -> None:
    result = invoke("verify", golden_file, "-n", model_file, "--backend", backend, "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 0, result.output
    assert "parity: " in result.output
    assert 'failures="0"' in (tmp_path / "junit.xml").read_text()


def test_golden_of_an_audio_file(model_file: Path, song: Path, tmp_path: Path) -> None:
    result = invoke("golden", model_file, "-o", tmp_path / "g.safetensors", "--audio", song, "--at", "12.5")
    assert result.exit_code == 0, result.output
    golden = load_golden(tmp_path / "g.safetensors")
    assert np.array_equal(golden.mix[0], decode(song)[:, 551250 : 551250 + 22050])
    result = invoke("verify", tmp_path / "g.safetensors", "-n", model_file, "--json")
    assert result.exit_code == 0, result.output


def change_weight(tensors: dict[str, torch.Tensor]) -> None:
    tensors["encoder.1.rewrite.weight"][3, 2] += 1e-3


def swap_axes(tensors: dict[str, torch.Tensor]) -> None:
    weight = tensors["decoder.1.rewrite.weight"]
    tensors["decoder.1.rewrite.weight"] = weight.transpose(2, 3).contiguous()


def scale_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors["crosstransformer.layers.1.norm_out.weight"] *= 1 + 1e-4
    tensors["crosstransformer.layers.1.norm_out.bias"] *= 1 + 1e-4


@pytest.mark.parametrize(
    ("harm", "layer"), [(change_weight, "encoder.1"), (swap_axes, "decoder.1.dconv"), (scale_layer, "crosstransformer.layers.1")]
)
def test_verify_names_the_wrong_layer(
    harm: Callable[[dict[str, torch.Tensor]], None], layer: str, golden_file: Path, model_file: Path
) -> None:
    """Wrong weights are refused by their digest; so this asks the comparison itself, as if the engine were wrong."""
    reference = build(HTDEMUCS, SMALL, 5)
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    harm(state)
    config = config_from_arguments(HTDEMUCS, (), SMALL)
    model = build_ours(Checkpoint(model_file, config, {name: tensor.numpy() for name, tensor in state.items()}), "numba")
    report = verify_golden(load_golden(golden_file), model)
    assert report.first_failure is not None
    assert report.first_failure.name == layer


def test_verify_refuses_other_weights(golden_file: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "other.safetensors", HTDEMUCS, SMALL, build(HTDEMUCS, SMALL, 6))
    result = invoke("verify", golden_file, "-n", tmp_path / "other.safetensors")
    assert result.exit_code == 2
    assert "not the weights that the golden file was made from" in result.output


def test_verify_without_a_model_that_cannot_be_drawn(golden_file: Path) -> None:
    result = invoke("verify", golden_file)
    assert result.exit_code == 2
    assert "-n MODEL" in result.output
