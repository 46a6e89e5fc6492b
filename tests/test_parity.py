"""Parity with PyTorch, layer by layer, on small models that use every option. Needs no PyTorch: see tests/golden and cases.py."""

from pathlib import Path

import numpy as np
import pytest
from cases import CASES, HTDEMUCS, Case

from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_tensors, tensors_digest
from demucs_np.parity.record import Golden, load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.parity.testing import assert_parity

FOLDER = Path(__file__).parent / "golden"


def golden_of(case: Case) -> Golden:
    return load_golden(FOLDER / f"{case.name}.safetensors")


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_layer_within_3_db_of_pytorch(case: Case, backend: str) -> None:
    golden = golden_of(case)
    report = assert_parity(seeded_model(golden, backend), golden)
    assert [layer.name for layer in report.layers][-1] == "output"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_golden_is_of_its_case(case: Case) -> None:
    golden = golden_of(case)
    assert (golden.klass, golden.arguments) == (case.klass, case.arguments)
    assert golden.weights["seed"] == case.seed
    tensors = draw_tensors(case.seed, expected_tensors(golden.config))
    assert tensors_digest(tensors) == golden.weights["sha256"]
    assert golden.mix.shape == (1, case.channels, case.length)
    assert golden.made_with["torch"].startswith("2.13.0")
    assert golden.made_with["demucs"] == "4.1.0"


def test_goldens_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in FOLDER.glob("*.safetensors")}
    assert sizes.keys() == {case.name for case in CASES}
    assert sum(sizes[case.name] for case in HTDEMUCS) < 3e6
    assert sum(sizes.values()) < 6e6


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_batch_gives_what_single_calls_give(backend: str) -> None:
    golden = golden_of(HTDEMUCS[1])
    model = seeded_model(golden, backend)
    mixes = np.concatenate([golden.mix, 0.3 * golden.mix[:, ::-1]]).astype(np.float32)
    assert np.array_equal(model(mixes), np.concatenate([model(mixes[:1]), model(mixes[1:])]))
