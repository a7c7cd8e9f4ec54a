"""What is published: the files of an export and of its card, once they are known to belong together."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qat_plugin.errors import PublishError
from qat_plugin.files import COMPANIONS, DESCRIPTION_FILE, PARITY_FILE, sha256_of
from qat_plugin.publishing.card import ARM, card_metadata, render_card
from qat_plugin.publishing.document import presented, read_object, read_parity, write_document
from qat_plugin.publishing.eval_results import EVAL_RESULTS_FILE, render_eval_results

Change = Literal["new", "changed", "unchanged", "unknown"]


@dataclass(frozen=True)
class PlannedFile:
    """One file to publish: its path in the repo, where it lies, bytes, sha256, and what publishing does to it."""

    name: str
    path: Path
    size: int
    sha256: str
    change: Change = "unknown"


def describe_files(files: Iterable[PlannedFile], remaining: Iterable[str], removed: Iterable[str]) -> list[str]:
    """Lines of a report: every file with what happens to it, what is to be written, and what else is there."""
    files, remaining = list(files), list(remaining)
    lines = [f"  {file.change:9}  {file.size:>13,}  {file.sha256}  {file.name}" for file in files]
    lines += [f"  removed    {name}" for name in removed]
    changed = [file for file in files if file.change != "unchanged"]
    lines.append(f"  {len(changed)} of {len(files)} files to send, {sum(file.size for file in changed):,} bytes")
    if remaining:
        lines.append(f"  already there and left alone: {', '.join(remaining)}")
    return lines


def split_remaining(present: Iterable[str], files: Iterable[PlannedFile]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Of the names `present` where `files` go: those that stay beside them, and those that must go.

    Evaluation results of an earlier publication must: they would be shown as those of the new files.
    """
    others = sorted(set(present) - {file.name for file in files} - {".gitattributes"})
    removed = tuple(name for name in others if name == EVAL_RESULTS_FILE)
    return tuple(name for name in others if name not in removed), removed


def is_publication(present: Iterable[str]) -> bool:
    """Whether files of these names are what an earlier publication left, and may be written over."""
    return {"README.md", DESCRIPTION_FILE} <= set(present)


def checked_files(folder: Path, card_folder: Path) -> list[PlannedFile]:
    """The files of an exported folder and of its card, under the names that they have in a repo.

    Raises `PublishError` when the files are not those that were measured and the card does not say so, or the card or its
    evaluation results show other figures than the results beside them.
    """
    document = read_document(card_folder)
    _check_card(card_folder, document)
    files = _collect(folder, card_folder)
    _check_measured(folder, document, files)
    return files


@contextlib.contextmanager
def card_as_published(
    folder: Path, card_folder: Path, publishing: Mapping[str, Any], *, allow_unverified: bool, allow_unmeasured: bool
) -> Iterator[Path]:
    """A folder with the card as `publishing` presents it (see `presented`) and with the parity of the ONNX `folder`:
    `card_folder` where it is that already, else one that is gone afterwards. With `allow_unmeasured`, the card names the
    files that are not those that were measured.

    Raises `PublishError` when the gate did not pass and `allow_unverified` is not set, or the card would have to be rendered
    again, but was edited by hand.
    """
    parity = read_parity(folder, allow_unverified=allow_unverified)
    document = read_document(card_folder)
    wanted = {**presented(document, publishing), "parity": parity}
    wanted.pop("not_measured", None)
    if allow_unmeasured and (others := _not_measured(folder, document)):
        wanted["not_measured"] = others
    if wanted == document:
        yield card_folder
        return
    _check_card(card_folder, document)
    card = card_folder / "README.md"
    if card.read_text(encoding="utf8") != render_card(document):
        before, now = (
            {**d["recipe"], "hub_model_id": d["repo_id"], **{name: d.get(name) for name in ("parity", "not_measured")}}
            for d in (document, wanted)
        )
        other = [f"{name} {before.get(name)!r}, not {now[name]!r}" for name in now if before.get(name) != now[name]]
        raise PublishError(
            f"{card} was edited by hand and says {'; '.join(other)}: run `qat-plugin card` with the values of now, then "
            "edit it again"
        )
    with tempfile.TemporaryDirectory() as rendered:
        write_document(wanted, Path(rendered))
        yield Path(rendered)


