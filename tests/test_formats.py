"""Checkpoints of other programs: states with a configuration beside them, and files that are refused by name."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
import yaml
from click.testing import CliRunner
from packages import Archive

from demucs_np.commands.main import main
from demucs_np.errors import DemucsError, UsageError, WeightsError
from demucs_np.models.config import SecondDemucsConfig
from demucs_np.models.layout import expected_tensors
from demucs_np.models.recipe import Recipe
from demucs_np.parity.recipe import draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.parity.testing import assert_parity
from demucs_np.weights import list_models, load_model
from demucs_np.weights.convert import convert_file
from demucs_np.weights.formats import read_model_file
from demucs_np.weights.formats.described import read_description
from demucs_np.weights.resolve import read_model

GOLDEN = Path(__file__).parent / "golden" / "ht_mono.safetensors"
KWARGS: dict[str, Any] = {
    "sources": ["vocals", "other"],
    "channels": 4,
    "depth": 2,
    "growth": 2,
    "nfft": 64,
    "t_heads": 2,
    "t_layers": 1,
    "dconv_comp": 2,
}
KLASS = "demucs.htdemucs.HTDemucs"
MSST = """
audio: {chunk_size: 11000}
training:
  segment: 11
  samplerate: 1000
  channels: 1
  instruments: [vocals, other]
  lr: 1e-4
augmentations:
  mixup_probs: !!python/tuple [0.2, 0.02]
inference:
  num_overlap: 4
model: htdemucs
htdemucs:
  channels: 4
  channels_time:
  num_subbands: 1
  depth: 2
  growth: 2
  nfft: 64
  dconv_init: 1e-3
  emb_scale: 1e1
  multi_freqs: []
  t_heads: 2
  t_layers: 1
  dconv_comp: 2
