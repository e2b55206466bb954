"""Reads the files of a package from a folder or a wheel, without installing it."""

from __future__ import annotations

import mmap
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from mszoo.registry.errors import MszooError


class SourceError(MszooError):
    """The place has no such package."""


class Source:
    """The files of one package.

    Args:
        place: a folder that has the package, the package itself, or a wheel.
        package: such as ``vllm``.

    Raises:
        SourceError: it isn't there.
    """

    def __init__(self, place: Path, package: str) -> None:
        self.place, self.package = place, package
        self._wheel: zipfile.ZipFile | None = None
        self._root = place
        if place.is_file():
            try:
                self._wheel = zipfile.ZipFile(place)
            except zipfile.BadZipFile as error:
                raise self._missing("is no wheel") from error
        elif place.name == package and (place / "__init__.py").is_file():
            self._root = place.parent
        elif not (place / package).is_dir():
            # An unpacked source archive has one folder above its packages.
            nested = sorted(path.parent.parent for path in place.glob(f"*/{package}/__init__.py"))
            self._root = nested[0] if nested else place
        if self.text("__init__.py") is None:
            raise self._missing(f"has no package {package}")

    def text(self, path: str) -> str | None:
        """Return the text of a file of the package, or None if it isn't there."""
        data = self._read(path)
        return None if data is None else data.decode("utf-8", "replace")

    @property
    def version(self) -> str | None:
        """The version that the package's metadata beside it names, or None."""
        for name in self._names_of_metadata:
            data = self._bytes(name)
            for line in (data or b"").decode("utf-8", "replace").splitlines():
                if line.startswith("Version:"):
                    return line.partition(":")[2].strip()
        return None

    def libraries(self) -> Iterator[bytes | mmap.mmap]:
        """Give the contents of the package's compiled libraries of ops, the smallest first."""
        names = [name for name in self._top_level if name.startswith("_C") and name.endswith(".so")]
        if self._wheel is not None:
            sizes = {name: self._wheel.getinfo(f"{self.package}/{name}").file_size for name in names}
            for name in sorted(names, key=sizes.__getitem__):
                yield self._wheel.read(f"{self.package}/{name}")
            return
        for path in sorted((self._root / self.package / name for name in names), key=_size):
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                yield data

    def _missing(self, what: str) -> SourceError:
        return SourceError(
            str(self.place), what, f"Name a wheel of {self.package}, or a folder that one was unzipped to"
        )

    def _read(self, path: str) -> bytes | None:
        return self._bytes(f"{self.package}/{path}")

    def _bytes(self, path: str) -> bytes | None:
        if self._wheel is not None:
            return self._wheel.read(path) if path in self._members else None
        file = self._root / path
        return file.read_bytes() if file.is_file() else None

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset() if self._wheel is None else frozenset(self._wheel.namelist())

    @cached_property
    def _top_level(self) -> list[str]:
        if self._wheel is None:
            return [path.name for path in (self._root / self.package).iterdir()]
        prefix = f"{self.package}/"
        return [name[len(prefix) :] for name in self._members if name.startswith(prefix)]

    @cached_property
    def _names_of_metadata(self) -> list[str]:
        if self._wheel is not None:
            return [name for name in self._members if name.endswith(".dist-info/METADATA")]
        files = [*self._root.glob(f"{self.package}*.dist-info/METADATA"), self._root / "PKG-INFO"]
        # A distribution of metadata alone may stand beside the one that has the files.
        files.sort(key=lambda path: len(path.parent.name), reverse=True)
        return [str(path.relative_to(self._root)) for path in files]


def _size(path: Path) -> int:
    return path.stat().st_size
