"""What the compiled kernels give on this machine, or as on another: run as a program, it checks them and prints their results' hashes.

The environment forces what another machine has: DEMUCS_NP_LANES and DEMUCS_NP_FMA the matrix product's vectors, Numba's own
NUMBA_CPU_NAME and NUMBA_CPU_FEATURES all the rest.
"""

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernel_checks import noise

from demucs_np.kernels import layer
from demucs_np.operations import operations
from demucs_np.parity.record import load_golden
from demucs_np.parity.seeded import seeded_model
from demucs_np.parity.testing import assert_parity

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "ht_published.safetensors"
CHECKS = "any_layer or any_shape or any_geometry or every_remainder or naive_is_twin"


def results():
    """One result of each kernel, of an odd size, and a whole model's."""
    ops = operations("numba")
    x, weight, bias = noise(7, 37, 20), 1 + noise(20, seed=1) / 4, noise(20, seed=2)
    conv = ops.prepare(layer.convolution(noise(46, 20, 8), noise(46), stride=4, pad=2, activation="gelu"))
    gated = ops.prepare(replace(layer.linear(noise(70, 20), noise(70), "glu"), norm=(noise(70, seed=3), noise(70, seed=4))))
    wide, narrow = ops.prepare(layer.linear(noise(600, 20), noise(600), "gelu")), ops.prepare(layer.linear(noise(20, 600), noise(20)))
    winograd = ops.prepare(layer.convolution(noise(64, 32, 3, 3), noise(64), pad=1, activation="glu"))
    winograd_1d = ops.prepare(layer.convolution(noise(64, 32, 3), noise(64), pad=1, activation="glu"))
    strided = ops.prepare(layer.convolution(noise(32, 16, 8), noise(32), stride=4, pad=2, activation="gelu"))
    q, k, v = noise(101, 100, seed=5), noise(450, 100, seed=6), noise(450, 100, seed=7)
    spectrum, envelope = noise(13, 32, 6), 1 + noise(200) ** 2
    moments = np.array([0.3, 1.7])
    golden = load_golden(GOLDEN)
    return {
        "conv": ops.conv(x, conv),
        "winograd": ops.conv(noise(7, 37, 32), winograd),
        "winograd along one axis": ops.conv(noise(1, 37, 32), winograd_1d),
        "winograd, strided": ops.conv(noise(3, 90, 16), strided),
        "projected_stats": ops.projected_stats(x, gated),
        "conv with norm": ops.conv(x, gated, stats=np.stack([noise(37), 1 + noise(37) ** 2], axis=1)),
        "group_norm": ops.group_norm(x, layer.Norm(weight, bias, 4), activation="glu"),
        "layer_norm": ops.layer_norm(x, layer.Norm(weight, bias)),
        "norm_gelu": ops.norm_gelu(x.copy(), layer.Norm(weight, bias)),
        "normalize": ops.normalize(x.copy())[0],
        "attention": ops.attention(q, k, v, 4),
        "feed_forward": ops.feed_forward(x[:1].copy(), x[1:2].copy(), wide, narrow, weight),
        "stft": ops.stft(noise(3, 900), 64, 16, 50),
        "istft": ops.istft(spectrum, 64, 16, -24, envelope.astype(np.float32)),
        "istft, added": ops.istft(
            spectrum, 64, 16, -24, envelope.astype(np.float32), moments=moments, time=noise(200, 3), time_moments=moments
        ),
        "lstm": ops.lstm(noise(60, 8 * 20), ops.prepare_recurrent(noise(2, 20, 80) / 4), np.arange(12), 12, 5),
        "local_attention": ops.local_attention(noise(100, 3, 3 * 24 + 16), 4, 4),
        "wiener": ops.wiener(noise(40, 9, 4), noise(40, 9, 6) ** 2, 1, True),
        "resample": ops.resample(noise(2, 3000), 48000, 44100),
        "model": seeded_model(golden, "numba")(golden.mix),
    }


def hashes():
    return {name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest() for name, array in results().items()}


if __name__ == "__main__":
    seen = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"  # hypothesis, by the imports above
    status = pytest.main(["-q", "-p", "no:cacheprovider", "-W", seen, "-m", "kernel", "-k", CHECKS, str(HERE)])
    if status:
        sys.exit(status)
    golden = load_golden(GOLDEN)
    assert_parity(seeded_model(golden, "numba"), golden)
    print(json.dumps(hashes()))
