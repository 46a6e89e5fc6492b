"""What `demucs-np inspect` says: against the layouts, the engine's own activations, and published sizes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import packages
import pytest
from cases import CASES, STEMS, Case
from click.testing import CliRunner, Result

import demucs_np as dn
from demucs_np.commands.main import main
from demucs_np.inspection.module_times import module_of
from demucs_np.inspection.outline import extras, modules, segment_samples
from demucs_np.inspection.profiling import Operation
from demucs_np.models.config import Config, config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.operations.recording import UNPLACED, recording
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.weights import build
from demucs_np.weights.formats.checkpoint import Checkpoint

GOLDEN = Path(__file__).parent / "golden"
BY_NAME = {case.name: case for case in CASES}
# One of each kind of module and of every way to arrange them.
RUN = ["ht_published", "ht_bands", "ht_deep", "ht_deeper_than_time", "ht_no_transformer", "ht_scaled", "ht_post_norm_relu"]
RUN += ["hd_both_parts", "hd_bands", "hd_frequency_only", "hd_merge_last", "td_attention", "td_lstm_short", "td_plain"]
HTDEMUCS: dict[str, Any] = {"bottom_channels": 512, "dconv_mode": 3, "t_layers": 5, "segment": Fraction(39, 5)}


def config_of(case: Case) -> Config:
    return config_from_arguments(case.klass, (), case.arguments)


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def model_file(folder: Path, name: str = "ht_published", seed: int = 1, **more: Any) -> Path:
    """A file of a small model."""
    case = BY_NAME[name]
    tensors = draw_tensors(seed, expected_tensors(config_of(case)))
    return packages.write(folder / f"{name}_{seed}.safetensors", tensors, packages.metadata(case.klass, {**case.arguments, **more}))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_tensor_belongs_to_one_module(case: Case) -> None:
    config = config_of(case)
    tree = modules(config)
    assert {name: shape for module in tree for name, shape in module.tensors.items()} == expected_tensors(config)
    assert tree[0].parameters == sum(int(np.prod(shape)) for shape in expected_tensors(config).values())
    assert len({module.path for module in tree}) == len(tree)
    for module in tree:
        inside = [other for other in tree if module.path == "" or other.path.startswith(module.path + ".")]
        own = sum(int(np.prod(shape)) for shape in module.tensors.values())
        children = {other.path: other for other in inside if other.path.rpartition(".")[0] == module.path and other.path}
        assert module.parameters == own + sum(child.parameters for child in children.values())
        assert module.multiply_adds >= sum(child.multiply_adds for child in children.values())


@pytest.mark.parametrize("name", RUN)
def test_stars_and_shapes_are_what_a_trace_records(name: str) -> None:
    case = BY_NAME[name]
    config = config_of(case)
    model = build(Checkpoint(Path(name), config, draw_tensors(1, expected_tensors(config))), "numpy")
    length = segment_samples(config) if getattr(config, "use_train_segment", False) else case.length
    mix = draw_mix(2, case.channels, length, config.samplerate)[None]
    tree = modules(config, length)
    extra = extras(config)
    with dn.trace() as taps:
        output = model(mix)
    assert {path: activation.shape for path, activation in taps.items()} == {m.path: m.shape for m in tree if m.traced}
    assert output.shape == tree[0].shape
    with dn.trace(layers=extra) as taps:
        model(mix)
    assert sorted(taps) == sorted(extra)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_shapes_are_those_that_upstream_gave(case: Case) -> None:
    golden = load_golden(GOLDEN / f"{case.name}.safetensors")
    found = {module.path or "output": module.shape for module in modules(golden.config, golden.mix.shape[2])}
    assert {name: found[name] for name in golden.layers} == {name: layer.shape for name, layer in golden.layers.items()}


def test_published_sizes() -> None:
    """Parameters as the models' authors count them; multiply-adds of the 4-stem model by hand for its largest parts."""
    tree = {m.path: m for m in modules(config_from_arguments("demucs.htdemucs.HTDemucs", (), HTDEMUCS | {"sources": list(STEMS)}))}
    assert tree[""].parameters == 41_984_456
    assert tree["crosstransformer"].shape == (1, 512, 8, 336)
    tokens, steps = 8 * 336, 1344
    feed_forward = 2 * 512 * 2048
    self_attention = 4 * 512 * 512 * tokens + 2 * tokens * tokens * 512
    cross_attention = 2 * 512 * 512 * (tokens + steps) + 2 * tokens * steps * 512
    assert tree["crosstransformer.layers.0"].multiply_adds == self_attention + tokens * feed_forward
    assert tree["crosstransformer.layers.1"].multiply_adds == cross_attention + tokens * feed_forward
    assert tree["decoder.3.rewrite"].multiply_adds == 512 * 336 * 48 * 96 * 9
    assert tree["decoder.3.conv_tr"].multiply_adds == 512 * 336 * 48 * 16 * 8
    six = [*STEMS, "guitar", "piano"]
    small = config_from_arguments("demucs.htdemucs.HTDemucs", (), HTDEMUCS | {"sources": six, "bottom_channels": 0})
    assert modules(small)[0].parameters == 27_414_996
    assert modules(config_from_arguments("demucs.hdemucs.HDemucs", (), {"sources": list(STEMS)}))[0].parameters == 83_637_832


