"""Small models that together use every constructor option which changes inference, one golden file each.

`length` is the number of samples given to the model; where it is shorter than the segment, HTDemucs pads. `seed` draws the
weights: 1, or 2 where with 1 a layer's error is so small by luck that PyTorch itself, without its oneDNN kernels, has 2 dB more
(`td_plain` keeps 1: there it has with every seed).
"""

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

MIX_SEED = 2
SAMPLES = 128  # values and
SKETCH = 251  # sums kept of each layer: enough for the size of an error, and all files stay small together

STEMS = ("drums", "bass", "other", "vocals")


@dataclass(frozen=True)
class Case:
    name: str
    klass: str
    arguments: dict[str, Any]
    length: int  # samples
    seed: int = 1  # of the weights

    @property
    def channels(self) -> int:
        return self.arguments.get("audio_channels", 2)


# No case normalises over one channel and hardly any steps (DConv with a single hidden channel): a row of silence then has a
# variance far below the norm's epsilon, and what is compared is amplified rounding noise.


def htdemucs(name: str, length: int, seed: int = 1, **arguments: Any) -> Case:
    """Half a second, 8 channels, two stems, unless said otherwise."""
    base = {"sources": list(STEMS[: arguments.pop("stems", 2)]), "channels": 8, "dconv_comp": 2, "t_heads": 4, "t_layers": 2}
    base["segment"] = Fraction(1, 2)
    return Case(f"ht_{name}", "demucs.htdemucs.HTDemucs", base | arguments, length, seed)


HTDEMUCS = [
    # The shape of the published 4-stem and 6-stem models, narrower; full segment and padded.
    htdemucs("published", 22050, stems=4, channels=16, bottom_channels=32, dconv_mode=3, dconv_comp=8, t_layers=5, t_heads=8),
    htdemucs("six_stems", 15000, sources=[*STEMS, "guitar", "piano"], channels=4, dconv_mode=3, t_layers=3, segment=0.45),
    # The transformer's own options.
    htdemucs("post_norm_relu", 20000, stems=3, t_norm_first=False, t_gelu=False, t_layer_scale=False, t_cross_first=True, t_layers=3),
    htdemucs("cape", 22050, t_emb="cape", t_norm_in=False, t_group_norm=4, t_norm_out=2, t_weight_pos_embed=0.5, t_layers=3),
    htdemucs("cape_raw", 22050, t_emb="cape", t_cape_mean_normalize=False, t_norm_out=False, t_max_period=500.0, t_hidden_scale=1.5),
    htdemucs(
        "scaled",
        22050,
        t_emb="scaled",
        t_max_positions=300,
        t_norm_in=False,
        t_norm_in_group=4,
        t_norm_out=False,
        t_heads=2,
        t_cross_first=True,
        bottom_channels=20,
        t_layers=2,
    ),
    htdemucs(
        "group_norms",
        22050,
        seed=2,
        stems=1,
        t_norm_in=False,
        t_norm_in_group=True,
        t_group_norm=True,
        t_norm_first=False,
        t_heads=1,
        t_max_period=1000.0,
    ),
    htdemucs("no_transformer", 22050, t_layers=0, dconv_mode=0, context=0, channels=6, growth=1.5, depth=3),
    htdemucs("bottleneck_only", 20001, seed=2, t_layers=1, bottom_channels=12, depth=2, channels=6, freq_emb=None),
    # The convolutional part.
    htdemucs("merged", 12000, nfft=1024, depth=4, dconv_mode=2, norm_starts=2, norm_groups=2, channels=8, context_enc=1, segment=0.3),
    htdemucs("deep", 22050, seed=2, depth=5, channels=4, dconv_mode=1, t_hidden_scale=2.0, norm_starts=3),
    htdemucs(
        "deeper_than_time",
        9000,
        bottom_channels=12,
        nfft=256,
        depth=4,
        t_layers=0,
        dconv_mode=3,
        norm_starts=3,
        segment=0.25,
        time_stride=4,
    ),
    htdemucs(
        "odd_strides", 20000, seed=2, stems=2, kernel_size=16, stride=8, depth=3, channels=4, context=2, segment=0.5, samplerate=44100
    ),
    htdemucs("short_kernels", 6000, nfft=512, kernel_size=4, stride=2, depth=4, channels=8, growth=1, norm_starts=0, norm_groups=4),
    htdemucs("uneven_kernel", 11025, kernel_size=6, depth=3, dconv_depth=-3, dconv_comp=2.5, dconv_mode=3, segment=0.25),
    htdemucs("plain_layers", 11025, rewrite=False, dconv_depth=1, dconv_comp=1, emb_scale=3, freq_emb=0.7, segment=Fraction(1, 4)),
    htdemucs("wide_time", 20000, channels_time=12, depth=3, t_layers=0, stems=2, dconv_depth=0),
    htdemucs("bands", 22050, multi_freqs=[0.1, 0.35], multi_freqs_depth=2, dconv_mode=3, channels=4, depth=4),
    htdemucs("three_bands_deep", 22050, multi_freqs=[0.25, 0.5], rewrite=False, channels=4, stems=1, context=0),
    # Channels, rates, lengths.
    htdemucs("mono", 4000, audio_channels=1, samplerate=8000, segment=0.5, nfft=1024, depth=3),
    htdemucs("quad_free_length", 13001, audio_channels=4, use_train_segment=False, stems=2, channels=4, depth=3),
    htdemucs("very_short", 1500, use_train_segment=False, dconv_comp=1),
    htdemucs("odd_fft", 8000, nfft=768, depth=3, samplerate=16000, channels=4),
    # Masks in place of complex spectrograms.
    htdemucs("mask", 11025, cac=False, wiener_iters=-1, end_iters=-1, channels=4, segment=0.25),
    htdemucs("wiener_phase", 11025, cac=False, wiener_iters=0, end_iters=0, wiener_residual=True, channels=4, segment=0.25),
    htdemucs("wiener", 9000, cac=False, wiener_iters=1, end_iters=1, depth=3, channels=4, segment=0.25, stems=3),
    htdemucs(
        "wiener_residual_windows",
        40000,
        cac=False,
        wiener_iters=2,
        end_iters=2,
        wiener_residual=True,
        nfft=256,
        depth=2,
        channels=4,
        segment=1,
        t_layers=0,
    ),
    htdemucs("wiener_mono", 6000, cac=False, wiener_iters=2, end_iters=2, audio_channels=1, nfft=512, depth=3, channels=4, segment=0.15),
]


