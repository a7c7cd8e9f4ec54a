"""The greedy loop gives the tokens of transformers' own loop on the same sessions, and serves what it says it serves."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import SuppressTokensAtBeginLogitsProcessor, SuppressTokensLogitsProcessor

from qat_plugin.runtime import QuantizedWhisper, modeling

FRENCH = {"language": "fr", "task": "transcribe"}


class Downhill(LogitsProcessor):
    """Makes every token less probable the higher its id: anything that returns new logits."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores - 0.01 * torch.arange(scores.shape[1])


class Never(StoppingCriteria):
    """An end of one's own, that never comes."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return torch.zeros(len(input_ids), dtype=torch.bool)


class Streamer:
    """Does nothing with the tokens."""

    def put(self, value: torch.Tensor) -> None:
        """Take tokens."""

    def end(self) -> None:
        """Take the end."""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets the number of rows whenever the greedy loop runs."""
    found: list[int] = []

    def counting(decoder: Any, prompt: torch.Tensor, states: Any, processors: Any, **options: Any) -> torch.Tensor:
        found.append(len(prompt))
        slow = (SuppressTokensLogitsProcessor, SuppressTokensAtBeginLogitsProcessor)
        assert not any(type(processor) in slow for processor in processors), "they search the vocabulary at every token"
        return search(decoder, prompt, states, processors, **options)

    search = modeling.search_greedily
    monkeypatch.setattr(modeling, "search_greedily", counting)
    return found


def by_transformers(model: QuantizedWhisper, features: torch.Tensor, **arguments: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling, "is_plain_greedy", lambda *_: False)
        return model.generate(features, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": 1},
        {"max_new_tokens": None, "max_length": 50},
        {"language": ["fr", "de", "en"]},
        {"task": "translate"},
        {"return_timestamps": True},
        {"temperature": 0.0},
        {"prompt_ids": torch.tensor([361, 98, 111])},
        {"suppress_tokens": [*range(10, 200), -1, 10**6], "begin_suppress_tokens": [5, 3, 256]},
        {"suppress_tokens": None, "begin_suppress_tokens": None},
        {"logits_processor": LogitsProcessorList([Downhill()])},
        {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"force_unique_generate_call": True},
        {"return_segments": True},
        {"loop_guard": False, "max_new_tokens": 200},
    ],
    ids=str,
)
@pytest.mark.parametrize("rows", [1, 3])
def test_same_tokens(
    model: QuantizedWhisper, features: torch.Tensor, runs: list[int], arguments: dict[str, Any], rows: int
) -> None:
    asked = {**FRENCH, "max_new_tokens": 40, **arguments}
    if isinstance(asked["language"], list):
        asked["language"] = asked["language"][:rows]
    ours = model.generate(features[:rows], **asked)
    assert runs[0] == rows  # further windows may have fewer
    theirs = by_transformers(model, features[:rows], **asked)
    if arguments.get("return_segments"):
        for mine, other in zip(ours["segments"], theirs["segments"], strict=True):
            assert [s["result"].tolist() for s in mine] == [s["result"].tolist() for s in other]
        ours, theirs = ours["sequences"], theirs["sequences"]
    assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()


def test_rows_that_end_early_are_padded(model: QuantizedWhisper, features: torch.Tensor, runs: list[int]) -> None:
    asked = {**FRENCH, "max_new_tokens": 30, "loop_guard": False, "force_unique_generate_call": True}
    without_end = model.generate(features, **asked)
    # A token that the rows say at different times, or never, is made the end.
    when = {
        token: [row.index(token) if token in row else 99 for row in without_end[:, 4:].tolist()]
        for token in set(without_end[:, 4:].flatten().tolist())
    }
    end, places = max(when.items(), key=lambda entry: len(set(entry[1])))
    assert len(set(places)) > 1, "the rows must end at different times for this to prove anything"
    ours = model.generate(features, **asked, eos_token_id=end, pad_token_id=7)
    assert ours.tolist() == by_transformers(model, features, **asked, eos_token_id=end, pad_token_id=7).tolist()
    first = min(range(3), key=places.__getitem__)
    assert set(ours[first, 4 + places[first] + 1 :].tolist()) == {7}
    assert runs == [3, 3]


def test_forced_tokens_of_the_config(model: QuantizedWhisper, features: torch.Tensor, runs: list[int]) -> None:
    model.generation_config.forced_decoder_ids = [[1, 270], [2, 358], [3, 362]]
    asked = {"max_new_tokens": 20, "force_unique_generate_call": True}
    ours = model.generate(features, **asked)
    assert ours[0, 1:4].tolist() == [270, 358, 362] and runs == [3]
    assert ours.tolist() == by_transformers(model, features, **asked).tolist()


def test_the_models_own_limit(model: QuantizedWhisper, features: torch.Tensor, runs: list[int]) -> None:
    asked = {**FRENCH, "suppress_tokens": list(range(256, model.config.vocab_size)), "loop_guard": False}
    ours = model.generate(features[:2], **asked)
    assert ours.shape == (2, 444) and runs == [2]
    assert ours.tolist() == by_transformers(model, features[:2], **asked).tolist()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_beams": 2},
        {"temperature": 0.7},
        {"return_dict_in_generate": True},
        {"logprob_threshold": -1.0, "temperature": (0.0,)},
        {"use_cache": False},
        {"stopping_criteria": StoppingCriteriaList([Never()])},
        {"streamer": Streamer()},
    ],
    ids=str,
)
def test_everything_else_is_transformers(
    model: QuantizedWhisper, features: torch.Tensor, runs: list[int], arguments: dict[str, Any]
) -> None:
    model.generate(features[:1], **FRENCH, max_new_tokens=4, **arguments)
    assert runs == []
