"""How much of Whisper's 30 s window the encoder computes.

Whisper pads every clip to 30 s and its encoder attends to the silence: cut off, the model errs and falls into loops. But
silence is alike everywhere, so most of it can be *folded*: one position stands for many, and attention counts it as often as
it stands for, by adding the logarithm of that number to its scores. The last positions of the window stay, because Whisper
uses some of them as attention sinks. So a clip of 4 s takes about 320 positions instead of 1500, and the model hardly notices.

Where a clip ends is read from the features themselves: the padding of Whisper's extractor is the least value they hold, in
every mel bin. Audio that fills the window is computed as ever. How many positions are left tells which they are, so that a
decoder needs no more than the encoder's states to weigh them (`EncoderContext.fold` sees to it that no two lengths agree).

The ONNX encoder does this inside its graph (`qat_plugin.export.silence`); here is the same for transformers' Whisper.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qat_plugin.errors import ModelError

FRAMES_PER_POSITION = 2
# Implementations of attention in transformers that add a mask of floats to their scores.
_WEIGHING = ("sdpa", "eager")


@dataclass(frozen=True)
class EncoderContext:
    """Which positions of the encoder are computed; 50 positions are a second.

    Models whose encoder works like this say so in `config.json`, under "encoder_context".

    Attributes:
        margin: positions of silence that are kept behind the clip.
        stride: of the silence after these, one position in so many is kept and counts for all of them; 1 keeps all.
        tail: last positions of the window, all of which are kept.
    """

    margin: int = 25
    stride: int = 32
    tail: int = 64

    def finer(self) -> EncoderContext:
        """A context for teachers: what a model says in it hardly differs from the whole window, in half the time."""
        return EncoderContext(2 * self.margin, max(1, self.stride // 4), 2 * self.tail)

    def fold(self, features: Tensor) -> FoldedSilence | None:
        """What to compute for a batch, which shares its positions: those that its longest clip needs. None: all.

        `features`: float `(batch, mels, frames)`, padded by a Whisper feature extractor.
        """
        heard = (features > features.amin(dim=(1, 2), keepdim=True)).any(dim=1).any(dim=0)
        frames = int(heard.nonzero()[-1]) + 1 if bool(heard.any()) else 0
        total = features.shape[-1] // FRAMES_PER_POSITION
        start, end = -(-frames // FRAMES_PER_POSITION) + self.margin, total - self.tail
        first = start + self.stride // 2
        if self.stride == 1 or first >= end:
            return None
        if (end - first) % self.stride == 0:
            # A clip longer by one position would be left with as many: they are made the same.
            start, first = start + 1, first + 1
        folded = torch.arange(first, end, self.stride, device=features.device)
        places = torch.arange(total, device=features.device)
        positions = torch.cat([places[:start], folded, places[end:]])
        bias = torch.zeros(len(positions), device=features.device)
        bias[start : start + len(folded)] = math.log((end - start) / len(folded))
        return FoldedSilence(positions, bias, start)


@dataclass(frozen=True)
class FoldedSilence:
    """What is computed of a window.

    Attributes:
        positions: int64 `(kept,)`, in order.
        bias: float32 `(kept,)`, what the scores of attention to them gain.
        start: where folding starts: the first so many positions are those of the whole window.
    """

    positions: Tensor
    bias: Tensor
    start: int

    def frames(self, features: Tensor) -> Tensor:
        """The frames of these positions: `(..., frames)` → `(..., 2 * kept)`."""
        frames = torch.stack([FRAMES_PER_POSITION * self.positions, FRAMES_PER_POSITION * self.positions + 1], dim=1)
        return features[..., frames.flatten()]


def encoder_context_of(config: Any) -> EncoderContext | None:
    """The context that a model's config asks for; None: the whole window."""
    values = getattr(config, "encoder_context", None)
    return None if values is None else EncoderContext(**values)


def set_encoder_context(config: Any, context: EncoderContext | None) -> None:
    """Let checkpoints with this config say how their encoder is meant to be run."""
    if context is not None:
        config.encoder_context = asdict(context)
    elif hasattr(config, "encoder_context"):
        del config.encoder_context


