"""The report as one HTML page that needs no other file: figures, plots, and the utterances on which arms part, word by word."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import jiwer
from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from qat_plugin.arms import FLOAT
from qat_plugin.evaluation.normalizer import Normalizer, get_normalizer
from qat_plugin.evaluation.transcripts import read_transcripts
from qat_plugin.evaluation.wer import count_word_errors

SHOWN = 12
# Long tables that few readers want: folded up.
_FOLDED = re.compile(r"<h2>(Differences|Files)</h2>(.*?)(?=<h2>|\Z)", re.DOTALL)
_IMAGE = re.compile(r'<img src="([^"/]+\.png)"')


@dataclass(frozen=True)
class Utterance:
    """One utterance as every arm heard it: `heard` is arm → (errors, hypothesis). Texts are normalized."""

    id: str
    reference: str
    heard: dict[str, tuple[int, str]]


def render_page(results: Mapping[str, Any], report: str, evaluation_dir: Path) -> str:
    """HTML of `report` (Markdown) with its images inside, and behind it the utterances where arms part most.

    Reads plots and CORPUS/ARM.jsonl in `evaluation_dir`; needs no model.
    """
    # Names of speakers and corpora come from anywhere: no HTML of theirs is let through.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(report)
    body = _IMAGE.sub(lambda found: f'<img src="{_data_uri(evaluation_dir / found[1])}"', body)
    body = _FOLDED.sub(r"<details><summary>\1</summary>\2</details>", body)
    arms = list(results["arms"])
    normalize = get_normalizer(results["settings"]["normalizer"])
    corpora = {
        corpus: part_most(_heard(evaluation_dir / corpus, arms, normalize), arms) for corpus in results["corpora"]
    }
    environment = Environment(
        loader=PackageLoader("qat_plugin.evaluation"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    title = report.splitlines()[0].removeprefix("# ")
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, body=body, corpora=corpora, arms=arms, mark=mark_errors)


def part_most(utterances: Sequence[Utterance], arms: Sequence[str], count: int = SHOWN) -> list[Utterance]:
    """The utterances on which the last arm errs most beyond the float one, then those where it errs less."""
    first, last = (FLOAT if FLOAT in arms else arms[0]), arms[-1]

    def beyond(utterance: Utterance) -> int:
        return utterance.heard[last][0] - utterance.heard[first][0]

    ranked = sorted(utterances, key=lambda utterance: (-abs(beyond(utterance)), -beyond(utterance), utterance.id))
    return [utterance for utterance in ranked if beyond(utterance)][:count]


def mark_errors(reference: str, hypothesis: str) -> str:
    """HTML of a hypothesis against its reference, both normalized: wrong words, and in their place missing ones, marked.

    >>> mark_errors("le chat dort", "le rat dort bien")
    'le <del>chat</del> <ins>rat</ins> dort <ins>bien</ins>'
    """
    output = jiwer.process_words(reference, hypothesis)
    expected, said = reference.split(), hypothesis.split()
    pieces = []
    for chunk in output.alignments[0]:
        missing = expected[chunk.ref_start_idx : chunk.ref_end_idx]
        heard = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            pieces.append(escape(" ".join(heard)))
            continue
        pieces += [
            f"<{tag}>{escape(' '.join(words))}</{tag}>" for tag, words in (("del", missing), ("ins", heard)) if words
        ]
    return " ".join(pieces)


def _heard(folder: Path, arms: Sequence[str], normalize: Normalizer) -> list[Utterance]:
    columns = {arm: {t.id: t for t in read_transcripts(folder / f"{arm}.jsonl")[1]} for arm in arms}
    utterances = []
    for key, transcript in columns[arms[0]].items():
        reference = normalize(transcript.reference)
        heard = {}
        for arm in arms:
            hypothesis = normalize(columns[arm][key].hypothesis)
            heard[arm] = count_word_errors(reference, hypothesis).errors, hypothesis
        utterances.append(Utterance(key, reference, heard))
    return utterances


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