def hdemucs(name: str, length: int, seed: int = 1, **arguments: Any) -> Case:
    """4 channels, two stems; where nothing else is said the branches merge at the third of four layers."""
    base = {"sources": list(STEMS[: arguments.pop("stems", 2)]), "channels": 8, "dconv_comp": 2, "nfft": 256, "depth": 4}
    return Case(f"hd_{name}", "demucs.hdemucs.HDemucs", base | arguments, length, seed)


HDEMUCS = [
    # The shape of the published models, narrower: BLSTM and LocalState in the two innermost of six layers.
    hdemucs("published", 44100, stems=4, channels=4, dconv_comp=4, nfft=4096, depth=6),
    hdemucs("published_old", 30000, stems=4, channels=4, dconv_comp=4, nfft=4096, depth=6, hybrid_old=True),
    # Residual branches: BLSTM over more than 200 steps, attention, both, from different layers on.
    hdemucs("lstm_windows", 20000, dconv_lstm=1, dconv_attn=99, dconv_mode=3, channels=4, dconv_depth=1),
    hdemucs("attention", 3000, dconv_lstm=99, dconv_attn=0, dconv_mode=3, dconv_depth=-3),
    hdemucs("both_parts", 8001, dconv_lstm=2, dconv_attn=1, dconv_mode=2, norm_starts=1, norm_groups=2),
    hdemucs("no_residual", 6000, seed=2, dconv_mode=0, norm_starts=99, context=0, freq_emb=None),
    # Frequency only, and the ways to mask.
    hdemucs("frequency_only", 8000, hybrid=False, nfft=1024, depth=5, stems=3),
    hdemucs("frequency_mask", 8000, seed=2, hybrid=False, cac=False, wiener_iters=-1, nfft=4096, depth=6, channels=4, norm_starts=3),
    hdemucs("frequency_wiener", 8000, hybrid=False, cac=False, wiener_iters=2, wiener_residual=True, nfft=512, depth=3),
    hdemucs("mask", 8000, cac=False, wiener_iters=-1, end_iters=-1, stems=3),
    hdemucs("wiener_phase_old", 8000, cac=False, hybrid_old=True, dconv_lstm=2),
    hdemucs("wiener", 24000, cac=False, wiener_iters=1, end_iters=1, stems=2, dconv_lstm=3, dconv_attn=3),
    hdemucs("wiener_residual", 8000, cac=False, wiener_iters=3, end_iters=3, wiener_residual=True, audio_channels=1),
    # The convolutional part.
    hdemucs("bands", 8000, seed=2, multi_freqs=[0.2, 0.5], dconv_mode=3, nfft=1024, depth=5, channels=4),
    hdemucs("merge_last", 8000, depth=3, channels_time=12, context_enc=2, norm_starts=0, norm_groups=4),
    hdemucs("short_kernels", 4000, nfft=64, kernel_size=4, stride=2, time_stride=4, depth=6, growth=1, rewrite=False, dconv_mode=3),
    hdemucs("six_quad", 6000, sources=[*STEMS, "guitar", "piano"], audio_channels=4, growth=1.5, channels=8, emb_scale=4),
]


def demucs(name: str, length: int, seed: int = 1, **arguments: Any) -> Case:
    """Three layers from 8 channels, two stems, unless said otherwise."""
    base = {"sources": list(STEMS[: arguments.pop("stems", 2)]), "channels": 8, "dconv_comp": 2, "depth": 3}
    return Case(f"td_{name}", "demucs.demucs.Demucs", base | arguments, length, seed)


DEMUCS = [
    demucs("published", 44100, stems=4, channels=4, dconv_comp=4, depth=6),
    demucs("lstm", 12000, lstm_layers=2, dconv_mode=0, norm_starts=99),
    demucs("lstm_short", 500, seed=2, lstm_layers=1, dconv_mode=3, dconv_lstm=0, dconv_attn=99, dconv_depth=1),
    demucs("attention", 3000, dconv_lstm=99, dconv_attn=1, dconv_mode=3, dconv_depth=-2, norm_starts=0, norm_groups=2),
    demucs("relu", 8000, gelu=False, glu=False, dconv_mode=1, dconv_lstm=1),
    demucs("plain", 8000, rewrite=False, normalize=False, resample=False, dconv_mode=2, dconv_attn=1),
    demucs("no_glu_context", 8000, glu=False, context=2, growth=1.5, depth=4, norm_starts=2, norm_groups=3),
    demucs("no_gelu_raw", 8000, gelu=False, normalize=False, context=0, audio_channels=1, stems=3),
    demucs("odd_strides", 9001, kernel_size=5, stride=3, depth=4, channels=4, resample=False, stems=1),
    demucs("two_layers_quad", 4000, audio_channels=4, depth=2, sources=[*STEMS, "guitar", "piano"], lstm_layers=1),
]

CASES = HTDEMUCS + HDEMUCS + DEMUCS
