"""Audio for the tests of the runtime."""

import numpy as np


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    """Audio at 16 kHz of which no two stretches are alike."""
    rng = np.random.default_rng(seed)
    loudness = np.repeat(rng.uniform(0, 0.3, int(seconds * 4) + 1), 4000)[: int(seconds * 16000)]
    return (rng.standard_normal(len(loudness)) * loudness).astype(np.float32)
