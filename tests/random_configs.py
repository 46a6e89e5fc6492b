"""Models of random configurations, each buffer and each array of weights between guards of NaN: none may be read or written outside.

python tests/random_configs.py [--cases N] [--seed S]

A configuration is refused when it is loaded, or its model gives the same finite numbers with both backends. Many are wrong in one place, as
hostile files are.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from checking_arena import GUARD, CheckingArena  # noqa: E402

from demucs_np.errors import DemucsError, ModelError  # noqa: E402
from demucs_np.kernels.arena import Arena  # noqa: E402
from demucs_np.models.config import Config, config_from_arguments  # noqa: E402
from demucs_np.models.demucs import Demucs  # noqa: E402
from demucs_np.models.hdemucs import HDemucs  # noqa: E402
from demucs_np.models.htdemucs import HTDemucs  # noqa: E402
from demucs_np.models.layout import expected_tensors  # noqa: E402
from demucs_np.operations.compiled import CompiledOperations, use_arena  # noqa: E402
from demucs_np.parity.recipe import draw_tensors  # noqa: E402

CLASSES = {"demucs.htdemucs.HTDemucs": HTDemucs, "demucs.hdemucs.HDemucs": HDemucs, "demucs.demucs.Demucs": Demucs}
MOST = 400_000  # parameters of a model that is run
LIMIT = 50.0  # dB between the backends: two orders of float32 sums


class Guards:
    """Copies of arrays between guards of NaN."""

    def __init__(self) -> None:
        self._blocks: list[tuple[np.ndarray, int]] = []

    def around(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind != "f" or array.size == 0:
            return array
        block = np.full(array.size + 2 * GUARD, np.nan, array.dtype)
        block[GUARD : GUARD + array.size] = array.reshape(-1)
        self._blocks.append((block, array.size))
        return block[GUARD : GUARD + array.size].reshape(array.shape)

    def check(self) -> None:
        for block, size in self._blocks:
            assert np.isnan(block[:GUARD]).all(), f"written before weights of {size}"
            assert np.isnan(block[GUARD + size :]).all(), f"written behind weights of {size}"


class GuardedOperations(CompiledOperations):
    """Packs weights between guards."""

    guards: Guards

    def prepare(self, layer: Any, path: str = "") -> Any:
        packed = super().prepare(layer, path)
        arrays = {
            name: self.guards.around(getattr(packed, name))
            for name in ("packed", "bias", "projection")
            if getattr(packed, name) is not None
        }
        return replace(packed, **arrays)

    def prepare_recurrent(self, weights: Any) -> Any:
        return self.guards.around(super().prepare_recurrent(weights))


def draw(random: Random) -> tuple[str, dict[str, Any], int, int]:
    """A class, arguments, samples and a batch."""
    pick = random.choice
    klass = pick([*CLASSES, "demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs"])
    common: dict[str, Any] = {
        "sources": ["a", "b", "c"][: pick([1, 2, 2, 3])], "audio_channels": pick([1, 2, 2, 2, 3]), "channels": pick([2, 4, 4, 6, 8, 8, 12]),
        "growth": pick([1, 1.5, 2, 2]), "depth": pick([1, 2, 3, 3, 4, 5]), "rewrite": pick([True, True, True, False]),
        "kernel_size": pick([8, 8, 8, 4, 6, 3, 16]), "stride": pick([4, 4, 4, 2, 3, 8]), "context": pick([0, 1, 1, 2]),
        "norm_starts": pick([0, 1, 2, 4, 9]), "norm_groups": pick([1, 2, 4]), "dconv_mode": pick([0, 1, 1, 2, 3]),
        "dconv_depth": pick([0, 1, 2, 2, -2]), "dconv_comp": pick([1, 2, 2, 4]), "samplerate": 8000,
        "segment": pick([Fraction(1, 4), 0.3, 0.5, Fraction(1, 7)]),
    }  # fmt: skip
    if klass.endswith(".Demucs"):
        own: dict[str, Any] = {
            "lstm_layers": pick([0, 0, 1, 2]), "gelu": pick([True, False]), "glu": pick([True, True, False]),
            "normalize": pick([True, False]), "resample": pick([True, False]), "dconv_attn": pick([1, 2, 9]), "dconv_lstm": pick([1, 2, 9]),
        }  # fmt: skip
    else:
        iterations = pick([0, 0, 0, 1, 2, -1])
        own = {
            "nfft": pick([64, 128, 256, 512, 1024, 768, 96]), "cac": pick([True, True, True, False]), "wiener_iters": iterations,
            "end_iters": iterations, "wiener_residual": pick([False, False, True]), "channels_time": pick([None, None, None, 4, 6]),
            "multi_freqs": pick([None, None, None, [0.5], [0.1], [0.25, 0.5], [0.3, 0.7]]), "multi_freqs_depth": pick([1, 2, 3]),
            "freq_emb": pick([None, 0.2, 0.2]), "emb_scale": pick([1, 10]),
            "time_stride": pick([2, 2, 1, 3]), "context_enc": pick([0, 0, 1]),
        }  # fmt: skip
        if klass.endswith("HTDemucs"):
            own |= {
                "bottom_channels": pick([0, 0, 16, 12]), "t_layers": pick([0, 1, 2, 3]), "t_heads": pick([1, 2, 4]),
                "t_hidden_scale": pick([1.0, 2.0, 4.0]), "t_emb": pick(["sin", "sin", "cape", "scaled"]), "t_norm_in": pick([True, False]),
                "t_norm_in_group": pick([False, 2]), "t_group_norm": pick([False, False, 2]), "t_norm_first": pick([True, True, False]),
                "t_norm_out": pick([True, False, 2]), "t_gelu": pick([True, False]), "t_layer_scale": pick([True, False]),
                "t_cross_first": pick([True, False]), "use_train_segment": pick([True, False]), "t_max_positions": pick([10000, 50]),
            }  # fmt: skip
        else:
            own |= {"hybrid": pick([True, True, False]), "hybrid_old": pick([False, False, True]), "dconv_attn": pick([1, 2, 9]),
                    "dconv_lstm": pick([1, 2, 9])}  # fmt: skip
    samples = pick([1, 2, 17, 100, 255, 256, 257, 999, 1000, 1142, 2000, 2400, 3001])
    return klass, common | own, samples, pick([1, 1, 2])


def run(seed: object) -> str:
    """ "refused at load", "refused at the input", "too large", or "same". Raises AssertionError for anything else."""
    random = Random(f"configuration {seed}")
    klass, arguments, samples, batch = draw(random)
    try:
        config = config_from_arguments(klass, (), arguments)
    except ModelError:
        return "refused at load"
    shapes = expected_tensors(config)
    if sum(int(np.prod(shape)) for shape in shapes.values()) > MOST:
        return "too large"
    mix = np.random.default_rng(random.randrange(2**32)).standard_normal((batch, config.audio_channels, samples)).astype(np.float32)
    tensors = draw_tensors(random.randrange(1000), shapes)
    outputs = [outcome(config, tensors, mix, guarded) for guarded in (True, False)]
    compiled, plain = outputs
    if isinstance(compiled, str) or isinstance(plain, str):
        assert isinstance(compiled, str) and isinstance(plain, str), f"one backend refuses, the other does not: {outputs}"  # noqa: PT018
        return "refused at load" if compiled == "load" else "refused at the input"
    assert compiled.shape == (batch, len(config.sources), config.audio_channels, samples)
    if samples == 1 and np.isnan(plain).all():  # the deviation of one number is not known, upstream neither
        assert np.isnan(compiled).all()
        return "same"
    assert np.isfinite(plain).all(), "the NumPy backend gives NaN"
    assert np.isfinite(compiled).all(), "NaN: something beyond an array was read"
    error = float(np.square(compiled.astype(np.float64) - plain).mean())
    level = float(np.square(plain.astype(np.float64)).mean())
    assert error <= level * 10 ** (-LIMIT / 10) + 1e-20, f"the backends differ: {10 * np.log10(level / error):.1f} dB"
    return "same"


def outcome(config: Config, tensors: dict[str, np.ndarray], mix: np.ndarray, guarded: bool) -> np.ndarray | str:
    """What a model gives, or where it is refused: at "load" or at the "input"."""
    guards, arena = Guards(), CheckingArena()
    klass = CLASSES[config.klass]
    copies = {name: guards.around(np.array(tensor)) if guarded else np.array(tensor) for name, tensor in tensors.items()}
    try:
        model = _guarded(klass, config, copies, guards) if guarded else klass(config, copies, backend="numpy")  # type: ignore[arg-type]
    except DemucsError:
        return "load"
    try:
        with use_arena(arena), np.errstate(all="ignore"):
            out: np.ndarray = model(mix)
    except DemucsError:
        return "input"
    arena.check()
    guards.check()
    if guarded and model.all_kernels:
        with use_arena(Arena()), np.errstate(all="ignore"):
            model(mix)
            assert np.array_equal(model(mix), out, equal_nan=True), "a pass that is made from the calls of another differs"
    return out


def _guarded(klass: Any, config: Config, tensors: dict[str, np.ndarray], guards: Guards) -> Any:
    """A compiled model whose packed weights lie between guards: the operations are changed while it is made."""
    from demucs_np.models import network

    def operations(backend: str) -> GuardedOperations:
        ops = GuardedOperations()
        ops.guards = guards
        return ops

    before, network.operations = network.operations, operations  # type: ignore[assignment]
    try:
        return klass(config, tensors, backend="numba")
    finally:
        network.operations = before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    began = time.monotonic()
    for number in range(options.cases):
        seed = f"{options.seed} {number}"
        try:
            counts[run(seed)] += 1
        except Exception as error:
            counts["WRONG"] += 1
            print(f"  {seed}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())), f"in {time.monotonic() - began:.0f} s")
    return 1 if counts["WRONG"] else 0


if __name__ == "__main__":
    sys.exit(main())
