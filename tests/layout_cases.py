"""Constructor arguments that between them use every option which changes a model's tensors."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction
from typing import Any

SOURCES = ["drums", "bass", "other", "vocals"]

# (class, arguments). The full-size published shapes come first.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": ("demucs.htdemucs.HTDemucs", {"bottom_channels": 512, "dconv_mode": 3, "segment": Fraction(39, 5)}),
    "htdemucs_6s": ("demucs.htdemucs.HTDemucs", {"sources": [*SOURCES, "guitar", "piano"], "dconv_mode": 3, "segment": Fraction(39, 5)}),
    "hdemucs": ("demucs.hdemucs.HDemucs", {}),
    "demucs": ("demucs.demucs.Demucs", {}),
}

_SMALL_HT: dict[str, dict[str, Any]] = {
    "multi_freqs": {"multi_freqs": [0.25, 0.5], "multi_freqs_depth": 2},
    "dconv 0": {"dconv_mode": 0},
    "dconv 2 no norm": {"dconv_mode": 2, "norm_starts": 10},
    "dconv 3 normed": {"dconv_mode": 3, "norm_starts": 1, "norm_groups": 2, "dconv_depth": -3},
    "no rewrite": {"rewrite": False},
    "context": {"context_enc": 1, "context": 2},
    "no embedding": {"freq_emb": None, "audio_channels": 1},
    "bottom": {"bottom_channels": 24, "t_heads": 4},
    "bottom only": {"bottom_channels": 24, "t_layers": 0},
    "scaled": {"t_emb": "scaled", "t_max_positions": 100, "t_norm_in": False, "t_norm_in_group": 2},
    "cape": {"t_emb": "cape", "t_norm_in": False, "t_cross_first": True, "t_layers": 2, "t_layer_scale": False},
    "norm last": {"t_norm_first": False, "t_norm_out": True, "t_group_norm": 2},
    "norm out": {"t_norm_out": 2, "t_group_norm": True, "t_gelu": False},
    "norm out 3": {"t_norm_out": 3, "channels": 12, "t_hidden_scale": 1.5, "t_heads": 6},
    "masks": {"cac": False, "growth": 1, "t_layers": 3},
    "wiener": {"cac": False, "wiener_iters": 1, "end_iters": 1, "wiener_residual": True, "t_layers": 1},
    "depth 5": {"depth": 5, "norm_starts": 2, "channels_time": 4, "dconv_comp": 4},
    "no transformer": {"depth": 6, "t_layers": 0, "channels_time": 6, "growth": 1.5, "norm_starts": 9, "dconv_comp": 3},
}
_SMALL_H: dict[str, dict[str, Any]] = {
    "default": {},
    "old": {"hybrid_old": True, "dconv_comp": 8, "channels": 16, "norm_starts": 9, "dconv_lstm": 9, "dconv_attn": 9},
    "frequency only": {"hybrid": False, "end_iters": 3, "dconv_mode": 3},
    "mask": {"cac": False, "wiener_iters": -1, "end_iters": -1, "channels_time": 12, "freq_emb": 0},
    "lstm early": {"dconv_lstm": 1, "dconv_attn": 5, "dconv_mode": 3, "dconv_depth": 1},
    "attention early": {"dconv_lstm": 6, "dconv_attn": 0, "dconv_comp": 1, "norm_starts": 0, "norm_groups": 1, "freq_emb": None},
    "bands": {"multi_freqs": [0.3], "multi_freqs_depth": 3, "dconv_mode": 2, "context": 0},
    "nfft": {"nfft": 1024, "depth": 5, "audio_channels": 1, "rewrite": False, "time_stride": 4},
    "shallow": {"depth": 3, "channels_time": 6},
    "wide time": {"channels_time": 24, "channels": 8, "depth": 6, "context_enc": 2},
}
_SMALL_T: dict[str, dict[str, Any]] = {
    "default": {},
    "old": {"dconv_mode": 0, "lstm_layers": 2, "gelu": False, "norm_starts": 9, "resample": False},
    "no glu": {"glu": False, "dconv_mode": 3},
    "no rewrite": {"rewrite": False, "dconv_mode": 3, "norm_starts": 2},
    "normed": {"norm_starts": 0, "norm_groups": 2, "dconv_attn": 1, "dconv_lstm": 2, "context": 0},
    "kernel": {"kernel_size": 6, "stride": 3, "growth": 1.5, "depth": 4, "dconv_comp": 1.5, "audio_channels": 1, "normalize": False},
}
for _name, _kwargs in _SMALL_HT.items():
    CASES[f"HTDemucs {_name}"] = ("demucs.htdemucs.HTDemucs", {"channels": 8, **_kwargs})
for _name, _kwargs in _SMALL_H.items():
    CASES[f"HDemucs {_name}"] = ("demucs.hdemucs.HDemucs", {"channels": 8, **_kwargs})
for _name, _kwargs in _SMALL_T.items():
    CASES[f"Demucs {_name}"] = ("demucs.demucs.Demucs", {"channels": 8, **_kwargs})


def arguments(name: str) -> tuple[str, dict[str, Any]]:
    """The class and the complete keyword arguments of a case."""
    klass, kwargs = CASES[name]
    return klass, {"sources": SOURCES, **kwargs}


def fingerprint(tensors: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """A layout in short: how many tensors and parameters, and a hash over names, shapes and their order."""
    lines = "".join(f"{name} {tuple(shape)}\n" for name, shape in tensors.items())
    return {
        "tensors": len(tensors),
        "parameters": sum(math.prod(shape) for shape in tensors.values()),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }
