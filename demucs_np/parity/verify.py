"""Compare a model of this package, layer by layer, with what upstream recorded in a golden file. No PyTorch needed.

The limit: our float32 error against upstream in float64 may exceed PyTorch float32's own error by at most 3 dB (a factor
of 1.41). Two correct float32 programs that add in different orders differ by about that, and a real mistake by far more. Ours is
measured over the whole activation, through its sketch (see `record`).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from .record import Golden, Layer, decibels, sketch, total

if TYPE_CHECKING:
    from ..models.bag import Model

LIMIT_DB = 3.0
FLOAT32_ROUNDING = 2.0**-24  # relative error of rounding once to float32, at most


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer: signal-to-noise ratios against the float64 truth, in dB, and the verdict."""

    name: str
    shape: tuple[int, ...]
    ours: float
    pytorch: float
    excess: float  # our error over PyTorch's, dB; 0 is equal, negative better
    problem: str  # empty: within the limit
    seconds: float = 0.0  # from the layer before it to this one

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
            figures = {"ours_db": layer.ours, "pytorch_db": layer.pytorch, "excess_db": layer.excess, "limit_db": LIMIT_DB}
            inside = [f'<property name="{name}" value="{value:.2f}"/>' for name, value in figures.items()]
            inside = ["<properties>", *inside, "</properties>"]
            if not layer.passed:
                inside.append(f"<failure message={quoteattr(layer.problem)}/>")
            cases.append(_case(suite, layer.name, layer.seconds, inside))
        return _suite(suite, cases, failures=sum(not layer.passed for layer in self.layers))


def junit_of_refusal(suite: str, error: Exception) -> str:
    """JUnit XML that says why there is nothing to compare: one test case, an error."""
    return _suite(suite, [_case(suite, "weights", 0.0, [f"<error message={quoteattr(str(error))}/>"])], errors=1)


def _case(suite: str, name: str, seconds: float, inside: Sequence[str]) -> str:
    return f'  <testcase classname={quoteattr(suite)} name={quoteattr(name)} time="{seconds:.4f}">{"".join(inside)}</testcase>'


def _suite(name: str, cases: Sequence[str], *, failures: int = 0, errors: int = 0) -> str:
    head = f'<testsuite name={quoteattr(name)} tests="{len(cases)}" failures="{failures}" errors="{errors}">'
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', head, *cases, "</testsuite>", ""])


def verify_golden(golden: Golden, model: Model) -> Report:
    """Run `model` on the golden file's input and judge every layer.

    Raises UsageError for a model of another configuration.
    """
    check_config(golden, model)
    from ..models.taps import trace

    times: dict[str, float] = {}
    with trace(times=times) as taps:
        output = model(golden.mix)
    report = compare(golden, {**taps, "output": output})
    return Report(tuple(dataclasses.replace(layer, seconds=times.get(layer.name, 0.0)) for layer in report.layers))


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
    pytorch = decibels(layer.norm, layer.error)
    failed = LayerReport(layer.name, layer.shape, -math.inf, pytorch, math.inf, "")
    if ours is None:
        return dataclasses.replace(failed, problem="the model has no such layer")
    if ours.shape != layer.shape:
        return dataclasses.replace(failed, problem=f"shape {ours.shape}, must be {layer.shape}")
    if ours.dtype != np.float32:
        return dataclasses.replace(failed, problem=f"dtype {ours.dtype}, must be float32")
    if not np.isfinite(ours).all():
        return dataclasses.replace(failed, problem=f"NaN or infinity; {_example(layer, ours)}")
    error = total(sketch(layer.name, ours, layer.sketch.size) - layer.sketch)[1]
    # PyTorch may by luck have no error at all (a copy, a sum of two): rounding to float32 is always allowed.
    allowed = max(layer.error, FLOAT32_ROUNDING * layer.norm)
    excess = -decibels(allowed, error) if allowed and error else (math.inf if error else -math.inf)
    problem = "" if excess <= LIMIT_DB else f"error {excess:.1f} dB above PyTorch's; {_example(layer, ours)}"
    return LayerReport(layer.name, layer.shape, decibels(layer.norm, error), pytorch, excess, problem)


def _example(layer: Layer, ours: NDArray[np.float32]) -> str:
    """The sampled value that is farthest off."""
    sampled = ours.reshape(-1)[layer.positions]
    worst = int(np.argmax(np.nan_to_num(np.abs(sampled - layer.values), nan=math.inf)))
    place = ", ".join(str(index) for index in np.unravel_index(layer.positions[worst], layer.shape))
    return f"at ({place}) {sampled[worst]:.8g}, must be {layer.values[worst]:.8g}"
