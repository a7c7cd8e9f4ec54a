"""The parity gate: is the ONNX file what was trained?

Every check reads the files that will ship. A failed one raises `ParityError`, and nothing is published.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from qat_plugin.encoder_context import encoder_context_of, in_context
from qat_plugin.errors import ParityError
from qat_plugin.export.census import check_operators, check_weights, read_file
from qat_plugin.export.writer import GRAPHS, export_onnx
from qat_plugin.fake_quant import convert
from qat_plugin.fake_quant.checkpoint import QuantizedCheckpoint
from qat_plugin.fake_quant.schemes import get_target
from qat_plugin.memory import release_memory
from qat_plugin.models import load_fake_quant, load_processor, load_whisper
from qat_plugin.prompt import language_and_task, set_prefix
from qat_plugin.runtime import QuantizedWhisper

# Share of clips whose greedy tokens must be the trained model's, or part from them where it was undecided.
_MIN_EQUIVALENT = {"int8": 0.97, "int4": 0.99, None: 0.99}

# One float32 rounding that falls the other way flips an 8-bit rounding of an activation, and that moves logits by some
# tenths. A token that the trained model preferred by less than this many logits is such a coin's other side; a wrong
# operator, scale or order moves them by several.
_UNDECIDED_MARGIN = 1.0

# One of so many clips must be identical whatever the margins: of right exports half or more are, and where hardly any is, the
# undecided ones are no coins.
_CLIPS_PER_IDENTICAL = 4

# Clips on which logits are compared: each takes three passes of the model, and one wrong weight shows on any of them.
_LOGIT_CLIPS = 2

# A runtime sums in another order than torch, so its rounding to float32 is another one of the same size.
_OWN_ROUNDINGS = 3

Audio = NDArray[np.float32]


@dataclass(frozen=True)
class ParityReport:
    """What the gate measured; `parity.json` holds these fields.

    Attributes:
        passed: True; a gate that fails raises instead.
        target: "int8", "int4", or None for a float export.
        layers: layers with packed integers.
        integers_compared: integers read from the files and equal to the checkpoint's, all of them.
        operators: file → operator → count.
        weight_bytes, quantized_bytes: of all initializers; of integers with their scales and zero points.
        quantized_share: quantized_bytes / weight_bytes.
        max_weight_only_logit_difference: largest |Δlogit| between ONNX Runtime and torch with float activations.
        greedy_clips, greedy_identical: clips decoded by both, and those with the same tokens throughout.
        greedy_undecided: other clips, where the tokens part at one that the trained model preferred by less than 1 logit.
    """

    passed: bool
    target: str | None
    layers: int
    integers_compared: int
    operators: dict[str, dict[str, int]]
    weight_bytes: int
    quantized_bytes: int
    quantized_share: float
    max_weight_only_logit_difference: float
    greedy_clips: int
    greedy_identical: int
    greedy_undecided: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def check_parity(
    checkpoint: QuantizedCheckpoint, onnx_dir: Path, *, clips: Sequence[tuple[Audio, str]], task: str
) -> ParityReport:
    """Verify `onnx_dir` against `checkpoint`.

    1. `onnx.checker` on both graphs;
    2. every integer, scale, zero point and float tensor in the files equals the checkpoint's;
    3. as many quantized operators as the checkpoint's schemes ask for;
    4. logits of the weight-only arithmetic on the first clips, with the model's own tokens, against torch in float64;
    5. greedy tokens on all clips, in the arithmetic that ships, against the fake-quantized torch model. In 99 % (int4,
       float) or 97 % (int8) of the clips all must be equal, or part where the trained model was undecided; one clip may
       do otherwise where that would allow none. A quarter of the clips (rounded down) must be equal throughout.

    `clips`: 16 kHz audio of at most the model's window, and its language. Where the checkpoint folds silence, so does the
    reference. Raises `ParityError` naming the layer or the figure.
    """
    if not clips:
        raise ParityError(f"{onnx_dir}: there is no clip to compare on: set `parity_samples` to 1 or more")
    for name in GRAPHS:
        _check_with_onnx(onnx_dir / name)
    files = [read_file(onnx_dir / name) for name in GRAPHS]
    compared = check_weights(files, checkpoint)
    check_operators(files, checkpoint, activations=True)
    operators = {file.name: file.operators for file in files}
    total, quantized = sum(file.weight_bytes for file in files), sum(file.quantized_bytes for file in files)
    del files  # as large as the model
    processor = load_processor(onnx_dir)
    settings = GenerationConfig.from_pretrained(onnx_dir)
    prepared = [_prepare(processor, settings, audio, language, task) for audio, language in clips]
    difference = _compare_logits(checkpoint, prepared[:_LOGIT_CLIPS])
    identical, undecided = _compare_tokens(checkpoint, onnx_dir, prepared)
    return ParityReport(
        passed=True,
        target=checkpoint.target,
        layers=len(checkpoint.quantized),
        integers_compared=compared,
        operators=operators,
        weight_bytes=total,
        quantized_bytes=quantized,
        quantized_share=round(quantized / total, 4),
        max_weight_only_logit_difference=difference,
        greedy_clips=len(clips),
        greedy_identical=identical,
        greedy_undecided=undecided,
    )


def _check_with_onnx(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ParityError(f"{path.name}: onnx.checker refuses it: {error}") from error


def _trained_model(checkpoint: QuantizedCheckpoint) -> WhisperForConditionalGeneration:
    return load_whisper(checkpoint.folder).eval() if checkpoint.target is None else load_fake_quant(checkpoint.folder)


def _vanilla_model(checkpoint: QuantizedCheckpoint) -> WhisperForConditionalGeneration:
    """The model with the quantized weights and float arithmetic."""
    if checkpoint.target is None:
        return load_whisper(checkpoint.folder).eval()
    model = load_fake_quant(checkpoint.folder)
    convert(model)
    return model


@dataclass(frozen=True)
class _Clip:
    """Whole-window features `(1, mels, frames)`, start tokens `(1, n)`, and the arguments of `generate`."""

    features: torch.Tensor
    prompt: torch.Tensor
    asked: dict[str, Any]


def _prepare(processor: WhisperProcessor, settings: GenerationConfig, audio: Audio, language: str, task: str) -> _Clip:
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    features = extractor(audio, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
    asked: dict[str, Any] = dict(language_and_task(settings, language, task))
    prefix = set_prefix(tokenizer, asked)
    # A time, which a model that is asked for none may say all the same, would end the window and begin another one there.
    times = range(tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1, len(tokenizer))
    suppressed = [*(settings.suppress_tokens or []), *times]
    asked = {**asked, "num_beams": 1, "do_sample": False, "suppress_tokens": suppressed}
    return _Clip(features, torch.tensor([prefix]), asked)


@dataclass(frozen=True)
class _Answer:
    """Tokens `(1, n)`, the encoder's states `(1, positions, dim)` and the logits `(1, n, vocabulary)` of one clip."""

    tokens: torch.Tensor
    states: torch.Tensor
    logits: torch.Tensor


