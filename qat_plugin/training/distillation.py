"""The training loss: cross entropy with the labels and what a float teacher adds to it.

Installed as a forward hook, so that any Trainer that calls `model(**batch)` and takes `output.loss` trains on it. The hook
also mends a trap: Whisper's forward accepts `num_items_in_batch` and ignores it, so that under gradient accumulation the
losses of micro-batches were summed instead of averaged.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import WhisperForConditionalGeneration
from transformers.models.whisper.modeling_whisper import shift_tokens_right

from qat_plugin.encoder_context import (
    EncoderContext,
    FoldedSilence,
    check_attention,
    folded_attention,
    in_context,
    shorter_window,
)
from qat_plugin.errors import ModelError

# Arguments of the model whose last axis is frames.
_OF_FRAMES = ("input_features", "attention_mask")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss; see `DistillationArguments` in the recipe."""

    ce: float = 1.0
    kl: float = 0.0
    encoder: float = 0.0
    decoder: float = 0.0
    temperature: float = 1.0

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return max(self.kl, self.encoder, self.decoder) > 0


def relative_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """`|student - teacher|² / |teacher|²` over all elements; 0 is equal, 1 is as bad as predicting nothing."""
    difference = (student.float() - teacher.float()).square().sum()
    return difference / teacher.float().square().sum().clamp(min=1e-12)


