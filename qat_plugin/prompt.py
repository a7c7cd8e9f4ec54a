"""What a Whisper is told before it writes: language and task, always said, and neither to a model that knows English only; and
how far it may go."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from transformers import GenerationConfig, PreTrainedTokenizerBase

from qat_plugin.data.languages import language_code
from qat_plugin.errors import ModelError


def is_multilingual(generation_config: GenerationConfig) -> bool:
    """Whether the model is told language and task; one that knows English only has no notion of them."""
    return bool(vars(generation_config).get("is_multilingual", True))


def language_and_task(generation_config: GenerationConfig, language: str | None, task: str | None) -> dict[str, str]:
    """The `language` and `task` arguments of `generate`, never left to be guessed from the audio.

    What is None is taken from the generation config. Both are left out for an English-only model, which knows neither.
    `language` may be a name or a code. Raises `ModelError` when the language or the task is unknown, missing, or not
    that of an English-only model.
    """
    # Not `to_dict`, which copies all of it: this is asked for every clip.
    settings = vars(generation_config)
    language = language if language is not None else settings.get("language")
    task = task if task is not None else settings.get("task") or "transcribe"
    code = None
    if language is not None:
        code = language_code(language) or language
    if not is_multilingual(generation_config):
        if code not in (None, "en") or task != "transcribe":
            raise ModelError(
                f"language is {language!r} and task {task!r}: this model only transcribes English; set them to 'english' and "
                "'transcribe', or take a multilingual model"
            )
        return {}
    if "lang_to_id" not in settings or "task_to_id" not in settings:
        raise ModelError(
            "the model's generation_config.json has no lang_to_id and task_to_id, so language and task cannot be set: "
            "copy the file from the Whisper that the model was made from"
        )
    if task not in settings["task_to_id"]:
        raise ModelError(f"task is {task!r}; this model knows {', '.join(sorted(settings['task_to_id']))}")
    known = sorted(token.strip("<|>") for token in settings["lang_to_id"])
    if code is None:
        raise ModelError(
            "no language is given and the model's generation_config.json records none: say which is spoken "
            f"(--language on the command line), one of {', '.join(known)}"
        )
    if code not in known:
        raise ModelError(f"language is {language!r}; this model knows {', '.join(known)}")
    return {"language": code, "task": task}


def up_to_limit(generation_config: GenerationConfig, limit: int) -> GenerationConfig:
    """A copy with which transcripts may go on to `limit` tokens, start tokens included."""
    own = copy.deepcopy(generation_config)
    # Here, because as an argument of generate() a None does not undo a max_new_tokens.
    own.max_new_tokens, own.max_length = None, limit
    return own


@contextmanager
def generating_to_limit(model: Any) -> Iterator[None]:
    """Inside, `model.generate` may go on to the model's `max_target_positions`; the model is saved with what it had."""
    kept = model.generation_config
    model.generation_config = up_to_limit(kept, model.config.max_target_positions)
    try:
        yield
    finally:
        model.generation_config = kept


def set_prefix(tokenizer: PreTrainedTokenizerBase, asked: Mapping[str, str]) -> list[int]:
    """Make the tokenizer begin every text with what `language_and_task` returned, and return these start tokens."""
    # Assigned, because `set_prefix_tokens` takes None for "as before".
    tokenizer.language, tokenizer.task = asked.get("language"), asked.get("task")
    tokenizer.set_prefix_tokens(predict_timestamps=False)
    prefix: list[int] = list(tokenizer.prefix_tokens)
    return prefix
