"""What results may tell the public: one place for cards, pushes and committed benchmarks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def public_results(results: Mapping[str, Any]) -> dict[str, Any]:
    """results.json (see `qat_plugin.evaluation.results`) without what is nobody's business but the evaluator's.

    Speakers are named nowhere. Utterances are named of corpora of the Hub alone, whose rows everyone can look up: the lists
    "..._ids" of all others are left out, and of the pooled ones the ids that lie in them. Local paths of corpora become null.
    """
    public = {name for name, corpus in results["corpora"].items() if _is_public(corpus.get("source"))}
    measurements = {
        arm: {corpus: _without_names(measured, corpus in public) for corpus, measured in by_corpus.items()}
        for arm, by_corpus in results["measurements"].items()
    }
    pooled = {arm: _without_names(measured, True) for arm, measured in results["pooled"].items()}
    for measured in pooled.values():
        for name in [name for name in measured if name.endswith("_ids")]:
            measured[name] = [place for place in measured[name] if place.startswith(tuple(f"{c}/" for c in public))]
    corpora = {
        name: {**corpus, **({"source": _without_path(corpus["source"])} if corpus.get("source") else {})}
        for name, corpus in results["corpora"].items()
    }
    told = {**results, "measurements": measurements, "pooled": pooled, "corpora": corpora}
    training = results.get("training")
    if training is None:
        return told
    trained = {name: _without_path(source) for name, source in training["corpora"].items()}
    return {**told, "training": {**training, "corpora": trained}}


def hub_id(name: str | None) -> str | None:
    """`name` if it is a Hub id; None for a local folder, which may look like one."""
    if name is None or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name) or Path(name).exists():
        return None
    return name


def _is_public(source: Mapping[str, Any] | None) -> bool:
    return source is not None and source["source"] == "hub" and hub_id(source.get("path")) is not None


def _without_path(source: Mapping[str, Any]) -> dict[str, Any]:
    return dict(source) if _is_public(source) else {name: None if name == "path" else source[name] for name in source}


def _without_names(measured: Mapping[str, Any], ids: bool) -> dict[str, Any]:
    return {
        figure: value
        for figure, value in measured.items()
        if figure != "worst_speakers" and (ids or not figure.endswith("_ids"))
    }
