"""`QuantizedWhisper`: transformers' own Whisper generation on top of ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from threading import RLock
from types import SimpleNamespace
from typing import Any, Literal, NoReturn

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList, WhisperConfig
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

from qat_plugin.encoder_context import FRAMES_PER_POSITION, EncoderContext, encoder_context_of
from qat_plugin.errors import ModelError
from qat_plugin.memory import return_freed_memory
from qat_plugin.runtime.files import ModelFiles, find_model_files
from qat_plugin.runtime.greedy import is_plain_greedy, search_greedily
from qat_plugin.runtime.logits import LoopGuard, end_of_text, without_waste
from qat_plugin.runtime.sessions import DecoderCache, DecoderSession, EncoderSession
from qat_plugin.runtime.threads import one_torch_thread

# What needs attention weights or hidden states, which the graphs do not give, or a cache that can be cropped.
_UNSUPPORTED = {
    "return_token_timestamps": "word timestamps need attention weights; use return_timestamps=True for segments",
    "output_attentions": "the graphs give no attention weights",
    "output_hidden_states": "the graphs give no hidden states",
    "assistant_model": "assisted decoding is not possible on these graphs",
    "past_key_values": "a cache belongs to a single call",
    "cache": "a cache belongs to a single call",
    "cache_implementation": "the cache is ONNX Runtime's",
}


# What generation calls the cache in its result: up to transformers 5.23, and since.
_CACHES = ("past_key_values", "cache")


class _Encoder(torch.nn.Module):
    """The encoder as transformers' generation expects it.

    Attributes:
        folds: whether silence is folded; the next call obeys.
        has_folded: whether the last answer had silence folded; of audio that fills the window there is none.
    """

    main_input_name = "input_features"
    # Generation reads from the strides that one position is two frames.
    conv1, conv2 = SimpleNamespace(stride=(1,)), SimpleNamespace(stride=(2,))

    def __init__(self, session: EncoderSession, stride: int) -> None:
        super().__init__()
        self._session, self._stride = session, stride
        self._last: tuple[torch.Tensor, bool, BaseModelOutput] | None = None
        self._remembers = False
        self.folds, self.has_folded = stride > 1, False

    def forward(self, input_features: torch.Tensor, **_unused: Any) -> BaseModelOutput:
        # Within one generate(), language detection, silence detection and every fallback temperature ask for the same
        # audio again. Comparing the features costs a ten-thousandth of encoding them.
        if self._last is not None and self._last[1] == self.folds and torch.equal(self._last[0], input_features):
            return self._last[2]
        output = BaseModelOutput(self._session.run(input_features, self._stride if self.folds else 1))
        self.has_folded = output[0].shape[1] < input_features.shape[-1] // FRAMES_PER_POSITION
        if self._remembers:
            self._last = (input_features, self.folds, output)
        return output

    def remember(self, remembers: bool) -> None:
        """Keep the last result from now on, or forget it: a later call is never answered by an earlier one."""
        self._remembers, self._last, self.has_folded = remembers, None, False


class _Model(torch.nn.Module):
    """Where transformers' generation looks for the encoder."""

    def __init__(self, encoder: _Encoder) -> None:
        super().__init__()
        self.encoder = encoder


