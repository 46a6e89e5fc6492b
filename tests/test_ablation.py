"""Switching parts of a model off (`trace(ablate=...)`). That it is what upstream would do: `live/test_ablation_torch.py`."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

import demucs_np as dn
from demucs_np.inspection import outline
from demucs_np.models.ablation import listed
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.weights import build
from demucs_np.weights.formats.checkpoint import Checkpoint

BY_NAME = {case.name: case for case in CASES}
CASE = BY_NAME["ht_six_stems"]
MIX = draw_mix(2, 2, 15000)[None]
ATTENTION = "crosstransformer.layers.0.self_attn"


def model_of(name: str, backend: str = "numpy") -> Any:
    config = config_from_arguments(BY_NAME[name].klass, (), BY_NAME[name].arguments)
    return build(Checkpoint(Path(name), config, draw_tensors(1, expected_tensors(config))), backend)


@pytest.fixture(scope="module")
def model() -> Any:
    return model_of(CASE.name)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("name", ["ht_six_stems", "hd_both_parts", "td_attention", "td_lstm"])
def test_nothing_else_is_touched(name: str, backend: str) -> None:
    """The output of every layer that runs before the part stays the same to the bit, and so does the next call without a trace."""
    model, case = model_of(name, backend), BY_NAME[name]
    mix = draw_mix(2, case.channels, case.length)[None]
    with dn.trace() as plain:
        before = model(mix)
    skips = [part for part in model.parts() if part.endswith(".skip")]
    parts = [*model.parts(), *(f"{part}:0" for part, heads in model.parts().items() if heads)]
    for part in [*skips[-1:], *parts[::7]]:
        with dn.trace(ablate=[part]) as taps:
            after = model(mix)
        assert list(taps) == list(plain)
        assert not np.array_equal(before, after), part
        owner = part.partition(":")[0]
        early = next(iter(taps))
        assert np.array_equal(plain[early], taps[early]) or owner.startswith(early), part
    assert np.array_equal(model(mix), before)


def test_all_heads_are_all_that_attention_adds_but_its_bias(model: Any) -> None:
    config = config_from_arguments(CASE.klass, (), CASE.arguments)
    tensors = draw_tensors(1, expected_tensors(config))
    tensors[f"{ATTENTION}.out_proj.bias"][:] = 0
    unbiased = build(Checkpoint(Path("x"), config, tensors), "numpy")
    with dn.trace(layers=["*.heads"], ablate=[f"{ATTENTION}:{head}" for head in range(4)]) as taps:
        without_heads = unbiased(MIX)
    assert not taps[f"{ATTENTION}.heads"].any()
    with dn.trace(layers=[], ablate=[ATTENTION]) as nothing:
        without = unbiased(MIX)
    assert nothing == {}
    assert np.array_equal(without_heads, without)


def test_a_skip_that_is_off_is_the_zeros_that_replace_it(model: Any) -> None:
    with dn.trace(layers=[], replace={"decoder.2.skip": np.zeros_like}):
        zeroed = model(MIX)
    with dn.trace(layers=["decoder.2.skip"], ablate=["decoder.2.skip"]) as taps:
        without = model(MIX)
    assert not taps["decoder.2.skip"].any()
    assert np.array_equal(zeroed, without)


def test_a_residual_branch_is_its_layers(model: Any) -> None:
    with dn.trace(layers=["encoder.1.dconv"], ablate=["encoder.1.dconv"]) as whole:
        one = model(MIX)
    with dn.trace(layers=[], ablate=["encoder.1.dconv.layers.0", "encoder.1.dconv.layers.1"]):
        two = model(MIX)
    assert "encoder.1.dconv" in whole
    assert np.array_equal(one, two)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_can_be_switched_off_is_a_module_or_a_skip(case: Any) -> None:
    """And `inspect` shows it."""
    config = config_from_arguments(case.klass, (), case.arguments)
    parts = outline.parts(config)
    paths = {module.path for module in outline.modules(config)} | set(outline.extras(config))
    assert set(parts) <= paths
    attentions = [module for module in outline.modules(config) if module.kind in ("MultiheadAttention", "LocalState")]
    assert {path for path, heads in parts.items() if heads} == {module.path for module in attentions}
    kinds = {module.path: module.kind for module in outline.modules(config)}
    assert {path for path, kind in kinds.items() if kind in ("DConv", "LocalState", "BLSTM", "MultiheadAttention")} <= set(parts)
    assert {path for path in outline.extras(config) if path.endswith(".skip")} <= set(parts)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("crosstransformer.layer.0.self_attn:1", r"the nearest that can is crosstransformer\.layers\.0\.self_attn\)"),
        ("encoder.0.conv", "'encoder.0.conv' cannot be switched off"),
        ("encoder.1", "cannot be switched off"),
        (f"{ATTENTION}:4", "its heads are 0 to 3"),
        ("encoder.1.dconv:0", "it has no heads"),
        ("", "'' cannot be switched off"),
    ],
)
def test_what_cannot_is_said_before_the_run_with_all_that_can(model: Any, name: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(model), "forward", lambda *_: pytest.fail("it ran"))
    with pytest.raises(dn.UsageError, match=says) as refusal, dn.trace(ablate=[name]):
        model(MIX)
    text = str(refusal.value)
    assert "\n" not in text
    assert "decoder.{0-3}.skip" in text
    assert "crosstransformer.layers.{0,2}.self_attn[:0-3]" in text


@pytest.mark.parametrize("name", ["decoder.0.skip:", f"{ATTENTION}:-1", f"{ATTENTION}:x", f"{ATTENTION}:²"])
def test_no_number_of_a_head(name: str) -> None:
    with pytest.raises(dn.UsageError, match="behind the colon stands no number of a head"), dn.trace(ablate=[name]):
        pass


def test_a_string_is_no_list() -> None:
    with pytest.raises(TypeError, match=r"ablate must be a list: \['encoder\.0\.dconv'\]"), dn.trace(ablate="encoder.0.dconv"):
        pass


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 3)), st.sampled_from([0, 4]), min_size=1))
def test_the_list_names_every_part_once(drawn: dict[tuple[int, int], int]) -> None:
    parts = {f"layers.{a}.part.{b}": heads for (a, b), heads in drawn.items()}
    found = []
    for text in listed(parts).split(", "):
        form, heads = text.removesuffix("[:0-3]"), 4 * text.endswith("[:0-3]")
        pieces = re.split(r"(\{[^}]*\})", form)
        sets = [numbers(piece[1:-1]) if piece.startswith("{") else [piece] for piece in pieces]
        found += [("".join(combination), heads) for combination in itertools.product(*sets)]
    assert sorted(found) == sorted(parts.items())


def numbers(text: str) -> list[str]:
    first, dash, last = text.partition("-")
    return [str(number) for number in range(int(first), int(last) + 1)] if dash else text.split(",")


# The command, with the bundled model and song

SKIP, HEAD = "decoder.0.skip", "crosstransformer.layers.0.self_attn:1"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    from demucs_np.demo.song import DEMO_FILE

    line = [sys.executable, "-m", "demucs_np", "trace", DEMO_FILE, "-n", "demo", "--at", "2", *arguments]
    return subprocess.run([str(word) for word in line], capture_output=True, text=True, timeout=300, check=False)


def test_listen_writes_the_stems_with_and_without(tmp_path: Path) -> None:
    from demucs_np.demo.song import DEMO_FILE
    from demucs_np.inspection.tracing import read_segment

    ended = command("--ablate", SKIP, "--ablate", HEAD, "--listen", tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert lines[0].split()[0] == "stem"
    assert [line.split()[0] for line in lines[1:5]] == ["drums", "bass", "other", "vocals"]
    model = dn.load_model("demo")
    mix = read_segment(DEMO_FILE, 2, model.config)[None]
    plain = model(mix)[0]
    with dn.trace(layers=[], ablate=[SKIP, HEAD]):
        without = model(mix)[0]
    gains = []
    for line, stem, before, after in zip(lines[1:5], model.sources, plain, without, strict=True):
        files = {kind: tmp_path / "out" / f"{stem}{kind}.wav" for kind in ("", ".ablated", ".difference")}
        wavs = {kind: soundfile.read(path, dtype="float64")[0].T for kind, path in files.items()}
        gains.append(np.linalg.norm(wavs[""]) / np.linalg.norm(before))
        for wav, expected in ((wavs[""], before), (wavs[".ablated"], after)):
            correlation = np.vdot(wav, expected) / np.linalg.norm(wav) / np.linalg.norm(expected)
            assert correlation > 0.999
        np.testing.assert_allclose(wavs[""] - wavs[".ablated"], wavs[".difference"], atol=4 / 32767)
        change = 20 * np.log10(np.linalg.norm(after) / np.linalg.norm(before))
        assert float(line.split()[3]) == pytest.approx(change, abs=0.15)
    assert gains == pytest.approx([gains[0]] * 4, rel=0.02)  # levels alike
    assert len(list((tmp_path / "out").iterdir())) == 12


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ablate", "encoder.0.dconf", "--listen", "out"], "'encoder.0.dconf' cannot be switched off (the nearest that can is enc"),
        (["--ablate", "crosstransformer.layers.0.self_attn:8", "--listen", "out"], "its heads are 0 to 7; what can: "),
        (["--listen", "out"], "--listen needs a part to switch off: give --ablate PATH"),
        (["--ablate", "decoder.0.skip"], "nothing to write: give -o FILE.safetensors"),
        (["--ablate", "decoder.0.skip", "--listen", "/proc/nothing/out"], "cannot be written"),
    ],
)  # fmt: skip
def test_bad_options_are_one_line(options: list[str], says: str, tmp_path: Path) -> None:
    ended = command(*(str(tmp_path / word) if word == "out" else word for word in options))
    assert ended.returncode in (1, 2)
    assert says in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stdout == ""
    assert list(tmp_path.iterdir()) == []
