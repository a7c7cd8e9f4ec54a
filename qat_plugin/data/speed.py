"""The same speech at other speeds, so that a short corpus can be heard many times without being learned by heart."""

from __future__ import annotations

import random

import numpy as np
from numpy.typing import NDArray

from qat_plugin.data.audio import SAMPLING_RATE


def speed_of_epoch(
    audio: NDArray[np.float32], span: float, *, seed: int, epoch: int | None, place: str, max_seconds: float
) -> NDArray[np.float32]:
    """A training sample as it is heard in an epoch; `epoch` None, before the first: as it was recorded.

    `place` is the sample's within the epoch; seed, epoch and place decide the speed. The rest as in `perturb_speed`.
    """
    if epoch is None:
        return audio
    return perturb_speed(audio, span, key=f"{seed}-{epoch}-{place}", max_seconds=max_seconds)


def perturb_speed(audio: NDArray[np.float32], span: float, *, key: str, max_seconds: float) -> NDArray[np.float32]:
    """Play `audio` faster or slower, pitch and formants with it (Ko et al., 2015, "Audio augmentation for speech recognition").

    Args:
        audio: shape (samples,) at 16 kHz.
        span: speeds are drawn evenly between `1 - span` and `1 + span`; 0 changes nothing.
        key: decides the draw: the same key, the same speed, in any process.
        max_seconds: what the result may last; the speed is raised to that.

    Returns:
        Shape (about samples / speed,), at 16 kHz.
    """
    if span == 0:
        return audio
    # Imported here: most runs need no resampler.
    import soxr

    slowest = len(audio) / SAMPLING_RATE / max_seconds
    speed = max(1 + span * random.Random(key).uniform(-1, 1), slowest)
    # Read as if it had been recorded at another rate, and brought back to ours.
    return np.asarray(soxr.resample(audio, SAMPLING_RATE * speed, SAMPLING_RATE), dtype=np.float32)