"""


def tensors() -> dict[str, np.ndarray]:
    return packages.draw(KLASS, {**KWARGS, "audio_channels": 1, "samplerate": 1000, "segment": 11})


def saved(path: Path, wrap: Any = lambda state: state, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """A file that PyTorch would have written."""
    archive = Archive()
    return archive.write(path, wrap({name: archive.tensor(array) for name, array in (arrays or tensors()).items()}))


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        read_model(path)
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "model.yaml"
    path.write_text(MSST)
    return path


def prefixed(prefix: str) -> Any:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPS: dict[str, Any] = {
    "bare": lambda state: state,
    "state": lambda state: {"state": state, "epoch": 3},
    "state_dict": lambda state: {"state_dict": state, "optimizer_states": [{}]},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {0: 1.0}}, "best_metric": 7.5},
    "best_state": lambda state: {"best_state": state, "state": {"wrong": state["freq_emb.embedding.weight"]}, "history": [{"a": 1}]},
    "no best_state": lambda state: {"best_state": None, "state": state},
    "DataParallel": prefixed("module."),
    "compiled in Lightning": prefixed("model._orig_mod."),
    "EMA": lambda state: {**prefixed("ema_model.module.")(state), **prefixed("model.")(dict.fromkeys(state, 0))},
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_state_with_a_configuration_of_msst(wrap: str, config: Path) -> None:
    model = read_model_file(saved(config.with_suffix(".ckpt"), WRAPS[wrap]))
    assert model.config.klass == KLASS
    assert (model.config.sources, model.config.audio_channels, model.config.samplerate) == (("vocals", "other"), 1, 1000)
    assert (model.config.segment, model.config.use_train_segment, model.config.emb_scale) == (11, False, 10)  # type: ignore[union-attr]
    assert model.kwargs["dconv_init"] == 1e-3
    assert model.recipe == Recipe(0, Fraction(3, 4), "flat", False)
    for name, array in tensors().items():
        np.testing.assert_array_equal(model.stored[name].array, array)


def test_safetensors_without_metadata(config: Path) -> None:
    path = packages.write(config.with_suffix(".safetensors"), tensors(), {"format": "pt"})
    bag = load_model(path, backend="numpy")
    assert bag.models[0].recipe.window == "flat"
    assert not bag.normalize


def test_which_configuration_lies_beside(tmp_path: Path) -> None:
    path = saved(tmp_path / "model_sdr_8.78.ckpt")
    assert "tensors alone, which nothing describes" in refused(path)
    (tmp_path / "bag.yaml").write_text("models: [x]\n")
    (tmp_path / "config_vocals.yaml").write_text(MSST)
    assert read_model(path).recipe.overlap == Fraction(3, 4)
    assert list_models(tmp_path) == {"bag": ["bag"], "single": ["model_sdr_8.78"]}
    (tmp_path / "config_drums.yml").write_text(MSST)
    assert "several configurations lie beside it (config_drums.yml, config_vocals.yaml)" in refused(path)
    (tmp_path / "model_sdr_8.78.yaml").write_text(MSST.replace("num_overlap: 4", "num_overlap: 2\n  normalize: true"))
    assert read_model(path).recipe == Recipe(0, Fraction(1, 2), "flat", True)
    with pytest.raises(UsageError, match="the configuration of a model; name the file of its weights"):
        load_model(tmp_path / "config_drums.yml")
    with pytest.raises(UsageError, match="says itself what model it is"):
        read_model_file(packages.write(tmp_path / "own.safetensors", packages.draw()), read_description(tmp_path / "config_drums.yml"))


def test_training_run_of_the_reference(tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(
        "dset: {sources: [vocals, other], channels: 1, samplerate: 1000, segment: 2.75}\nmodel_segment:\nmodel: htdemucs\n"
        "htdemucs: {channels: 4, depth: 2, growth: 2, nfft: 64, t_heads: 2, t_layers: 1, dconv_comp: 2}\nema: {batch: [], epoch: []}\n"
    )
    model = read_model_file(saved(tmp_path / "checkpoint.th", WRAPS["best_state"]))
    assert (model.config.segment, model.config.use_train_segment) == (11, True)  # type: ignore[union-attr]
    assert model.recipe == Recipe()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("model: htdemucs", "model: bs_roformer"), "describes no Demucs architecture: its model is 'bs_roformer'"),
        (("model: htdemucs\nhtdemucs:", "model:"), "describes no Demucs architecture: its model is a section of its own"),
        (("htdemucs:\n", "mel:\n"), "has no section 'htdemucs'"),
        (("num_subbands: 1", "num_subbands: 4"), "num_subbands=4 is MSST's own extension"),
        (("  instruments: [vocals, other]\n", ""), "has no training.instruments"),
        (("num_overlap: 4", "num_overlap: 0"), "inference.num_overlap is 0, but must be"),
        (("num_overlap: 4", "num_overlap:"), "has no inference.num_overlap"),
        (("nfft: 64", "nfft: ${audio.n_fft}"), "refers to another entry, '${audio.n_fft}'"),
        (("nfft: 64", "nfft: 64\n  surprise: 1"), "has no argument 'surprise'"),
        (("[vocals, other]", "[vocals, ../other]"), "names that can be file names"),
        (("  channels: 4\n", "  channels: 8\n"), "tensor encoder.0.conv.weight has shape (4, 2, 8, 1), the model needs (8, 2, 8, 1)"),
        (("t_layers: 1", "t_layers: 2"), "tensors crosstransformer.layers.1"),
        (("audio: {chunk_size: 11000}", "audio: &a [1]\nother: *a"), "it uses the alias *a"),
        (("audio: {chunk_size: 11000}", "audio: !!python/object/apply:os.system ['touch x']"), "could not determine a constructor"),
        (("audio: {chunk_size: 11000}", "audio: " + "[" * 60 + "]" * 60), "nested too deeply"),
        (("audio: {chunk_size: 11000}", "audio: " + "x" * (1 << 18)), "too long for a configuration"),
        (("audio: {chunk_size: 11000}", "audio: ["), "not valid YAML"),
    ],
)
def test_configurations_that_do_not_fit(change: tuple[str, str], text: str, config: Path) -> None:
    assert change[0] in MSST
    config.write_text(MSST.replace(*change))
    path = saved(config.with_suffix(".ckpt"))
    with pytest.raises(DemucsError) as error:
        read_model_file(path, read_description(config))
    assert text in str(error.value)
    assert "\n" not in str(error.value)
    assert str(config) in str(error.value)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["band_split.to_features.0.0.gamma", "mask_estimators.0.to_freqs.0.0.weight"], "the tensors of a RoFormer"),
        (["encoder_blocks.0.tfc_tdf.blocks.0.tfc1.2.weight"], "the tensors of an MDX23C"),
        (["separator.network.0.gamma", "encoder.conv1d_U.weight"], "the tensors of a Conv-TasNet"),
        (["encoder.0.SDlayer.convs.0.weight"], "the tensors of an SCNet"),
        (["weight"], "tensors alone, which nothing describes"),
    ],
)
def test_other_architectures_are_named(names: list[str], text: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m.ckpt", arrays={name: np.zeros(2, np.float32) for name in names})
    assert text in refused(path)


def test_files_without_weights(tmp_path: Path) -> None:
    archive = Archive()
    moment = {"state": {0: {"step": 3, "exp_avg": archive.tensor(np.zeros(2, np.float32))}}, "param_groups": [{"lr": 1e-3}]}
    for content in (moment, {"optimizer": moment, "epoch": 4}):
        assert "the state of an optimiser and no model's weights" in refused(archive.write(tmp_path / "m.ckpt", content))
    assert "no package of klass, args, kwargs and state, and no state dictionary" in refused(archive.write(tmp_path / "m.ckpt", {"a": 1}))


SECOND = "demucs.model.Demucs"
FOUR: dict[str, Any] = {"sources": ["drums", "bass", "other", "vocals"], "channels": 4, "depth": 3}


def test_second_generation_by_its_shapes(tmp_path: Path) -> None:
    arrays = packages.draw(SECOND, FOUR)
    assert {"encoder.0.2.weight", "decoder.2.2.bias", "lstm.lstm.weight_ih_l1_reverse"} <= arrays.keys()
    path = saved(tmp_path / "demucs.th", arrays=arrays)
    model = read_model_file(path)
    assert model.config == SecondDemucsConfig(("drums", "bass", "other", "vocals"), channels=4, depth=3)
    assert (model.config.segment, model.config.context, model.config.lstm_layers) == (40, 1, 2)
    archive = Archive()
    named = {name: archive.tensor(array) for name, array in arrays.items()}
    packed = {"klass": packages.Global("demucs.model", "Demucs"), "args": (FOUR["sources"],), "kwargs": {"channels": 4, "depth": 3}}
    archive.write(tmp_path / "packed.th", {**packed, "state": named})
    assert read_model_file(tmp_path / "packed.th").config == model.config
    converted = convert_file(path, tmp_path / "out.safetensors")
    assert read_model_file(converted).config == model.config
    mix = np.random.default_rng(0).standard_normal((1, 2, 3000)).astype(np.float32)
    ours, plain = load_model(path), load_model(converted, backend="numpy")
    assert ours(mix).shape == (1, 4, 2, 3000)
    assert np.linalg.norm(ours(mix) - plain(mix)) < 1e-3 * np.linalg.norm(plain(mix))
    archive.write(tmp_path / "packed.th", {**packed, "args": (4,), "state": named})
    assert "of the first generation" in refused(tmp_path / "packed.th")
    full = {**FOUR, "channels": 100, "depth": 1}
    assert "of the first generation (100 channels" in refused(saved(tmp_path / "v1.th", arrays=packages.draw(SECOND, full)))
    three = {**FOUR, "sources": ["a", "b", "c"]}
    assert "with other stems than the published ones" in refused(saved(tmp_path / "v2.th", arrays=packages.draw(SECOND, three)))


@pytest.mark.parametrize("container", ["training_run", "training_run_legacy"])
def test_a_training_run_that_pytorch_wrote(container: str, tmp_path: Path) -> None:
    """With OmegaConf's and argparse's objects, in the zip and in the legacy format: see tests/live/test_formats_torch.py."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "dset: {sources: [a, b], channels: 2, samplerate: 44100, segment: 10}\nmodel: demucs\n"
        "demucs: {channels: 4, depth: 2, dconv_mode: 0}\n"
    )
    source = Path(__file__).parent / "data" / f"{container}.th"
    model = read_model_file(source, read_description(config))
    expected = draw_tensors(1, {name: stored.array.shape for name, stored in model.stored.items()})
    for name, array in expected.items():
        np.testing.assert_array_equal(model.stored[name].array, array)
    whole = source.read_bytes()
    path = tmp_path / "cut.th"
    for size in range(0, len(whole), 501):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError):
            read_model_file(path, read_description(config))


