"""Audio to Whisper's log-mel features, without computing those of the silence that pads a window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from qat_plugin.runtime.threads import one_torch_thread

Audio = NDArray[np.float32]


def extract_features(extractor: WhisperFeatureExtractor, audios: Sequence[Audio]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features, float32 [clips, mels, frames], and attention mask, int32 [clips, frames], as `extractor` makes them.

    `audios` are float32 [samples] at the extractor's rate. All are padded to one window or, where some are longer, to the
    longest. The values are the extractor's up to float32's rounding.
    """
    samples = max(len(audio) for audio in audios)
    if samples > extractor.n_samples:
        return _extract(extractor, audios, samples)
    # Frame t is made of the n_fft samples around sample t * hop_length. The last one here hears nothing but padding, and
    # neither would any behind it: they are all alike.
    frames = -(-(samples + extractor.n_fft // 2) // extractor.hop_length) + 1
    whole = extractor.nb_max_frames
    if frames >= whole or extractor.dither:  # dithered silence is noise
        return _extract(extractor, audios, extractor.n_samples)
    features, mask = _extract(extractor, audios, frames * extractor.hop_length)
    silence = features[:, :, -1:].expand(-1, -1, whole - frames)
    return torch.cat([features, silence], dim=-1), torch.nn.functional.pad(mask, (0, whole - frames))


def _extract(
    extractor: WhisperFeatureExtractor, audios: Sequence[Audio], samples: int
) -> tuple[torch.Tensor, torch.Tensor]:
    with one_torch_thread():
        found = extractor(
            list(audios), sampling_rate=extractor.sampling_rate, max_length=samples, return_attention_mask=True,
            return_tensors="pt",
        )  # fmt: skip
    return found.input_features, found.attention_mask
