"""Features are the extractor's own, though the silence behind a clip is not computed."""

import numpy as np
import pytest
import torch
from noise import noise
from transformers import WhisperFeatureExtractor, WhisperProcessor

from qat_plugin.runtime.features import extract_features


def whole(extractor: WhisperFeatureExtractor, clips: list[np.ndarray], **options: object) -> tuple[torch.Tensor, ...]:
    found = extractor(clips, sampling_rate=16000, return_tensors="pt", return_attention_mask=True, **options)
    return found.input_features, found.attention_mask


def check_same(found: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1], expected[1], atol=0, rtol=0)


@pytest.mark.parametrize("samples", [1, 159, 160, 200, 201, 16000, 40_123, 479_600, 479_801, 480_000])
def test_one_clip(processor: WhisperProcessor, samples: int) -> None:
    clip, extractor = noise(30)[:samples], processor.feature_extractor
    found = extract_features(extractor, [clip])
    check_same(found, whole(extractor, [clip]))
    # The graph finds the end of a clip by this: all frames of silence are the same to the last bit.
    silence = found[0][:, :, -(-(samples + 200) // 160) :]
    assert torch.equal(silence, silence[:, :, :1].expand_as(silence))


def test_clips_of_different_length_and_loudness(processor: WhisperProcessor) -> None:
    clips = [noise(2), np.zeros(8000, np.float32), 0.01 * noise(5, seed=1), noise(0.3, seed=2)]
    features, mask = extract_features(processor.feature_extractor, clips)
    check_same((features, mask), whole(processor.feature_extractor, clips))
    assert mask.sum(dim=1).tolist() == [200, 50, 500, 30]


def test_longer_than_the_window(processor: WhisperProcessor) -> None:
    clips = [noise(31.003), noise(4)]
    found = extract_features(processor.feature_extractor, clips)
    expected = whole(processor.feature_extractor, clips, truncation=False, padding="longest")
    assert found[0].shape == (2, 80, 3100)
    check_same(found, expected)


def test_dithered_silence_is_noise_and_computed() -> None:
    extractor = WhisperFeatureExtractor(feature_size=80, dither=0.01)
    torch.manual_seed(0)
    features, _ = extract_features(extractor, [noise(1)])
    torch.manual_seed(0)
    assert torch.equal(features, whole(extractor, [noise(1)])[0])
    assert not torch.equal(features[:, :, -1], features[:, :, -2])
