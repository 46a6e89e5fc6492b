"""The golden files themselves: what is drawn from seeds, what is sampled, how a report judges, and what bad files say."""

import dataclasses
import json
import math
from fractions import Fraction
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from demucs_np.errors import ModelError, UsageError
from demucs_np.parity.recipe import draw_mix, draw_tensor, draw_tensors, tensors_digest, weight_range
from demucs_np.parity.record import Golden, Layer, decibels, load_golden, positions, sketch, total
from demucs_np.parity.seeded import seeded_model
from demucs_np.parity.verify import LIMIT_DB, check_config, compare, judge

SHAPE = (1, 8, 50, 100)


def activation() -> NDArray[np.float64]:
    values = draw_tensor(3, "truth.0.weight", (math.prod(SHAPE), 1)).astype(np.float64)
    return (values * (1 + 1e-9)).reshape(SHAPE) + 0.1


def record(name: str, truth: NDArray[np.float64], error: float, samples: int = 4096) -> Layer:
    """A layer whose PyTorch error is `error` times noise of unit variance."""
    sum_, norm = total(truth)
    sampled = truth.reshape(-1)[positions(name, truth.size, samples)]
    return Layer(name, truth.shape, sum_ / truth.size, norm, total(error * noise_like(truth, 1))[1], sketch(name, truth, 256), sampled)