def _compare_logits(checkpoint: QuantizedCheckpoint, clips: Sequence[_Clip]) -> float:
    # One model after the other: of a large one, memory has no room for several.
    found = _weight_only_answers(checkpoint, clips)
    tokens = [answer.tokens for answer in found]
    release_memory()
    in_float32 = _torch_answers(checkpoint, clips, tokens, torch.float32)
    release_memory()
    # In float64, so that only ONNX Runtime's own rounding is measured.
    expected = _torch_answers(checkpoint, clips, tokens, torch.float64)
    release_memory()
    least_bound = get_target(checkpoint.target or "int8").max_weight_only_logit_difference
    largest = 0.0
    for number, (ours, own, reference) in enumerate(zip(found, in_float32, expected, strict=True)):
        difference = float((ours.logits - reference.logits).abs().max())
        largest = max(largest, difference)
        # What torch's own rounding to float32 makes of it, some models feel more than others.
        bound = max(least_bound, _OWN_ROUNDINGS * float((own.logits - reference.logits).abs().max()))
        if not difference <= bound:
            raise ParityError(
                f"weight-only logits on clip {number} differ from torch's by {difference:.2e}, more than {bound:.1e}; "
                f"the encoder's states differ by {float((ours.states - reference.states).abs().max()):.2e}"
            )
    return largest


def _weight_only_answers(checkpoint: QuantizedCheckpoint, clips: Sequence[_Clip]) -> list[_Answer]:
    """What the ONNX of the weight-only arithmetic says, with the tokens that it chooses."""
    answers = []
    with tempfile.TemporaryDirectory(dir=checkpoint.folder.parent) as scratch:
        export_onnx(checkpoint, Path(scratch), activations=False)
        check_operators([read_file(Path(scratch) / name) for name in GRAPHS], checkpoint, activations=False)
        model = QuantizedWhisper.from_pretrained(scratch)
        for clip in clips:
            tokens = torch.cat([clip.prompt, model.generate(clip.features, **clip.asked)], dim=1)
            tokens = tokens[:, : model.config.max_target_positions]
            with torch.no_grad():
                logits = model(input_features=clip.features, decoder_input_ids=tokens).logits
                answers.append(_Answer(tokens, model.get_encoder()(clip.features)[0], logits))
    return answers


