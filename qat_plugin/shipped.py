"""Where the recipes and corpus definitions that come with the project lie."""

from __future__ import annotations

from pathlib import Path


def recipes_folder() -> Path:
    """Folder of the shipped recipes, with `corpora` in it.

    A wheel carries the folder inside the package; in a checkout, and so in an editable install, it lies beside it.
    """
    package = Path(__file__).resolve().parent
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parent / "recipes"
