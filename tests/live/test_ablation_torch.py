"""What `trace(ablate=...)` switches off, against upstream with the same switched off by hooks on its modules."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES

import demucs_np as dn
from demucs_np.models.config import config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.parity.recipe import draw_mix, draw_tensors
from demucs_np.parity.record import SAMPLES, SKETCH
from demucs_np.parity.upstream import build, fingerprint, float32_taps, run
from demucs_np.parity.verify import LIMIT_DB, judge
from demucs_np.weights import build as build_ours
from demucs_np.weights.formats.checkpoint import Checkpoint

pytestmark = pytest.mark.torch

# Self- and cross-attention before and after norms, bands, LSTM and LocalState in DConv, the LSTM of Demucs.
MODELS = ["ht_six_stems", "ht_post_norm_relu", "hd_both_parts", "hd_bands", "td_attention", "td_lstm"]
BY_NAME = {case.name: case for case in CASES}


def switch_off(model: torch.nn.Module, part: str) -> None:
    """In upstream's model, for good."""
    path, _, head = part.partition(":")
    if path.endswith(".skip"):

        def without_skip(_module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            x, skip, *rest = inputs
            return x, torch.zeros_like(skip), *rest

        if type(model).__name__ == "Demucs":
            take_skip_off(model, int(path.split(".")[1]))
        else:
            model.get_submodule(path.removesuffix(".skip")).register_forward_pre_hook(without_skip)
        return
    module = model.get_submodule(path)
    kind = type(module).__name__
    if head and kind == "MultiheadAttention":
        width = module.out_proj.weight.shape[1] // module.num_heads
        silence(module.out_proj.weight, int(head), width)  # a functional call takes it: no hook comes between
    elif head:
        module.proj.register_forward_pre_hook(without_head(int(head), module.heads))
    elif kind == "MultiheadAttention":
        module.register_forward_hook(lambda _module, _inputs, output: (torch.zeros_like(output[0]), output[1]))
    elif kind in ("DConv", "LocalState") or (kind == "BLSTM" and module.skip):  # what they return is their input and a branch
        module.register_forward_hook(lambda _module, inputs, _output: inputs[0])
    else:
        assert kind in ("Linear", "Sequential", "BLSTM")
        module.register_forward_hook(lambda _module, _inputs, output: torch.zeros_like(output))


def silence(weight: torch.nn.Parameter, head: int, width: int) -> None:
    with torch.no_grad():
        weight[:, head * width : (head + 1) * width] = 0


def without_head(head: int, heads: int) -> Callable[..., tuple[torch.Tensor]]:
    def hook(_module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        x = inputs[0].clone()  # (B, heads*D, T)
        width = x.shape[1] // heads
        x[:, head * width : (head + 1) * width] = 0
        return (x,)

    return hook


def take_skip_off(model: torch.nn.Module, index: int) -> None:
    """It adds the middle of the encoder's output to x before it calls the decoder layer, which is given x alone."""
    kept: dict[str, torch.Tensor] = {}
    depth = len(model.encoder)

    def keep(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        kept["x"] = output.clone()

    before = model.decoder[index - 1] if index else (model.lstm or model.encoder[depth - 1])
    before.register_forward_hook(keep)
    model.decoder[index].register_forward_pre_hook(lambda _module, _inputs: (kept["x"],))


def some(parts: dict[str, int]) -> list[list[str]]:
    """The last part of each kind, and its last head but one; and one in the middle of each kind, all together.

    Not the first of them: with nothing from the innermost encoder layer, the decoder of HDemucs begins with a constant, whose error is
    that of a handful of numbers.
    """
    kinds: dict[str, list[str]] = {}
    for path, heads in parts.items():
        form = re.sub(r"\d+", "#", path)
        kinds.setdefault(form, []).append(path)
        if heads:
            kinds.setdefault(f"{form}:", []).append(f"{path}:{heads - 2}")
    return [[names[-1]] for names in kinds.values()] + [[names[len(names) // 2] for names in kinds.values()]]


def cases() -> list[Any]:
    from demucs_np.inspection.outline import parts

    found = []
    for name in MODELS:
        config = config_from_arguments(BY_NAME[name].klass, (), BY_NAME[name].arguments)
        found += [pytest.param(name, ablate, id=f"{name}-{'+'.join(ablate)[:70]}") for ablate in some(parts(config))]
    return found


@pytest.mark.parametrize(("name", "ablate"), cases())
def test_as_upstream_with_hooks(name: str, ablate: list[str]) -> None:
    case = BY_NAME[name]
    config = config_from_arguments(case.klass, (), case.arguments)
    reference, plain = build(case.klass, case.arguments, 1), build(case.klass, case.arguments, 1)
    for part in sorted(ablate, key=lambda part: part.endswith(".skip")):  # where a skip is taken off, what comes before must be done
        switch_off(reference, part)
    mix = draw_mix(3, case.channels, case.length)[None]
    single = float32_taps(reference, mix)
    taps = {}
    for backend in ("numba", "numpy"):
        model = build_ours(Checkpoint(Path(name), config, draw_tensors(1, expected_tensors(config))), backend)
        with dn.trace(ablate=ablate) as taps[backend]:
            taps[backend]["output"] = model(mix)
    with torch.no_grad():
        untouched = plain(torch.from_numpy(mix)).numpy()
    failures, changed = [], []

    def visit(path: str, truth: np.ndarray) -> None:
        layer = fingerprint(path, truth, single[path], SAMPLES, SKETCH)
        for backend, mine in taps.items():
            report = judge(layer, mine[path])
            if not report.excess <= LIMIT_DB:
                failures.append(f"{backend} {path}: {report.excess:+.1f} dB")
        if path == "output":
            changed.append(float(np.abs(untouched - truth).max() / np.abs(truth).max()))

    run(reference, mix, visit, double=True)
    assert failures == []
    assert changed[0] > 1e-4, "switching it off changes nothing that could be seen"