def read_document(card_folder: Path) -> dict[str, Any]:
    """What the card was rendered from. Raises `PublishError` when `card_folder` is not what `write_card` wrote."""
    path = card_folder / "results.json"
    document = read_object(path, "qat-plugin card")
    if ARM not in document.get("arms", {}) or "training" not in document:
        raise PublishError(f"{path} is not what `qat-plugin card` writes, or holds no arm {ARM!r}: run it again")
    return document


def planned(name: str, path: Path) -> PlannedFile:
    """A file with its size and digest."""
    return PlannedFile(name, path, path.stat().st_size, sha256_of(path))


def _collect(folder: Path, card_folder: Path) -> list[PlannedFile]:
    paths = {"README.md": card_folder / "README.md"}
    if (card_folder / EVAL_RESULTS_FILE).is_file():
        paths[EVAL_RESULTS_FILE] = card_folder / EVAL_RESULTS_FILE
    left = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if _is_sent(name):
            paths[name] = path
        else:
            left.append(name)
    if left:
        print(f"no part of the model, so not published: {', '.join(left)}")
    return [planned(name, path) for name, path in paths.items()]


def _is_sent(name: str) -> bool:
    # Whoever tries a model out may leave recordings and notes beside it.
    return _is_graph(name) or name in (*COMPANIONS, DESCRIPTION_FILE, PARITY_FILE)


def _not_measured(folder: Path, document: Mapping[str, Any]) -> list[str]:
    """Names of the files that are missing, others than those of the results, or graphs that these do not have."""
    measured = document["arms"][ARM]["files"]
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    other = [
        name
        for name, entry in measured.items()
        if _is_sent(name) and (name not in names or sha256_of(folder / name) != entry["sha256"])
    ]
    return other + [name for name in names if _is_graph(name) and name not in measured]


def _is_graph(name: str) -> bool:
    # Those in folders are copies that someone made: an export has none.
    return "/" not in name and name.endswith((".onnx", ".onnx_data"))


def _check_measured(folder: Path, document: Mapping[str, Any], files: list[PlannedFile]) -> None:
    told = document.get("not_measured", ())
    measured = document["arms"][ARM]["files"]
    present = {file.name: file.sha256 for file in files}
    for name, entry in measured.items():
        if not _is_sent(name) or name in told:
            continue
        if name not in present:
            raise PublishError(f"{folder / name} is missing, but the results were measured with it: export again")
        if present[name] != entry["sha256"]:
            raise PublishError(
                f"{folder / name} has sha256 {present[name]}, the results were measured on {entry['sha256']}: "
                "run `qat-plugin evaluate` on these files, then `qat-plugin card`"
            )
    for name in present:
        if _is_graph(name) and name not in measured and name not in told:
            raise PublishError(f"{folder / name} is not among the measured files: remove it or evaluate again")


def _check_card(card_folder: Path, document: Mapping[str, Any]) -> None:
    """Prose may be edited by hand; the tables, the model-index and the evaluation results are those of the results."""
    card, eval_results = card_folder / "README.md", card_folder / EVAL_RESULTS_FILE
    if not card.is_file():
        raise PublishError(f"{card} is missing: run `qat-plugin card` first")
    tables = [line for line in render_card(document).splitlines() if line.startswith("|")]
    model_index = card_metadata(document).to_yaml().partition("model-index:")[2].splitlines()
    present = set(card.read_text(encoding="utf8").splitlines())
    missing = [line for line in [*model_index, *tables] if line and line not in present]
    if missing:
        raise PublishError(
            f"{card} does not show the results beside it; {len(missing)} lines are missing, the first is "
            f"{missing[0].strip()!r}: run `qat-plugin card` again"
        )
    if render_eval_results(document) != (eval_results.read_text(encoding="utf8") if eval_results.is_file() else None):
        raise PublishError(f"{eval_results} is not what results.json renders to: run `qat-plugin card` again")
