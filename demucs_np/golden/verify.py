"""Compare a model of this package, layer by layer, with what the reference recorded in a golden file. No PyTorch needed.

The limit: at the sampled positions, our float32 error against the reference in float64 may exceed PyTorch float32's own error
there by at most 3 dB (a factor of 1.41). Two correct float32 programs that add in different orders differ by about that, and a
real mistake by far more. Beside it the mean and the norm of the whole activation are compared: they cannot differ by more
than the error allowed for the whole, so they catch what lies between the samples without ever raising a false alarm.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .record import Golden, Layer, decibels, total

if TYPE_CHECKING:
    from ..models.bag import Model

LIMIT_DB = 3.0
FLOAT32_ROUNDING = 2.0**-24  # relative error of rounding once to float32, at most


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer: signal-to-noise ratios against the float64 truth at the sampled positions, in dB, and the verdict."""

    name: str
    shape: tuple[int, ...]
    ours: float
    pytorch: float
    excess: float  # our error over PyTorch's, dB; 0 is equal, negative better
    problem: str  # empty: within the limit

    @property
    def passed(self) -> bool:
        return not self.problem


@dataclasses.dataclass(frozen=True)
class Report:
    """All layers of a golden file, in order of execution."""

    layers: tuple[LayerReport, ...]

    @property
    def passed(self) -> bool:
        return all(layer.passed for layer in self.layers)

    @property
    def first_failure(self) -> LayerReport | None:
        """Where the error enters: the layers before it are right, so its inputs were."""
        return next((layer for layer in self.layers if not layer.passed), None)

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in self.layers)
        lines = [f"{'layer':{width}}  ours dB  PyTorch dB  excess dB"]
        for layer in self.layers:
            verdict = f"   {layer.problem}" if layer.problem else ""
            lines.append(f"{layer.name:{width}}  {layer.ours:7.1f}  {layer.pytorch:10.1f}  {layer.excess:+9.1f}{verdict}")
        first = self.first_failure
        if first is None:
            lines.append(f"parity: {len(self.layers)} layers within {LIMIT_DB:g} dB of PyTorch's own float32 error")
        else:
            failures = sum(not layer.passed for layer in self.layers)
            lines.append(f"NO parity: {failures} of {len(self.layers)} layers leave the limit, first {first.name}: {first.problem}")
        return "\n".join(lines)

    def json(self) -> str:
        """The report as JSON; infinities and NaN are null."""

        def finite(value: Any) -> Any:
            return None if isinstance(value, float) and not math.isfinite(value) else value

        layers = [{key: finite(value) for key, value in dataclasses.asdict(layer).items()} for layer in self.layers]
        first = self.first_failure
        fields = {"passed": self.passed, "limit_db": LIMIT_DB, "first_failure": first.name if first else None, "layers": layers}
        return json.dumps(fields, indent=1)

    def junit(self, suite: str) -> str:
        """The report as JUnit XML, one test case a layer, for the test views of CI services."""
        cases = []
        for layer in self.layers:
            failure = "" if layer.passed else f"<failure message={quoteattr(layer.problem)}/>"
            cases.append(f"  <testcase classname={quoteattr(suite)} name={quoteattr(layer.name)}>{failure}</testcase>")
        failures = sum(not layer.passed for layer in self.layers)
        head = f'<testsuite name={quoteattr(suite)} tests="{len(cases)}" failures="{failures}">'
        return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>", ""])


def verify_golden(golden: Golden, model: Model) -> Report:
    """Run `model` on the golden file's input and judge every layer.

    Raises UsageError for a model of another configuration.
    """
    check_config(golden, model)
    from ..trace import trace

    with trace(layers=[name for name in golden.layers if name != "output"]) as taps:
        output = model(golden.mix)
    return compare(golden, {**taps, "output": output})


def check_config(golden: Golden, model: Model) -> None:
    """Raise UsageError unless the model has the golden file's constructor arguments, naming the first that differs."""
    theirs, ours = golden.config, model.config
    if type(ours) is not type(theirs):
        raise UsageError(f"the golden file is of {theirs.klass}, the model is another class; give the model it was made from")
    for field in dataclasses.fields(theirs):
        value, other = getattr(theirs, field.name), getattr(ours, field.name)
        if value != other:
            raise UsageError(f"the golden file's model has {field.name}={value!r}, this one {other!r}; give the model it was made from")


def compare(golden: Golden, activations: Mapping[str, NDArray]) -> Report:
    """Judge recorded activations, "output" among them."""
    return Report(tuple(judge(layer, activations.get(name)) for name, layer in golden.layers.items()))


def judge(layer: Layer, ours: NDArray | None) -> LayerReport:
    """Judge one activation (None: the model did not report it)."""
    signal = total(layer.values)[1]
    pytorch = decibels(signal, layer.sample_error)
    failed = LayerReport(layer.name, layer.shape, -math.inf, pytorch, math.inf, "")
    if ours is None:
        return dataclasses.replace(failed, problem="the model has no such layer")
    if ours.shape != layer.shape:
        return dataclasses.replace(failed, problem=f"shape {ours.shape}, must be {layer.shape}")
    if ours.dtype != np.float32:
        return dataclasses.replace(failed, problem=f"dtype {ours.dtype}, must be float32")
    error = total(ours.reshape(-1)[layer.positions] - layer.values)[1]
    # PyTorch may by luck have no error at all, where rounding the truth to float32 is the best that can be asked for.
    allowed = max(layer.sample_error, total(layer.values.astype(np.float32) - layer.values)[1])
    excess = -decibels(allowed, error) if allowed else (math.inf if error else 0.0)
    return LayerReport(layer.name, layer.shape, decibels(signal, error), pytorch, excess, _problem(layer, ours, excess))


def _problem(layer: Layer, ours: NDArray[np.float32], excess: float) -> str:
    if not excess <= LIMIT_DB:  # NaN too
        return f"error {excess:.1f} dB above PyTorch's" if math.isfinite(excess) else "NaN, infinity, or an error where none is possible"
    sum_, norm = total(ours)
    bound = 10 ** (LIMIT_DB / 20) * max(layer.error, FLOAT32_ROUNDING * layer.norm)
    if not abs(norm - layer.norm) <= bound:  # | |a| - |b| | <= |a - b|
        return f"norm {norm:.9g}, must be {layer.norm:.9g}: an error between the sampled values"
    if not abs(sum_ - layer.mean * layer.size) <= bound * math.sqrt(layer.size):  # |sum(a - b)| <= |a - b| sqrt(n)
        return f"mean {sum_ / layer.size:.9g}, must be {layer.mean:.9g}: an error between the sampled values"
    return ""