def noise_like(truth: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    noise: NDArray[np.float64] = np.random.default_rng(seed).standard_normal(truth.shape)
    return noise


@pytest.fixture
def golden() -> Golden:
    truth = activation()
    layers = {name: record(name, truth, 1e-6) for name in ("encoder.0", "encoder.1", "output")}
    return Golden(
        klass="demucs.htdemucs.HTDemucs",
        arguments={"sources": ["drums", "bass"], "segment": Fraction(39, 5), "t_layers": 0},
        weights={"seed": 1, "sha256": "0" * 64},
        source={"seed": 2, "channels": 2, "length": 1000},
        made_with={"torch": "2.13.0", "demucs": "4.1.0"},
        layers=layers,
    )


def good() -> dict[str, NDArray[np.float32]]:
    truth = activation()
    return {name: (truth + 1e-6 * noise_like(truth, 5)).astype(np.float32) for name in ("encoder.0", "encoder.1", "output")}


# What is drawn


def test_draws_are_pinned() -> None:
    """The bits that every committed golden file was made with: a change here makes them all useless."""
    tensors = draw_tensors(1, {"encoder.0.conv.weight": (8, 4, 8, 1), "encoder.0.conv.bias": (8,)})
    assert tensors_digest(tensors) == "d458d51fdd0fa913ca820cfbb4b27c65abbec068ea9cffe2e5fda31509a38511"
    assert tensors_digest({"mix": draw_mix(2, 2, 22050)}) == "bbee333c30bc07a54e27b92dc31ab6a4f1caef9d9c29701cd3d875264d584115"


def test_a_draw_depends_on_seed_name_and_shape_alone() -> None:
    shapes = {"a.weight": (30, 20), "b.weight": (30, 20), "c.bias": (7,)}
    forward, backward = draw_tensors(1, shapes), draw_tensors(1, dict(reversed(shapes.items())))
    assert all(np.array_equal(forward[name], backward[name]) for name in shapes)
    assert not np.array_equal(forward["a.weight"], forward["b.weight"])
    assert not np.array_equal(forward["a.weight"], draw_tensor(2, "a.weight", (30, 20)))


def test_large_tensor_is_drawn_in_blocks_without_a_seam() -> None:
    large = draw_tensor(1, "x.weight", (3000, 700)).reshape(-1)
    low, high = weight_range("x.weight", (3000, 700))
    assert large.min() >= low
    assert large.max() <= high
    assert abs(large.mean()) < 1e-4 * high * 30
    assert len(np.unique(large)) > 0.9 * 2**20


@pytest.mark.parametrize(
    ("name", "shape", "low", "high"),
    [
        ("encoder.0.dconv.layers.0.6.scale", (8,), 0.2, 0.6),
        ("crosstransformer.norm_in.weight", (8,), 0.7, 1.3),
        ("encoder.0.conv.bias", (8,), -0.2, 0.2),
        ("freq_emb.embedding.weight", (64, 8), -0.3, 0.3),
    ],
)
def test_no_parameter_hides(name: str, shape: tuple[int, ...], low: float, high: float) -> None:
    assert weight_range(name, shape) == (low, high)


def test_mix_is_like_music() -> None:
    mix = draw_mix(2, 2, 44100)
    assert mix.dtype == np.float32
    assert np.array_equal(mix * 32768, np.round(mix * 32768))  # 16-bit
    assert 0.03 < mix.std() < 0.5
    assert np.abs(mix).max() <= 1
    assert not np.array_equal(mix[0], mix[1])
    spectrum = np.abs(np.fft.rfft(mix[0])) ** 2
    assert spectrum[:5000].sum() > 5 * spectrum[5000:].sum()


# What is kept


def test_positions_cover_the_whole_without_repeats() -> None:
    chosen = positions("encoder.0", 1_000_003, 4096)
    assert len(np.unique(chosen)) == 4096
    assert np.all(np.diff(chosen) > 0)
    assert np.diff(chosen).max() < 2 * 1_000_003 / 4096 + 1
    assert chosen[-1] < 1_000_003
    assert np.array_equal(positions("encoder.0", 10, 4096), np.arange(10))
    assert not np.array_equal(chosen, positions("encoder.1", 1_000_003, 4096))


def test_sketch_measures_an_error_wherever_it_lies() -> None:
    truth = activation()
    spread = 1e-6 * noise_like(truth, 8)
    single = np.zeros_like(truth)
    single[0, 3, 20, 40] = 1e-3
    for error, tolerance in ((spread, 4 * math.sqrt(2 / 256) / 2), (single, 1e-6)):
        measured = total(sketch("x", truth + error, 256) - sketch("x", truth, 256))[1]
        assert measured == pytest.approx(total(error)[1], rel=tolerance)


@pytest.mark.parametrize("size", [1, 256, 300, 2_500_001])
def test_sketch_over_chunks_and_odd_sizes(size: int) -> None:
    values = np.random.default_rng(1).standard_normal(size)
    sums = sketch("x", values, 300)
    signs = np.array([sketch("x", np.eye(1, size, place)[0], 300)[place % 300] for place in (0, size - 1)])
    assert set(np.abs(signs)) == {1.0}
    assert sums.sum() != values.sum() or size < 5
    assert np.allclose(sketch("x", 3 * values, 300), 3 * sums)


def test_total_is_exact_over_chunks() -> None:
    values = np.full(2_500_000, 0.1, np.float32)
    sum_, norm = total(values)
    assert sum_ == pytest.approx(2_500_000 * float(np.float32(0.1)), rel=1e-12)
    assert norm == pytest.approx(float(np.float32(0.1)) * math.sqrt(2_500_000), rel=1e-12)


@pytest.mark.parametrize("recorded", [False, True])
def test_file_round_trip(golden: Golden, tmp_path: Path, recorded: bool) -> None:
    audio = draw_mix(9, 2, 500)
    if recorded:
        golden = dataclasses.replace(golden, audio=audio, source={"file": "song.wav", "at": 12.5})
    golden.save(tmp_path / "g.safetensors")
    golden.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "g.safetensors").read_bytes()
    loaded = load_golden(tmp_path / "g.safetensors")
    assert loaded.arguments == golden.arguments
    assert loaded.config == golden.config
    for field in ("klass", "weights", "source", "made_with"):
        assert getattr(loaded, field) == getattr(golden, field)
    assert list(loaded.layers) == list(golden.layers)
    for name, layer in golden.layers.items():
        again = loaded.layers[name]
        assert np.array_equal(again.values, layer.values)
        assert np.array_equal(again.sketch, layer.sketch)
        assert dataclasses.replace(again, values=layer.values, sketch=layer.sketch) == layer
    assert np.array_equal(loaded.mix[0], audio if recorded else draw_mix(2, 2, 1000))


# How it judges


