"""The report as one HTML page that needs no other file: figures, plots, and the worst utterances, word under word."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt

from qat_plugin.arms import FLOAT
from qat_plugin.evaluation.alignment import align
from qat_plugin.evaluation.normalizer import Normalizer, get_normalizer
from qat_plugin.evaluation.transcripts import read_transcripts
from qat_plugin.evaluation.wer import count_word_errors

SHOWN = 12
# Long tables that few readers want: folded up.
_FOLDED = re.compile(r"<h2>(Differences|Files)</h2>(.*?)(?=<h2>|\Z)", re.DOTALL)
_IMAGE = re.compile(r'<img src="([^"/]+)\.png"([^>]*)>')


@dataclass(frozen=True)
class Utterance:
    """One utterance as every arm heard it: `heard` is arm → (errors, hypothesis). Texts are normalized."""

    id: str
    reference: str
    heard: dict[str, tuple[int, str]]

    @property
    def texts(self) -> dict[str, str]:
        """Arm → hypothesis."""
        return {arm: text for arm, (_, text) in self.heard.items()}


def render_page(results: Mapping[str, Any], report: str, evaluation_dir: Path) -> str:
    """HTML of `report` (Markdown) with its images inside, and behind it the worst utterances and those where arms part most.

    Reads plots and CORPUS/ARM.jsonl in `evaluation_dir`; needs no model.
    """
    # Names of speakers and corpora come from anywhere: no HTML of theirs is let through.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(report)
    body = _IMAGE.sub(lambda found: _image(evaluation_dir, found[1], found[2]), body)
    body = _FOLDED.sub(r"<details><summary>\1</summary>\2</details>", body)
    arms = list(results["arms"])
    normalize = get_normalizer(results["settings"]["normalizer"])
    heard = {corpus: _heard(evaluation_dir / corpus, arms, normalize) for corpus in results["corpora"]}
    first, last = _compared(arms)
    sections = [
        (
            "Worst utterances",
            f"Those on which {last} errs most, as normalized for the WER.",
            {corpus: worst(utterances, last) for corpus, utterances in heard.items()},
        )
    ]
    if first != last:
        parting = {corpus: part_most(utterances, arms) for corpus, utterances in heard.items()}
        text = f"Utterances on which {last} and {first} differ most in errors: first those that {last} hears worse."
        sections.append(("Where the arms part", text, parting))
    environment = Environment(
        loader=PackageLoader("qat_plugin.evaluation"), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    title = report.splitlines()[0].removeprefix("# ")
    template = environment.get_template("page.html.jinja")
    return template.render(title=title, body=body, sections=sections, align=align)


def worst(utterances: Sequence[Utterance], arm: str, count: int = SHOWN) -> list[Utterance]:
    """The utterances with most errors of an arm; none without any."""
    ranked = sorted(utterances, key=lambda utterance: (-utterance.heard[arm][0], utterance.id))
    return [utterance for utterance in ranked if utterance.heard[arm][0]][:count]


def part_most(utterances: Sequence[Utterance], arms: Sequence[str], count: int = SHOWN) -> list[Utterance]:
    """The utterances on which the last arm errs most beyond the float one, then those where it errs less.

    Without the float arm, beyond the first one.
    """
    first, last = _compared(arms)

    def beyond(utterance: Utterance) -> int:
        return utterance.heard[last][0] - utterance.heard[first][0]

    ranked = sorted(utterances, key=lambda utterance: (-abs(beyond(utterance)), -beyond(utterance), utterance.id))
    return [utterance for utterance in ranked if beyond(utterance)][:count]


def _compared(arms: Sequence[str]) -> tuple[str, str]:
    return (FLOAT if FLOAT in arms else arms[0]), arms[-1]


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


def _image(folder: Path, name: str, rest: str) -> str:
    """A plot in both its variants, of which the reader's colour scheme chooses."""
    light, dark = (_data_uri(folder / f"{name}{suffix}.png") for suffix in ("", "-dark"))
    return f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}"><img src="{light}"{rest}></picture>'


def _data_uri(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