def check_attention(model: Any) -> None:
    """Raise `ModelError` where the model's attention cannot weigh folded positions, which it is told by a mask of floats."""
    kind = model.config._attn_implementation
    if kind not in _WEIGHING:
        raise ModelError(
            f"attn_implementation is {kind!r}, which takes no weights for the silence that encoder_context folds: load the model "
            f"with from_pretrained(..., attn_implementation={_WEIGHING[0]!r}), or leave encoder_context out"
        )


@contextmanager
def folded_silence(model: Any, folded: FoldedSilence) -> Iterator[None]:
    """Let transformers' Whisper compute `folded.frames(...)` inside the `with` block; `generate` works too."""
    with folded_attention(model, folded), shorter_window(model.config, folded):
        yield


@contextmanager
def shorter_window(config: Any, folded: FoldedSilence) -> Iterator[None]:
    """The config of a window of so many positions: the encoder insists on features of the length that it says."""
    whole = config.max_source_positions
    config.max_source_positions = len(folded.positions)
    try:
        yield
    finally:
        config.max_source_positions = whole


@contextmanager
def folded_attention(model: Any, folded: FoldedSilence) -> Iterator[None]:
    """Let the layers compute these positions and weigh them inside the `with` block; layers may be computed again in it."""
    encoder = model.model.encoder
    table = encoder.embed_positions

    def pick_positions(_module: nn.Module, _args: Any) -> tuple[Tensor]:
        return (folded.positions,)

    def add_bias(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, _with_bias(folded.bias, args, kwargs)

    with ExitStack() as stack:
        stack.callback(table.register_forward_pre_hook(pick_positions).remove)
        for attention in [layer.self_attn for layer in encoder.layers] + [
            layer.encoder_attn for layer in model.model.decoder.layers
        ]:
            stack.callback(attention.register_forward_pre_hook(add_bias, with_kwargs=True).remove)
        yield


def _with_bias(bias: Tensor, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an attention whose scores gain `bias`."""
    queries = args[0] if args else kwargs["hidden_states"]
    # Of another type than the queries, torch reads the mask's memory wrongly, without a word.
    mask = bias.reshape(1, 1, 1, -1).to(queries.dtype).expand(1, 1, queries.shape[1], -1)
    return {**kwargs, "attention_mask": mask}


class EvaluationContext:
    """Lets transformers' Whisper fold silence by itself whenever it is in evaluation mode, in `generate` too.

    A Trainer calls its model in evaluation as it likes, so hooks do it: the encoder's fold the features, and what attends to
    its output weighs the folded positions. Features that are shorter than the window are left to who shortened them.
    """

    def __init__(self, model: Any, context: EncoderContext) -> None:
        self._model, self._context = model, context
        self._frames = FRAMES_PER_POSITION * model.config.max_source_positions
        self._folded: FoldedSilence | None = None
        self._open = ExitStack()
        encoder = model.model.encoder
        self._handles: list[RemovableHandle] = [
            encoder.register_forward_pre_hook(self._begin, with_kwargs=True),
            encoder.register_forward_hook(self._end, always_call=True),
            *(
                layer.encoder_attn.register_forward_pre_hook(self._weigh, with_kwargs=True)
                for layer in model.model.decoder.layers
            ),
        ]

    def remove(self) -> None:
        """Take the hooks out of the model."""
        self._open.close()
        for handle in self._handles:
            handle.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        features = args[0] if args else kwargs["input_features"]
        whole = not module.training and features.shape[-1] == self._frames
        self._folded = self._context.fold(features) if whole else None
        if self._folded is None:
            return None
        self._open.enter_context(folded_silence(self._model, self._folded))
        return args[1:], {**kwargs, "input_features": self._folded.frames(features)}

    def _end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._open.close()

    def _weigh(self, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        states, folded = kwargs.get("key_value_states"), self._folded
        if folded is None or states is None or states.shape[1] != len(folded.positions):
            return None
        return args, _with_bias(folded.bias, args, kwargs)


@contextmanager
def in_context(model: Any, context: EncoderContext | None, features: Tensor) -> Iterator[Tensor]:
    """The features to give transformers' Whisper inside the `with` block instead of a batch's whole `features`."""
    folded = None if context is None else context.fold(features)
    if folded is None:
        yield features
    else:
        with folded_silence(model, folded):
            yield folded.frames(features)
