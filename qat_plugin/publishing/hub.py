"""A repo on the Hub: what is there, what would change, and one commit that changes it."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo, RepoFile, SpaceInfo
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # its stubs do not say so

from qat_plugin.errors import PublishError
from qat_plugin.publishing.files import Change, PlannedFile, describe_files, split_remaining

RepoType = Literal["model", "space"]
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
    """What a push does (`dry_run`) or did. The addresses are None where nothing was sent, or no pull request opened.

    `private` is None where the settings of a new repo's owner decide, or the Hub could not be asked.
    """

    repo_id: str
    repo_type: RepoType
    revision: str
    creates_repo: bool
    creates_branch: bool
    private: bool | None
    files: tuple[PlannedFile, ...]
    remaining: tuple[str, ...]
    remote_state: str
    removed: tuple[str, ...] = ()
    commit_url: str | None = None
    pull_request_url: str | None = None

    def __str__(self) -> str:
        visibility = {True: "private", False: "public", None: "public or private as its owner's settings say"}[
            self.private
        ]
        name = f"spaces/{self.repo_id}" if self.repo_type == "space" else self.repo_id
        head = f"{name} ({visibility}), revision {self.revision}: {self.remote_state}"
        return "\n".join([head, *describe_files(self.files, self.remaining, self.removed)])


def send(api: HfApi, report: PushReport, message: str, *, create_pr: bool = False) -> PushReport:
    """Do what `report` plans, in one commit: on its revision, or `create_pr`, in a pull request on it.

    Raises `PublishError` when the Hub refuses.
    """
    repo_id, repo_type, revision = report.repo_id, report.repo_type, report.revision
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
    try:
        if report.creates_repo:
            sdk = "static" if repo_type == "space" else None
            _persist(
                lambda: api.create_repo(
                    repo_id, repo_type=repo_type, space_sdk=sdk, private=report.private, exist_ok=True
                )
            )
        if report.creates_branch:
            _persist(lambda: api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True))
        _persist(
            lambda: api.preupload_lfs_files(
                repo_id, additions, repo_type=repo_type, revision=revision, create_pr=create_pr, free_memory=False
            )
        )

        attempts = 0

        def commit() -> CommitInfo | None:
            nonlocal attempts
            attempts += 1
            # Of an earlier attempt only the answer may have been lost.
            if attempts > 1 and _has_arrived(api, report):
                return None
            return api.create_commit(
                repo_id, operations, repo_type=repo_type, revision=revision, commit_message=message, create_pr=create_pr
            )

        # A pull request once: were only the answer lost, a second attempt would open a second one.
        sent = commit() if create_pr else _persist(commit)
        if sent is None:
            head = _persist(lambda: api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha)
            folder = "" if repo_type == "model" else f"{repo_type}s/"
            commit_url, pr_url = f"{api.endpoint}/{folder}{repo_id}/commit/{head}", None
        else:
            commit_url, pr_url = str(sent.commit_url), sent.pr_url
    except _UPLOAD_ERRORS as error:
        raise PublishError(
            f"{repo_id}: the Hub did not take the upload ({_one_line(error)}); check that the token may write "
            "there and run push again: files that arrived are not sent twice"
        ) from error
    print(f"pushed: {pr_url or commit_url}")
    return dataclasses.replace(report, commit_url=commit_url, pull_request_url=pr_url)


def _has_arrived(api: HfApi, report: PushReport) -> bool:
    """Whether the branch holds by now what `report` plans to send."""
    _, remote = _remote_files(api, report.repo_id, report.repo_type, report.revision)
    present = remote or {}
    arrived = all(_change(file, present.get(file.name)) == "unchanged" for file in report.files)
    return arrived and not any(name in present for name in report.removed)


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


def check_repo_id(repo_id: str) -> None:
    """Raises `PublishError` when `repo_id` is not `user/name`."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"repo id is {repo_id!r}: {error}") from error
    if "/" not in repo_id:
        raise PublishError(f"repo id is {repo_id!r}, without an owner: write it as 'user/{repo_id}'")


