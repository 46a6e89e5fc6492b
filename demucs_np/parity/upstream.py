"""The side that needs PyTorch: run the real `demucs` classes with hooks on their modules, in float64 and in float32.

The only module of the package that imports torch and demucs, and only inside its functions.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, UsageError
from .recipe import draw_tensors, tensors_digest
from .record import SAMPLES, SKETCH, Golden, Layer, positions, sketch, total

if TYPE_CHECKING:
    import torch

Visit = Callable[[str, NDArray], None]

HYBRID = r"t?(en|de)coder\.\d+(\.dconv)?|crosstransformer\.(norm_in(_t)?|layers(_t)?\.\d+)|channel_(up|down)sampler(_t)?"
TIME = r"(en|de)coder\.\d+|lstm"
NEEDED = "making a golden file needs upstream: pip install demucs==4.1.0 torch"


def require_upstream() -> None:
    """Raise UsageError where torch or demucs is missing."""
    for package in ("torch", "demucs"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is not installed; {NEEDED}")


def build(klass: str, arguments: Mapping[str, Any], weights: int | Mapping[str, NDArray]) -> torch.nn.Module:
    """Upstream's model in evaluation mode, with weights given or drawn from a seed.

    `klass` is the dotted name ("demucs.htdemucs.HTDemucs").
    """
    require_upstream()
    import torch

    module, name = klass.rsplit(".", 1)
    try:
        model: torch.nn.Module = getattr(importlib.import_module(module), name)(**arguments)
    except ModuleNotFoundError as error:
        have = importlib.metadata.version("demucs")
        raise UsageError(f"{klass} is not in demucs {have}, which is installed; the second generation is demucs==2.0.3's") from error
    if module == "demucs.model":
        _pad(model)
    if isinstance(weights, int):
        weights = draw_tensors(weights, {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()})
    model.load_state_dict({name: torch.from_numpy(np.array(tensor)) for name, tensor in weights.items()})
    return model.eval()


def _pad(model: torch.nn.Module) -> None:
    """Let a second-generation model fill up what it is given and trim what it gives, as its `apply_model` does and later ones do
    themselves."""
    from torch.nn.functional import pad

    base: Any = type(model)

    class Padded(base):  # type: ignore[misc]
        def forward(self, mix: torch.Tensor) -> torch.Tensor:
            length = mix.shape[-1]
            more = self.valid_length(length) - length
            output = super().forward(pad(mix, (more // 2, more - more // 2)))
            start = (output.shape[-1] - length) // 2
            trimmed: torch.Tensor = output[..., start : start + length]
            return trimmed

    Padded.__name__, Padded.__module__ = base.__name__, base.__module__
    model.__class__ = Padded


def traced_modules(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The modules whose outputs are recorded, by their path.

    These are the ones that an engine which fuses inside layers still has: whole layers, their residual branches (DConv), the
    transformer's norms and layers, the convolutions around it. Modules without parameters do nothing here and are left out.
    """

    def wanted(path: str, module: torch.nn.Module) -> bool:
        if type(model).__name__ == "Demucs":
            return bool(re.fullmatch(TIME, path)) or (type(module).__name__ == "DConv" and path.count(".") == 2)
        return bool(re.fullmatch(HYBRID, path))

    return {path: module for path, module in model.named_modules() if wanted(path, module) and any(True for _ in module.parameters())}


