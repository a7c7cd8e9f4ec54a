"""The two ONNX Runtime sessions of a Whisper folder, and the decoder cache that lives between steps.

Every input and output is a torch tensor whose memory ONNX Runtime reads and writes in place: nothing is copied on the
way in, on the way out, or from one decoder step to the next.
"""

from __future__ import annotations

import math
from pathlib import Path

import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from transformers import WhisperConfig

from qat_plugin.errors import ModelError
from qat_plugin.memory import freed_blocks_returned_at_once

_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def open_session(path: Path, num_threads: int | None, profile: Path | None = None) -> ort.InferenceSession:
    """A CPU session of an ONNX file; `num_threads=None` lets ONNX Runtime take every physical core.

    With `profile`, the beginning of a file's name, ONNX Runtime writes how long every kernel took.

    Raises `ModelError` when ONNX Runtime cannot load the file.
    """
    options = ort.SessionOptions()
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    # ONNX Runtime warns of inputs that have a default value, which these have on purpose.
    options.log_severity_level = 3
    # Encoder and decoder have threads of their own: those of one must not spin on the cores that the other works on.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    try:
        with freed_blocks_returned_at_once():
            return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except _LOAD_ERRORS as error:
        raise ModelError(
            f"{path}: ONNX Runtime {ort.__version__} cannot load it ({str(error).splitlines()[0]}); export the model "
            "again, or copy its .onnx_data file beside it if it has one"
        ) from error


def _share(tensor: torch.Tensor) -> ort.OrtValue:
    """An OrtValue over the memory of a contiguous CPU tensor, which it keeps alive."""
    return ort.OrtValue.ortvalue_from_numpy(tensor.numpy())


def _share_each(stack: torch.Tensor) -> list[ort.OrtValue]:
    """An OrtValue for each entry of the first axis."""
    return [ort.OrtValue.ortvalue_from_numpy(part) for part in stack.numpy()]


class EncoderSession:
    """`encoder_model.onnx`: log-mel frames in, hidden states out."""

    def __init__(self, path: Path, config: WhisperConfig, num_threads: int | None) -> None:
        self._session = open_session(path, num_threads)
        self._num_mel_bins: int = config.num_mel_bins
        self._num_frames: int = 2 * config.max_source_positions

    def run(self, input_features: torch.Tensor, stride: int) -> torch.Tensor:
        """Hidden states, float32 [batch, positions, d_model].

        `stride` is that of the folding of silence, see `EncoderContext`; 1 computes the whole window.
        `input_features` is float32 [batch, mels, frames], a whole window, which has frames / 2 positions unless folded.
        Raises `ModelError` when the features have another number of mel bins or frames than the model.
        """
        _, mels, frames = input_features.shape
        if mels != self._num_mel_bins:
            raise ModelError(
                f"input_features have {mels} mel bins and the model wants {self._num_mel_bins}: "
                "use the feature extractor that is saved beside the model"
            )
        # From the number of states, the decoder tells how silence was folded: of another window it would tell wrongly.
        if frames != self._num_frames:
            raise ModelError(
                f"input_features have {frames} frames and the model wants {self._num_frames}: pad the audio to the whole "
                "window, as the feature extractor that is saved beside the model does"
            )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("input_features", _share(input_features.contiguous()))
        binding.bind_ortvalue_input("silence_stride", _share(torch.tensor([stride])))
        # How many positions are kept is known afterwards, so ONNX Runtime allocates.
        binding.bind_output("last_hidden_state")
        self._session.run_with_iobinding(binding)
        return torch.from_numpy(binding.get_outputs()[0].numpy())


class DecoderCache:
    """Keys and values of one decoding, with the cache methods that transformers' generation calls.

    Attributes:
        self_attention: keys and values of the tokens, float32 [2 * layers, batch, heads, length, head_dim] with each
            layer's key before its value.
        values: the OrtValues over it.
        cross_attention: the same of the audio, 2 * layers tensors, float32 [batch or 1, heads, source length, head_dim];
            written by the first step and bound once. All beams of a single clip share one row.
        binding: the IO binding of this decoding, None before the first step.
    """

    is_compileable = False

    def __init__(self) -> None:
        self.self_attention = torch.empty((0, 0, 0, 0, 0))
        self.cross_attention: list[torch.Tensor] = []
        self.values: list[ort.OrtValue] = []
        self.binding: ort.IOBinding | None = None
        self._busy = self._idle = torch.empty(0)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Number of tokens decoded so far."""
        return self.self_attention.shape[3]

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Let every beam go on from the beam it was chosen from; `beam_idx` is int64 [batch * beams].

        Beams stay within their clip, so the keys and values of the audio are already where they belong.
        """
        if not torch.equal(beam_idx, torch.arange(len(beam_idx))):
            current = self.self_attention
            layers, _, *rest = current.shape
            torch.index_select(current, 1, beam_idx, out=self.allocate(layers, len(beam_idx), *rest))

    def allocate(self, *shape: int) -> torch.Tensor:
        """Make room for new `self_attention`, whose old memory stays untouched until the next call.

        Two buffers take turns, since a step reads one while it writes the other, and they grow by doubling: fresh
        memory at every step would cost more than the copy into it.
        """
        size = math.prod(shape)
        buffer = self._idle if len(self._idle) >= size else torch.empty(2 * size)
        self._busy, self._idle = buffer, self._busy
        self.self_attention = buffer[:size].view(shape)
        self.values = _share_each(self.self_attention)
        return self.self_attention


