"""The models that demucs publishes: which files they are made of, and where those lie.

A name stands for a bag of one or more models, each known by its signature of eight hexadecimal digits.
Source: `demucs/remote/*.yaml` and `files.txt` of demucs 4.1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..models.recipe import Recipe

LEGACY_ROOT = "https://dl.fbaipublicfiles.com/demucs/"
NAMESPACE = "adefossez"
DEMO_FILE = Path(__file__).with_name("demo.safetensors")

STEMS = ("drums", "bass", "other", "vocals")
SIX_STEMS = (*STEMS, "guitar", "piano")

_EACH_ITS_STEM = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
_TRACK_A = ((1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 1.0, 1.0), (1.0, 0.0, 1.0, 1.0))


@dataclass(frozen=True)
class Bag:
    """A published name."""

    name: str
    signatures: tuple[str, ...]
    architecture: str
    about: str
    megabytes: int | None = None  # of a member's published weights, where known
    weights: tuple[tuple[float, ...], ...] | None = None  # per member a number per stem; None: all 1
    segment: int | None = None  # seconds; None: the members' own
    stems: tuple[str, ...] = STEMS
    recipe: Recipe | None = None  # None: the files' own


DEMO = Bag("demo", ("demo",), "HTDemucs", "in this package; knows synthesised music only, see docs/demo.md")  # its file is DEMO_FILE
_V3 = "Demucs v3 (hybrid and time-domain)"

BAGS: dict[str, Bag] = {
    bag.name: bag
    for bag in (
        Bag("htdemucs", ("955717e8",), "HTDemucs", "Hybrid Transformer Demucs, the default", 84),
        Bag(
            "htdemucs_ft",
            ("f7e0c4bc", "d12395a8", "92cfc3b6", "04573f0d"),
            "HTDemucs",
            "htdemucs fine-tuned for each stem: better, four times slower",
            84,
            _EACH_ITS_STEM,
        ),
        Bag("htdemucs_6s", ("5c90dfd2",), "HTDemucs", "six stems; piano is weak", 55, stems=SIX_STEMS),
        Bag("hdemucs_mmi", ("75fc33f5",), "HDemucs", "Hybrid Demucs v3, trained on more songs", 167, segment=44),
        Bag("mdx", ("0d19c1c6", "7ecf8ec1", "c511e2ab", "7d865c68"), _V3, "trained on MusDB alone", None, _TRACK_A, 44),
        Bag("mdx_extra", ("e51eebcc", "a1d90b5c", "5d2d6c55", "cfa93e08"), _V3, "trained on more songs", segment=44),
        Bag("mdx_q", ("6b9c2ca1", "b72baf4e", "42e558d4", "305bc58f"), _V3, "mdx quantised: a smaller download", None, _TRACK_A, 44),
        Bag("mdx_extra_q", ("83fc094f", "464b36d7", "14fc6a69", "7fd6ef75"), _V3, "mdx_extra quantised: a smaller download", segment=44),
        Bag("repro_mdx_a", ("9a6b4851", "1ef250f1", "fa0cb7f9", "902315c2"), _V3, "mdx trained again, all four models", segment=44),
        Bag("repro_mdx_a_hybrid_only", ("fa0cb7f9", "902315c2") * 2, "HDemucs", "its hybrid half", segment=44),
        Bag("repro_mdx_a_time_only", ("9a6b4851", "9a6b4851", "1ef250f1", "1ef250f1"), "Demucs", "its time-domain half", segment=44),
    )
}

_V2 = "Demucs v2 (time-domain)"
_FILM = Recipe(overlap=0.8, normalize=False)  # as their own program runs them

# Models that others publish, or that demucs published before. Sources: `demucs/pretrained.py` of demucs 2.0.3; for stems and recipes the
# projects' own programs: https://github.com/inagoy/drumsep, https://github.com/ZFTurbo/MVSEP-CDX23-Cinematic-Sound-Demixing.
OTHERS: dict[str, Bag] = {
    bag.name: bag
    for bag in (
        Bag("drumsep", ("49469ca8",), "HDemucs", "a drum kit, by inagoy", stems=("kick", "snare", "cymbals", "toms")),
        Bag("uvr_demucs_1", ("ebf34a2db",), _V3, "UVR_Demucs_Model_1 of Ultimate Vocal Remover", stems=("vocals", "non_vocals")),
        Bag("uvr_demucs_2", ("ebf34a2d",), _V3, "UVR_Demucs_Model_2 of Ultimate Vocal Remover", stems=("vocals", "non_vocals")),
        Bag(
            "cdx23",
            ("97d170e1-a778de4a", "97d170e1-dbb4db15", "97d170e1-e41a5468"),
            "HTDemucs",
            "sound of films, by ZFTurbo: the mean of three",
            stems=("music", "sfx", "speech"),
            recipe=_FILM,
        ),
        Bag("demucs", ("demucs-e07c671f",), _V2, "second generation, trained on MusDB"),
        Bag("demucs48_hq", ("demucs48_hq-28a1282c",), _V2, "second generation, 48 channels"),
        Bag("demucs_extra", ("demucs_extra-3646af93",), _V2, "second generation, trained on more songs"),
        Bag("demucs_quantized", ("demucs_quantized-07afea75",), _V2, "second generation, quantised"),
    )
}
# File -> address, if there is one that a program can fetch from, and its SHA-256 or the start of it.
_UVR = "https://github.com/TRvlvr/model_repo/releases/download/all_public_uvr_models/"
_CDX = "https://github.com/ZFTurbo/MVSEP-CDX23-Cinematic-Sound-Demixing/releases/download/v.1.0.0/"
ELSEWHERE: dict[str, tuple[str | None, str]] = {
    "49469ca8": (None, "aefaa8543c9b9c75e22f5f32b53ab86dfe416457849af1383ff1aef83401423f"),
    "ebf34a2db": (f"{_UVR}ebf34a2db.th", "dbdd521017d706829716055df8a86e7ee5d05a590508488c82ffb551c6edb918"),
    "ebf34a2d": (f"{_UVR}ebf34a2d.th", "0556f2145e97e96d3c2a33c3879711e7559d7d261fd9773b20e2c580a3beffd0"),
    "97d170e1-a778de4a": (f"{_CDX}97d170e1-a778de4a.th", "a778de4a72b90482a578bfb6ea6bf41462785d9136c11802c67a864a40f29434"),
    "97d170e1-dbb4db15": (f"{_CDX}97d170e1-dbb4db15.th", "dbb4db154df7e45a5cb72d1659c48937e757f6d6b0eef8ca4199e6e38f8d8f37"),
    "97d170e1-e41a5468": (f"{_CDX}97d170e1-e41a5468.th", "e41a54684d3cd6794ee2bb59183ffeb11a9a3d42db873a6a08a9829ac3ef4cfe"),
    **{
        name: (f"{LEGACY_ROOT}v3.0/{name}.th", name.rpartition("-")[2])
        for name in ("demucs-e07c671f", "demucs48_hq-28a1282c", "demucs_extra-3646af93", "demucs_quantized-07afea75")
    },
}

# Class and arguments of published models, for files of the same shape that say nothing of themselves.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": ("demucs.htdemucs.HTDemucs", {"bottom_channels": 512, "dconv_mode": 3, "segment": Fraction(39, 5)}),
    "htdemucs_6s": ("demucs.htdemucs.HTDemucs", {"dconv_mode": 3, "segment": Fraction(39, 5)}),
    "hdemucs_mmi": ("demucs.hdemucs.HDemucs", {"segment": 44}),
}

# Signature -> class and constructor's arguments, where they are known without the file: those of the name that it stands for.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    signature: (SHAPES[shape][0], {"sources": [*BAGS[name].stems], **SHAPES[shape][1]})
    for name, shape in {**{shape: shape for shape in SHAPES}, "htdemucs_ft": "htdemucs"}.items()
    for signature in BAGS[name].signatures
}

# Signature -> folder and file name below LEGACY_ROOT; after the dash stand the first 8 digits of the file's SHA-256.
LEGACY: dict[str, str] = {
    path.rpartition("/")[2][:8]: path
    for path in (
        "mdx_final/0d19c1c6-0f06f20e.th",
        "mdx_final/5d2d6c55-db83574e.th",
        "mdx_final/7d865c68-3d5dd56b.th",
        "mdx_final/7ecf8ec1-70f50cc9.th",
        "mdx_final/a1d90b5c-ae9d2452.th",
        "mdx_final/c511e2ab-fe698775.th",
        "mdx_final/cfa93e08-61801ae1.th",
        "mdx_final/e51eebcc-c1b80bdd.th",
        "mdx_final/6b9c2ca1-3fd82607.th",
        "mdx_final/b72baf4e-8778635e.th",
        "mdx_final/42e558d4-196e0e1b.th",
        "mdx_final/305bc58f-18378783.th",
        "mdx_final/14fc6a69-a89dd0ee.th",
        "mdx_final/464b36d7-e5a9386e.th",
        "mdx_final/7fd6ef75-a905dd85.th",
        "mdx_final/83fc094f-4a16d450.th",
        "mdx_final/1ef250f1-592467ce.th",
        "mdx_final/902315c2-b39ce9c9.th",
        "mdx_final/9a6b4851-03af0aa6.th",
        "mdx_final/fa0cb7f9-100d8bf4.th",
        "hybrid_transformer/955717e8-8726e21a.th",
        "hybrid_transformer/f7e0c4bc-ba3fe64a.th",
        "hybrid_transformer/d12395a8-e57c48e6.th",
        "hybrid_transformer/92cfc3b6-ef3bcb9c.th",
        "hybrid_transformer/04573f0d-f3cf25b2.th",
        "hybrid_transformer/75fc33f5-1941ce65.th",
        "hybrid_transformer/5c90dfd2-34c22ccb.th",
    )
}


def hub_repository(name: str, namespace: str = NAMESPACE) -> str:
    """The hub's repository of a model: `htdemucs_ft` -> `adefossez/HTDemucs-ft`, `mdx_q` -> `adefossez/Demucs-mdx_q`."""
    if name == "htdemucs":
        return f"{namespace}/HTDemucs"
    if name.startswith("htdemucs_"):
        return f"{namespace}/HTDemucs-{name.removeprefix('htdemucs_')}"
    return f"{namespace}/Demucs-{name}"


def homes(signature: str) -> list[str]:
    """The hub's repositories that hold a published signature."""
    return [hub_repository(bag.name) for bag in BAGS.values() if signature in bag.signatures]
