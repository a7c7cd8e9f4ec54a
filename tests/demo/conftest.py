"""Stand-ins for apt and dpkg: shell scripts in a PATH of their own, packages that are plain tar files."""

import io
import tarfile
from pathlib import Path

import pytest

from qat_plugin.demo.debian import DebianPackage
from qat_plugin.files import sha256_of

VERSION = "1.0-1"


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


class Archive:
    """A Debian archive in a folder, with the commands that read it on PATH; `log` has a line for each call."""

    def __init__(self, root: Path) -> None:
        self.commands, self.pool, self.log = root / "bin", root / "pool", root / "log"
        for folder in (self.commands, self.pool):
            folder.mkdir()
        self.log.touch()
        self.command("apt-cache", 'for deb in "$POOL/$2"_*; do [ -e "$deb" ] || exit 0; '
                     'v="${deb##*/}"; v="${v#*_}"; echo "$2 | ${v%_all.deb} | here"; done')  # fmt: skip
        self.command(
            "apt-get", 'IFS="="; set -- $2; /bin/cp "$POOL/$1_$2_all.deb" . || { echo "E: no such" >&2; exit 100; }'
        )
        self.command("dpkg-deb", '/bin/cat "$2"')

    def command(self, name: str, script: str) -> None:
        path = self.commands / name
        path.write_text(f'#!/bin/sh\nPOOL={self.pool}\necho "{name} $1 $2" >> {self.log}\n{script}\n', encoding="utf-8")
        path.chmod(0o755)

    def add(self, name: str, files: dict[str, bytes], version: str = VERSION) -> DebianPackage:
        """Put a package into the archive; returned with its pins."""
        deb = self.pool / f"{name}_{version}_all.deb"
        write_tar(deb, files)
        return DebianPackage(name, {version: sha256_of(deb)}, deb.stat().st_size)

    def calls(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    root = tmp_path / "archive"
    root.mkdir()
    archive = Archive(root)
    monkeypatch.setenv("PATH", str(archive.commands))
    return archive