class DecoderSession:
    """`decoder_model_merged.onnx`: tokens and hidden states of the audio in, logits out."""

    def __init__(self, path: Path, config: WhisperConfig, num_threads: int | None) -> None:
        self._session = open_session(path, num_threads)
        self._vocab_size: int = config.vocab_size
        self._heads: int = config.decoder_attention_heads
        self._head_dim: int = config.d_model // config.decoder_attention_heads
        parts = [f"{layer}.{{}}.{part}" for layer in range(config.decoder_layers) for part in ("key", "value")]
        self._self_names = [part.format("decoder") for part in parts]
        self._cross_names = [part.format("encoder") for part in parts]
        self._true, self._false = _share(torch.tensor([True])), _share(torch.tensor([False]))

    def start(self, input_ids: torch.Tensor, hidden_states: torch.Tensor, cache: DecoderCache | None) -> torch.Tensor:
        """Logits, float32 [batch, tokens, vocabulary], of the first tokens; fills `cache` when there is one.

        `input_ids` is int64 [batch, tokens]. `hidden_states` is float32 [clips, source length, d_model] where the batch
        has as many rows for each clip, in order (the beams): what they share is computed and kept once.
        """
        rows_per_clip = len(input_ids) // len(hidden_states)
        if rows_per_clip > 1:
            first_rows = input_ids[::rows_per_clip]
            if not torch.equal(first_rows.repeat_interleave(rows_per_clip, 0), input_ids):
                hidden_states = hidden_states.repeat_interleave(rows_per_clip, 0)
                return self.start(input_ids, hidden_states, cache)
            logits = self.start(first_rows, hidden_states, cache)
            if cache is not None:
                self._repeat(cache, rows_per_clip)
            return logits.repeat_interleave(rows_per_clip, 0)

        binding = self._session.io_binding()
        binding.bind_ortvalue_input("encoder_hidden_states", _share(hidden_states))
        binding.bind_ortvalue_input("use_cache_branch", self._false)
        nothing = _share(torch.empty((len(input_ids), self._heads, 0, self._head_dim)))
        for name in self._self_names + self._cross_names:
            binding.bind_ortvalue_input(f"past_key_values.{name}", nothing)
        if cache is None:
            return self._run(binding, input_ids)
        shape = (len(input_ids), self._heads, hidden_states.shape[1], self._head_dim)
        # One by one: malloc keeps blocks of this size for the next clip, and would map one of them all anew, page by page.
        cache.cross_attention = [torch.empty(shape) for _ in self._cross_names]
        values = [_share(part) for part in cache.cross_attention]
        for name, value in zip(self._cross_names, values, strict=True):
            binding.bind_ortvalue_output(f"present.{name}", value)
        logits = self._run(binding, input_ids, cache)

        # From here on the audio is bound once and for all.
        cache.binding = self._session.io_binding()
        cache.binding.bind_ortvalue_input("encoder_hidden_states", _share(hidden_states))
        cache.binding.bind_ortvalue_input("use_cache_branch", self._true)
        self._bind_audio(cache.binding, values)
        return logits

    def step(self, input_ids: torch.Tensor, cache: DecoderCache) -> torch.Tensor:
        """Logits, float32 [batch, tokens, vocabulary], of the tokens that follow those in `cache`; extends it."""
        assert cache.binding is not None
        for name, value in zip(self._self_names, cache.values, strict=True):
            cache.binding.bind_ortvalue_input(f"past_key_values.{name}", value)
        return self._run(cache.binding, input_ids, cache)

    def _bind_audio(self, binding: ort.IOBinding, values: list[ort.OrtValue]) -> None:
        for name, value in zip(self._cross_names, values, strict=True):
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)

    def _repeat(self, cache: DecoderCache, times: int) -> None:
        """Make `times` beams of every row."""
        assert cache.binding is not None
        cache.reorder_cache(torch.arange(cache.self_attention.shape[1]).repeat_interleave(times))
        if len(cache.cross_attention[0]) > 1:  # a single row broadcasts over the beams by itself
            cache.cross_attention = [part.repeat_interleave(times, 0) for part in cache.cross_attention]
            self._bind_audio(cache.binding, [_share(part) for part in cache.cross_attention])

    def _run(self, binding: ort.IOBinding, input_ids: torch.Tensor, cache: DecoderCache | None = None) -> torch.Tensor:
        batch, tokens = input_ids.shape
        logits = torch.empty((batch, tokens, self._vocab_size))
        binding.bind_ortvalue_input("input_ids", _share(input_ids.contiguous()))
        binding.bind_ortvalue_output("logits", _share(logits))
        if cache is not None:
            length = cache.get_seq_length() + tokens
            cache.allocate(len(self._self_names), batch, self._heads, length, self._head_dim)
            for name, value in zip(self._self_names, cache.values, strict=True):
                binding.bind_ortvalue_output(f"present.{name}", value)
        self._session.run_with_iobinding(binding)
        return logits
