"""Configurations from a checkpoint's arguments, and the tensors that follow from them."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from layout_cases import CASES, SOURCES, arguments, fingerprint

from demucs_np.errors import ModelError
from demucs_np.models.config import DemucsConfig, HDemucsConfig, HTDemucsConfig, config_from_arguments
from demucs_np.models.layout import expected_tensors

HT, H, T = "demucs.htdemucs.HTDemucs", "demucs.hdemucs.HDemucs", "demucs.demucs.Demucs"
LAYOUTS = json.loads((Path(__file__).parent / "layouts.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_layout_is_the_reference_s(case: str) -> None:
    klass, kwargs = arguments(case)
    assert fingerprint(expected_tensors(config_from_arguments(klass, (), kwargs))) == LAYOUTS[case]


def test_published_sizes() -> None:
    assert (LAYOUTS["htdemucs"]["parameters"], LAYOUTS["htdemucs"]["tensors"]) == (41_984_456, 533)
    assert LAYOUTS["htdemucs_6s"]["parameters"] == 27_414_996
    assert LAYOUTS["hdemucs"]["parameters"] == 83_637_832


def test_arguments_by_position_and_by_name() -> None:
    config = config_from_arguments(HT, [SOURCES, 1], {"channels": 8, "segment": Fraction(39, 5), "multi_freqs": []})
    assert isinstance(config, HTDemucsConfig)
    assert config.sources == tuple(SOURCES)
    assert (config.audio_channels, config.channels, config.segment, config.multi_freqs) == (1, 8, Fraction(39, 5), None)
    hash(config)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.channels = 9  # type: ignore[misc]


def test_training_arguments_are_dropped() -> None:
    training = {
        "emb_smooth": False, "dconv_init": 1e-3, "t_dropout": 0.1, "t_weight_decay": 0.05, "t_lr": 1e-4, "t_cape_augment": False,
        "t_cape_glob_loc_scale": [1, 2, 3], "t_mask_type": "jmask", "t_sparsity": 0.5, "rescale": 0.2, "t_sin_random_shift": 7,
    }  # fmt: skip
    assert config_from_arguments(HT, (), {"sources": SOURCES, **training}) == HTDemucsConfig(tuple(SOURCES))


def test_defaults_differ_between_the_classes() -> None:
    sources = tuple(SOURCES)
    ht, h, t = HTDemucsConfig(sources), HDemucsConfig(sources), DemucsConfig(sources)
    assert (ht.depth, ht.dconv_comp, ht.multi_freqs_depth, ht.segment, ht.channels) == (4, 8, 3, 10, 48)
    assert (h.depth, h.dconv_comp, h.multi_freqs_depth, h.segment, h.channels) == (6, 4, 2, 40, 48)
    assert (t.depth, t.dconv_comp, t.segment, t.channels) == (6, 4, 40, 64)


def test_old_spelling_of_hdemucs() -> None:
    assert config_from_arguments("demucs.wdemucs.WDemucs", [SOURCES], {}) == HDemucsConfig(tuple(SOURCES))


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("os.system", {}, "unknown model class 'os.system'"),
    ("demucs.tasnet.ConvTasNet", {}, "unknown model class"),
    (HT, {"colour": 3}, "no argument 'colour'"),
    (H, {"t_layers": 5}, "no argument 't_layers'"),
    (HT, {"t_sparse_self_attn": True}, "t_sparse_self_attn=True is not supported: sparse attention"),
    (HT, {"t_sparse_cross_attn": True}, "t_sparse_cross_attn"),
    (HT, {"channels": "48"}, "'channels' must be an integer, not '48'"),
    (HT, {"channels": True}, "'channels' must be an integer"),
    (HT, {"cac": "yes"}, "'cac' must be true or false"),
    (HT, {"freq_emb": float("nan")}, "'freq_emb' must be a finite number"),
    (HT, {"sources": "drums"}, "'sources' must be a list"),
    (HT, {"sources": []}, "'sources' must be a list of one or more different names"),
    (HT, {"sources": ["a", "a"]}, "different names"),
    (HT, {"sources": ["../../etc/passwd"]}, "names that can be file names"),
    (HT, {"wiener_iters": 2, "cac": False}, "wiener_iters=2 must equal end_iters=0"),
    (H, {"end_iters": 2}, "wiener_iters=0 must equal end_iters=2"),
    (H, {"hybrid": False, "hybrid_old": True}, "hybrid_old must come with hybrid=True"),
    (HT, {"t_heads": 7}, "384 channels do not divide into t_heads=7"),
    (HT, {"channels": 10, "depth": 1, "t_heads": 1}, "not a multiple of 4"),
    (HT, {"depth": 6}, "too deep for a transformer"),
    (HT, {"growth": 2.0}, "growth=2.0 must be an integer"),
    (HT, {"channels_time": 24}, "both branches must reach the transformer with 384 channels, not 384 and 192"),
    (HT, {"t_emb": "rope"}, "t_emb='rope' is not sin, cape or scaled"),
    (HT, {"t_group_norm": 5}, "t_group_norm: 384 channels do not divide into 5 groups"),
    (HT, {"t_norm_out": 5}, "t_norm_out"),
    (HT, {"norm_starts": 0, "norm_groups": 5}, "layer 0: 48 channels do not divide into 5 groups"),
    (HT, {"norm_starts": 1, "multi_freqs": [0.5]}, "multi_freqs splits only frequency layers without norm"),
    (HT, {"multi_freqs": [0.5, 0.25]}, "growing ratios"),
    (HT, {"kernel_size": 5}, "do not fit kernel_size=5"),
    (HT, {"nfft": 4094}, "nfft=4094"),
    (HT, {"depth": 10**9}, "depth=1000000000 is not between 1 and 32"),
    (HT, {"channels": 10**9}, "channels=1000000000"),
    (HT, {"dconv_comp": 100}, "leaves none of 48 channels"),
    (HT, {"segment": 0}, "segment=0 s is not between 0 and 3600"),
    (HT, {"samplerate": 0}, "samplerate=0"),
    (H, {"dconv_comp": 5}, "layer 4: 153 hidden channels do not divide into 4 attention heads"),
    (H, {"cac": False, "wiener_iters": 1, "end_iters": 1, "audio_channels": 3}, "one or two audio channels"),
    (T, {"norm_groups": 3}, "layer 4: 1024 channels do not divide into 3 groups"),
    (T, {"stride": 0}, "stride=0"),
]


@pytest.mark.parametrize(("klass", "kwargs", "text"), REFUSED)
def test_refused_with_the_reason(klass: str, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelError) as error:
        config_from_arguments(klass, (), {"sources": SOURCES, **kwargs})
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_sources_are_required_and_given_once() -> None:
    with pytest.raises(ModelError, match="'sources' is missing"):
        config_from_arguments(T, (), {})
    with pytest.raises(ModelError, match="'sources' is given twice"):
        config_from_arguments(T, [SOURCES], {"sources": SOURCES})
    with pytest.raises(ModelError, match="at most 25 arguments, not 99"):
        config_from_arguments(T, [SOURCES] * 99, {})
