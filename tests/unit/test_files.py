"""Files are written whole or not at all, and commands say before long work that they couldn't write."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mszoo.registry.errors import LockError, MszooError
from mszoo.registry.files import check_writable, write_whole, writing

HINT = "Give another place, or mend this one."


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "page.md"
    write_whole(path, "one")
    mask = os.umask(0o077)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    path.chmod(0o640)
    write_whole(path, "two é")
    assert path.read_text("utf-8") == "two é"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["page.md"]


def test_a_link_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError("x")]
)
def test_what_was_there_survives_a_failure(tmp_path, error):
    path = tmp_path / "page.md"
    path.write_text("old")
    with pytest.raises((MszooError, KeyboardInterrupt)) as raised, writing(path) as place:
        place.write_text("half")
        raise error
    if isinstance(error, OSError):
        assert str(raised.value) == f"{path}: can't be written (No space left on device). {HINT}"
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["page.md"])
    write_whole(path, "retried")
    assert path.read_text() == "retried"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing/file", "No such file or directory"),
        ("", "Is a directory"),
        ("x" * 300, "File name too long"),
        ("a\0b", "embedded null byte"),
    ],
)
def test_it_is_known_before_the_work(tmp_path, name, why):
    path = tmp_path / name
    for write in (check_writable, lambda *arguments: write_whole(arguments[0], "text", arguments[1])):
        with pytest.raises(LockError) as raised:
            write(path, LockError)
        assert f"can't be written ({why}" in str(raised.value)
    assert os.listdir(tmp_path) == []


def test_a_check_changes_nothing(tmp_path):
    path = tmp_path / "page.md"
    check_writable(path)
    assert os.listdir(tmp_path) == []
    path.write_text("old")
    check_writable(path)
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["page.md"])


def test_a_device_is_written_to_as_it_is():
    check_writable(Path(os.devnull))
    write_whole(Path(os.devnull), "text")
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def run(arguments, **options):
    command = [str(Path(sys.executable).parent / "mszoo"), *arguments]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    return subprocess.run(
        command, check=False, stderr=subprocess.PIPE, text=True, env=environ, timeout=120, **options
    )


def test_a_full_disk_is_told_in_one_line():
    with open("/dev/full", "w") as full:
        result = run(["list", "--json"], stdout=full)
    assert (
        result.stderr
        == "mszoo: the report can't be written (No space left on device). Send it to another place.\n"
    )
    assert result.returncode == 1


def test_a_reader_that_went_away_is_no_news():
    reading, writing_end = os.pipe()
    os.close(reading)
    result = run(["list", "--json"], stdout=writing_end)
    os.close(writing_end)
    assert (result.returncode, result.stderr) == (1, "")