def test_errors_like_pytorchs_pass(golden: Golden) -> None:
    report = compare(golden, good())
    assert report.passed
    assert report.first_failure is None
    assert all(abs(layer.excess) < 1 for layer in report.layers)
    assert "parity: 3 layers" in str(report)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (lambda a: a * np.float32(1 + 1e-4), "above PyTorch's"),
        (lambda a: a * np.float32(1 + 1e-5), "above PyTorch's"),
        (lambda a: a.swapaxes(2, 3), "shape (1, 8, 100, 50)"),
        (lambda a: a[:, ::-1], "above PyTorch's"),
        (lambda a: a.astype(np.float64), "dtype float64"),
        (lambda a: np.where(np.arange(100) == 7, np.float32(np.nan), a), "NaN or infinity"),
        (lambda a: np.where(np.arange(100) == 7, np.float32(np.inf), a), "NaN or infinity"),
        (lambda a: None, "no such layer"),
    ],
)
def test_a_wrong_layer_is_named(golden: Golden, harm: object, text: str) -> None:
    activations = good()
    activations["encoder.1"] = harm(activations["encoder.1"])  # type: ignore[operator]
    report = compare(golden, {name: value for name, value in activations.items() if value is not None})
    assert not report.passed
    assert report.first_failure is report.layers[1]
    assert text in report.layers[1].problem
    assert "first encoder.1" in str(report)


def test_error_between_the_samples_is_caught() -> None:
    truth = activation()
    layer = record("encoder.0", truth, 1e-6)
    between = np.setdiff1d(np.arange(truth.size), layer.positions)[17]
    ours = truth.astype(np.float32)
    assert judge(layer, ours).passed
    ours.reshape(-1)[between] += 1e-3
    assert "above PyTorch's" in judge(layer, ours).problem


def test_limit_is_3_db() -> None:
    truth = activation()
    layer = record("encoder.0", truth, 1e-5)
    for gain, passed in ((1.2, True), (1.6, False)):
        ours = (truth + gain * 1e-5 * noise_like(truth, 1)).astype(np.float32)
        assert judge(layer, ours).passed is passed
    assert pytest.approx(20 * math.log10(1.4125), abs=0.01) == LIMIT_DB


def test_exact_rounding_passes_where_pytorch_has_no_error() -> None:
    layer = record("output", activation(), 0.0)
    assert judge(layer, activation().astype(np.float32)).passed


def test_report_as_json_and_junit(golden: Golden) -> None:
    activations = good()
    del activations["encoder.1"]
    report = compare(golden, activations)
    fields = json.loads(report.json())
    assert fields["passed"] is False
    assert fields["first_failure"] == "encoder.1"
    assert [layer["name"] for layer in fields["layers"]] == ["encoder.0", "encoder.1", "output"]
    assert fields["layers"][1]["excess"] is None
    suite = ElementTree.fromstring(report.junit("my <model>"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("name")) == ("3", "1", "my <model>")
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["encoder.1"]


def test_decibels() -> None:
    assert decibels(10.0, 0.001) == pytest.approx(80)
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == -math.inf


# What bad files and models say


def test_other_configuration_is_refused(golden: Golden) -> None:
    class Other:
        config = dataclasses.replace(golden.config, channels=40)  # type: ignore[type-var]

    with pytest.raises(UsageError, match="channels=48, this one 40"):
        check_config(golden, Other())  # type: ignore[arg-type]


def test_missing_file() -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_golden("nowhere.safetensors")


def test_truncated_file(golden: Golden, tmp_path: Path) -> None:
    golden.save(tmp_path / "g.safetensors")
    data = (tmp_path / "g.safetensors").read_bytes()
    for length in (0, 5, 100, len(data) - 1):
        (tmp_path / "g.safetensors").write_bytes(data[:length])
        with pytest.raises(ModelError, match="not a readable golden file"):
            load_golden(tmp_path / "g.safetensors")


def test_foreign_file(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "g.safetensors")
    with pytest.raises(ModelError, match="not a golden file"):
        load_golden(tmp_path / "g.safetensors")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', '{"version": 1, "layers": [{"name": "encoder.0"}]}'])
def test_damaged_file(text: str, tmp_path: Path) -> None:
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "g.safetensors", {"demucs_np.golden": text})
    with pytest.raises(ModelError, match="a damaged golden file"):
        load_golden(tmp_path / "g.safetensors")


def test_newer_format(golden: Golden, tmp_path: Path) -> None:
    dataclasses.replace(golden, version=2).save(tmp_path / "g.safetensors")
    with pytest.raises(ModelError, match="golden format 2"):
        load_golden(tmp_path / "g.safetensors")


def test_weights_that_cannot_be_drawn_again(golden: Golden) -> None:
    with pytest.raises(UsageError, match="not those it was made with"):
        seeded_model(golden)
    with pytest.raises(UsageError, match="-n MODEL"):
        seeded_model(dataclasses.replace(golden, weights={"sha256": "0" * 64}))
