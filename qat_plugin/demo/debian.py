"""Debian packages as data: downloaded with apt-get, checked, and read without installing them or being root."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from qat_plugin.demo.folders import require_room
from qat_plugin.errors import DataError
from qat_plugin.files import sha256_of

ALLOW_OTHER_VERSIONS = "--allow_other_versions"


@dataclass(frozen=True)
class DebianPackage:
    """A package of architecture `all` and the SHA-256 of its .deb file, for each version that is known to serve."""

    name: str
    sha256: dict[str, str]
    download_bytes: int

    def file_name(self, version: str) -> str:
        """Name of Debian's own .deb file."""
        return f"{self.name}_{version}_all.deb"


def fetch_packages(
    packages: Iterable[DebianPackage], downloads: Path, *, allow_other_versions: bool = False
) -> dict[str, Path]:
    """Paths of the .deb files in `downloads` by package name; those that lie there already are not fetched.

    Args:
        packages: what is needed.
        downloads: the cache; files put there by hand serve as well.
        allow_other_versions: take what the archive has when it has no pinned version, unchecked.

    Raises:
        DataError: there is no apt-get, it fails, the archive has other versions only, or a file is not the pinned one.
        WorkspaceError: the disk has no room.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    wanted = list(packages)
    found = {package.name: _find(package, downloads, allow_other_versions) for package in wanted}
    missing = [package for package in wanted if found[package.name] is None]
    if missing and (shutil.which("apt-get") is None or shutil.which("apt-cache") is None):
        raise DataError(f"This system has no apt-get to download Debian packages with. {_by_hand(missing, downloads)}")
    for package in missing:
        found[package.name] = _download(package, downloads, missing, allow_other_versions)
    paths = {name: path for name, path in found.items() if path is not None}
    if not allow_other_versions:
        for package in wanted:
            _check(package, paths[package.name])
    return paths


def read_files(deb: Path, pattern: str) -> dict[str, bytes]:
    """Content of the package's regular files whose path (as in `usr/share/…`) matches the regular expression.

    Nothing is unpacked to the disk.

    Raises:
        DataError: dpkg-deb is missing, or the file is not a readable .deb.
    """
    if shutil.which("dpkg-deb") is None:
        raise DataError(f"dpkg-deb is needed to open {deb}: install dpkg, which Homebrew and Fedora have too.")
    wanted, files = re.compile(pattern), {}
    command = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    name = member.name.removeprefix("./")
                    if member.isfile() and wanted.search(name) and (content := archive.extractfile(member)):
                        files[name] = content.read()
        except tarfile.TarError as error:
            raise DataError(f"{deb} is not a Debian package ({error}): delete it and run this again.") from error
        process.stdout.read()  # what tar pads the archive with, so that dpkg-deb ends by itself
    if process.returncode != 0:
        raise DataError(f"dpkg-deb could not read {deb}: delete it and run this again.")
    return files


def _find(package: DebianPackage, downloads: Path, allow_other_versions: bool) -> Path | None:
    pinned = [downloads / package.file_name(version) for version in package.sha256]
    others = sorted(downloads.glob(package.file_name("*")), reverse=True) if allow_other_versions else []
    path = next((path for path in [*pinned, *others] if path.is_file()), None)
    if path is not None:
        print(f"[demo] {path.name} is downloaded already", flush=True)
    return path


def _download(
    package: DebianPackage, downloads: Path, missing: list[DebianPackage], allow_other_versions: bool
) -> Path:
    offered = _offered_versions(package)
    if not offered:
        raise DataError(
            f"apt-get does not know the package {package.name}. Its package lists are missing, old, or another "
            f"distribution's: run `sudo apt-get update`, then this again. {_by_hand(missing, downloads)}"
        )
    version = next((version for version in package.sha256 if version in offered), None)
    if version is None and not allow_other_versions:
        raise DataError(
            f"The archive has {package.name} {', '.join(offered)}; known to serve are {', '.join(package.sha256)}: "
            f"{_how_to_allow(downloads)} (the demo's numbers can then differ a little). "
            f"{_by_hand(missing, downloads)}"
        )
    version = version or offered[0]
    require_room(downloads, package.download_bytes, package.name)
    partial = downloads / ".apt.partial"
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir()
    size = f"{package.download_bytes / 1e6:.1f} MB"
    print(f"[demo] downloading {package.name} {version} ({size}) with apt-get", flush=True)
    command = ["apt-get", "download", f"{package.name}={version}"]
    done = subprocess.run(command, cwd=partial, stderr=subprocess.PIPE, text=True, env=_plain_environment())
    fetched = sorted(partial.glob("*.deb"))
    if done.returncode != 0 or len(fetched) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        raise DataError(
            f"apt-get could not download {package.name} {version}: {errors[0] if errors else done.stderr.strip()} "
            f"Run `sudo apt-get update`, mend the connection, then run this again. {_by_hand(missing, downloads)}"
        )
    path = downloads / package.file_name(version)
    fetched[0].replace(path)
    partial.rmdir()
    return path


def _offered_versions(package: DebianPackage) -> list[str]:
    """Versions in apt's lists, the best first."""
    command = ["apt-cache", "madison", package.name]
    done = subprocess.run(command, capture_output=True, text=True, env=_plain_environment())
    rows = [line.split("|") for line in done.stdout.splitlines()]
    return list(dict.fromkeys(row[1].strip() for row in rows if len(row) == 3))


def _check(package: DebianPackage, path: Path) -> None:
    digest = sha256_of(path)
    if digest not in package.sha256.values():
        known = ", ".join(f"{sha256} ({version})" for version, sha256 in package.sha256.items())
        raise DataError(
            f"{path} is not Debian's file: its sha256 is {digest}, expected is {known}. Delete it and run this again. "
            f"If it is what your distribution builds: {_how_to_allow(path.parent)}."
        )


def _how_to_allow(downloads: Path) -> str:
    return f"take the archive's with `{sys.executable} -m qat_plugin.demo {downloads.parent} {ALLOW_OTHER_VERSIONS} [--full]`"


def _by_hand(packages: list[DebianPackage], downloads: Path) -> str:
    """What to do where apt-get does not help."""
    names = ", ".join(package.file_name(next(iter(package.sha256))) for package in packages)
    return (
        f"Without apt-get: fetch {names} by hand from Debian's package pages, put them into {downloads} and run this "
        "again; or skip the demo's speech and name manifests of your own in the recipe (train_data, test_data)."
    )


def _plain_environment() -> dict[str, str]:
    """The environment, with messages in English."""
    return {**os.environ, "LC_ALL": "C"}
