"""The last steps of a run: card → push. They need none of the models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from qat_plugin.arms import TRAINED
from qat_plugin.errors import RecipeError, WorkspaceError
from qat_plugin.recipe import Recipe
from qat_plugin.workspace import Workspace, say


def card(recipe: Recipe, workspace: Workspace, *, allow_unverified: bool = False) -> None:
    """Render the model card: what was measured from the results, how the model is presented from the recipe of now."""
    from qat_plugin.evaluation.results import read_results
    from qat_plugin.publishing import write_card

    check_is_measured(recipe)
    say("card", f"from {workspace.results_file}")
    check_normalizer(recipe, workspace, read_results(workspace.results_file))
    path = write_card(
        workspace.results_file,
        workspace.onnx(TRAINED),
        workspace.card,
        publishing=_publishing(recipe),
        allow_unverified=allow_unverified,
    )
    say("card", f"written: {path}")


def check_is_measured(recipe: Recipe) -> None:
    """Refuse with `RecipeError` a recipe whose `arms` lack what is trained: there is no card of anything else."""
    arms = recipe.evaluation.arms
    if TRAINED not in arms:
        raise RecipeError(
            f"arms is {', '.join(arms)}: a card is that of the trained arm; add {TRAINED!r}, or compare without training by the "
            "steps 'export' and 'evaluate'"
        )


def check_normalizer(recipe: Recipe, workspace: Workspace, results: Mapping[str, Any]) -> None:
    """Refuse to show figures of another normalizer than the recipe asks for."""
    asked, used = recipe.evaluation.normalizer, results["settings"]["normalizer"]
    if asked != used:
        raise RecipeError(
            f"normalizer is {asked!r}, but {workspace.results_file} was scored with {used!r}: run the step 'evaluate', "
            f"which scores the transcripts that are there anew, or say --normalizer {used}"
        )


def _check_card_is_of_now(workspace: Workspace) -> None:
    """Refuse a card that shows other figures than the evaluation that lies beside it."""
    from qat_plugin.evaluation.results import read_results
    from qat_plugin.publishing.files import read_document
    from qat_plugin.publishing.privacy import public_results

    if not workspace.results_file.is_file():
        return
    document, now = read_document(workspace.card), public_results(read_results(workspace.results_file))
    for arm, by_corpus in now["measurements"].items():
        for corpus, measured in by_corpus.items():
            shown = document["measurements"].get(arm, {}).get(corpus, {})
            if any(shown.get(name) != value for name, value in measured.items()):
                raise WorkspaceError(
                    f"{workspace.card} is the card of an earlier evaluation: {workspace.results_file} has other figures of "
                    f"{arm} on {corpus}; run the step 'card' again"
                )
    gone = [name for name in document["corpora"] if name not in now["corpora"]]
    if gone:
        raise WorkspaceError(
            f"{workspace.card} is the card of an earlier evaluation, of {', '.join(gone)}, too: run the step 'card' again"
        )


def _publishing(recipe: Recipe) -> dict[str, Any]:
    return {**dataclasses.asdict(recipe.publishing), "hub_model_id": recipe.training.hub_model_id}


def push(
    recipe: Recipe,
    workspace: Workspace,
    *,
    dry_run: bool,
    create_pr: bool = False,
    to_folder: str | None = None,
    space: bool = False,
    allow_unverified: bool = False,
    allow_unmeasured: bool = False,
) -> None:
    """Upload the qat arm's folder and the card to the Hub, or write them to a local folder; `space`: and a page."""
    from qat_plugin import publishing

    args = recipe.training
    if not (workspace.card / "README.md").is_file():
        raise WorkspaceError(f"{workspace.card} holds no card: run the step 'card' first")
    _check_card_is_of_now(workspace)
    if to_folder is not None:
        say("push", f"{workspace.onnx('qat')} and its card to the folder {to_folder}")
        publishing.publish_to_folder(
            workspace.onnx(TRAINED),
            workspace.card,
            to_folder,
            dry_run=dry_run,
            page=space,
            publishing=_publishing(recipe),
            allow_unverified=allow_unverified,
            allow_unmeasured=allow_unmeasured,
        )
        return
    if not args.hub_model_id:
        raise RecipeError("hub_model_id is not set: say where to, with --hub_model_id USER/NAME")
    if space and (args.hub_private_repo or create_pr):
        wish = "hub_private_repo" if args.hub_private_repo else "create_pr"
        raise RecipeError(f"{wish} and a Space do not go together: its visitors' browsers could not load the model")
    say("push", f"{workspace.onnx('qat')} and its card to {args.hub_model_id}")
    publishing.push(
        workspace.onnx(TRAINED),
        workspace.card,
        args.hub_model_id,
        private=args.hub_private_repo,
        dry_run=dry_run,
        create_pr=create_pr,
        revision=args.hub_revision,
        token=args.hub_token,
        publishing=_publishing(recipe),
        allow_unverified=allow_unverified,
        allow_unmeasured=allow_unmeasured,
    )
    if space:
        publishing.push_space(
            workspace.onnx(TRAINED),
            workspace.card,
            args.hub_model_id,
            dry_run=dry_run,
            revision=args.hub_revision,
            token=args.hub_token,
            publishing=_publishing(recipe),
            allow_unverified=allow_unverified,
            allow_unmeasured=allow_unmeasured,
        )
