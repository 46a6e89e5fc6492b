"""Other architectures' files, told by the names of their tensors, so that they can be refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

# What a tensor of no Demucs is called -> whose it is. The first that fits counts.
ARCHITECTURES: dict[str, str] = {
    r"separator\.network\.|encoder\.conv1d_U\.": "a Conv-TasNet, which demucs offered as a baseline in its second generation",
    r"mask_estimators\.\d+\.to_freqs|band_split\.to_features": "a RoFormer (BS-RoFormer or Mel-Band RoFormer)",
    r"(encoder_blocks|decoder_blocks)\.\d+\.tfc_tdf|bottleneck_block\.blocks": "an MDX23C (TFC-TDF) network",
    r"encoding_blocks\.\d+\.|first_conv\.0\.|ds\.\d+\.0\.weight": "an MDX-Net (TFC-TDF) network",
    r"encoder\.\d+\.SDlayer|separation_net\.": "an SCNet",
    r"band_split\.norm_fc_modules|tf_model\.seqband": "a band-split RNN (Bandit)",
    r"stg\d_\w+_net\.|aux_\w*out\.weight|stg\d_\w+\.enc\d": "a VR network of Ultimate Vocal Remover",
    r"input_mean$|(.*\.)?fc[123]\.weight": "an Open-Unmix network",
    r"(down|up)_modules\.\d+\.conv|waveform_encoder": "a spleeter-like U-Net",
}


def architecture(names: Iterable[str]) -> str | None:
    """Whose tensors these are, if not Demucs's."""
    names = list(names)
    for pattern, whose in ARCHITECTURES.items():
        if any(re.match(pattern, name) for name in names):
            return whose
    return None