def _torch_answers(
    checkpoint: QuantizedCheckpoint, clips: Sequence[_Clip], tokens: Sequence[torch.Tensor], dtype: torch.dtype
) -> list[_Answer]:
    """What torch says to the same tokens, all of it computed in `dtype`."""
    model, answers = _vanilla_model(checkpoint), []
    compute_in(model, dtype)
    context = encoder_context_of(model.config)
    for clip, given in zip(clips, tokens, strict=True):
        with torch.no_grad(), in_context(model, context, clip.features) as features:
            output = model(input_features=features.to(dtype), decoder_input_ids=given)
        answers.append(_Answer(given, output.encoder_last_hidden_state, output.logits))
    return answers


def compute_in(model: WhisperForConditionalGeneration, dtype: torch.dtype) -> None:
    """Let the model compute in `dtype`, of whose weights one layer at a time is there: a large one in float64 is 6 GB."""

    own: dict[torch.nn.Module, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}

    def before(layer: torch.nn.Module, _: object) -> None:
        own[layer] = [(parameter, parameter.data) for parameter in layer.parameters()]
        layer.to(dtype)

    def after(layer: torch.nn.Module, _: object, __: object) -> None:
        # What was there before, not a copy: weights that are read from a mapped file would be in memory beside it.
        for parameter, data in own.pop(layer):
            parameter.data = data

    for part in (model.get_encoder(), model.get_decoder()):
        for child in part.children():
            if child is not part.layers:
                child.to(dtype)
        for layer in part.layers:
            layer.register_forward_pre_hook(before)
            layer.register_forward_hook(after)
    model.proj_out.to(dtype)


def _compare_tokens(checkpoint: QuantizedCheckpoint, onnx_dir: Path, clips: Sequence[_Clip]) -> tuple[int, int]:
    """How many clips have identical tokens, and how many part where the trained model was undecided."""
    # One model after the other, as for the logits.
    answers = _shipped_tokens(onnx_dir, clips)
    release_memory()
    reference = _trained_model(checkpoint)
    context = encoder_context_of(reference.config)
    identical, undecided, different = 0, 0, []
    pairs = zip(clips, answers, strict=True)
    for number, (clip, found) in enumerate(tqdm(pairs, desc="comparing tokens", unit="clip", total=len(clips))):
        with torch.no_grad(), in_context(reference, context, clip.features) as features:
            expected = reference.generate(features, **clip.asked)
            if found.tolist() == expected.tolist():
                identical += 1
            elif _margin(reference, features, clip.prompt, expected, found) < _UNDECIDED_MARGIN:
                undecided += 1
            else:
                different.append(number)
    share = _MIN_EQUIVALENT[checkpoint.target]
    allowed = min(max(1, int((1 - share) * len(clips) + 1e-9)), len(clips) - 1)
    if len(different) > allowed:
        raise ParityError(
            f"greedy tokens differ from the trained model's on {len(different)} of {len(clips)} clips ({different}), where "
            f"it was not undecided; {checkpoint.target or 'float'} allows {allowed}"
        )
    required = len(clips) // _CLIPS_PER_IDENTICAL
    if identical < required:
        raise ParityError(
            f"greedy tokens are the trained model's on {identical} of {len(clips)} clips, and {required} must be; it was "
            f"undecided on {undecided}"
        )
    return identical, undecided


def _shipped_tokens(onnx_dir: Path, clips: Sequence[_Clip]) -> list[torch.Tensor]:
    """What the files say, greedy."""
    model = QuantizedWhisper.from_pretrained(onnx_dir)
    # The trained model has no guard, and a loop of both is no difference.
    return [
        model.generate(clip.features, **clip.asked, loop_guard=False)
        for clip in tqdm(clips, desc="transcribing with ONNX Runtime", unit="clip")
    ]


def _margin(
    reference: WhisperForConditionalGeneration,
    features: torch.Tensor,
    prompt: torch.Tensor,
    expected: torch.Tensor,
    found: torch.Tensor,
) -> float:
    """By how many logits the trained model preferred its own token where the two sequences part."""
    # `generate` leaves the end of text out: put back, an early end is a token like any other.
    end = torch.full((1, 1), int(reference.config.eos_token_id))
    expected, found = torch.cat([expected, end], dim=1), torch.cat([found, end], dim=1)
    length = min(expected.shape[1], found.shape[1])
    at = int((expected[0, :length] != found[0, :length]).nonzero()[0])
    tokens = torch.cat([prompt, expected[:, :at]], dim=1)
    logits = reference(input_features=features, decoder_input_ids=tokens).logits[0, -1]
    return float(logits[expected[0, at]] - logits[found[0, at]])
