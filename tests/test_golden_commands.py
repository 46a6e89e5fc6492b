"""`demucs-np golden` and `demucs-np verify`, as far as they go without PyTorch."""

import dataclasses
import importlib.util
import json
from fractions import Fraction
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import packages
import pytest
import soundfile
from cases import CASES
from click.testing import CliRunner, Result

from demucs_np.commands.main import main
from demucs_np.errors import AudioError, UsageError
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.parity.record import load_golden
from demucs_np.parity.upstream import require_upstream
from demucs_np.separation.excerpt import read_excerpt
from demucs_np.weights.resolve import resolve

GOLDEN = Path(__file__).parent / "golden" / "ht_mono.safetensors"
CONFIG = config_from_arguments("demucs.htdemucs.HTDemucs", (), {"sources": ["a", "b"], "samplerate": 8000, "segment": Fraction(1, 2)})


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_verify_prints_a_table() -> None:
    result = invoke("verify", GOLDEN, "--backend", "numpy", "--threads", 1)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["layer", "ours", "dB", "PyTorch", "dB", "excess", "dB"]
    assert lines[-2].startswith("output")
    assert lines[-1].startswith("parity: 25 layers")


def test_verify_reports_a_failure(tmp_path: Path) -> None:
    """A golden file that expects something else of two layers: exit status 1, and the first of them is named."""
    golden = load_golden(GOLDEN)
    layers = dict(golden.layers)
    for name in ("encoder.1", "decoder.0"):
        layers[name] = dataclasses.replace(layers[name], sketch=layers[name].sketch * (1 + 1e-5), values=layers[name].values * 2)
    dataclasses.replace(golden, layers=layers).save(tmp_path / "g.safetensors")
    result = invoke("verify", tmp_path / "g.safetensors", "--backend", "numpy", "--json", "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report["first_failure"] == "encoder.1"
    assert [layer["name"] for layer in report["layers"] if layer["problem"]] == ["encoder.1", "decoder.0"]
    assert 'failures="2"' in (tmp_path / "junit.xml").read_text()


@pytest.mark.parametrize("command", [["verify", "none.safetensors", "--junit"], ["golden", "none.safetensors", "-o"]])
def test_what_cannot_be_written_is_told_before_the_work(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = invoke(*command, tmp_path / "file" / "out")
    assert result.exit_code == 1
    assert "file/out: cannot be written (not a directory); choose another place or free some space" in result.output
    result = invoke(*command, tmp_path / "folder" / "out")  # a folder is made with its file, not before
    assert "written" not in result.output
    assert (tmp_path / "folder").exists() == (command[0] == "verify")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "g.safetensors: no such file; `demucs-np golden MODEL -o FILE` makes"),
        (b"RIFF" * 10, "not a readable golden file"),
        (b"", "not a readable golden file"),
    ],
)
def test_verify_of_what_is_no_golden_file(content: bytes | None, text: str, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    if content is not None:
        path.write_bytes(content)
    result = invoke("verify", path)
    assert result.exit_code == 1
    assert text in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_golden_without_torch_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = invoke("golden", "htdemucs", "-o", tmp_path / "g.safetensors")
    assert result.exit_code == 2
    assert "pip install demucs==4.1.0 torch" in result.output
    with pytest.raises(UsageError, match="torch is not installed"):
        require_upstream()


def test_bag_of_several_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="bag of 4 models; name one of them: f7e0c4bc, d12395a8"):
        resolve("htdemucs_ft").only()


def test_excerpt_is_resampled_and_cut(tmp_path: Path) -> None:
    wav = draw_mix(1, 2, 32000, 16000)
    soundfile.write(tmp_path / "a.wav", wav.T, 16000, subtype="FLOAT")
    whole, moments = read_excerpt(tmp_path / "a.wav", 0, 100_000, CONFIG)
    part, upto = read_excerpt(tmp_path / "a.wav", 0.5, 4000, CONFIG)
    assert whole.shape == (2, 16000)
    assert part.dtype == np.float32
    assert np.array_equal(part, whole[:, 4000:8000])
    assert (moments.count, read_excerpt(tmp_path / "a.wav", 0.5, 4000, CONFIG, whole=True)[1].std) == (16000, moments.std)
    assert upto.count <= 16000
    with pytest.raises(AudioError, match=r"is 2\.00 s long; choose an --at before its end"):
        read_excerpt(tmp_path / "a.wav", 7, 4000, CONFIG)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_arguments_for_the_reference_come_back_as_the_same_configuration(case: Any) -> None:
    config = config_from_arguments(case.klass, (), case.arguments)
    assert config_from_arguments(case.klass, (), config.constructor_arguments()) == config


def test_junit_has_the_figures_and_a_case_for_refused_weights(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    assert invoke("verify", GOLDEN, "--junit", file).exit_code == 0
    suite = ElementTree.parse(file).getroot()
    for case in suite:
        figures = {item.get("name"): float(str(item.get("value"))) for item in case.iter("property")}
        assert figures["excess_db"] <= figures["limit_db"] == 3
        assert float(str(case.get("time"))) >= 0
    assert sum(float(str(case.get("time"))) for case in suite) > 0
    golden = load_golden(GOLDEN)
    other = packages.write(
        tmp_path / "other.safetensors",
        draw_tensors(99, expected_tensors(golden.config)),
        packages.metadata(golden.klass, dict(golden.arguments)),
    )
    refused = invoke("verify", GOLDEN, "-n", other, "--junit", file)
    assert refused.exit_code == 2
    suite = ElementTree.parse(file).getroot()
    assert (suite.get("tests"), suite.get("errors")) == ("1", "1")
    assert "not the weights" in str(suite[0][0].get("message"))