class QuantizedWhisper(WhisperGenerationMixin, PreTrainedModel):
    """A Whisper exported by `qat-plugin export`, float or quantized, run by ONNX Runtime on the CPU.

    `generate` is transformers' own: language, task, beams, timestamps, prompts, temperature fallback, and the
    sequential algorithm for features longer than the model's window (with their attention_mask). Of its loops over tokens
    the greedy one is replaced by a faster one of the same result. It can be the model of
    `pipeline("automatic-speech-recognition", model=..., tokenizer=..., feature_extractor=...)`.

    Attributes:
        files: where the graphs and the settings were found.
        num_threads: threads of each session; None is every physical core.
        encoder_context: how silence behind a clip is folded; None: the whole window is computed.
    """

    config_class = WhisperConfig
    main_input_name = "input_features"
    base_model_prefix = "model"
    files: ModelFiles
    num_threads: int | None
    encoder_context: EncoderContext | None
    model: _Model

    def __init__(
        self,
        config: WhisperConfig,
        files: ModelFiles,
        num_threads: int | None = None,
        encoder_context: EncoderContext | None = None,
    ) -> None:
        if num_threads is not None and num_threads < 1:
            raise ModelError(f"num_threads is {num_threads}: it must be at least 1, or None for every physical core")
        super().__init__(config)
        self.files = files
        self.num_threads = num_threads
        self.encoder_context = encoder_context
        stride = 1 if encoder_context is None else encoder_context.stride
        self.model = _Model(_Encoder(EncoderSession(files.encoder, config, num_threads), stride))
        self._decoder = DecoderSession(files.decoder, config, num_threads)
        return_freed_memory()
        self._guards_loops, self._hears_again = True, False  # only within `generate`, which sets them
        self._generating = RLock()
        self.generation_config = GenerationConfig.from_pretrained(files.settings)
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        folder_or_hub_id: str | Path,
        *,
        num_threads: int | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        encoder_context: Literal["auto", "full"] | None = None,
    ) -> QuantizedWhisper:
        """Open the model of a local folder or a Hub id.

        `encoder_context`: "auto" folds the silence behind a clip, so that short clips take a fraction of the time; "full"
        computes the whole window; None is what the model was trained for.

        Raises `ModelError` when a file is missing or broken, or the model is not a Whisper.
        """
        files = find_model_files(folder_or_hub_id, revision=revision, subfolder=subfolder)
        config = WhisperConfig.from_pretrained(files.settings)
        trained = encoder_context_of(config)
        asked = {"auto": trained or EncoderContext(), "full": None, None: trained}
        if encoder_context not in asked:
            raise ModelError(f"encoder_context is {encoder_context!r}: choose 'auto', 'full' or None")
        return cls(config, files, num_threads, asked[encoder_context])

    def save_pretrained(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Refused with `ModelError`: the ONNX files are the model, and copying their folder saves it."""
        raise ModelError(f"a QuantizedWhisper is saved by copying its folder, {self.files.settings}")

    @property
    def device(self) -> torch.device:
        """Always the CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """float32: what features must be and logits are, whatever the weights are stored in."""
        return torch.float32

    def get_encoder(self, modality: str | None = None) -> torch.nn.Module:
        """The encoder: features, float32 [batch, mels, frames], to BaseModelOutput."""
        return self.model.encoder

    @torch.no_grad()
    def generate(self, input_features: torch.Tensor | None = None, *, loop_guard: bool = True, **kwargs: Any) -> Any:
        """Transcribe features, float32 [batch, mels, frames]: `WhisperForConditionalGeneration.generate`.

        With `loop_guard` a row that falls into a loop ends there (see `LoopGuard`), and where silence was folded it is decoded
        again with the whole window, unless one call's result is asked for (`return_dict_in_generate`,
        `force_unique_generate_call`); False lets it go on to the length limit, as transformers does. The other arguments are
        transformers'.

        Audio beyond the window is heard with `return_timestamps`, unless that is said to be False. Calls from several threads wait for each other: one has all cores already.

        Returns token ids, int64 [batch, tokens], or what the arguments ask for. Raises `ModelError` for the few
        arguments that the graphs cannot serve.
        """
        for name, reason in _UNSUPPORTED.items():
            if kwargs.get(name):
                raise ModelError(f"generate() was given {name}={kwargs[name]!r}: {reason}")
        if input_features is not None:
            input_features = input_features.to("cpu", torch.float32)
            if input_features.shape[-1] > FRAMES_PER_POSITION * self.config.max_source_positions:
                # Longer audio is heard window by window, which times lead through; transformers stops and asks for them.
                kwargs.setdefault("return_timestamps", True)
        if kwargs.get("attention_mask") is not None:
            kwargs["attention_mask"] = kwargs["attention_mask"].cpu()
        # Transformers cannot put the results of several calls together.
        settings = kwargs.get("generation_config") or self.generation_config
        one_call = kwargs.get("force_unique_generate_call") or kwargs.get(
            "return_dict_in_generate", settings.return_dict_in_generate
        )
        with self._generating:
            self.model.encoder.remember(True)
            self._guards_loops, self._hears_again = loop_guard, loop_guard and not one_call
            try:
                with one_torch_thread():
                    return super().generate(input_features, **kwargs)
            finally:
                self.model.encoder.remember(False)

    def forward(
        self,
        input_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: DecoderCache | None = None,
        use_cache: bool | None = None,
        return_dict: bool = True,
    ) -> Seq2SeqLMOutput:
        """Logits, float32 [batch, tokens, vocabulary], of `decoder_input_ids`, int64 [batch, tokens].

        The audio is `input_features`, float32 [clips, mels, frames], or `encoder_outputs`; the batch has the same
        number of rows for every clip. `past_key_values` is extended in place. `attention_mask` changes nothing, as in
        transformers: Whisper hears its whole window.
        Raises `ModelError` when `decoder_attention_mask` hides a token: the graphs have no such mask.
        """
        if decoder_attention_mask is not None and not decoder_attention_mask.all():
            raise ModelError(
                "decoder_attention_mask hides tokens, which the exported graphs cannot do; prompts of different length "
                "(condition_on_prev_tokens with several clips) need one clip at a time"
            )
        assert decoder_input_ids is not None
        if past_key_values is not None and past_key_values.binding is not None:
            logits = self._decoder.step(decoder_input_ids, past_key_values)
        else:
            if encoder_outputs is None:
                encoder_outputs = self.model.encoder(input_features)
            logits = self._decoder.start(decoder_input_ids, encoder_outputs[0], past_key_values)
        return Seq2SeqLMOutput(logits=logits, past_key_values=past_key_values)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: DecoderCache | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        **kwargs: Any,  # under this name generation also accepts what `forward` takes
    ) -> dict[str, Any]:
        """Arguments of `forward` for the tokens that are not in the cache yet."""
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        return {
            "decoder_input_ids": input_ids[:, past:],
            "decoder_attention_mask": decoder_attention_mask,
            "encoder_outputs": encoder_outputs,
            "past_key_values": past_key_values,
        }

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_args: Any, **_kwargs: Any
    ) -> None:
        if generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = DecoderCache()

    def _sample(
        self,
        input_ids: torch.Tensor,
        logits_processor: LogitsProcessorList,
        stopping_criteria: StoppingCriteriaList,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        # Transformers' loop of greedy search and of sampling, for which everything is prepared here.
        if streamer is not None or not is_plain_greedy(generation_config, stopping_criteria, model_kwargs):
            arguments = (input_ids, logits_processor, stopping_criteria, generation_config, synced_gpus, streamer)
            return super()._sample(*arguments, **model_kwargs)
        limit, end = stopping_criteria
        return search_greedily(
            self._decoder,
            input_ids,
            model_kwargs["encoder_outputs"][0],
            logits_processor,
            max_length=limit.max_length,
            eos_token_ids=end.eos_token_id.tolist(),
            pad_token_id=int(generation_config._pad_token_tensor),
        )

    def _retrieve_logit_processors(
        self, generation_config: GenerationConfig, logits_processor: Any, begin_index: int, *args: Any, **kwargs: Any
    ) -> Any:
        found = super()._retrieve_logit_processors(generation_config, logits_processor, begin_index, *args, **kwargs)
        processors = list(found or [])
        if self._guards_loops and generation_config.eos_token_id is not None:
            # Last, so that nothing takes the end token away again.
            processors.append(LoopGuard(end_of_text(generation_config), begin_index))
        return processors or None

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        # All there are: transformers 4 adds suppression here, too.
        processors = super()._get_logits_processor(*args, **kwargs)
        return LogitsProcessorList(without_waste(processor, self.config.vocab_size) for processor in processors)

    def generate_with_fallback(
        self, *, segment_input: torch.Tensor, temperatures: list[float | None], **kwargs: Any
    ) -> Any:
        """Transformers' loop over temperatures, of which the first has another try, with the whole window, where silence is
        folded: folding now and then makes a loop that the whole window does not."""
        encoder = self.model.encoder
        if self._hears_again and encoder.folds:
            # Audio that fills the window has no silence to fold, and would loop again. It is remembered, not encoded twice.
            encoder(segment_input)
        hears_again = self._hears_again and encoder.has_folded
        tries = [temperatures[0], *temperatures] if hears_again else temperatures
        folds = encoder.folds
        try:
            return super().generate_with_fallback(segment_input=segment_input, temperatures=tries, **kwargs)
        finally:
            encoder.folds = folds

    def _need_fallback(self, seek_sequence: torch.Tensor, *args: Any) -> tuple[bool, bool]:
        needs_fallback, should_skip = super()._need_fallback(seek_sequence, *args)
        _, _, _, generation_config, *_ = args
        encoder = self.model.encoder
        # Heard again with the whole window or, if temperatures are to end loops, at the next one: cut short, a loop no longer
        # has the compression ratio that would tell it.
        folded = self._hears_again and encoder.has_folded
        ends_loops = folded or generation_config.compression_ratio_threshold is not None
        if self._guards_loops and ends_loops and not should_skip:
            needs_fallback = needs_fallback or LoopGuard.has_cut(seek_sequence.tolist(), end_of_text(generation_config))
        if needs_fallback and self._hears_again:
            encoder.folds = False  # from the next try on, for the rows that take part in it
        return needs_fallback, should_skip

    def _expand_inputs_for_generation(
        self, *args: Any, encoder_outputs: BaseModelOutput | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        # The decoder shares the audio between the beams of a clip, so it stays one row a clip.
        kwargs["is_encoder_decoder"] = False
        input_ids, model_kwargs = super()._expand_inputs_for_generation(*args, **kwargs)
        return input_ids, {**model_kwargs, "encoder_outputs": encoder_outputs}

    def _postprocess_outputs(self, seek_outputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Outputs are split by clip; the cache is over and done with, and is not part of the result.
        if not isinstance(seek_outputs, torch.Tensor):
            seek_outputs = type(seek_outputs)(**{k: v for k, v in seek_outputs.items() if k not in _CACHES})
        return super()._postprocess_outputs(seek_outputs, *args, **kwargs)
