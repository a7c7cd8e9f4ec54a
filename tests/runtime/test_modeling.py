"""`QuantizedWhisper` against the torch Whisper it was exported from: same tokens, whatever is asked."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noise import noise
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from transformers import WhisperForConditionalGeneration, WhisperProcessor, pipeline
from transformers.modeling_outputs import BaseModelOutput

from qat_plugin.errors import ModelError
from qat_plugin.runtime import QuantizedWhisper
from qat_plugin.runtime.sessions import DecoderCache, open_session

FRENCH = {"language": "fr", "task": "transcribe"}
Recorder = Callable[[QuantizedWhisper], list[tuple[int, int]]]


def both(model: QuantizedWhisper, torch_model: Any, features: torch.Tensor, **arguments: Any) -> tuple[Any, Any]:
    """Tokens of the two models for the same arguments; a random model loops, and torch's has no guard against it."""
    results = [
        model.generate(input_features=features, loop_guard=False, **arguments),
        torch_model.generate(input_features=features, **arguments),
    ]
    ours, theirs = (r["sequences"] if isinstance(r, dict) else r for r in results)
    return ours.tolist(), theirs.tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 2},
        {"num_beams": 2, "use_cache": False, "max_new_tokens": 6},
        {"return_timestamps": True},
        {"return_timestamps": True, "num_beams": 2},
        {"task": "translate", "language": "german"},
        {"suppress_tokens": [*range(10, 200), -1, 10**6], "begin_suppress_tokens": [5, 3, 256]},
        {"temperature": (0.0,), "logprob_threshold": -1.0, "compression_ratio_threshold": 1.35},
        {"no_speech_threshold": 0.6, "logprob_threshold": -1.0, "temperature": (0.0,), "return_timestamps": True},
    ],
    ids=str,
)
def test_same_tokens_as_torch(
    model: QuantizedWhisper, torch_model: Any, features: torch.Tensor, arguments: dict[str, Any]
) -> None:
    ours, theirs = both(model, torch_model, features, **{**FRENCH, "max_new_tokens": 24, **arguments})
    assert ours == theirs
    assert len({tuple(row) for row in ours}) > 1, "the clips must differ for this to prove anything"


def test_one_clip_with_beams(model: QuantizedWhisper, torch_model: Any, features: torch.Tensor) -> None:
    ours, theirs = both(model, torch_model, features[:1], **FRENCH, num_beams=5, max_new_tokens=40)
    assert ours == theirs


def test_prompt(model: QuantizedWhisper, torch_model: Any, features: torch.Tensor, processor: WhisperProcessor) -> None:
    prompt = processor.get_prompt_ids("bonjour", return_tensors="pt")
    ours, theirs = both(model, torch_model, features, **FRENCH, prompt_ids=prompt, max_new_tokens=24)
    without, _ = both(model, torch_model, features, **FRENCH, max_new_tokens=24)
    assert ours == theirs
    assert ours != without


@pytest.mark.parametrize("condition", [False, True])
def test_long_audio(model: QuantizedWhisper, torch_model: Any, processor: WhisperProcessor, condition: bool) -> None:
    clips = [noise(70), noise(40, seed=1)][: 1 if condition else 2]
    long = processor.feature_extractor(
        clips, sampling_rate=16000, return_tensors="pt", truncation=False, padding="longest", return_attention_mask=True
    )
    arguments = {**FRENCH, "return_timestamps": True, "max_new_tokens": 60, "condition_on_prev_tokens": condition}
    ours, theirs = both(model, torch_model, long.input_features, attention_mask=long.attention_mask, **arguments)
    assert long.input_features.shape[-1] == 7000
    assert ours == theirs


def test_prompts_of_different_length_are_refused(model: QuantizedWhisper) -> None:
    mask = torch.tensor([[True, True], [False, True]])
    with pytest.raises(ModelError, match=r"decoder_attention_mask hides tokens.*one clip at a time"):
        model(torch.zeros(2, 80, 3000), decoder_input_ids=torch.zeros(2, 2).long(), decoder_attention_mask=mask)


