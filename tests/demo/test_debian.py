"""Downloads that are pinned, checked and done once; and what is said where they cannot be."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from qat_plugin.demo.debian import fetch_packages, read_files
from qat_plugin.errors import DataError


def test_downloads_once_and_finds_it_again(archive, tmp_path):
    package = archive.add("voices", {"usr/a.txt": b"hello"})
    downloads = tmp_path / "downloads"
    paths = fetch_packages([package], downloads)
    assert paths == {"voices": downloads / "voices_1.0-1_all.deb"}
    assert paths["voices"].read_bytes() == (archive.pool / "voices_1.0-1_all.deb").read_bytes()
    assert archive.calls() == ["apt-cache madison voices", "apt-get download voices=1.0-1"]
    assert fetch_packages([package], downloads) == paths
    assert len(archive.calls()) == 2
    assert [path.name for path in downloads.iterdir()] == ["voices_1.0-1_all.deb"]


def test_a_deb_put_there_by_hand_needs_no_apt(archive, tmp_path):
    package = archive.add("voices", {"usr/a.txt": b"hello"})
    shutil.copytree(archive.pool, tmp_path / "downloads")
    (archive.commands / "apt-get").unlink()
    assert fetch_packages([package], tmp_path / "downloads")["voices"].is_file()
    assert archive.calls() == []


def test_the_pinned_version_is_chosen_among_several(archive, tmp_path):
    archive.add("voices", {"usr/a.txt": b"newer"}, version="2.0-1")
    package = archive.add("voices", {"usr/a.txt": b"pinned"}, version="1.0-1")
    deb = fetch_packages([package], tmp_path / "downloads")["voices"]
    assert read_files(deb, "a") == {"usr/a.txt": b"pinned"}


def test_without_apt_all_missing_files_are_named(archive, tmp_path):
    packages = [archive.add("voices", {}), archive.add("texts", {})]
    (archive.commands / "apt-get").unlink()
    with pytest.raises(DataError, match="no apt-get") as error:
        fetch_packages(packages, tmp_path / "downloads")
    assert "voices_1.0-1_all.deb, texts_1.0-1_all.deb by hand" in str(error.value)
    assert str(tmp_path / "downloads") in str(error.value)
    assert "manifests of your own" in str(error.value)


def test_unknown_package_asks_for_apt_get_update(archive, tmp_path):
    package = replace(archive.add("voices", {}), name="nobody")
    with pytest.raises(DataError, match=r"does not know the package nobody.*sudo apt-get update"):
        fetch_packages([package], tmp_path / "downloads")


def test_failed_download_quotes_apt(archive, tmp_path):
    package = archive.add("voices", {})
    archive.command("apt-get", 'echo "W: unsandboxed" >&2; echo "E: Failed to fetch voices  404" >&2; exit 100')
    with pytest.raises(DataError, match=r"voices 1\.0-1: E: Failed to fetch voices  404 Run `sudo apt-get update`"):
        fetch_packages([package], tmp_path / "downloads")
    archive.command("apt-get", 'IFS="="; set -- $2; /bin/cp "$POOL/$1_$2_all.deb" .')
    assert fetch_packages([package], tmp_path / "downloads")["voices"].is_file()


def test_another_version_is_refused_until_allowed(archive, tmp_path):
    package = replace(archive.add("voices", {"usr/a.txt": b"new"}, version="9.0-1"), sha256={"1.0-1": "0" * 64})
    with pytest.raises(DataError, match=r"has voices 9\.0-1; known to serve are 1\.0-1.*--allow_other_versions"):
        fetch_packages([package], tmp_path / "downloads")
    deb = fetch_packages([package], tmp_path / "downloads", allow_other_versions=True)["voices"]
    assert deb.name == "voices_9.0-1_all.deb"
    assert read_files(deb, "a") == {"usr/a.txt": b"new"}


def test_wrong_content_names_both_digests(archive, tmp_path):
    package = archive.add("voices", {"usr/a.txt": b"hello"})
    pinned = package.sha256["1.0-1"]
    changed = archive.add("voices", {"usr/a.txt": b"HELLO"}).sha256["1.0-1"]
    with pytest.raises(DataError, match=f"sha256 is {changed}, expected is {pinned} .*Delete it"):
        fetch_packages([package], tmp_path / "downloads")


def test_read_files_takes_what_matches(archive):
    archive.add("voices", {"usr/share/a.ogg": b"1", "usr/share/b.txt": b"2", "etc/c.ogg": b"3"})
    found = read_files(archive.pool / "voices_1.0-1_all.deb", r"^usr/.*\.ogg$")
    assert found == {"usr/share/a.ogg": b"1"}


def test_read_files_without_dpkg(archive, tmp_path):
    (archive.commands / "dpkg-deb").unlink()
    with pytest.raises(DataError, match="install dpkg"):
        read_files(tmp_path / "voices.deb", ".")


@pytest.mark.parametrize(
    ("script", "match"), [("echo garbage", "not a Debian package"), ('/bin/cat "$2"; exit 2', "could not")]
)
def test_read_files_of_a_damaged_package(archive, script, match):
    archive.add("voices", {"usr/a.txt": b"hello"})
    archive.command("dpkg-deb", script)
    with pytest.raises(DataError, match=match):
        read_files(archive.pool / "voices_1.0-1_all.deb", ".")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_read_files_of_a_real_package(tmp_path: Path):
    root = tmp_path / "package"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN").chmod(0o755)
    control = (
        "Package: voices\nVersion: 1.0-1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: test\n"
    )
    (root / "DEBIAN" / "control").write_text(control, encoding="utf-8")
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/été.txt").write_bytes(b"content" * 10_000)
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", root, tmp_path / "v.deb"], check=True, capture_output=True
    )
    assert read_files(tmp_path / "v.deb", r"\.txt$") == {"usr/share/été.txt": b"content" * 10_000}