@contextlib.contextmanager
def hooks(model: torch.nn.Module, visit: Visit) -> Iterator[None]:
    """Within, a forward call of `model` shows its traced activations to `visit(path, array)`, in order of execution, and its output.

    The arrays are only good during that call.

    Axis order is upstream's, with one exception: DConv inside a frequency layer works on (B*F, C, T) and is recorded as
    (B, C, F, T), the order of the layer around it. A decoder layer returns two tensors; the first is recorded.
    """
    by_path = dict(model.named_modules())
    batch = 1

    def enter(_module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal batch
        batch = inputs[0].shape[0]

    def record(path: str, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        value = (output[0] if isinstance(output, tuple) else output).detach()
        parent = by_path[path.rpartition(".")[0]]
        if path.endswith(".dconv") and getattr(parent, "freq", False):
            value = value.view(batch, -1, *value.shape[1:]).transpose(1, 2)
        visit(path, value.numpy())

    def hook(path: str) -> Any:
        return lambda _module, _inputs, output: record(path, output)

    with contextlib.ExitStack() as stack:
        for path, module in traced_modules(model).items():
            stack.callback(module.register_forward_hook(hook(path)).remove)
        stack.callback(model.register_forward_pre_hook(enter).remove)
        stack.callback(model.register_forward_hook(hook("output")).remove)
        yield


def run(model: torch.nn.Module, mix: NDArray[np.float32], visit: Visit, *, double: bool) -> None:
    """Show the traced activations and "output" for a mix (batch, channels, samples) to `visit`, from a run in float32 or float64.

    In float64 the default dtype is float64 as well, or upstream would build its window and its tables in float32.
    """
    import torch

    dtype = torch.float64 if double else torch.float32
    before = torch.get_default_dtype()
    model = copy.deepcopy(model).double() if double else model
    torch.set_default_dtype(dtype)
    try:
        with torch.no_grad(), hooks(model, visit):
            model(torch.from_numpy(mix).to(dtype))
    finally:
        torch.set_default_dtype(before)


def float32_taps(model: torch.nn.Module, mix: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """All traced activations of the float32 run."""
    taps: dict[str, NDArray[np.float32]] = {}
    run(model, mix, lambda path, array: taps.update({path: array.copy()}), double=False)
    return taps


def fingerprint(name: str, truth: NDArray[np.float64], single: NDArray[np.float32], samples: int, sums: int) -> Layer:
    """What a golden file keeps of one activation: `truth` from the float64 run, `single` from the float32 run."""
    if not np.isfinite(truth).all():
        raise ModelError(f"{name}: upstream gives NaN or infinity for this input; choose another")
    sum_, norm = total(truth)
    return Layer(
        name=name,
        shape=truth.shape,
        mean=sum_ / truth.size,
        norm=norm,
        error=total(single - truth)[1],
        sketch=sketch(name, truth, sums),
        values=truth.reshape(-1)[positions(name, truth.size, samples)],
    )


def make_golden(
    model: torch.nn.Module,
    mix: NDArray[np.float32],
    *,
    seed: int | None = None,
    source: Mapping[str, Any],
    samples: int = SAMPLES,
    sums: int = SKETCH,
) -> Golden:
    """Run upstream on a mix (channels, samples) and record it.

    `seed` is the one that the weights were drawn from, if they were. `source` describes the mix; with a "seed" in it, the mix can
    be drawn again (`recipe.draw_mix`) and is not stored.
    """
    klass, arguments = constructor(model)
    single, layers = float32_taps(model, mix[None]), {}

    def keep(path: str, truth: NDArray[np.float64]) -> None:  # at once: all activations in float64 would need too much memory
        layers[path] = fingerprint(path, truth, single.pop(path), samples, sums)

    run(model, mix[None], keep, double=True)
    weights: dict[str, Any] = {} if seed is None else {"seed": seed}
    weights["sha256"] = digest(model)
    return Golden(
        klass=klass,
        arguments=arguments,
        weights=weights,
        source=source,
        made_with={name: importlib.metadata.version(name) for name in ("demucs", "torch", "numpy")},
        layers=layers,
        audio=None if "seed" in source else mix,
    )


def digest(model: torch.nn.Module) -> str:
    """The weights' identity, as `recipe.tensors_digest` gives it."""
    return tensors_digest({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def constructor(model: torch.nn.Module) -> tuple[str, dict[str, Any]]:
    """Dotted class name and keyword arguments that an upstream model was built with."""
    args, kwargs = model._init_args_kwargs
    names = list(inspect.signature(type(model).__init__).parameters)[1:]
    return f"{type(model).__module__}.{type(model).__name__}", dict(zip(names, args, strict=False)) | dict(kwargs)
