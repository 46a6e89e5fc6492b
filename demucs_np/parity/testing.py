"""For test suites: one assertion that a model computes what upstream in PyTorch computed.

import demucs_np as dn
from demucs_np.parity.testing import assert_parity


def test_parity():
    assert_parity(dn.load_model("my_model.safetensors"), "my_model.golden.safetensors")
"""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING

from .record import Golden, load_golden
from .verify import Report, verify_golden

if TYPE_CHECKING:
    from ..models.bag import Model


def assert_parity(model: Model, golden: Golden | str | PathLike[str]) -> Report:
    """Assert that every layer of `model`, and its output, is as near to the float64 truth as PyTorch's float32, within 3 dB.

    `golden` is a golden file of the same model (`demucs-np golden` makes one) or its path. Returns the report. Raises
    AssertionError whose text is the table of all layers, UsageError for a model of another configuration, ModelError for an
    unreadable golden file.
    """
    if not isinstance(golden, Golden):
        golden = load_golden(golden)
    report = verify_golden(golden, model)
    if not report.passed:
        raise AssertionError(f"\n{report}")
    return report