def test_table(tmp_path: Path) -> None:
    result = invoke("inspect", model_file(tmp_path))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("demucs.htdemucs.HTDemucs: drums, bass, other, vocals; 2 channels at 44100 Hz")
    assert "one segment of 0.5 s is 22050 samples; 1,236,392 parameters in 533 tensors" in lines[1]
    assert any(line.startswith("arguments: ") and "channels=16" in line for line in lines)
    rows = {line.split()[0]: line for line in lines if line}
    assert rows["encoder.0"].split(maxsplit=3)[:3] == ["encoder.0", "*", "HEncLayer"]
    assert "(1, 16, 512, 22)" in rows["encoder.0"]
    assert "encoder.0.dconv.layers.0" not in rows
    assert rows["total"].split()[-3:] == ["1,236,392", "487.71", "M"]
    assert "asked for by name, heads and weights of crosstransformer.layers.0.self_attn, " in result.output
    deep = invoke("inspect", tmp_path / "ht_published_1.safetensors", "--depth", 9)
    assert "encoder.0.dconv.layers.0.6 " in deep.output


def test_a_published_model_is_known_without_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "41,984,456 parameters in 533 tensors" in invoke("inspect", "htdemucs").output
    assert "27,414,996 parameters" in invoke("inspect", "5c90dfd2").output
    tuned = invoke("inspect", "htdemucs_ft").output
    assert tuned.startswith("a bag of 4 models")
    assert tuned.count("demucs.htdemucs.HTDemucs") == 1
    assert invoke("inspect", "mdx").exit_code == 1


def test_json(tmp_path: Path) -> None:
    result = invoke("inspect", model_file(tmp_path), "--json")
    report = json.loads(result.output)
    (architecture,) = report["architectures"]
    assert report["members"] == [{"name": str(tmp_path / "ht_published_1.safetensors"), "architecture": 0, "weights": [1, 1, 1, 1]}]
    assert architecture["arguments"]["segment"] == "1/2"
    assert architecture["samples"] == 22050
    config = config_of(BY_NAME["ht_published"])
    assert [module["path"] for module in architecture["modules"]] == [module.path for module in modules(config)]
    assert architecture["extras"] == extras(config)


