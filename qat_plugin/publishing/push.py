"""A verified ONNX folder and its card on the Hub, in one commit.

On the Hub the ONNX folder lies at the root, where Optimum looks for it: `encoder_model.onnx`,
`decoder_model_merged.onnx`, `config.json`, …, and the card as `README.md`. transformers.js finds it there when it is told
to (`subfolder: ""`), so that one copy of the graphs serves everyone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from huggingface_hub import HfApi

from qat_plugin.errors import PublishError
from qat_plugin.publishing.files import card_as_published, checked_files, is_publication, planned, read_document
from qat_plugin.publishing.hub import PushReport, check_repo_id, find_token, plan, send
from qat_plugin.publishing.space import render_page, render_space_card


def push(
    folder: str | Path,
    card_folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    dry_run: bool = False,
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
    publishing: Mapping[str, Any] = MappingProxyType({}),
    allow_unverified: bool = False,
    allow_unmeasured: bool = False,
) -> PushReport:
    """Create the Hub repo `repo_id` if need be and commit an ONNX folder with its card.

    `folder` is the exported qat folder, `card_folder` holds what `write_card` wrote. `revision` names the branch, which
    is created where it is missing (default: main). `create_pr` opens a pull request on it instead, for repos of others.
    `private` says who sees a repo that is created; None leaves that to the settings of its owner.
    `token` defaults to HF_TOKEN or to that of `hf auth login`. The server is HF_ENDPOINT, or the Hub. Prints the repo, the
    files with sizes and sha256, and what changes; `dry_run` sends nothing and needs no token. Requests that fail for
    reasons that may pass are tried again; only the changed files are sent, and nothing where none changed. The card
    that is sent names `repo_id`, and presents the model as `publishing` says, see `document.presented`. With
    `allow_unverified`, files that did not pass the parity gate are taken, with `allow_unmeasured` others than those that were
    measured; the card says so.

    Raises `PublishError` when the repo id is not `user/name`, the folder has no parity.json or one that failed, the
    files are not those that were measured, the card shows other figures or was edited by hand for another repo, there is no
    token, the repo is public although `private` is asked, files of something else would be overwritten, a pull request has
    no branch to go to, or the Hub refuses.
    """
    check_repo_id(repo_id)
    presentation = {**publishing, "hub_model_id": repo_id}
    allowed = {"allow_unverified": allow_unverified, "allow_unmeasured": allow_unmeasured}
    with card_as_published(Path(folder), Path(card_folder), presentation, **allowed) as card:
        files = checked_files(Path(folder), card)
        token = find_token(token, required=not dry_run)
        api = HfApi(token=token)
        report = plan(api, repo_id, revision or "main", private, files, offline_is_fatal=not dry_run)
        if create_pr and (report.creates_repo or report.creates_branch):
            missing = f"revision {report.revision}" if report.creates_branch else "repo"
            raise PublishError(f"{repo_id}: there is no such {missing} for a pull request: push without `create_pr`")
        print(report)
        if not create_pr:
            _check_overwritten(report)
        if dry_run:
            print("dry run: nothing was created or sent")
            return report
        return send(api, report, "Upload quantized ONNX and model card", create_pr=create_pr)


def _check_overwritten(report: PushReport) -> None:
    """Only an earlier publication is written over: not a float model, nor a card that someone wrote."""
    changed = [*(file.name for file in report.files if file.change == "changed"), *report.removed]
    present = [file.name for file in report.files if file.change in ("changed", "unchanged")]
    if changed and not is_publication(present):
        raise PublishError(
            f"{report.repo_id} at {report.revision} holds something else than a published model, of which "
            f"{', '.join(changed)} would be overwritten or deleted: push to another repo id or branch (hub_revision), propose it with "
            "create_pr, or delete these files there"
        )


def push_space(
    folder: str | Path,
    card_folder: str | Path,
    repo_id: str,
    *,
    dry_run: bool = False,
    revision: str | None = None,
    token: str | None = None,
    publishing: Mapping[str, Any] = MappingProxyType({}),
    allow_unverified: bool = False,
    allow_unmeasured: bool = False,
) -> PushReport:
    """Make or renew the static Space `repo_id`, whose page runs the model `repo_id` in its visitors' browsers.

    `revision` is the model's, which `push` has sent there; the Space has the branch main alone. The other arguments are
    those of `push`, and so are the errors; raises `PublishError` besides when the model is not there, or private: the
    visitors' browsers could not load it.
    """
    check_repo_id(repo_id)
    presentation = {**publishing, "hub_model_id": repo_id}
    allowed = {"allow_unverified": allow_unverified, "allow_unmeasured": allow_unmeasured}
    with card_as_published(Path(folder), Path(card_folder), presentation, **allowed) as card:
        document = read_document(card)
    token = find_token(token, required=not dry_run)
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        page, readme = Path(folder) / "index.html", Path(folder) / "README.md"
        page.write_text(render_page(document, repo_id, revision), encoding="utf8")
        readme.write_text(render_space_card(document, repo_id), encoding="utf8")
        files = [planned(path.name, path) for path in (readme, page)]
        if not dry_run:
            model = plan(api, repo_id, revision or "main", False, [], offline_is_fatal=True)
            if model.creates_repo or model.creates_branch or model.private:
                state, mend = ("private", "make it public") if model.private else ("not there", "push it first")
                raise PublishError(f"{repo_id} at {model.revision} is {state}: a Space needs a public model, {mend}")
        report = plan(api, repo_id, "main", False, files, offline_is_fatal=not dry_run, repo_type="space")
        print(report)
        if dry_run:
            print("dry run: nothing was created or sent")
            return report
        return send(api, report, f"Page that runs {repo_id}")
