"""What a table does not compare like with like, said in words: for reports and cards alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from qat_plugin.arms import FINE_TUNED, FLOAT, FLOAT_FOLDED, TRAINED
from qat_plugin.evaluation.formatting import Results


def baseline_notes(results: Results, names: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """Sentences on what else than quantization lies between the float model and the others; `names`: what arms are called.

    Silence that is folded changes words by itself, and what teaches a quantized model would teach a float one, too.
    """
    arms, recipe, notes = results["arms"], results["recipe"], []
    if len(arms) == 1:
        return []
    called = {arm: names.get(arm, arm) for arm in (FLOAT, FLOAT_FOLDED, TRAINED)}
    if FLOAT in arms and recipe.get("encoder_context") == "auto":
        shown = (
            f"compare with {called[FLOAT_FOLDED]} to see what quantization alone does"
            if FLOAT_FOLDED in arms
            else f"how much of the differences is due to quantization was not measured (the arm {FLOAT_FOLDED})"
        )
        notes.append(
            f"{called[FLOAT]} computes the whole window of 30 s, as Whisper is usually run; the others fold the silence behind a "
            f"clip (encoder_context: auto), which changes speed and words by itself: {shown}."
        )
    teacher = recipe.get("teacher_model_name_or_path")
    taught_by = "transcripts" if recipe.get("ce_weight") else "another model" if teacher else None
    if TRAINED in arms and FINE_TUNED not in arms and taught_by:
        notes.append(
            f"{called[TRAINED]} was taught by {taught_by}, and the float model was not trained so for comparison: what such "
            f"training gains by itself is part of the differences, and was not measured (the arm {FINE_TUNED})."
        )
    return notes
