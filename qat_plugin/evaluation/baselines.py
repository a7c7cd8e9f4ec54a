"""What a table does not compare like with like, said in words: for reports and cards alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qat_plugin.arms import FINE_TUNED, FLOAT, FLOAT_FOLDED, TRAINED
from qat_plugin.evaluation.formatting import Results


def baseline_notes(results: Results, names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Sentences on what else than quantization lies between the float model and the others; `names`: what arms are called.

    Silence that is folded changes words by itself, and transcripts teach a float model, too.
    """
    arms, recipe, notes = results["arms"], results["recipe"], []
    called = {arm: names.get(arm, arm) for arm in (FLOAT, FLOAT_FOLDED, FINE_TUNED, TRAINED)}
    if FLOAT in arms and len(arms) > 1 and recipe.get("encoder_context") == "auto":
        shown = (
            f"{called[FLOAT_FOLDED]} is the one to see quantization by"
            if FLOAT_FOLDED in arms
            else f"how much of the differences is quantization was not measured (the arm {FLOAT_FOLDED})"
        )
        notes.append(
            f"{called[FLOAT]} computes Whisper's whole window of 30 s, as everybody does; the others fold the silence behind a "
            f"clip (encoder_context: auto), which changes speed and words by itself: {shown}."
        )
    if TRAINED in arms and FINE_TUNED not in arms and recipe.get("ce_weight"):
        notes.append(
            f"{called[TRAINED]} was taught by transcripts, and the float model was not fine-tuned on them for comparison: what "
            f"fine-tuning gains is part of the differences, and was not measured (the arm {FINE_TUNED})."
        )
    return notes
