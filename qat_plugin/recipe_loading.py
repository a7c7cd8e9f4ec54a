"""From a JSON file and a command line to a checked `Recipe`, and back."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_type_hints

from transformers import HfArgumentParser

from qat_plugin.errors import RecipeError
from qat_plugin.recipe import (
    DataArguments,
    DistillationArguments,
    EvaluationArguments,
    ModelArguments,
    PublishingArguments,
    QATTrainingArguments,
    QuantizationArguments,
    Recipe,
)
from qat_plugin.recipe_checks import check_keys, check_values, closest
from qat_plugin.recipe_types import check_types, quote
from qat_plugin.shipped import recipes_folder

GROUPS: tuple[type, ...] = (
    ModelArguments,
    DataArguments,
    QuantizationArguments,
    DistillationArguments,
    EvaluationArguments,
    PublishingArguments,
    QATTrainingArguments,
)
"""The dataclasses of a recipe, in the order of `Recipe`'s attributes."""

# What the machine or the moment decides: written to a file, these would make the same recipe differ from itself.
_DERIVED = ("local_rank", "logging_dir", "disable_tqdm")


class RecipeParser(HfArgumentParser):
    """`HfArgumentParser` over the groups of a recipe that raises `RecipeError` instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong with the command line."""
        raise RecipeError(message.removeprefix("argument "))


def recipe_parser() -> RecipeParser:
    """The parser of every recipe: `parse_dict` for files, `parse_known_args` for command lines."""
    return RecipeParser(GROUPS, allow_abbrev=False, add_help=False)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe.

    Args:
        path: a JSON file, or the name of a shipped recipe without '.json'.
        overrides: as on a command line: `["--target", "int4", "--corpora", "community-v2", "mtedx"]`. A list field
            without values is emptied.

    Raises:
        RecipeError: no such recipe, not JSON, or fields that are unknown, of a wrong type, out of bounds or impossible
            together; the message has one line for each of them.
    """
    file = find_recipe(path)
    values = _read(file)
    _raise_if(check_keys(values, field_hints()), file)
    _raise_if(check_types(values, field_hints()), file)
    values |= _parse_overrides(overrides)
    for name in ("model_name_or_path", "output_dir"):
        if values.get(name) is None:
            raise RecipeError(f"{file}: {name} is missing: {_help(name)} Set it in the recipe or with --{name}.")
    _raise_if(check_values({**_defaults(), **values}), file)
    return _build(values, file)


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write every field to a JSON file that `load_recipe` reads; the same recipe gives the same bytes."""
    text = json.dumps(recipe_to_dict(recipe), indent=2, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf8")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Every field by name, in the order of the groups; without tokens and without what the machine decided."""
    values: dict[str, Any] = {}
    for group in (getattr(recipe, field.name) for field in dataclasses.fields(recipe)):
        plain = group.to_dict() if isinstance(group, QATTrainingArguments) else dataclasses.asdict(group)
        values |= {name: value for name, value in plain.items() if not (name.endswith("_token") or name in _DERIVED)}
    return values


def recipe_help() -> str:
    """What each field means, with its default, by group."""
    defaults = _defaults()
    lines = []
    for group in GROUPS:
        lines += [(group.__doc__ or group.__name__).strip().splitlines()[0], ""]
        for field in _fields(group):
            default = quote(defaults[field.name]) if field.name in defaults else "required"
            lines.append(f"  --{field.name} ({default})")
            # Some of transformers' texts have lists and line breaks of their own: one paragraph reads better here.
            text = " ".join(_help(field.name).split())
            lines += textwrap.wrap(text, width=110, initial_indent="      ", subsequent_indent="      ")
        lines.append("")
    return "\n".join(lines).rstrip()


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with the project, by name."""
    return {path.stem: path for path in sorted(recipes_folder().glob("*.json"), key=lambda path: path.stem)}


def find_recipe(path: str | Path) -> Path:
    """The file of a recipe given by path or by the name of a shipped one.

    Raises:
        RecipeError: neither; lists the shipped recipes.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given
    shipped = shipped_recipes()
    if str(path) in shipped:
        return shipped[str(path)]
    near = closest(given.stem, shipped)
    mend = f"did you mean '{near}'? " if near else ""
    raise RecipeError(f"recipe '{path}' does not exist: {mend}Shipped recipes: {', '.join(shipped) or 'none'}")


@functools.cache
def field_hints() -> dict[str, Any]:
    """Resolved type hint of every field, by name."""
    hints: dict[str, Any] = {}
    for group in GROUPS:
        resolved = get_type_hints(group)
        hints |= {field.name: resolved[field.name] for field in _fields(group)}
    return hints


def _fields(group: type) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(group) if field.init]


def _help(name: str) -> str:
    return next(str(f.metadata.get("help", "")) for group in GROUPS for f in _fields(group) if f.name == name)


def _defaults() -> dict[str, Any]:
    """Declared defaults by name; the required fields are absent."""
    values: dict[str, Any] = {}
    for group in GROUPS:
        for field in _fields(group):
            if field.default is not dataclasses.MISSING:
                values[field.name] = field.default
            elif field.default_factory is not dataclasses.MISSING:
                values[field.name] = field.default_factory()
    return values


def _raise_if(messages: list[str], file: Path) -> None:
    if messages:
        raise RecipeError("\n".join(f"{file}: {message}" for message in messages))


def _read(file: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise RecipeError(f"{file}: field '{twice[0]}' stands there twice: keep one")
        return values

    try:
        values = json.loads(file.read_text(encoding="utf8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise RecipeError(f"{file}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{file}: not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{file}: a recipe is one JSON object of fields, and this is {quote(values)[:60]}")
    return values


def _parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    parser = recipe_parser()
    for action in parser._actions:
        # Only what is given counts, the rest is the recipe's. A list can be emptied: --corpora --test_data mine.json
        action.default, action.required = argparse.SUPPRESS, False
        if action.nargs == "+":
            action.nargs = "*"
    given, rest = parser.parse_known_args(list(overrides))
    if rest:
        name = rest[0].split("=")[0]
        if not name.startswith("-"):
            raise RecipeError(f"'{rest[0]}' belongs to no field: write --field value")
        known = [option for action in parser._actions for option in action.option_strings]
        near = closest(name, known)
        raise RecipeError(
            f"{name} is not a field of a recipe: {f'did you mean {near}?' if near else 'qat-plugin fields lists them'}"
        )
    values: dict[str, Any] = vars(given)
    return values


def _build(values: dict[str, Any], file: Path) -> Recipe:
    try:
        with warnings.catch_warnings():
            # transformers 5 prefers a name that 4 does not have; recipes must be read by both.
            warnings.filterwarnings("ignore", message="`gradient_checkpointing", category=FutureWarning)
            return Recipe(*recipe_parser().parse_dict(values))
    except (ValueError, TypeError) as error:
        # transformers' own checks of training arguments, as of save and eval steps that do not match.
        raise RecipeError(f"{file}: {error}") from error
