"""From a row's audio and text to what a Whisper trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import WhisperProcessor
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from qat_plugin.data.audio import SAMPLING_RATE
from qat_plugin.data.languages import language_code
from qat_plugin.data.report import Rejection
from qat_plugin.errors import DataError
from qat_plugin.prompt import set_prefix

TASKS = ("transcribe", "translate")
WINDOW_TOLERANCE_S = 0.05

# Written without blanks; Whisper begins a transcript in any other language with one, as before every word. Labels without it
# would teach mostly to leave it out, because the first token is then one that Whisper never begins with.
_BLANK_FREE = {"zh", "yue", "ja", "th", "lo", "my"}


def set_language(processor: WhisperProcessor, language: str, task: str, *, multilingual: bool = True) -> list[int]:
    """Make the tokenizer begin every transcript with this language and task, and return these start tokens.

    Args:
        language: as Whisper names it, 'french' or 'fr'.
        task: 'transcribe' or 'translate'.
        multilingual: whether the model knows languages; transcripts of one that knows English only begin without either.

    Raises:
        DataError: Whisper does not know the language or task, an English-only model is to write another, or this tokenizer
            has no token for it.
    """
    code = language_code(language)
    if code is None:
        raise DataError(f"language '{language}' is unknown to Whisper. Known: {', '.join(sorted(LANGUAGES.values()))}.")
    if task not in TASKS:
        raise DataError(f"task '{task}' is unknown to Whisper. Use one of {', '.join(TASKS)}.")
    if not multilingual:
        if code != "en" or task != "transcribe":
            raise DataError(
                f"language '{language}' and task '{task}': the model knows English only. Give it English to transcribe, or "
                "take a multilingual model."
            )
        return set_prefix(processor.tokenizer, {})
    ids = set_prefix(processor.tokenizer, {"language": code, "task": task})
    # The ids are computed from their usual distance to the start token: look that they are what they should be.
    prefix = processor.tokenizer.convert_ids_to_tokens(ids)
    if f"<|{code}|>" not in prefix or f"<|{task}|>" not in prefix:
        raise DataError(
            f"the tokenizer begins transcripts with {prefix}, without <|{code}|> and <|{task}|>: it is not that of a "
            "multilingual Whisper. Use the tokenizer saved with the model."
        )
    return ids


def check_length(
    duration: float, text_tokens: int | None, encoder: SampleEncoder, max_label_length: int
) -> Rejection | None:
    """Why a clip is too long to train on: in seconds for the model's window, or in tokens, specials included."""
    if duration > encoder.window:
        return Rejection(
            f"longer than the model's window of {encoder.window:g} s", f"lasts {duration:.2f} s", bad=False
        )
    if text_tokens is not None and text_tokens + encoder.num_special > max_label_length:
        length = text_tokens + encoder.num_special
        return Rejection(f"transcript of more than {max_label_length} tokens", f"has {length}", bad=False)
    return None


class SampleEncoder:
    """Computes features and labels of one sample; picklable, so that data loader workers can hold it.

    Args:
        processor: feature extractor and tokenizer of the model that is trained; its tokenizer's prefix is set.
        language, task, multilingual: see `set_language`; the language is that of samples that do not tell theirs.
        return_attention_mask: add the mask that the model's own SpecAugment needs (`config.apply_spec_augment`).
    """

    def __init__(
        self,
        processor: WhisperProcessor,
        *,
        language: str,
        task: str,
        multilingual: bool = True,
        return_attention_mask: bool = False,
    ) -> None:
        self.processor = processor
        # A code, as rows tell theirs; what is none is refused at once.
        self.language, self.task, self.multilingual = language_code(language) or language, task, multilingual
        self._prefixes = {self.language: self._set_language(self.language)}
        self.return_attention_mask = return_attention_mask
        self.window = processor.feature_extractor.n_samples / SAMPLING_RATE  # seconds that one sample may last
        self.num_special = len(processor.tokenizer("").input_ids)

    def prefix(self, language: str | None) -> list[int]:
        """The start tokens of a transcript in `language` (None: the encoder's own). Raises `DataError` as `set_language`."""
        language = language or self.language
        if language not in self._prefixes:
            try:
                self._prefixes[language] = self._set_language(language)
            finally:
                # The tokenizer is saved with the model, and is to say the model's language.
                self._set_language(self.language)
        return self._prefixes[language]

    def _set_language(self, language: str) -> list[int]:
        return set_language(self.processor, language, self.task, multilingual=self.multilingual)

    def encode(self, audio: NDArray[np.float32], text: str | None, language: str | None = None) -> dict[str, Any]:
        """One sample.

        Args:
            audio: shape (samples,) at 16 kHz, at most `window` seconds; silence is added up to the window.
            text: in its own casing; the label begins with a blank, as Whisper's own transcripts do. None leaves "labels" out.
            language: code of Whisper's; None: the encoder's own.

        Returns:
            "input_features" float32 (mels, frames), "labels" token ids from the start token to the end of text, and
            "attention_mask" int32 (frames,) when asked for.

        Raises:
            DataError: the audio is longer than the window, which would be cut off silently.
        """
        seconds = len(audio) / SAMPLING_RATE
        # Headers of lossy formats announce lengths that decoding misses by some hundredths of a second.
        if seconds > self.window + WINDOW_TOLERANCE_S:
            raise DataError(f"a sample of {seconds:.2f} s is longer than the model's window of {self.window:g} s.")
        features = self.processor.feature_extractor(
            audio,
            sampling_rate=SAMPLING_RATE,
            return_tensors="np",
            return_attention_mask=self.return_attention_mask,
        )
        sample: dict[str, Any] = {"input_features": np.asarray(features["input_features"][0], dtype=np.float32)}
        if self.return_attention_mask:
            sample["attention_mask"] = np.asarray(features["attention_mask"][0], dtype=np.int32)
        if text is not None:
            tokenizer = self.processor.tokenizer
            is_blank_free = self.task == "transcribe" and language_code(language or self.language) in _BLANK_FREE
            spoken = text.strip() if is_blank_free else f" {text.strip()}"
            tokens = tokenizer(spoken, add_special_tokens=False).input_ids
            sample["labels"] = [*self.prefix(language), *tokens, tokenizer.eos_token_id]
        return sample

    def text_tokens(self, texts: Sequence[str | None]) -> list[int | None]:
        """Length of each text in tokens, its blank included but not start, language, task and end; None: no text."""
        spoken = [f" {text.strip()}" for text in texts if text is not None]
        ids = self.processor.tokenizer(spoken).input_ids if spoken else []
        lengths = iter(len(tokens) - self.num_special for tokens in ids)
        return [None if text is None else next(lengths) for text in texts]
