"""Which kernels the published models of a class need, known before their files are: so that they can be compiled meanwhile."""

from __future__ import annotations

# Opening a model, and what all classes have: convolutions, DConv branches, norms.
_SHARED = (
    "packing._pack_weights_tiles", "packing._project_weights_tiles", "packing._winograd_weights_tiles",
    "packing._widen_weights_tiles",
    "signal._finite_tiles", "signal._pad_tiles", "signal._transpose_tiles",
    "conv._conv_tiles", "winograd._winograd_tiles",
    "norm._sums_tiles", "norm._scale_shift_tiles", "norm._affine_tiles", "norm._table_tiles", "norm._norm_gelu_tiles",
    "norm._products_tiles", "norm._projected_tiles", "norm._add_tiles",
)  # fmt: skip
_HYBRID = (
    "packing._scale_weights_tiles", "stft._stft_tiles", "stft._istft_tiles", "norm._mean_std_tiles", "norm._normalize_tiles",
)  # fmt: skip
_RECURRENT = ("lstm._lstm_tiles", "local_attention._local_attention_tiles")
KERNELS = {
    "HTDemucs": (
        *_SHARED, *_HYBRID, "signal._copy_tiles",
        "norm._layer_norm_tiles", "attention._pack_tiles", "attention._attention_tiles", "feed_forward._feed_forward_tiles",
    ),
    "HDemucs": (*_SHARED, *_HYBRID, *_RECURRENT),
    "Demucs": (*_SHARED, *_RECURRENT, "signal._copy_tiles", "resample._resample_tiles"),
}  # fmt: skip


def expect(klass: str) -> None:
    """A compiled model of this class, as configurations name it, is going to be loaded and run: what is not in the kernels' cache is
    compiled from now on."""
    from ..kernels import ahead
    from ..kernels._jit import DISABLED

    if not DISABLED:
        ahead.expect(KERNELS[klass.rpartition(".")[2]])
