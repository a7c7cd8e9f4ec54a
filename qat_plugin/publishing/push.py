"""A verified ONNX folder and its card on the Hub, in one commit.

On the Hub the ONNX folder lies at the root, where Optimum looks for it: `encoder_model.onnx`,
`decoder_model_merged.onnx`, `config.json`, …, and the card as `README.md`. transformers.js finds it there when it is told
to (`subfolder: ""`), so that one copy of the graphs serves everyone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its stubs do not say so

from qat_plugin.errors import PublishError
from qat_plugin.publishing.files import Change, PlannedFile, checked_files, describe_files, split_remaining

Result = TypeVar("Result")

# What the clients of huggingface_hub 0.x (requests) and from 1.0 on (httpx) raise when a request fails: the base of
# HfHubHTTPError is the HTTP library's own error. Failed uploads arrive as RuntimeError or ValueError.
_REQUEST_ERRORS: tuple[type[Exception], ...] = (HfHubHTTPError.__bases__[0], OSError)
_UPLOAD_ERRORS: tuple[type[Exception], ...] = (*_REQUEST_ERRORS, RuntimeError, ValueError)

# Requests that fail on the way, or with one of these statuses, may succeed a little later.
_PASSING_STATUSES = (408, 429, 500, 502, 503, 504)
_WAITS = (1.0, 4.0, 16.0)
"""Seconds before the second, third and fourth attempt."""


@dataclass(frozen=True)
class PushReport:
    """What a push does (`dry_run`) or did. The addresses are None where nothing was sent, or no pull request opened."""

    repo_id: str
    revision: str
    creates_repo: bool
    creates_branch: bool
    private: bool
    files: tuple[PlannedFile, ...]
    remaining: tuple[str, ...]
    remote_state: str
    removed: tuple[str, ...] = ()
    commit_url: str | None = None
    pull_request_url: str | None = None

    def __str__(self) -> str:
        visibility = "private" if self.private else "public"
        head = f"{self.repo_id} ({visibility}), revision {self.revision}: {self.remote_state}"
        return "\n".join([head, *describe_files(self.files, self.remaining, self.removed)])


def push(
    folder: str | Path,
    card_folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> PushReport:
    """Create the Hub repo `repo_id` if need be and commit an ONNX folder with its card.

    `folder` is the exported qat folder, `card_folder` holds what `write_card` wrote. `revision` names the branch, which
    is created where it is missing (default: main). `create_pr` opens a pull request on it instead, for repos of others.
    `token` defaults to HF_TOKEN or to that of `hf auth login`. The server is HF_ENDPOINT, or the Hub. Prints the repo, the
    files with sizes and sha256, and what changes; `dry_run` sends nothing and needs no token. Requests that fail for
    reasons that may pass are tried again; only the changed files are sent, and nothing where none changed.

    Raises `PublishError` when the repo id is not `user/name`, the folder has no parity.json or one that failed, the
    files are not those that were measured, the card shows other figures, there is no token, the repo is public
    although `private` is asked, a pull request has no branch to go to, or the Hub refuses.
    """
    _check_repo_id(repo_id)
    files = checked_files(Path(folder), Path(card_folder))
    token = _find_token(token, required=not dry_run)
    api = HfApi(token=token)
    report = _plan(api, repo_id, revision or "main", private, files, offline_is_fatal=not dry_run)
    if create_pr and (report.creates_repo or report.creates_branch):
        missing = f"revision {report.revision}" if report.creates_branch else "repo"
        raise PublishError(f"{repo_id}: there is no such {missing} for a pull request: push without `create_pr`")
    print(report)
    if dry_run:
        print("dry run: nothing was created or sent")
        return report
    return _send(api, report, create_pr)


def _send(api: HfApi, report: PushReport, create_pr: bool) -> PushReport:
    repo_id, revision = report.repo_id, report.revision
    additions = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=file.path)
        for file in report.files
        if file.change != "unchanged"
    ]
    deletions = [CommitOperationDelete(path_in_repo=name) for name in report.removed]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [*additions, *deletions]
    if not operations:
        print("nothing changed: nothing was sent")
        return report
    message = "Upload quantized ONNX and model card"
    try:
        if report.creates_repo:
            _persist(lambda: api.create_repo(repo_id, private=report.private, exist_ok=True))
        if report.creates_branch:
            _persist(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
        _persist(
            lambda: api.preupload_lfs_files(
                repo_id, additions, revision=revision, create_pr=create_pr, free_memory=False
            )
        )
        if create_pr:
            # Once: were only the answer lost, a second attempt would open a second one.
            commit = api.create_commit(repo_id, operations, commit_message=message, revision=revision, create_pr=True)
        else:
            commit = _persist(lambda: api.create_commit(repo_id, operations, commit_message=message, revision=revision))
    except _UPLOAD_ERRORS as error:
        raise PublishError(
            f"{repo_id}: the Hub did not take the upload ({_one_line(error)}); check that the token may write "
            "there and run push again: files that arrived are not sent twice"
        ) from error
    print(f"pushed: {commit.pr_url or commit.commit_url}")
    return dataclasses.replace(report, commit_url=str(commit.commit_url), pull_request_url=commit.pr_url)


def _persist(request: Callable[[], Result]) -> Result:
    """What `request` returns, tried again while it fails for reasons that may pass."""
    for wait in _WAITS:
        try:
            return request()
        except _UPLOAD_ERRORS as error:
            if not _may_pass(error):
                raise
            print(f"{_one_line(error)}: trying again in {wait:.0f} s")
            time.sleep(wait)
    return request()


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # a failed upload and its reason
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return error.response is not None and error.response.status_code in _PASSING_STATUSES
    # A file that cannot be read is an OSError, too, but with a name.
    return isinstance(error, _REQUEST_ERRORS) and getattr(error, "filename", None) is None


def _check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"repo id is {repo_id!r}: {error}") from error
    if "/" not in repo_id:
        raise PublishError(f"repo id is {repo_id!r}, without an owner: write it as 'user/{repo_id}'")


def _find_token(token: str | None, required: bool) -> str | None:
    token = (token or get_token() or "").strip()
    if required and not token:
        raise PublishError("no Hub token: set HF_TOKEN, or run `hf auth login` once")
    # A token with a line break would end up in the HTTP library's error message.
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise PublishError("the Hub token holds white space or control characters: set HF_TOKEN again")
    return token or None


# --- what the Hub has


def _plan(
    api: HfApi, repo_id: str, branch: str, private: bool, local: list[PlannedFile], *, offline_is_fatal: bool
) -> PushReport:
    try:
        # A dry run says at once that the Hub cannot be asked.
        ask = _persist if offline_is_fatal else (lambda request: request())
        is_private, remote = ask(lambda: _remote_files(api, repo_id, branch))
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
    files = tuple(dataclasses.replace(file, change=_change(file, present.get(file.name))) for file in local)
    remaining, removed = split_remaining(present, files)
    shown_private = private if is_private is None else is_private
    return PushReport(repo_id, branch, creates_repo, creates_branch, shown_private, files, remaining, state, removed)


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