def test_logits(model: QuantizedWhisper, torch_model: Any, features: torch.Tensor) -> None:
    ids = torch.randint(0, 1000, (3, 12), generator=torch.Generator().manual_seed(0))
    ours = model(features, decoder_input_ids=ids).logits
    with torch.no_grad():
        theirs = torch_model(features, decoder_input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


def test_rows_that_share_audio_but_not_tokens(
    model: QuantizedWhisper, torch_model: Any, features: torch.Tensor
) -> None:
    ids = torch.randint(0, 1000, (6, 5), generator=torch.Generator().manual_seed(1))
    hidden = model.model.encoder(features)[0]
    ours = model(encoder_outputs=BaseModelOutput(last_hidden_state=hidden), decoder_input_ids=ids).logits
    with torch.no_grad():
        theirs = torch_model(features.repeat_interleave(2, 0), decoder_input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("clips", [1, 3])
def test_beams_share_the_audio_and_step_like_rows_of_their_own(
    model: QuantizedWhisper, features: torch.Tensor, clips: int
) -> None:
    hidden = model.model.encoder(features[:clips])[0]
    start = torch.full((2 * clips, 3), 7)
    shared, single = DecoderCache(), DecoderCache()
    first = model._decoder.start(start, hidden, shared)
    torch.testing.assert_close(first, model._decoder.start(start, hidden.repeat_interleave(2, 0), single))
    assert len(shared.cross_attention[0]) == (1 if clips == 1 else 6)
    order = torch.arange(2 * clips).flip(0).view(-1, 2).flip(0).reshape(-1)  # swaps the two beams of every clip
    for token in range(70):  # beyond the first size of the buffers
        tokens = torch.arange(2 * clips)[:, None] + token
        torch.testing.assert_close(model._decoder.step(tokens, shared), model._decoder.step(tokens, single))
        for cache in (shared, single):
            cache.reorder_cache(order)
    assert shared.get_seq_length() == single.get_seq_length() == 73
    torch.testing.assert_close(shared.self_attention, single.self_attention)


def test_language_detection_hears_the_audio_once(
    model: QuantizedWhisper, torch_model: Any, features: torch.Tensor, record_encoder_runs: Recorder
) -> None:
    runs = record_encoder_runs(model)
    ours, theirs = both(model, torch_model, features, max_new_tokens=12, force_unique_generate_call=True)
    assert ours == theirs
    assert runs == [(3, 1)]


def test_fallback_hears_the_audio_once(
    model: QuantizedWhisper, features: torch.Tensor, record_encoder_runs: Recorder
) -> None:
    runs = record_encoder_runs(model)
    arguments = {"temperature": (0.0, 0.2, 0.4), "logprob_threshold": 0.0, "max_new_tokens": 4}
    model.generate(features[:1], **FRENCH, **arguments, force_unique_generate_call=True)
    assert runs == [(1, 1)]


def test_a_later_call_is_never_answered_by_an_earlier_one(
    model: QuantizedWhisper, features: torch.Tensor, record_encoder_runs: Recorder
) -> None:
    runs = record_encoder_runs(model)
    for _ in range(2):
        model.generate(features, **FRENCH, max_new_tokens=2, force_unique_generate_call=True)
    model.get_encoder()(features)
    assert runs == [(3, 1)] * 3


def test_scores_come_without_the_cache(model: QuantizedWhisper, features: torch.Tensor) -> None:
    arguments = {**FRENCH, "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True}
    outputs = model.generate(features, **arguments, force_unique_generate_call=True)
    assert len(outputs.scores) == 6
    assert outputs.scores[0].shape == (3, model.config.vocab_size)
    assert outputs.get("past_key_values") is None


@pytest.mark.parametrize("options", [{}, {"return_timestamps": True}, {"chunk_length_s": 10}], ids=str)
@pytest.mark.parametrize("seconds", [4, 45])
def test_pipeline(
    model: QuantizedWhisper, torch_model: Any, processor: WhisperProcessor, options: dict[str, Any], seconds: int
) -> None:
    heard = []
    for each in (model, torch_model):
        recognizer = pipeline(
            "automatic-speech-recognition",
            model=each,
            tokenizer=processor.tokenizer,
            feature_extractor=processor.feature_extractor,
            device="cpu",
        )
        asked = {**FRENCH, "max_new_tokens": 30, "num_beams": 2}
        if each is torch_model and seconds > 30 and not options:
            asked["return_timestamps"] = True  # without which transformers stops
        heard.append(recognizer(noise(seconds), generate_kwargs=asked, **options))
    assert heard[0] == heard[1]
    assert heard[0]["text"]


@pytest.mark.parametrize(
    ("argument", "reason"),
    [("return_token_timestamps", "return_timestamps=True"), ("output_attentions", "no attention weights")],
)
def test_what_the_graphs_cannot_give(
    model: QuantizedWhisper, features: torch.Tensor, argument: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=f"{argument}=True: .*{reason}"):
        model.generate(features, **FRENCH, **{argument: True})


def test_wrong_number_of_mel_bins(model: QuantizedWhisper) -> None:
    with pytest.raises(ModelError, match="128 mel bins and the model wants 80"):
        model.generate(torch.zeros(1, 128, 3000), **FRENCH)


@pytest.mark.parametrize("frames", [1000, 2998, 3002])
def test_wrong_number_of_frames(model: QuantizedWhisper, frames: int) -> None:
    features = torch.zeros(1, 80, frames)
    with pytest.raises(
        ModelError, match=f"{frames} frames and the model wants 3000: pad the audio to the whole window"
    ):
        model(input_features=features, decoder_input_ids=torch.zeros(1, 2).long())
    with pytest.raises(ModelError, match=f"{frames} frames"):
        model.get_encoder()(features)


def test_the_graph_itself_refuses_another_number_of_frames(tiny_onnx_dir: Path) -> None:
    encoder = open_session(tiny_onnx_dir / "encoder_model.onnx", 1)
    with pytest.raises(InvalidArgument, match="Got: 1000 Expected: 3000"):
        encoder.run(None, {"input_features": np.zeros((1, 80, 1000), np.float32)})


def test_saving_is_refused(model: QuantizedWhisper, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="copying its folder"):
        model.save_pretrained(tmp_path)


def test_threads(tiny_onnx_dir: Path) -> None:
    model = QuantizedWhisper.from_pretrained(tiny_onnx_dir, num_threads=2)
    for session in (model.model.encoder._session._session, model._decoder._session):
        assert session.get_session_options().intra_op_num_threads == 2
    with pytest.raises(ModelError, match="num_threads is 0: it must be at least 1"):
        QuantizedWhisper.from_pretrained(tiny_onnx_dir, num_threads=0)


def test_generation_settings_are_the_folders(
    model: QuantizedWhisper, torch_model: WhisperForConditionalGeneration
) -> None:
    assert model.generation_config.lang_to_id == torch_model.generation_config.lang_to_id
    assert model.generation_config.begin_suppress_tokens == torch_model.generation_config.begin_suppress_tokens
    assert model.can_generate()
