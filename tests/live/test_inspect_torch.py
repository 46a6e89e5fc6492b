"""`demucs-np inspect` against upstream itself: the names, shapes and counts of all modules, and the work that PyTorch counts."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from cases import CASES, STEMS, Case
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from demucs_np.inspection.outline import Module, modules, segment_samples
from demucs_np.models.config import Config, config_from_arguments
from demucs_np.models.layout import expected_tensors
from demucs_np.models.transformer import attention_weights
from demucs_np.parity.upstream import build

pytestmark = pytest.mark.torch

PUBLISHED = Case(
    "published", "demucs.htdemucs.HTDemucs",
    {"sources": list(STEMS), "bottom_channels": 512, "dconv_mode": 3, "t_layers": 5, "segment": Fraction(39, 5)}, 343980,
)  # fmt: skip


def config_and_length(case: Case) -> tuple[Config, int]:
    config = config_from_arguments(case.klass, (), case.arguments)
    return config, segment_samples(config) if getattr(config, "use_train_segment", False) else case.length


def noise(case: Case, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((1, case.channels, length)).astype(np.float32))


@pytest.mark.parametrize("case", [*CASES, PUBLISHED], ids=lambda case: case.name)
def test_modules(case: Case) -> None:
    """Every module with parameters: its path and place, its class, its own and all parameters, and the shape of what it returns."""
    config, length = config_and_length(case)
    model = build(case.klass, dict(case.arguments), {name: np.zeros(shape, np.float32) for name, shape in expected_tensors(config).items()})
    shapes: dict[str, tuple[int, ...]] = {}

    def hook(path: str) -> Any:
        def record(_module: object, _inputs: object, output: Any) -> None:
            shapes[path] = tuple((output[0] if isinstance(output, tuple) else output).shape)

        return record

    for path, module in model.named_modules():
        module.register_forward_hook(hook(path))
    with torch.no_grad():
        model(noise(case, length))

    named = {path: module for path, module in model.named_modules() if any(True for _ in module.parameters())}
    found = {module.path: module for module in modules(config, length)}
    assert list(found) == list(named)
    for path, module in named.items():
        ours = found[path]
        assert ours.kind in [base.__name__ for base in type(module).__mro__], path
        assert ours.parameters == sum(parameter.numel() for parameter in module.parameters()), path
        prefix = f"{path}." if path else ""
        own = {prefix + name: tuple(parameter.shape) for name, parameter in module.named_parameters(recurse=False)}
        assert ours.tensors == own, path
        if path in shapes and ours.shape is not None:
            assert as_called(ours) == shapes[path], path
        # The output projection is called with its weights alone; the shape is that of the attention.
        assert (ours.shape is None) == (path not in shapes) or path.endswith("out_proj"), path


def as_called(module: Module) -> tuple[int, ...]:
    """The shape as the module's own forward gives it: inside a DConv of a frequency layer rows are the batch."""
    shape = module.shape
    assert shape is not None
    if "dconv" in module.path and len(shape) == 4:
        return (shape[0] * shape[2], shape[1], shape[3])
    return shape


@pytest.mark.parametrize("name", ["ht_published", "ht_bands", "ht_deep", "hd_attention", "hd_merge_last", "td_plain", "published"])
def test_multiply_adds(name: str) -> None:
    """PyTorch counts two operations for each of ours, in every module. Its counter knows no LSTM, and DConv's attention is more
    to it: it also counts the products that penalise distance."""
    case = {case.name: case for case in [*CASES, PUBLISHED]}[name]
    config, length = config_and_length(case)
    model = build(case.klass, dict(case.arguments), 1)
    # Both fast paths hide the products of attention inside one operation that the counter does not know.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(noise(case, length))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    counts = {path: sum(kinds.values()) for path, kinds in counter.get_flop_counts().items()}
    klass = case.klass.rpartition(".")[2]
    compared = 0
    for module in modules(config, length):
        counted = counts.get(f"{klass}.{module.path}" if module.path else klass)
        if counted is None or has_local_state(module, config):
            continue
        assert 2 * module.multiply_adds == counted, module.path
        compared += 1
    assert compared > 20


def has_local_state(module: Module, config: Config) -> bool:
    return any(
        other.kind == "LocalState" and (not module.path or other.path == module.path or other.path.startswith(module.path + "."))
        for other in modules(config)
    )


def test_attention_weights() -> None:
    """What a trace shows of a head is what nn.MultiheadAttention returns."""
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x, other = torch.randn(1, 11, 32), torch.randn(1, 7, 32)
    with torch.no_grad():
        _, expected = attention(x, other, other, average_attn_weights=False)
        q_weight, k_weight, _ = attention.in_proj_weight.chunk(3)
        q_bias, k_bias, _ = attention.in_proj_bias.chunk(3)
        q, k = x[0] @ q_weight.T + q_bias, other[0] @ k_weight.T + k_bias
    np.testing.assert_allclose(attention_weights(q.numpy(), k.numpy(), 4), expected[0].numpy(), rtol=1e-4, atol=1e-6)
