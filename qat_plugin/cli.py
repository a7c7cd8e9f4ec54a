"""The command `qat-plugin`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from qat_plugin.errors import QATError

_STEPS = {
    "train": "train with fake quantization, from the last checkpoint if there is one",
    "export": "write the ONNX of every arm and verify it against the trained model",
    "evaluate": "measure every arm on every test corpus; write results, report and plots",
    "report": "render report and plots again from finished results, without any model",
    "diagnose": "say before any training whether it has anything to win back, and which parts of the model lose it",
    "card": "render the model card from the results",
    "push": "upload the quantized model and its card to the Hub, as --hub_model_id (and --hub_revision, --hub_private_repo)",
    "run": "train, export, evaluate and card in one go; finished steps are kept",
}

_EPILOG = """\
RECIPE is a JSON file, or the name of a shipped one (whisper-base-int4). Any field of it can be given on the command
line: qat-plugin run whisper-base-int4 --output_dir out --max_steps 100 --corpora community-v2 mtedx
'qat-plugin fields' explains every field. Steps share the recipe's output_dir and can be run again: each says what it
found done already."""


def _parser(command: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qat-plugin",
        description="Quantization-aware training for Whisper: train, export to ONNX, measure, publish.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _STEPS.items():
        step = commands.add_parser(
            name, help=text, description=text, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        step.add_argument("recipe", metavar="RECIPE", help="recipe file or name of a shipped recipe")
        if name in ("card", "push"):
            step.add_argument(
                "--allow_unverified",
                action="store_true",
                help="also files that failed the parity gate or never went through it; the card says so",
            )
        if name == "push":
            step.add_argument(
                "--allow_unmeasured",
                action="store_true",
                help="also other files than the results were measured on; the card names them",
            )
            step.add_argument("--dry_run", action="store_true", help="show what would be uploaded, and do nothing")
            step.add_argument(
                "--space", action="store_true", help="and a page that runs the model in its visitors' browsers"
            )
            where = step.add_mutually_exclusive_group()
            where.add_argument("--create_pr", action="store_true", help="open a pull request on hub_model_id instead")
            where.add_argument(
                "--to_folder", metavar="FOLDER", help="write the files to a local folder, not to the Hub"
            )
    commands.add_parser("fields", help="explain every field of a recipe")
    demo = commands.add_parser("demo", help="int4 QAT of Whisper base on French speech, from nothing to a model card")
    demo.add_argument(
        "--full", action="store_true", help="train and test long enough to show a gain (an hour, not minutes)"
    )
    transcribe = commands.add_parser("transcribe", help="transcribe audio files of any length with an exported model")
    if command == "transcribe":
        # Needs transformers: the other commands' --help should not wait for it.
        from qat_plugin.runtime.transcribe import add_transcribe_arguments

        add_transcribe_arguments(transcribe)
    inspect = commands.add_parser("inspect", help="show where the bytes and the milliseconds of an exported model are")
    if command == "inspect":
        from qat_plugin.runtime.inspection import add_inspect_arguments

        add_inspect_arguments(inspect)
    return parser


def _dispatch(options: argparse.Namespace, overrides: list[str]) -> int:
    if options.command == "transcribe":
        from qat_plugin.runtime.transcribe import run_transcribe

        return run_transcribe(options)
    if options.command == "inspect":
        from qat_plugin.runtime.inspection import run_inspect

        return run_inspect(options)
    if options.command == "fields":
        from qat_plugin.recipe_loading import recipe_help

        print(recipe_help())
        return 0
    if options.command == "demo":
        from qat_plugin.demo.run import run_demo

        return run_demo(full=options.full)
    from qat_plugin import publishing_steps, steps
    from qat_plugin.recipe_loading import load_recipe

    recipe = load_recipe(options.recipe, overrides)
    # What only shows or sends figures must not write down that they came from this recipe.
    workspace = steps.open_workspace(recipe, records_recipe=options.command not in ("report", "card", "push"))
    if options.command == "push":
        publishing_steps.push(
            recipe,
            workspace,
            dry_run=options.dry_run,
            create_pr=options.create_pr,
            to_folder=options.to_folder,
            space=options.space,
            allow_unverified=options.allow_unverified,
            allow_unmeasured=options.allow_unmeasured,
        )
    elif options.command == "card":
        publishing_steps.card(recipe, workspace, allow_unverified=options.allow_unverified)
    elif options.command == "diagnose":
        from qat_plugin.diagnosis import diagnose

        diagnose(recipe, workspace)
    elif options.command == "run":
        steps.run_all(recipe, workspace)
    else:
        getattr(steps, options.command)(recipe, workspace)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 an error that was explained on standard error."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    options, overrides = _parser(arguments[0] if arguments else None).parse_known_args(arguments)
    if overrides and options.command not in _STEPS:
        print(f"qat-plugin {options.command}: unknown argument {overrides[0]}; see --help", file=sys.stderr)
        return 2
    try:
        return _dispatch(options, overrides)
    except QATError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