def test_quantised_second_generation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demucs_np.weights.formats.second.QUANTISED", FOUR)
    monkeypatch.setattr("demucs_np.weights.formats.second.MIN_SIZE", 2**-12)
    rng, inner, expected = np.random.default_rng(0), Archive(), {}
    state: dict[str, Any] = {"quantized": [], "float16": [], "others": []}
    for name, array in packages.draw(SECOND, FOUR).items():
        if array.size <= 64:
            state["others"].append(inner.tensor(array))
            expected[name] = array
            continue
        widths = rng.integers(2, 9, array.size // 8).astype(np.uint8)
        levels = (rng.random((array.size // 8, 8)) * (2.0 ** widths[:, None])).astype(np.int16)
        state["quantized"].append((inner.tensor(levels), (-1.5, 2.25), inner.tensor(widths)))
        expected[name] = (levels / (2.0 ** widths[:, None] - 1) * 3.75 - 1.5).reshape(array.shape)
    packed = zlib.compress(inner.write(tmp_path / "inner.th", state).read_bytes())
    path = Archive().write(tmp_path / "demucs_quantized.th", {"compressed": packed})
    model = read_model_file(path)
    for name, array in expected.items():
        np.testing.assert_allclose(model.stored[name].array, array, rtol=1e-6, atol=1e-6)
    for damaged, text in ((packed[:-9], "cut off"), (b"x" + packed, "cannot be unpacked")):
        assert text in refused(Archive().write(path, {"compressed": damaged}))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_second_generation_layer_by_layer(backend: str) -> None:
    """A golden file that the class of demucs 2.0.3 gave, its input filled up and its output trimmed."""
    golden = load_golden(Path(__file__).parent / "data" / "second_generation.golden.safetensors")
    assert golden.made_with["demucs"] == "2.0.3"
    assert_parity(seeded_model(golden, backend), golden)


def test_the_workflow_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command, with a model and a golden file of it under the names that it gives them."""
    page = (Path(__file__).parents[1] / "docs" / "parity.md").read_text(encoding="utf-8")
    workflow = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    steps = [step["run"] for step in workflow["jobs"]["parity"]["steps"] if "run" in step]
    (command,) = [step for step in steps if step.startswith("demucs-np ")]
    golden = load_golden(GOLDEN)
    arrays = draw_tensors(golden.weights["seed"], expected_tensors(golden.config))
    monkeypatch.chdir(tmp_path)
    packages.write(Path("my_model.safetensors"), arrays, packages.metadata(golden.klass, dict(golden.arguments)))
    Path("my_model.golden.safetensors").write_bytes(GOLDEN.read_bytes())
    result = CliRunner().invoke(main, command.split()[1:])
    assert result.exit_code == 0, result.output
    assert Path("parity.xml").is_file()
