"""Languages as Whisper names them."""

from __future__ import annotations

from transformers.models.whisper.tokenization_whisper import LANGUAGES, TO_LANGUAGE_CODE

# ISO 639 code → Whisper's, where they differ.
_OWN_CODES = {"jv": "jw"}


def language_code(name: str) -> str | None:
    """Whisper's code of a language given as a code or name, with a region or without; None where it knows none.

    >>> language_code("French"), language_code("fr-CA"), language_code("jv"), language_code("tlh")
    ('fr', 'fr', 'jw', None)
    """
    plain = name.strip().lower().removeprefix("<|").removesuffix("|>")
    for candidate in (plain, plain.replace("_", "-").partition("-")[0]):
        candidate = _OWN_CODES.get(candidate, candidate)
        if candidate in LANGUAGES:
            return candidate
        if candidate in TO_LANGUAGE_CODE:
            return str(TO_LANGUAGE_CODE[candidate])
    return None
