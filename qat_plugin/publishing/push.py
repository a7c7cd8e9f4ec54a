"""A verified ONNX folder and its card on the Hub, in one commit.

On the Hub the ONNX folder lies at the root, as Optimum and transformers.js look for it: `encoder_model.onnx`,
`decoder_model_merged.onnx`, `config.json`, …, and the card as `README.md`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its stubs do not say so

from qat_plugin.errors import PublishError
from qat_plugin.files import sha256_of
from qat_plugin.publishing.card import ARM, card_metadata, render_card
from qat_plugin.publishing.document import read_object, read_parity

Change = Literal["new", "changed", "unchanged", "unknown"]

# What the clients of huggingface_hub 0.x (requests) and from 1.0 on (httpx) raise when a request fails: the base of
# HfHubHTTPError is the HTTP library's own error. Failed uploads arrive as RuntimeError or ValueError.
_REQUEST_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], OSError)
_UPLOAD_ERRORS: tuple[type[Exception], ...] = (*_REQUEST_ERRORS, RuntimeError, ValueError)


@dataclass(frozen=True)
class PlannedFile:
    """One file of the commit: its path in the repo, bytes, sha256, and what the commit does to it."""

    name: str
    path: Path
    size: int
    sha256: str
    change: Change


@dataclass(frozen=True)
class PushReport:
    """What a push does (`dry_run`) or did. `commit_url` is None where nothing was sent."""

    repo_id: str
    revision: str
    creates_repo: bool
    creates_branch: bool
    private: bool
    files: tuple[PlannedFile, ...]
    remaining: tuple[str, ...]
    remote_state: str
    commit_url: str | None = None

    def __str__(self) -> str:
        visibility = "private" if self.private else "public"
        lines = [f"{self.repo_id} ({visibility}), revision {self.revision}: {self.remote_state}"]
        for file in self.files:
            lines.append(f"  {file.change:9}  {file.size:>13,}  {file.sha256}  {file.name}")
        changed = [file for file in self.files if file.change != "unchanged"]
        total = sum(file.size for file in changed)
        lines.append(f"  {len(changed)} of {len(self.files)} files to send, {total:,} bytes")
        if self.remaining:
            lines.append(f"  already there and left alone: {', '.join(self.remaining)}")
        return "\n".join(lines)


def push(
    folder: str | Path,
    card_folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> PushReport:
    """Create the Hub repo `repo_id` if need be and commit an ONNX folder with its card.

    `folder` is the exported qat folder, `card_folder` holds what `write_card` wrote. `revision` names the branch, which
    is created where it is missing (default: main). `token` defaults to HF_TOKEN or to that of `hf auth login`. The
    server is HF_ENDPOINT, or the Hub. Prints the repo, the files with sizes and sha256, and what changes; `dry_run`
    sends nothing and needs no token.

    Raises `PublishError` when the repo id is not `user/name`, the folder has no parity.json or one that failed, the
    files are not those that were measured, the card shows other figures, there is no token, the repo is public
    although `private` is asked, or the Hub refuses.
    """
    folder, card = Path(folder), Path(card_folder) / "README.md"
    _check_repo_id(repo_id)
    read_parity(folder)
    document = _read_document(Path(card_folder) / "results.json")
    local = _local_files(folder, card)
    _check_measured(folder, document, local)
    _check_card(card, document)
    token = _find_token(token, required=not dry_run)
    api = HfApi(token=token)
    branch = revision or "main"
    report = _plan(api, repo_id, branch, private, local, offline_is_fatal=not dry_run)
    print(report)
    if dry_run:
        print("dry run: nothing was created or sent")
        return report
    return _send(api, report)


def _send(api: HfApi, report: PushReport) -> PushReport:
    operations = [CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path) for file in report.files]
    try:
        if report.creates_repo:
            api.create_repo(report.repo_id, private=report.private)
        if report.creates_branch:
            api.create_branch(report.repo_id, branch=report.revision)
        commit = api.create_commit(
            report.repo_id, operations, commit_message="Upload quantized ONNX and model card", revision=report.revision
        )
    except _UPLOAD_ERRORS as error:
        raise PublishError(
            f"{report.repo_id}: the Hub did not take the upload ({_one_line(error)}); check that the token may write "
            "there and run push again: files that arrived are not sent twice"
        ) from error
    print(f"pushed: {commit.commit_url}")
    return PushReport(**{**vars(report), "commit_url": str(commit.commit_url)})


# --- what is checked before anything is asked of the Hub


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"repo id is {repo_id!r}: {error}") from error
    if "/" not in repo_id:
        raise PublishError(f"repo id is {repo_id!r}, without an owner: write it as 'user/{repo_id}'")


def _check_measured(folder: Path, document: Mapping[str, Any], local: list[PlannedFile]) -> None:
    measured = document["arms"][ARM]["files"]
    present = {file.name: file.sha256 for file in local if file.name != "README.md"}
    for name, entry in measured.items():
        if not _is_sent(name):
            continue
        if name not in present:
            raise PublishError(f"{folder / name} is missing, but the results were measured with it: export again")
        if present[name] != entry["sha256"]:
            raise PublishError(
                f"{folder / name} has sha256 {present[name]}, the results were measured on {entry['sha256']}: "
                "run `qat-plugin evaluate` on these files, then `qat-plugin card`"
            )
    for name in present:
        if name.endswith((".onnx", ".onnx_data")) and name not in measured:
            raise PublishError(f"{folder / name} is not among the measured files: remove it or evaluate again")


def _check_card(card: Path, document: Mapping[str, Any]) -> None:
    """Prose may be edited by hand; the tables and the model-index are those of the results."""
    tables = [line for line in render_card(document).splitlines() if line.startswith("|")]
    model_index = card_metadata(document).to_yaml().partition("model-index:")[2].splitlines()
    present = set(card.read_text(encoding="utf8").splitlines())
    missing = [line for line in [*model_index, *tables] if line and line not in present]
    if missing:
        raise PublishError(
            f"{card} does not show the results beside it; {len(missing)} lines are missing, the first is "
            f"{missing[0].strip()!r}: run `qat-plugin card` again"
        )


def _find_token(token: str | None, required: bool) -> str | None:
    token = (token or get_token() or "").strip()
    if required and not token:
        raise PublishError("no Hub token: set HF_TOKEN, or run `hf auth login` once")
    # A token with a line break would end up in the HTTP library's error message.
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise PublishError("the Hub token holds white space or control characters: set HF_TOKEN again")
    return token or None


def _local_files(folder: Path, card: Path) -> list[PlannedFile]:
    if not card.is_file():
        raise PublishError(f"{card} is missing: run `qat-plugin card` first")
    paths = {"README.md": card}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and _is_sent(name):
            paths[name] = path
    return [PlannedFile(name, path, path.stat().st_size, sha256_of(path), "unknown") for name, path in paths.items()]


def _is_sent(name: str) -> bool:
    # The card is the README.md; hidden files are leftovers of tools.
    return name != "README.md" and not any(part.startswith(".") for part in name.split("/"))


# --- what the Hub has


def _plan(
    api: HfApi, repo_id: str, branch: str, private: bool, local: list[PlannedFile], *, offline_is_fatal: bool
) -> PushReport:
    try:
        is_private, remote = _remote_files(api, repo_id, branch)
    except _REQUEST_ERRORS as error:
        if offline_is_fatal:
            raise PublishError(f"{repo_id}: the Hub does not answer as it should ({_one_line(error)})") from error
        state = f"the Hub could not be asked ({_one_line(error)})"
        return PushReport(repo_id, branch, False, False, private, tuple(local), (), state)
    if private and is_private is False:
        raise PublishError(
            f"{repo_id} exists and is public, but `private` is set: make it private in its settings, "
            "or push to another repo id"
        )
    creates_repo, creates_branch = is_private is None, remote is None and branch != "main"
    state = "repo will be created" if creates_repo else "branch will be created" if creates_branch else "exists"
    present = remote or {}
    files = tuple(
        PlannedFile(file.name, file.path, file.size, file.sha256, _change(file, present.get(file.name)))
        for file in local
    )
    names = {file.name for file in files}
    remaining = tuple(sorted(name for name in present if name not in names and name != ".gitattributes"))
    shown_private = private if is_private is None else is_private
    return PushReport(repo_id, branch, creates_repo, creates_branch, shown_private, files, remaining, state)


def _remote_files(api: HfApi, repo_id: str, branch: str) -> tuple[bool | None, dict[str, RepoFile] | None]:
    """Whether the repo is private (None: no repo), and its files on `branch` (None: no such branch)."""
    try:
        is_private = bool(api.repo_info(repo_id).private)
    except RepositoryNotFoundError:
        return None, None
    try:
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=branch))
    except RevisionNotFoundError:
        return is_private, None
    return is_private, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


def _change(file: PlannedFile, remote: RepoFile | None) -> Change:
    if remote is None:
        return "new"
    if remote.lfs is not None:
        same = remote.lfs.sha256 == file.sha256
    else:
        same = remote.size == file.size and remote.blob_id == _git_sha1(file.path)
    return "unchanged" if same else "changed"


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _read_document(path: Path) -> dict[str, Any]:
    document = read_object(path, "qat-plugin card")
    if ARM not in document.get("arms", {}) or "definitions" not in document:
        raise PublishError(f"{path} is not what `qat-plugin card` writes, or holds no arm {ARM!r}: run it again")
    return document
