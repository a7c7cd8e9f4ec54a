"""A verified ONNX folder and its card as one local folder: what a Hub repo would hold, for those without a Hub."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qat_plugin.errors import PublishError
from qat_plugin.files import sha256_of
from qat_plugin.publishing.files import (
    PlannedFile,
    card_as_published,
    checked_files,
    describe_files,
    is_publication,
    planned,
    read_document,
    split_remaining,
)
from qat_plugin.publishing.space import render_page


@dataclass(frozen=True)
class FolderReport:
    """What publishing to a folder does (`dry_run`) or did."""

    target: Path
    files: tuple[PlannedFile, ...]
    remaining: tuple[str, ...]
    removed: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.target}:", *describe_files(self.files, self.remaining, self.removed)])


def publish_to_folder(
    folder: str | Path,
    card_folder: str | Path,
    target: str | Path,
    *,
    dry_run: bool = False,
    page: bool = False,
    publishing: Mapping[str, Any] = MappingProxyType({}),
    allow_unverified: bool = False,
    allow_unmeasured: bool = False,
) -> FolderReport:
    """Write the files that `push` would send to the folder `target`, which may hold an earlier publication.

    With `page`, index.html is beside them: served by any web server (`python -m http.server`), it runs the model.
    Arguments and refusals are those of `push`. Raises `PublishError` besides when `target` holds something else.
    """
    folder, target = Path(folder), Path(target)
    allowed = {"allow_unverified": allow_unverified, "allow_unmeasured": allow_unmeasured}
    with (
        card_as_published(folder, Path(card_folder), publishing, **allowed) as card,
        tempfile.TemporaryDirectory() as rendered,
    ):
        files = checked_files(folder, card)
        if page:
            path = Path(rendered) / "index.html"
            path.write_text(render_page(read_document(card), None), encoding="utf8")
            files.append(planned(path.name, path))
        return _publish(folder, files, target, dry_run)


def _publish(folder: Path, files: list[PlannedFile], target: Path, dry_run: bool) -> FolderReport:
    if target.resolve() == folder.resolve():
        raise PublishError(f"{target} is the exported folder itself: name another one")
    present = [path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()]
    changes = tuple(_changes(file, target) for file in files)
    # An interrupted call left files as they are to be, and one that was not whole yet.
    ours = {file.name for file in changes if file.change == "unchanged"} | {_partial(file.name) for file in changes}
    if target.is_file() or not (is_publication(present) or ours.issuperset(present)):
        raise PublishError(f"{target} holds something else than a published model: name a new folder or empty it")
    report = FolderReport(target, changes, *split_remaining(present, files))
    print(report)
    if dry_run:
        print("dry run: nothing was written")
        return report
    for file in report.files:
        if file.change != "unchanged":
            path = target / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Under another name first, so that an interrupted copy never passes for the file.
            partial = target / _partial(file.name)
            shutil.copyfile(file.path, partial)
            partial.replace(path)
    for name in report.removed:
        (target / name).unlink()
    return report


def _partial(name: str) -> str:
    """What a file is called until it is whole."""
    return Path(name).with_name(f".{Path(name).name}.partial").as_posix()


def _changes(file: PlannedFile, target: Path) -> PlannedFile:
    path = target / file.name
    if not path.is_file():
        return dataclasses.replace(file, change="new")
    same = path.stat().st_size == file.size and sha256_of(path) == file.sha256
    return dataclasses.replace(file, change="unchanged" if same else "changed")