def find_token(token: str | None, required: bool) -> str | None:
    """`token`, HF_TOKEN or that of `hf auth login`. Raises `PublishError` when there is none though it is required."""
    token = (token or get_token() or "").strip()
    if required and not token:
        raise PublishError("no Hub token: set HF_TOKEN, or run `hf auth login` once")
    # A token with a line break would end up in the HTTP library's error message.
    if token and not re.fullmatch(r"[\x21-\x7e]+", token):
        raise PublishError("the Hub token holds white space or control characters: set HF_TOKEN again")
    return token or None


# --- what the Hub has


def plan(
    api: HfApi,
    repo_id: str,
    branch: str,
    private: bool | None,
    local: list[PlannedFile],
    *,
    offline_is_fatal: bool,
    repo_type: RepoType = "model",
) -> PushReport:
    """What sending `local` to a branch would do. Without `offline_is_fatal`, a Hub that does not answer is reported.

    Raises `PublishError` when it does not answer and must, the repo is public although `private` is asked, or it is a Space with
    an application or another page.
    """
    try:
        # A dry run says at once that the Hub cannot be asked.
        ask = _persist if offline_is_fatal else (lambda request: request())
        info, remote = ask(lambda: _remote_files(api, repo_id, repo_type, branch))
    except _REQUEST_ERRORS as error:
        if offline_is_fatal:
            raise PublishError(f"{repo_id}: the Hub does not answer as it should ({_one_line(error)})") from error
        state = f"the Hub could not be asked ({_one_line(error)})"
        return PushReport(repo_id, repo_type, branch, False, False, private, tuple(local), (), state)
    if private and info is not None and not info.private:
        raise PublishError(
            f"{repo_id} exists and is public, but `private` is set: make it private in its settings, "
            "or push to another repo id"
        )
    if isinstance(info, SpaceInfo) and info.sdk != "static":
        raise PublishError(
            f"spaces/{repo_id} exists and its sdk is {info.sdk!r}: a page would take the place of its application; rename "
            "that Space in its settings, or push the model to another repo id"
        )
    creates_repo, creates_branch = info is None, remote is None and branch != "main"
    state = "repo will be created" if creates_repo else "branch will be created" if creates_branch else "exists"
    present = remote or {}
    files = tuple(dataclasses.replace(file, change=_change(file, present.get(file.name))) for file in local)
    if isinstance(info, SpaceInfo) and _is_foreign(info) and any(file.change == "changed" for file in files):
        raise PublishError(
            f"spaces/{repo_id} exists and holds another page than one of this model, which would be overwritten: rename that "
            "Space in its settings, or push the model to another repo id"
        )
    remaining, removed = split_remaining(present, files)
    shown_private = private if info is None else bool(info.private)
    return PushReport(
        repo_id, repo_type, branch, creates_repo, creates_branch, shown_private, files, remaining, state, removed
    )


def _is_foreign(space: SpaceInfo) -> bool:
    """Whether a Space's card does not name the model of the same id, as that of an earlier push does."""
    card = space.card_data
    return space.id not in ((card.get("models") or ()) if card is not None else ())


def _remote_files(
    api: HfApi, repo_id: str, repo_type: RepoType, branch: str
) -> tuple[ModelInfo | SpaceInfo | None, dict[str, RepoFile] | None]:
    """What the Hub tells of the repo (None: no repo), and its files on `branch` (None: no such branch)."""
    try:
        info: Any = api.repo_info(repo_id, repo_type=repo_type)
    except RepositoryNotFoundError:
        return None, None
    try:
        entries = list(api.list_repo_tree(repo_id, recursive=True, revision=branch, repo_type=repo_type))
    except RevisionNotFoundError:
        return info, None
    return info, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


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