def test_bag(tmp_path: Path) -> None:
    """Members and weights; an architecture that several members share is shown once."""
    for seed in (1, 2):
        model_file(tmp_path, seed=seed)
    model_file(tmp_path, "ht_mono")
    (tmp_path / "pair.yaml").write_text("models: [ht_published_1, ht_published_2]\nweights: [[1, 0, 0.5, 1], [0, 1, 0.5, 1]]\n")
    result = invoke("inspect", "pair", "--repo", tmp_path)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "a bag of 2 models, and the weight of each for each stem"
    assert lines[2].split() == ["member", "architecture", "drums", "bass", "other", "vocals"]
    assert lines[3].split() == ["ht_published_1", "1", "1", "0", "0.5", "1"]
    assert lines[4].split() == ["ht_published_2", "1", "0", "1", "0.5", "1"]
    assert result.output.count("demucs.htdemucs.HTDemucs") == 1
    report = json.loads(invoke("inspect", "pair", "--repo", tmp_path, "--json").output)
    assert [member["weights"] for member in report["members"]] == [[1, 0, 0.5, 1], [0, 1, 0.5, 1]]


@pytest.mark.parametrize("name", ["ht_published", "hd_both_parts", "td_attention"])
def test_times_cover_the_whole_run(name: str, tmp_path: Path) -> None:
    report = json.loads(invoke("inspect", model_file(tmp_path, name, segment=Fraction(1, 5)), "--json", "--time", "--threads", 1).output)
    (architecture,) = report["architectures"]
    seconds = {module["path"]: module["seconds"] for module in architecture["modules"]}
    total, outside = architecture["seconds"]["total"], architecture["seconds"]["outside"]
    top = sum(value for path, value in seconds.items() if value and path and "." not in path)
    assert top + sum(outside.values()) == pytest.approx(total)
    timed = {module["path"] for module in architecture["modules"] if module["kind"] in ("DConv", "HEncLayer", "HDecLayer")}
    assert all(seconds[path] for path in timed)


def test_table_of_times(tmp_path: Path) -> None:
    table = invoke("inspect", model_file(tmp_path), "--time", "--threads", 1).output
    (total,) = [line for line in table.splitlines() if line.startswith("total ")]
    assert total.endswith("100.0%")
    assert "s a segment; outside the modules: spectrogram " in table


SERVED = {"attention": "MultiheadAttention", "lstm": "LSTM", "local_attention": "LocalState", "layer_norm": "LayerNorm", "add_table": None}


@pytest.mark.parametrize("name", ["ht_published", "ht_bands", "ht_plain_layers", "hd_both_parts", "hd_bands", "td_attention", "td_lstm"])
def test_operations_go_to_the_modules_they_serve(name: str) -> None:
    golden = load_golden(GOLDEN / f"{name}.safetensors")
    model = seeded_model(golden, "numpy")
    kinds = {module.path: module.kind for module in modules(model.config)}
    with recording(model) as calls:
        model(golden.mix)
    for call in calls:
        if call.path in UNPLACED:
            continue
        module = module_of(Operation(call.path, "", 1.0, 0, 0), kinds)
        assert module, f"{call.name} of {call.path} is in no module"
        assert call.path == module or call.path.rpartition(".")[0] == module, f"{call.path} is unknown to {module}"
        if kind := SERVED.get(call.name):
            assert kinds[module] == kind, f"{call.name} of {call.path}"
    assert sum(call.name == "conv" for call in calls) > 10


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_recording_keeps_no_activation(backend: str) -> None:
    """In NumPy those of a segment of the published model are 1.4 GB."""
    golden = load_golden(GOLDEN / "hd_both_parts.safetensors")
    model = seeded_model(golden, backend)
    with recording(model) as calls:
        model(golden.mix)

    def arrays(value: Any) -> list[np.ndarray]:
        if isinstance(value, (list, tuple)):
            return [array for item in value for array in arrays(item)]
        return [value] if isinstance(value, np.ndarray) else []

    kept = [array for call in calls for array in arrays([*call.args, *call.kwargs.values(), call.result])]
    assert sum(array.nbytes for array in kept) > 1e6
    assert all(not any(array.strides) for array in kept)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nonsense"], "unknown model 'nonsense'"),
        (["missing.safetensors"], "missing.safetensors: no such file"),
    ],
)
def test_bad_input(arguments: list[str], text: str) -> None:
    result = invoke("inspect", *arguments)
    assert result.exit_code == 1
    assert text in result.output
    assert len(result.output.strip().splitlines()) == 1
