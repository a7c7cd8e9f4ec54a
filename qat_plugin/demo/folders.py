"""Folders that are made once: complete with a marker, or not there at all.

A folder is built under a temporary name beside its place and renamed when its last file is written, so that an
interrupted run leaves nothing that a later one could take for done. The marker says where the content comes from and
lists every file with its size.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qat_plugin.errors import WorkspaceError

MARKER = "source.json"


def finished_origin(folder: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Where the content of a finished `folder` comes from, or None when it has to be built.

    `origin["format"]` counts the versions of the code that wrote the folder: another number means building anew.

    Raises:
        WorkspaceError: `folder` holds something that this module did not write.
    """
    if not folder.exists():
        return None
    marker = folder / MARKER
    if not marker.is_file():
        raise WorkspaceError(
            f"{folder} exists, but has no {MARKER}: the demo did not write it and will not replace it. "
            "Move it away, or choose another data folder."
        )
    try:
        written = json.loads(marker.read_text(encoding="utf-8"))
        files: dict[str, int] = written["files"]
        found: dict[str, Any] = written["origin"]
    except (ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{marker} is not the marker of a demo folder ({error!r}): delete {folder}.") from error
    if found.get("format") != origin["format"]:
        return None
    intact = all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())
    return found if intact else None


@contextmanager
def building(folder: Path, origin: dict[str, Any], *, needed_bytes: int) -> Iterator[Path]:
    """Temporary folder that becomes `folder`, marker included, when the block ends without an error.

    A `folder` that is there already (an older format, or with files missing) is replaced.

    Raises:
        WorkspaceError: the disk has, or turns out to have, less room than `needed_bytes`.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    if temporary.exists():
        shutil.rmtree(temporary)
    require_room(folder.parent, needed_bytes, folder.name)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        files = {path.relative_to(temporary).as_posix(): path.stat().st_size for path in _files(temporary)}
        marker = {"origin": origin, "files": files}
        (temporary / MARKER).write_text(json.dumps(marker, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if error.errno == errno.ENOSPC:
            raise WorkspaceError(f"The disk of {folder.parent} is full: free {_megabytes(needed_bytes)}.") from error
        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)


def require_room(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise WorkspaceError when the disk of `folder` has less than `needed_bytes` left for `what`."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise WorkspaceError(
            f"{what} needs {_megabytes(needed_bytes)} in {folder}, and the disk has {_megabytes(free)} left. "
            "Free some, or choose a data folder on another disk."
        )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