def kl_divergence(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean over tokens of `KL(teacher || student)` times `temperature ** 2` (Hinton et al., 2015, arXiv:1503.02531).

    Both `(tokens, vocabulary)`. In nats.
    """
    student = F.log_softmax(student_logits.float() / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def check_teacher(
    teacher: WhisperForConditionalGeneration,
    student: WhisperForConditionalGeneration,
    *,
    states: bool,
    autocast: torch.dtype | None = None,
) -> None:
    """Refuse with `ModelError` a teacher that hears other features or says other tokens than `student`; with `states`, one
    whose hidden states have another size, too; and one in half precision, unless `autocast` computes in one anyway."""
    fields = ["num_mel_bins", "vocab_size", *(["d_model"] if states else [])]
    for name in fields:
        theirs, ours = getattr(teacher.config, name), getattr(student.config, name)
        if theirs != ours:
            mend = ", or set encoder_weight and decoder_weight to 0" if name == "d_model" else ""
            raise ModelError(
                f"{name} is {theirs} in the teacher's config.json and {ours} in that of the model that learns: take a teacher "
                f"that has the same{mend}"
            )
    if autocast is None and teacher.dtype != student.dtype:
        raise ModelError(
            f"the teacher is {teacher.dtype} and the model that learns is {student.dtype}, without mixed precision: load the "
            f"teacher with from_pretrained(..., dtype={student.dtype}), or train with --bf16 or --fp16"
        )


class TrainingLoss:
    """Computes the loss of a training forward pass of `model`, with `teacher` where `weights` need one.

    With a `context`, the encoders compute short clips with their silence folded. `autocast` is what the Trainer runs the
    model in, so that the teacher runs in it, too: the Trainer's own does not reach into hooks.
    """

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        weights: LossWeights,
        teacher: WhisperForConditionalGeneration | None,
        context: EncoderContext | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.weights = weights
        self.autocast = autocast
        self.context = context
        self.teacher_context = None if context is None else context.finer()
        # Not a submodule of anything: a teacher must not be trained, saved, or moved to checkpoints.
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)
        self._decoder_states: Tensor | None = None
        self._whole_features: Tensor | None = None
        self._folded: FoldedSilence | None = None
        if teacher is not None:
            check_teacher(teacher, model, states=max(weights.encoder, weights.decoder) > 0, autocast=autocast)
        for heard in (model, teacher):
            if context is not None and heard is not None:
                check_attention(heard)
        self._open, self._window = ExitStack(), ExitStack()
        self._sums: dict[str, Tensor] = {}
        self._count = 0
        self._handles: list[RemovableHandle] = [
            model.register_forward_pre_hook(self._fold_silence, with_kwargs=True),
            model.model.encoder.register_forward_hook(self._end_window, always_call=True),
            model.model.decoder.register_forward_hook(self._keep_decoder_states),
            model.register_forward_hook(self._replace_loss, with_kwargs=True),
        ]

    def remove(self) -> None:
        """Take the hooks out of the model."""
        self.release()
        for handle in self._handles:
            handle.remove()

    def pop_means(self) -> dict[str, float]:
        """Mean of each term since the last call, unweighted, for the log."""
        means = {f"loss_{name}": float(total) / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def release(self) -> None:
        """End the short context of the latest forward pass. Gradient checkpointing computes layers again in the backward
        pass, so that it must last until that is over; the callback says when."""
        self._window.close()
        self._open.close()

    def _fold_silence(self, model: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        self.release()
        features = kwargs.get("input_features")
        self._whole_features, self._folded = features, None
        if self.context is None or features is None or not model.training:
            return None
        self._folded = self.context.fold(features)
        if self._folded is None:
            return None
        self._open.enter_context(folded_attention(model, self._folded))
        # For the encoder's own check alone: whoever saves or generates before the backward pass is over finds the config as it is.
        self._window.enter_context(shorter_window(model.config, self._folded))
        shorter = {name: self._folded.frames(kwargs[name]) for name in _OF_FRAMES if kwargs.get(name) is not None}
        return args, {**kwargs, **shorter}

    def _end_window(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._window.close()

    def _keep_decoder_states(self, _module: nn.Module, _args: Any, output: Any) -> None:
        self._decoder_states = output[0]

    def _replace_loss(self, model: Any, _args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        labels = kwargs.get("labels")
        if labels is None or not model.training:
            self._decoder_states = self._whole_features = None
            self.release()
            return output
        terms = self._terms(model, kwargs, output)
        self._decoder_states = self._whole_features = None
        if not model.model.encoder.gradient_checkpointing:
            self.release()
        for name, term in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + term.detach()
        self._count += 1
        factors = {
            "ce": self.weights.ce,
            "kl": self.weights.kl,
            "encoder": self.weights.encoder,
            "decoder": self.weights.decoder,
        }
        loss = sum((factors[name] * term for name, term in terms.items()), start=torch.zeros((), device=labels.device))
        total = kwargs.get("num_items_in_batch")
        if total is not None:
            # The Trainer sums micro-batches and processes: each counts by its share of the step's label tokens.
            loss = loss * (labels.ne(-100).sum() / total)
        output["loss"] = loss
        return output

    def _terms(self, model: Any, kwargs: dict[str, Any], output: Any) -> dict[str, Tensor]:
        weights, labels = self.weights, kwargs["labels"]
        terms: dict[str, Tensor] = {}
        if weights.ce > 0:
            terms["ce"] = output.loss
        if not weights.needs_teacher:
            return terms
        assert self.teacher is not None and self._decoder_states is not None
        if self.teacher.device != labels.device:
            self.teacher.to(labels.device)
        decoder_input_ids = kwargs.get("decoder_input_ids")
        if decoder_input_ids is None:
            decoder_input_ids = shift_tokens_right(
                labels, model.config.pad_token_id, model.config.decoder_start_token_id
            )
        kept = labels.ne(-100)
        kind, dtype = labels.device.type, self.autocast
        with torch.no_grad(), torch.autocast(kind, dtype, enabled=dtype is not None):
            taught = self._teach(decoder_input_ids)
            teacher_states = taught.last_hidden_state[kept]
            teacher_logits = self.teacher.proj_out(teacher_states) if weights.kl > 0 else None
        if teacher_logits is not None:
            terms["kl"] = kl_divergence(output.logits[kept], teacher_logits, weights.temperature)
        if weights.encoder > 0:
            # Up to the folded silence, positions are the same ones.
            shared = slice(None if self._folded is None else self._folded.start)
            terms["encoder"] = relative_squared_error(
                output.encoder_last_hidden_state[:, shared], taught.encoder_last_hidden_state[:, shared]
            )
        if weights.decoder > 0:
            terms["decoder"] = relative_squared_error(self._decoder_states[kept], teacher_states)
        return terms

    def _teach(self, decoder_input_ids: Tensor) -> Any:
        """The teacher's states for the latest features."""
        teacher, features = self.teacher, self._whole_features
        assert teacher is not None and features is not None
        with in_context(teacher, self.teacher_context, features) as heard:
            return teacher.model(heard, decoder_input_ids=decoder_input_ids, use_cache=False)
