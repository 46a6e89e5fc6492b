"""Random configurations put to upstream: what it cannot run is refused here, and nothing else is."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import random_configs
import torch

from demucs_np.parity.upstream import build

pytestmark = pytest.mark.torch


def upstream_runs(klass: str, arguments: dict[str, Any], samples: int, batch: int) -> bool:
    torch.manual_seed(0)
    try:
        model = build(klass, dict(arguments), 1)
        with torch.no_grad():
            out = model(torch.randn(batch, arguments["audio_channels"], samples))
    except Exception:
        return False
    return out.shape[0] == batch and out.shape[-1] >= samples


@pytest.mark.filterwarnings("ignore")
def test_we_run_what_upstream_runs() -> None:
    compared, refused, wrong = 0, 0, []
    for number in range(400):
        klass, arguments, samples, batch = random_configs.draw(Random(f"configuration live {number}"))
        if klass.endswith(".Demucs") and not arguments["rewrite"]:
            continue  # upstream cannot load its own: it takes the norm of such a decoder for a former name
        ours = random_configs.run(f"live {number}")
        if samples == 1 or ours == "too large":
            continue
        compared, refused = compared + (ours == "same"), refused + (ours != "same")
        if upstream_runs(klass, arguments, samples, batch) != (ours == "same"):
            wrong.append((number, klass, samples, ours))
    assert compared > 60
    assert refused > 200
    assert not wrong
