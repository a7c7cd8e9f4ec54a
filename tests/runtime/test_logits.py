"""The loop guard: what it cuts, the same in every way of generating, and that one can do without it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from noise import noise
from transformers import LogitsProcessorList, WhisperProcessor

from qat_plugin.runtime import QuantizedWhisper, modeling
from qat_plugin.runtime.logits import LoopGuard

FRENCH = {"language": "fr", "task": "transcribe"}
END = 50


def scores_behind(rows: list[list[int]], begin_index: int = 0) -> torch.Tensor:
    scores = torch.ones((len(rows), 60))
    LoopGuard(END, begin_index).apply_(torch.tensor(rows), scores)
    return scores


def test_only_the_row_that_loops_is_ended() -> None:
    loops, speaks = scores_behind([[9, *[1, 2, 3, 4] * 4], [9, *[1, 2, 3, 4] * 3, 1, 2, 3, 5]])
    assert loops[END] == 0 and torch.isinf(loops[torch.arange(60) != END]).all()
    assert (speaks == 1).all()


def test_the_prompt_is_not_judged() -> None:
    assert (scores_behind([[1, 2, 3, 4] * 4], begin_index=1) == 1).all()
    assert (scores_behind([[1, 2, 3, 4] * 5], begin_index=4)[0] != 1).all()


def test_times_do_not_hide_a_loop() -> None:
    assert LoopGuard.has_cut([51, *[1, 2, 3, 4, 52, 52] * 3, 1, 2, 3, 4], END)
    assert not LoopGuard.has_cut([51, *[52, 53] * 20], END)


def test_a_copy_is_changed_unless_asked() -> None:
    tokens, scores = torch.tensor([[1] * 16]), torch.ones((1, 60))
    assert torch.isinf(LoopGuard(END, 0)(tokens, scores)).any()
    assert (scores == 1).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"num_beams": 2},
        {"prompt_ids": torch.tensor([361, *[98, 111] * 8])},
        {"temperature": (0.0,), "logprob_threshold": -1.0},
    ],
    ids=str,
)
def test_cuts_the_same_as_in_transformers(
    model: QuantizedWhisper, torch_model: Any, features: torch.Tensor, arguments: dict[str, Any]
) -> None:
    end = model.generation_config.eos_token_id
    unused = [*range(40, 256), *range(257, model.config.vocab_size)]
    asked = {**FRENCH, "suppress_tokens": unused, "max_new_tokens": 200, **arguments}
    guards = LogitsProcessorList([LoopGuard(end, 4)])
    ours = model.generate(features, **asked)
    assert ours.tolist() == torch_model.generate(features, **asked, logits_processor=guards).tolist()
    rows = [row for row in ours.tolist() if LoopGuard.has_cut(row, end)]
    assert rows, "some row must loop for this to prove anything"
    for row in rows:
        said = [token for token in row if token < end]
        assert not LoopGuard.has_cut(said[:-1], end), "it was cut too late"
    assert model.generate(features, **asked, loop_guard=False).shape[1] > min(map(len, rows))


@pytest.mark.parametrize("arguments", [{}, {"return_timestamps": True}], ids=str)
def test_a_loop_under_folded_silence_is_decoded_again_with_the_whole_window(
    tiny_onnx_dir: Path, features: torch.Tensor, record_encoder_runs: Any, arguments: dict[str, Any]
) -> None:
    folded, whole = (QuantizedWhisper.from_pretrained(tiny_onnx_dir, encoder_context=c) for c in ("auto", "full"))
    runs, end = record_encoder_runs(folded), folded.generation_config.eos_token_id
    unused = [*range(40, 256), *range(257, folded.config.vocab_size)]
    asked = {**FRENCH, "suppress_tokens": unused, "max_new_tokens": 200, **arguments}

    def said(rows: torch.Tensor) -> list[list[int]]:
        return [[token for token in row if token < end] for row in rows.tolist()]

    unguarded = said(folded.generate(features, **asked, loop_guard=False))
    cut = [i for i, row in enumerate(unguarded) if any(LoopGuard.has_cut(row[:n], end) for n in range(16, len(row)))]
    assert cut and runs == [(3, 32)]
    for _ in range(2):  # the second call begins with folded silence, too
        runs.clear()
        found = said(folded.generate(features, **asked))
        assert runs == [(3, 32), (len(cut), 1)]
    again = said(whole.generate(features[cut], **asked))
    assert [found[i] for i in cut] == again
    # With times, this random model says the same to both.
    assert arguments or again != [unguarded[i][: len(row)] for i, row in zip(cut, again, strict=True)]
    assert all(found[i] == unguarded[i] for i in range(3) if i not in cut)


def test_a_loop_in_a_window_without_silence_is_decoded_once(
    tiny_onnx_dir: Path, features: torch.Tensor, record_encoder_runs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = QuantizedWhisper.from_pretrained(tiny_onnx_dir, encoder_context="auto")
    runs, tries = record_encoder_runs(model), []
    search = modeling.search_greedily
    monkeypatch.setattr(modeling, "search_greedily", lambda *args, **kwargs: tries.append(1) or search(*args, **kwargs))
    unused = [*range(40, 256), *range(257, model.config.vocab_size)]
    asked = {**FRENCH, "suppress_tokens": unused, "max_new_tokens": 200}
    full = torch.randn(features.shape, generator=torch.Generator().manual_seed(0))
    ends = [
        LoopGuard.has_cut(row, model.generation_config.eos_token_id) for row in model.generate(full, **asked).tolist()
    ]
    assert any(ends) and runs == [(3, 32)] and len(tries) == 1
    # Where there is silence to fold, there is another try.
    model.generate(features, **asked)
    assert len(runs) == 3 and len(tries) == 3


def test_calls_from_several_threads_do_not_disturb_each_other(tiny_onnx_dir: Path, features: torch.Tensor) -> None:
    model = QuantizedWhisper.from_pretrained(tiny_onnx_dir, encoder_context="auto")
    unused = [*range(40, 256), *range(257, model.config.vocab_size)]
    asked = {**FRENCH, "suppress_tokens": unused, "max_new_tokens": 60}
    calls = [(features[i : i + 1], {**asked, "loop_guard": guarded}) for i in range(3) for guarded in (True, False)]
    alone = [model.generate(audio, **arguments).tolist() for audio, arguments in calls]
    with ThreadPoolExecutor(len(calls)) as pool:
        together = [pool.submit(model.generate, audio, **arguments) for audio, arguments in calls]
    assert [found.result().tolist() for found in together] == alone


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        ({"num_beams": 4, "num_return_sequences": 2}, 2),
        ({"return_dict_in_generate": True, "output_scores": True}, 1),
        ({"force_unique_generate_call": True}, 1),
    ],
    ids=str,
)
def test_the_result_of_one_call_is_of_one_call(
    tiny_onnx_dir: Path, features: torch.Tensor, record_encoder_runs: Any, arguments: dict[str, Any], calls: int
) -> None:
    model = QuantizedWhisper.from_pretrained(tiny_onnx_dir, encoder_context="auto")
    runs, unused = record_encoder_runs(model), [*range(40, 256), *range(257, model.config.vocab_size)]
    found = model.generate(features, **FRENCH, suppress_tokens=unused, max_new_tokens=100, **arguments)
    rows = found["sequences"] if isinstance(found, dict) else found
    assert [stride for _, stride in runs] == [32, 1][:calls] and len(rows) == 3 * arguments.get(
        "num_return_sequences", 1
    )
    assert any(LoopGuard.has_cut(row[4:], model.generation_config.eos_token_id) for row in rows.tolist())


@pytest.mark.parametrize("beams", [1, 2])
def test_long_audio_goes_on_with_the_next_window(
    model: QuantizedWhisper, torch_model: Any, processor: WhisperProcessor, beams: int
) -> None:
    end, first_time = model.generation_config.eos_token_id, model.generation_config.no_timestamps_token_id + 1
    long = processor.feature_extractor(
        noise(75), sampling_rate=16000, return_tensors="pt", truncation=False, return_attention_mask=True
    )
    asked = {
        **FRENCH,
        "attention_mask": long.attention_mask,
        "return_segments": True,
        "num_beams": beams,
        "return_timestamps": True,
    }
    # Nothing but one word and the times: a loop in every window.
    asked["suppress_tokens"] = [*range(65), *range(66, first_time)]
    ours = model.generate(long.input_features, **asked)
    guards = LogitsProcessorList([LoopGuard(end, 4)])
    theirs = torch_model.generate(long.input_features, **asked, logits_processor=guards)
    assert ours["sequences"].tolist() == theirs["sequences"].tolist()
    windows = {tuple(segment["result"].tolist()) for segment in ours["segments"][0]}
    assert len(windows) > 2 and any(LoopGuard.has_cut(window, end) for window in windows)


def test_a_cut_loop_still_falls_back_to_another_temperature(
    model: QuantizedWhisper, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    temperatures: list[float] = []
    need = QuantizedWhisper._need_fallback

    def watching(self: QuantizedWhisper, *arguments: Any) -> tuple[bool, bool]:
        temperatures.append(arguments[-1])
        return need(self, *arguments)

    monkeypatch.setattr(QuantizedWhisper, "_need_fallback", watching)
    one_word = [*range(65), *range(66, model.config.vocab_size)]
    asked = {**FRENCH, "suppress_tokens": one_word, "temperature": (0.0, 0.2), "max_new_tokens": 60}
    # The ratio of sixteen equal tokens is far below this threshold.
    model.generate(features[:1], **asked, compression_ratio_threshold=50.0)
    assert temperatures == [0.0, 0.2]
    temperatures.clear()
    model.generate(features[:1], **asked)
    assert temperatures == [0.0]
