"""What the parity gate lets pass of two models' tokens: which clips part is told to it by fakes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qat_plugin.errors import ParityError
from qat_plugin.export import gate

SAME, UNDECIDED, DIFFERENT = "same", "undecided", "different"
MARGINS = {SAME: 0.0, UNDECIDED: 0.5, DIFFERENT: 5.0}
END = 9


class FakeWhisper:
    """Clip i is features full of i; says one token, the trained model 0 and the ONNX another one where they part."""

    config = SimpleNamespace(eos_token_id=END)

    def __init__(self, clips: list[str], *, is_trained: bool) -> None:
        self._clips, self._is_trained = clips, is_trained

    def _kind(self, features: torch.Tensor) -> str:
        return self._clips[int(features.flatten()[0])]

    def generate(self, features: torch.Tensor, **_: Any) -> torch.Tensor:
        return torch.tensor([[0 if self._is_trained or self._kind(features) == SAME else 1]])

    def __call__(self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor) -> SimpleNamespace:
        logits = torch.zeros(1, decoder_input_ids.shape[1], END + 1)
        logits[..., 0] = MARGINS[self._kind(input_features)]
        return SimpleNamespace(logits=logits)


def compare(clips: list[str], monkeypatch: pytest.MonkeyPatch, target: str | None = "int8") -> tuple[int, int]:
    """How many are identical, and undecided."""
    monkeypatch.setattr(gate, "_trained_model", lambda _: FakeWhisper(clips, is_trained=True))
    monkeypatch.setattr(
        gate.QuantizedWhisper, "from_pretrained", staticmethod(lambda _: FakeWhisper(clips, is_trained=False))
    )
    prepared = [gate._Clip(torch.full((1, 2, 4), float(i)), torch.tensor([[3]]), {}) for i in range(len(clips))]
    return gate._compare_tokens(SimpleNamespace(target=target), "onnx", prepared)  # type: ignore[arg-type]


@pytest.mark.parametrize("clips", [[UNDECIDED] * 7 + [DIFFERENT], [SAME] + [UNDECIDED] * 7, [UNDECIDED] * 4])
def test_clips_that_are_mostly_undecided_are_refused(clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    same, undecided = clips.count(SAME), clips.count(UNDECIDED)
    said = (
        f"greedy tokens are the trained model's on {same} of {len(clips)} clips, and {len(clips) // 4} must be; "
        f"it was undecided on {undecided}$"
    )
    with pytest.raises(ParityError, match=said):
        compare(clips, monkeypatch)


@pytest.mark.parametrize(
    "clips",
    [[UNDECIDED] * 3, [SAME] + [UNDECIDED] * 6, [SAME] * 2 + [UNDECIDED] * 5 + [DIFFERENT]],
    ids=["few", "a quarter, rounded down", "one different"],
)
def test_a_quarter_of_the_clips_is_enough_and_few_need_none(clips: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(clips, monkeypatch) == (clips.count(SAME), clips.count(UNDECIDED))


@pytest.mark.parametrize("target", ["int8", "int4", None])
def test_clips_that_differ_are_refused_first(target: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParityError, match=rf"on 2 of 8 clips \(\[6, 7\]\).*{target or 'float'} allows 1"):
        compare([SAME] * 6 + [DIFFERENT] * 2, monkeypatch, target)
