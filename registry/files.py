"""Writes files whole or not at all: beside the place, then renamed, so that what was there is never half lost."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mszoo.registry.errors import MszooError

_HINT = "Give another place, or mend this one."


def check_writable(path: Path, error: type[MszooError] = MszooError) -> None:
    """Say before long work that its result couldn't be written; nothing is changed.

    Raises:
        MszooError: of the given class.
    """
    place = _place(path)
    try:
        if os.path.isdir(place):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with contextlib.suppress(FileNotFoundError):
            place.stat()  # a name that is too long
        if _is_ordinary(place):
            handle, name = tempfile.mkstemp(dir=place.parent, prefix=f".{place.name[:100]}.")
            os.close(handle)
            os.unlink(name)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_NONBLOCK))
    except (OSError, ValueError) as reason:
        raise _unwritable(path, reason, error) from reason


def make_folder(path: Path, error: type[MszooError] = MszooError) -> None:
    """Make a folder, unless it is there, and see that files can be made in it.

    Raises:
        MszooError: of the given class: they can't.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as reason:
        raise _unwritable(path, reason, error) from reason
    check_writable(path / "file", error)


def write_whole(path: Path, text: str, error: type[MszooError] = MszooError) -> None:
    """Write a text file, as UTF-8; what was there stays until the new one is complete.

    Raises:
        MszooError: of the given class: it can't be written.
    """
    with writing(path, error) as place:
        place.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path, error: type[MszooError] = MszooError) -> Iterator[Path]:
    """Give a place to write to, beside ``path``; it becomes ``path`` when all went well, and else is removed.

    A device or pipe is written to as it is; a link keeps, and what it points to is replaced.

    Raises:
        MszooError: of the given class: it can't be written.
    """
    place = _place(path)
    if not _is_ordinary(place):
        try:
            yield place
        except OSError as reason:
            raise _unwritable(path, reason, error) from reason
        return
    scratch: Path | None = None
    try:
        handle, name = tempfile.mkstemp(
            dir=place.parent, prefix=f".{place.name[:100]}.", suffix=place.suffix[:20]
        )
        os.close(handle)
        scratch = Path(name)
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
        scratch.chmod(_mode(place))
        scratch.replace(place)
        scratch = None
    except (OSError, ValueError) as reason:
        raise _unwritable(path, reason, error) from reason
    finally:
        if scratch is not None:
            with contextlib.suppress(OSError):
                scratch.unlink()


def _place(path: Path) -> Path:
    try:
        return Path(os.path.realpath(path))
    except (OSError, ValueError):
        return path


def _is_ordinary(place: Path) -> bool:
    """Say whether it is a file, or may become one; a folder is told when it is written to."""
    return os.path.isfile(place) or os.path.isdir(place) or not os.path.exists(place)


def _mode(place: Path) -> int:
    """Return the permissions that the file has, or that open() would give it; mkstemp's are private."""
    with contextlib.suppress(OSError):
        return place.stat().st_mode & 0o7777
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _unwritable(path: Path, reason: OSError | ValueError, error: type[MszooError]) -> MszooError:
    why = getattr(reason, "strerror", None) or reason
    return error(str(path), f"can't be written ({why})", _HINT)
