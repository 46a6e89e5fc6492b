"""Names, shapes and order of all tensors, against upstream's own modules.

`python tests/live/test_layout_torch.py` writes tests/layouts.json anew, from upstream alone.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from layout_cases import CASES, SOURCES, arguments, fingerprint

pytestmark = pytest.mark.torch
FOLDER = Path(__file__).parents[1]


def reference_layout(klass: str, kwargs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    module, name = klass.rsplit(".", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of initialisations that the shapes do not depend on
        model = getattr(importlib.import_module(module), name)(**kwargs)
    registered = {key: tuple(value.shape) for key, value in model.named_parameters()}
    # The order in which a quantiser meets them.
    walked = [f"{path}.{key}" for path, module in model.named_modules() for key, _ in module.named_parameters(recurse=False)]
    assert list(registered) == list(model.state_dict()) == walked
    return registered


def our_layout(klass: str, kwargs: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    from demucs_np.models.config import config_from_arguments
    from demucs_np.models.layout import expected_tensors

    return expected_tensors(config_from_arguments(klass, (), kwargs))


@pytest.mark.parametrize("case", CASES)
def test_layout_equals_the_reference(case: str) -> None:
    klass, kwargs = arguments(case)
    expected = reference_layout(klass, kwargs)
    ours = our_layout(klass, kwargs)
    assert ours == expected
    assert list(ours) == list(expected)
    assert fingerprint(expected) == json.loads((FOLDER / "layouts.json").read_text())[case]


def random_arguments(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A small model with any mixture of options."""
    klass = rng.choice(["demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"])
    pick = rng.choice
    kwargs: dict[str, Any] = {
        "sources": SOURCES[: pick([1, 2, 4])],
        "channels": pick([8, 16]),
        "audio_channels": pick([1, 2]),
        "growth": pick([1, 2]),
        "rewrite": pick([True, True, False]),
        "context": pick([0, 1, 2]),
        "norm_starts": pick([1, 2, 4, 9]),
        "norm_groups": pick([1, 2, 4]),
        "dconv_mode": pick([0, 1, 2, 3]),
        "dconv_depth": pick([1, 2, -2]),
        "dconv_comp": pick([2, 1.5]),
    }
    if klass != "demucs.htdemucs.HTDemucs":
        kwargs |= {"dconv_lstm": pick([0, 2, 4]), "dconv_attn": 9 if kwargs["dconv_comp"] == 1.5 else pick([0, 2, 4])}
    if klass == "demucs.demucs.Demucs":
        return klass, kwargs | {
            "glu": pick([True, False]),
            "gelu": pick([True, False]),
            "lstm_layers": pick([0, 1, 2]),
            "depth": pick([2, 6]),
        }
    kwargs |= {
        "cac": pick([True, False]),
        "freq_emb": pick([None, 0.2]),
        "context_enc": pick([0, 1]),
        "channels_time": pick([None, 8]),
        "nfft": pick([512, 4096]),
    }
    if kwargs["norm_starts"] >= 2:
        kwargs |= {"multi_freqs": pick([None, [], [0.5], [0.25, 0.5]]), "multi_freqs_depth": pick([1, 2])}
    if klass == "demucs.hdemucs.HDemucs":
        return klass, kwargs | {"hybrid": pick([True, True, False]), "depth": pick([3, 6])}
    kwargs |= {
        "channels_time": None,
        "depth": pick([2, 3]),
        "bottom_channels": pick([0, 24]),
        "t_layers": pick([0, 1, 3]),
        "t_emb": pick(["sin", "cape", "scaled"]),
        "t_max_positions": 50,
        "t_heads": pick([1, 2, 4]),
        "t_hidden_scale": pick([1.5, 4]),
        "t_norm_in": pick([True, False]),
        "t_norm_in_group": pick([False, True, 2]),
        "t_group_norm": pick([False, True, 2]),
        "t_norm_first": pick([True, False]),
        "t_norm_out": pick([False, True, 2]),
        "t_layer_scale": pick([True, False]),
        "t_cross_first": pick([True, False]),
    }
    return klass, kwargs


@pytest.mark.parametrize("seed", range(40))
def test_random_layouts_equal_the_reference(seed: int) -> None:
    klass, kwargs = random_arguments(random.Random(seed))
    expected = reference_layout(klass, kwargs)
    assert list(our_layout(klass, kwargs).items()) == list(expected.items())


if __name__ == "__main__":
    layouts = {case: fingerprint(reference_layout(*arguments(case))) for case in CASES}
    (FOLDER / "layouts.json").write_text(json.dumps(layouts, indent=1) + "\n")
