"""Puts the demo model into a folder: completely or not at all, and never at the cost of a user's files."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mszoo.adapters.vllm.cli.demo import smollm2
from mszoo.adapters.vllm.cli.demo.smollm2 import DemoModelError

MARKER = "mszoo-demo-model.json"
_MAKER = "mszoo demo-model"
_DOCUMENTS_SIZE = 8 << 20  # generous: tokenizer.json has 4 MB
_ELSEWHERE = "Name a folder that does not exist yet"


def make(
    directory: Path, *, force: bool = False, advance: Callable[[int, int], None] = lambda *_: None
) -> bool:
    """Make the demo model in `directory`, which is created together with missing parents.

    Args:
        directory: a new or empty folder, or one that an earlier call made.
        force: make the model anew even if an earlier call made one there.
        advance: called with the weight bytes written so far and their total.

    Returns:
        True if the model was written, False if the same one was already there.

    Raises DemoModelError and leaves everything as it was if the model can't be made.
    """
    target = Path(os.path.realpath(directory))
    try:
        marker = _inspect(target)
        source = smollm2.find_source()
        if marker is not None and not force:
            if _is_current(target, marker, source.version):
                return False
            what = "the folder holds an incomplete or changed demo model, or one of another version"
            raise DemoModelError(str(target), what, "Add --force to replace it")
        checkpoint = smollm2.open_checkpoint(source.path)
        _check_space(target, checkpoint.size + _DOCUMENTS_SIZE)
        return _stage(target, checkpoint, source.version, replace=marker is not None, advance=advance)
    except OSError as error:
        raise _explain(error, target) from error


def is_outdated(directory: Path) -> bool:
    """Return whether an earlier call made `directory`, but what it holds is incomplete or of another version.

    Raises DemoModelError if the folder holds a user's files or the package with the weights is missing.
    """
    target = Path(os.path.realpath(directory))
    marker = _inspect(target)
    return marker is not None and not _is_current(target, marker, smollm2.find_source().version)


def _inspect(target: Path) -> dict[str, Any] | None:
    """Return the marker of a folder that `make` made, None for an absent or empty one; refuse all others."""
    if not target.exists():
        return None
    if not target.is_dir():
        raise DemoModelError(str(target), "this is a file, not a folder", _ELSEWHERE)
    if target == Path.cwd():
        raise DemoModelError(str(target), "the current folder can't be replaced", _ELSEWHERE)
    names = {path.name for path in target.iterdir()}
    if not names:
        return None
    try:
        marker = json.loads((target / MARKER).read_text(encoding="utf-8"))
        own = {MARKER, *marker["files"].keys()} if marker["made_by"] == _MAKER else set()
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        own = set()
    strange = sorted(name for name in names if name not in own or (target / name).is_dir())
    if strange:
        what = (
            f"the folder holds files that mszoo did not write ({', '.join(strange[:3])}); they are left alone"
        )
        raise DemoModelError(str(target), what, _ELSEWHERE)
    return dict(marker)


def _is_current(target: Path, marker: dict[str, Any], version: str) -> bool:
    if (marker.get("recipe"), marker.get("version")) != (smollm2.RECIPE, version):
        return False
    paths = {target / name: size for name, size in marker["files"].items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def _check_space(target: Path, needed: int) -> None:
    existing = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise _no_space(target, f"{needed >> 20} MiB are needed, {free >> 20} MiB are free")


def _stage(
    target: Path,
    checkpoint: smollm2.Checkpoint,
    version: str,
    *,
    replace: bool,
    advance: Callable[[int, int], None],
) -> bool:
    """Write the model beside `target` and move it there; on any failure remove all that was created."""
    created = [path for path in target.parents if not path.exists()]  # innermost first
    staging = None
    published = False
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        fresh = staging / "new"
        fresh.mkdir()
        _write(checkpoint, fresh, version, advance)
        published = _publish(fresh, target, staging / "old" if replace else None, version)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        if not target.exists():
            for path in created:
                _remove_if_empty(path)
    return published


def _write(
    checkpoint: smollm2.Checkpoint, folder: Path, version: str, advance: Callable[[int, int], None]
) -> None:
    done = 0

    def add(count: int) -> None:
        nonlocal done
        done += count
        advance(done, checkpoint.size)

    smollm2.write(checkpoint, folder, add)
    marker = {
        "made_by": _MAKER,
        "recipe": smollm2.RECIPE,
        "package": smollm2.PACKAGE,
        "version": version,
        "files": {path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")


def _publish(fresh: Path, target: Path, old: Path | None, version: str) -> bool:
    """Rename `fresh` to `target`, moving what is there to `old` first; undone if the second step fails."""
    if old is not None:
        try:
            os.rename(target, old)
            os.rename(fresh, target)
        except BaseException:
            if old.exists() and not target.exists():
                os.rename(old, target)
            raise
        return True
    try:
        os.rename(fresh, target)  # an empty folder gives way, any other is refused by the system
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        marker = _inspect(target)  # another process was faster
        if marker is None or not _is_current(target, marker, version):
            raise
        return False
    return True


def _remove_if_empty(path: Path) -> None:
    try:
        path.rmdir()
    except OSError:
        return  # not created yet, or somebody else uses it by now


def _explain(error: OSError, target: Path) -> DemoModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_space(target, "the disk or the quota is full")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        place = error.filename or target.parent
        return DemoModelError(
            str(target), f"no permission to write or read {place}", "Name a folder of your own"
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return DemoModelError(str(target), "a part of this path is a file, not a folder", _ELSEWHERE)
    if error.errno == errno.EBUSY:
        return DemoModelError(str(target), "the folder is a mount point", "Name a folder inside it")
    return DemoModelError(str(target), f"the folder can't be written ({error.strerror or error})", _ELSEWHERE)


def _no_space(target: Path, what: str) -> DemoModelError:
    return DemoModelError(
        str(target), f"not enough space: {what}", "Free some, or name a folder on another disk"
    )
