"""Attacks on a lock: what is changed after locking, and what mszoo must say; nothing that is changed may run."""

from __future__ import annotations

import importlib.util
import json
import os
import py_compile
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .lock_places import COMPILED, LIBRARY, MARK, MESON, SUFFIX, Place, finder_text, sources

SERVES = None
NOT_LOCKED = "the code of {} is not what was locked ("
ADDED = "{} is not in the lock ("
GONE = "{} is locked, and is not there"
LOADED_BY = "{} is loaded by "


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        told: what must be said; SERVES: nothing, and the plugin serves as it was locked.
        change: what is done to the files after locking.
        way: of installing, of lock_places.WAYS.
        first: code that runs ahead of mszoo, as a .pth file's; `root` is the place.
        then: code that runs between the start and the building of the model.
        runs: something of it runs all the same, which is told before the model serves.
        paths: folders before all others on sys.path.
        environ: further variables.
        device: to serve on.
    """

    told: str | None
    change: Callable[[Place], object] = lambda place: None
    way: str = "wheel"
    first: str = ""
    then: str = ""
    runs: bool = False
    paths: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"


def evil(path: str, more: str = "ANSWER = 'evil'\n") -> Callable[[Place], object]:
    """Return what writes evil code there."""
    return lambda place: place.evil(path, more)


def written(path: str, text: str | bytes) -> Callable[[Place], object]:
    return lambda place: place.write(path, text)


def gone(path: str) -> Callable[[Place], object]:
    return lambda place: (place.root / path).unlink()


def all_of(*changes: Callable[[Place], object]) -> Callable[[Place], object]:
    return lambda place: [change(place) for change in changes]


def linked(path: str, target: str) -> Callable[[Place], object]:
    def change(place: Place) -> None:
        (place.root / path).unlink(missing_ok=True)
        (place.root / path).symlink_to(place.root / target)

    return change


def replaced(path: str, old: str, new: str) -> Callable[[Place], object]:
    def change(place: Place) -> None:
        text = (place.root / path).read_text()
        assert old in text
        place.write(path, text.replace(old, new.replace("ROOT", str(place.root))))

    return change


def same_size_and_time(place: Place) -> None:
    path = place.site / "good_pkg/helper.py"
    before = path.stat()
    path.write_text(path.read_text().replace("'good'", "'evil'").replace("'good ", "'evil "))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def as_pipe(place: Place) -> None:
    (place.site / "good_pkg/helper.py").unlink()
    os.mkfifo(place.site / "good_pkg/helper.py")


def as_folder(place: Place) -> None:
    (place.site / "good_pkg/helper.py").unlink()
    place.evil("site/good_pkg/helper.py/__init__.py")


def bytecode(
    kind: str, cache: Callable[[Place, str], str] = lambda place, path: importlib.util.cache_from_source(path)
):
    """Return what puts bytecode of evil code where Python caches that of the helper, and takes it for current."""

    def change(place: Place) -> None:
        path = place.site / "good_pkg/helper.py"
        good, before = path.read_bytes(), path.stat()
        place.evil("site/good_pkg/helper.py")
        target = cache(place, str(path))
        mode = getattr(py_compile.PycInvalidationMode, kind)
        py_compile.compile(str(path), cfile=target, doraise=True, invalidation_mode=mode)
        path.write_bytes(good)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        content = bytearray(Path(target).read_bytes())
        if kind == "TIMESTAMP":
            content[8:16] = int(before.st_mtime).to_bytes(4, "little") + len(good).to_bytes(4, "little")
        elif kind == "CHECKED_HASH":
            content[8:16] = importlib.util.source_hash(good)
        Path(target).write_bytes(content)

    return change


def zip_of(
    files: dict[str, str | bytes], name: str = "good.zip", mode: str = "a"
) -> Callable[[Place], object]:
    def change(place: Place) -> None:
        with zipfile.ZipFile(place.root / name, mode) as file:
            for path, text in files.items():
                file.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)

    return change


def rezipped(change: Callable[[dict[str, str]], object]) -> Callable[[Place], object]:
    def rewrite(place: Place) -> None:
        files = sources("good_pkg")
        change(files)
        zip_of(files, mode="w")(place)

    return rewrite


def zipped_bytecode(place: Place) -> None:
    source = place.evil("helper.py")
    py_compile.compile(str(source), cfile=str(place.root / "helper.pyc"), doraise=True)
    zip_of({"good_pkg/helper.pyc": (place.root / "helper.pyc").read_bytes()})(place)
    files = sources("good_pkg")
    del files["good_pkg/helper.py"]
    zip_of({**files, "good_pkg/helper.pyc": (place.root / "helper.pyc").read_bytes()}, mode="w")(place)


def other_bytecode(path: str) -> Callable[[Place], object]:
    def change(place: Place) -> None:
        source = place.evil("evil_source.py")
        py_compile.compile(str(source), cfile=str(place.root / path), doraise=True)

    return change


def shorter_record(place: Place) -> None:
    record = place.info / "RECORD"
    kept = [line for line in record.read_text().splitlines() if "helper" not in line and "single" not in line]
    record.write_text("\n".join(kept))
    place.evil("site/good_pkg/helper.py")


def another_distribution(name: str, entry_points: str, version: str = "1.0", folder: str = "first"):
    def change(place: Place) -> None:
        info = f"{folder}/{name.replace('-', '_')}-{version}.dist-info"
        place.write(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        place.write(f"{info}/entry_points.txt", entry_points)
        place.evil(f"{folder}/evil_plugin.py")

    return change


EVIL_LOADER = """
import importlib.machinery, importlib.util, sys, os
from importlib.abc import Loader, MetaPathFinder
class Evil(Loader):
    def create_module(self, spec): return None
    def exec_module(self, module):
        sys.ran.append('evil ' + module.__name__); module.ANSWER = 'evil'
class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, Evil()) if name == 'good_pkg.helper' else None
"""
FILE_FINDER = """
class Hook(importlib.machinery.FileFinder):
    def find_spec(self, name, target=None):
        return Finder().find_spec(name) or super().find_spec(name, target)
details = (importlib.machinery.SourceFileLoader, ['.py'])
"""
ELSEWHERE = """
import importlib.util, sys
from importlib.abc import MetaPathFinder
class Finder(MetaPathFinder):
    asked = 0
    def find_spec(self, name, path=None, target=None):
        if name != 'good_pkg.late':
            return None
        Finder.asked += 1
        place = root + ('/first/late.py' if Finder.asked > HONEST else '/site/good_pkg/late.py')
        return importlib.util.spec_from_file_location(name, place)
sys.meta_path.insert(0, Finder())
"""
SUBCLASS = """
import importlib.machinery, sys
class Loader(importlib.machinery.SourceFileLoader):
    def METHOD
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        spec = super().find_spec(name, path, target)
        if spec is not None and name == 'good_pkg.helper':
            spec.loader = Loader(name, spec.origin)
        return spec
sys.meta_path.insert(0, Finder)
"""
BY_PATH = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('NAME', root + '/PATH')
module = importlib.util.module_from_spec(spec)
sys.modules['NAME'] = module
spec.loader.exec_module(module)
"""


def by_path(name: str, path: str) -> str:
    return BY_PATH.replace("NAME", name).replace("PATH", path)


def later(path: str, text: str = MARK.format("evil") + "ANSWER = 'evil'\n") -> str:
    """Return code that writes a file after the start."""
    return (
        "import importlib, os\n"
        f"os.makedirs(os.path.dirname(root + '/{path}'), exist_ok=True)\n"
        f"open(root + '/{path}', 'w').write({text!r})\nimportlib.invalidate_caches()"
    )


def recorded(place: Place) -> None:
    """Add a module, and a line for it to RECORD."""
    place.evil("site/good_pkg/added.py")
    with (place.site / "good-1.0.dist-info" / "RECORD").open("a") as file:
        file.write("good_pkg/added.py,,\n")


def relocked(text: str) -> Callable[[Place], object]:
    """Return what writes another hash of a module into the lock file."""

    def change(place: Place) -> None:
        path = place.root / "the.lock"
        content = json.loads(path.read_text())
        content["code"]["good"][HELPER] = text
        path.write_text(json.dumps(content))

    return change


HELPER = "good_pkg.helper"
FIRST = ("first",)
ATTACKS: dict[str, Attack] = {
    # A file is changed.
    "a module": Attack(NOT_LOCKED.format(HELPER), evil("site/good_pkg/helper.py")),
    "the package's own code": Attack(NOT_LOCKED.format("good_pkg"), evil("site/good_pkg/__init__.py")),
    "the module of the entry point": Attack(
        NOT_LOCKED.format("good_pkg.plugin"), evil("site/good_pkg/plugin.py")
    ),
    "the module of the record": Attack(NOT_LOCKED.format("good_pkg.model"), evil("site/good_pkg/model.py")),
    "a single module beside": Attack(NOT_LOCKED.format("good_single"), evil("site/good_single.py")),
    "deep in the package": Attack(NOT_LOCKED.format("good_pkg.sub.deep"), evil("site/good_pkg/sub/deep.py")),
    "only a comment": Attack(
        NOT_LOCKED.format(HELPER), replaced("site/good_pkg/helper.py", "ANSWER", "# more\nANSWER")
    ),
    "same size and time": Attack(NOT_LOCKED.format(HELPER), same_size_and_time),
    "emptied": Attack(NOT_LOCKED.format(HELPER), written("site/good_pkg/helper.py", "")),
    "gone": Attack(GONE.format("good_pkg.sub.more"), gone("site/good_pkg/sub/more.py")),
    "the folder gone": Attack(
        "good_pkg.sub, good_pkg.sub.deep, good_pkg.sub.more is locked, and is not there",
        lambda place: shutil.rmtree(place.site / "good_pkg/sub"),
    ),
    "all modules": Attack(
        "and 5 more is not what was locked (",
        lambda place: [place.evil(path.relative_to(place.root)) for path in place.site.rglob("*.py")],
    ),
    "a folder in place of a file": Attack(GONE.format(HELPER), as_folder),
    "a pipe in place of a file": Attack(GONE.format(HELPER), as_pipe),
    "a link that leads nowhere": Attack(GONE.format(HELPER), linked("site/good_pkg/helper.py", "nowhere.py")),
    "a link to evil code": Attack(
        NOT_LOCKED.format(HELPER), all_of(evil("evil.py"), linked("site/good_pkg/helper.py", "evil.py"))
    ),
    "a link to the same code": Attack(
        SERVES,
        all_of(
            written("same.py", sources("good_pkg")["good_pkg/helper.py"]),
            linked("site/good_pkg/helper.py", "same.py"),
        ),
    ),
    "a compiled module": Attack(
        NOT_LOCKED.format("good_pkg._bisect"), written(f"site/good_pkg/_bisect{SUFFIX}", b"\x7fELF")
    ),
    "a library": Attack(
        NOT_LOCKED.format("good_pkg/lib/libgood.so.1"), written("site/good_pkg/lib/libgood.so.1", b"\x7fELF")
    ),
    "a library gone": Attack(
        GONE.format("good_pkg/lib/libgood.so.1"), gone("site/good_pkg/lib/libgood.so.1")
    ),
    # A file is added.
    "a module added": Attack(ADDED.format("good_pkg.extra"), evil("site/good_pkg/extra.py")),
    "a package added": Attack(ADDED.format("good_pkg.extra"), evil("site/good_pkg/extra/__init__.py")),
    "a namespace added": Attack(
        ADDED.format("good_pkg.extra, good_pkg.extra.more"), evil("site/good_pkg/extra/more.py")
    ),
    "a compiled module added": Attack(
        ADDED.format("good_pkg.extra"), written("site/good_pkg/extra.so", b"\x7fELF")
    ),
    "a library added": Attack(
        ADDED.format("good_pkg/libevil.so.1"), written("site/good_pkg/libevil.so.1", LIBRARY)
    ),
    "bytecode added": Attack(ADDED.format("good_pkg.extra"), other_bytecode("site/good_pkg/extra.pyc")),
    "bytecode beside a module": Attack(
        ADDED.format("good_pkg/helper.pyc"), other_bytecode("site/good_pkg/helper.pyc")
    ),
    "code that no name imports": Attack(
        ADDED.format("good_pkg/not-a-name.py"), evil("site/good_pkg/not-a-name.py")
    ),
    "a linked folder added": Attack(
        ADDED.format("good_pkg.extra"),
        all_of(evil("evil/__init__.py"), linked("site/good_pkg/extra", "evil")),
    ),
    "a circle of links": Attack(
        ADDED.format("good_pkg.extra"),
        lambda place: (place.site / "good_pkg/extra").symlink_to(place.site / "good_pkg"),
    ),
    "a package beside a module": Attack(NOT_LOCKED.format(HELPER), evil("site/good_pkg/helper/__init__.py")),
    "a compiled module beside a module": Attack(
        NOT_LOCKED.format(HELPER), written(f"site/good_pkg/helper{SUFFIX}", b"\x7fELF")
    ),
    "a compiled module of any Python beside": Attack(
        NOT_LOCKED.format(HELPER), written("site/good_pkg/helper.abi3.so", b"\x7fELF")
    ),
    "a package beside a single module": Attack(
        NOT_LOCKED.format("good_single"), evil("site/good_single/__init__.py")
    ),
    "data added": Attack(SERVES, written("site/good_pkg/data/table.json", "{}")),
    # Something else comes first on sys.path.
    "a package first": Attack(NOT_LOCKED.format("good_pkg"), evil("first/good_pkg/__init__.py"), paths=FIRST),
    "a single module first": Attack(
        NOT_LOCKED.format("good_single"), evil("first/good_single.py"), paths=FIRST
    ),
    "a compiled module first": Attack(
        NOT_LOCKED.format("good_single"), written("first/good_single.so", b"\x7fELF"), paths=FIRST
    ),
    "a zip file first": Attack(
        NOT_LOCKED.format("good_pkg"),
        zip_of({"good_pkg/__init__.py": MARK.format("evil")}, "first.zip", "w"),
        paths=("first.zip",),
    ),
    "the working folder first": Attack(
        NOT_LOCKED.format("good_single"),
        evil("first/good_single.py"),
        first="import os, sys; os.chdir(root + '/first'); sys.path.insert(0, '')",
    ),
    "a folder without code first": Attack(SERVES, written("first/good_pkg/readme.txt", ""), paths=FIRST),
    "a .pth file that puts a folder first": Attack(
        NOT_LOCKED.format("good_single"),
        lambda place: [
            place.evil("first/good_single.py"),
            place.write("site/a.pth", f"import sys; sys.path.insert(0, {str(place.first)!r})\n"),
        ],
    ),
    # Finders, loaders and what Python keeps.
    "a finder that makes modules": Attack(
        LOADED_BY.format(HELPER), first=EVIL_LOADER + "sys.meta_path.insert(0, Finder())"
    ),
    "a path hook": Attack(
        LOADED_BY.format(HELPER),
        first=EVIL_LOADER
        + FILE_FINDER
        + "def hook(path):\n    if path.endswith('/good_pkg'):\n        return Hook(path, details)\n"
        + "    raise ImportError\n"
        + "sys.path_hooks.insert(0, hook); sys.path_importer_cache.clear()",
    ),
    "a poisoned cache of importers": Attack(
        LOADED_BY.format(HELPER),
        first=EVIL_LOADER
        + FILE_FINDER
        + "sys.path_importer_cache[root + '/site/good_pkg'] = Hook(root + '/site/good_pkg', details)",
    ),
    "a finder that leads elsewhere": Attack(
        NOT_LOCKED.format("good_pkg.late"), evil("first/late.py"), first=ELSEWHERE.replace("HONEST", "0")
    ),
    "a finder that is honest at start": Attack(
        "good_pkg.late: its code is not what was locked (",
        evil("first/late.py"),
        first=ELSEWHERE.replace("HONEST", "1"),
    ),
    "a loader that reads something else": Attack(
        LOADED_BY.format(HELPER),
        first=SUBCLASS.replace("METHOD", "get_data(self, path): return b'ANSWER = \"evil\"'"),
    ),
    "a loader that compiles something else": Attack(
        LOADED_BY.format(HELPER),
        first=SUBCLASS.replace(
            "METHOD", "source_to_code(self, data, path): return compile('', path, 'exec')"
        ),
    ),
    "a loader that leads elsewhere": Attack(
        NOT_LOCKED.format(HELPER),
        evil("first/helper.py"),
        first=SUBCLASS.replace("METHOD", "name_of(self): pass").replace(
            "spec.origin)", f"{'root'} + '/first/helper.py')"
        ),
    ),
    "a loader that only stores nothing": Attack(
        SERVES, first=SUBCLASS.replace("METHOD", "set_data(self, path, data, *, _mode=0): pass")
    ),
    "a finder that raises": Attack(
        "is locked, and is not there",
        first="import sys\nclass F:\n    @staticmethod\n    def find_spec(name, *_):\n"
        "        if name.startswith('good'): raise OSError('no')\nsys.meta_path.insert(0, F)",
    ),
    # Something lies in sys.modules.
    "a module made ahead": Attack(
        "good_pkg.helper: what lies in sys.modules (no file) is not what was locked",
        first="import sys, types; module = types.ModuleType('good_pkg.helper'); module.ANSWER = 'evil'\n"
        "sys.modules['good_pkg.helper'] = module",
    ),
    "a module imported ahead from elsewhere": Attack(
        "good_pkg.helper: its code is not what was locked (",
        evil("first/helper.py"),
        first=by_path(HELPER, "first/helper.py"),
    ),
    "an object that is no module": Attack(
        "good_pkg.late: what lies in sys.modules (no file) is not what was locked",
        first="import sys; sys.modules['good_pkg.late'] = object()",
    ),
    "a module exchanged after the start": Attack(
        "good_pkg.record: what lies in sys.modules (no file) is not what was locked",
        then="import sys, types; sys.modules['good_pkg.record'] = types.ModuleType('good_pkg.record')",
    ),
    "a module that claims another's file": Attack(
        "is not what was locked",
        evil("first/helper.py"),
        first=by_path(HELPER, "first/helper.py") + "module.__file__ = root + '/site/good_pkg/helper.py'",
    ),
    "a module with the spec of the true one": Attack(
        "/site/good_pkg/record.py) is not what was locked",
        then="import sys, types, good_pkg.record as true; fake = types.ModuleType('good_pkg.record')\n"
        "fake.__spec__, fake.__file__ = true.__spec__, true.__file__; sys.modules['good_pkg.record'] = fake",
    ),
    # Bytecode in Python's caches.
    "bytecode that is never checked": Attack(SERVES, bytecode("UNCHECKED_HASH")),
    "bytecode of the source's time and size": Attack(SERVES, bytecode("TIMESTAMP")),
    "bytecode with the source's hash": Attack(SERVES, bytecode("CHECKED_HASH")),
    "bytecode in a cache elsewhere": Attack(
        SERVES,
        bytecode(
            "UNCHECKED_HASH",
            lambda place, path: (
                f"{place.root}/cache{path.removesuffix('.py')}.{sys.implementation.cache_tag}.pyc"
            ),
        ),
        first="import sys; sys.pycache_prefix = root + '/cache'",
    ),
    **{
        f"bytecode that ran ahead of mszoo: {kind}": Attack(
            "is not that of its source. Mend it (Remove that file, and start again)",
            bytecode(kind),
            first="import good_pkg.helper",
        )
        for kind in ("UNCHECKED_HASH", "TIMESTAMP", "CHECKED_HASH")
    },
    # Between the start and the building of the model.
    "changed after the start": Attack(
        "good_pkg.late: its code is not what was locked (", then=later("site/good_pkg/late.py")
    ),
    "reloaded after the start": Attack(
        f"{HELPER}: its code is not what was locked (",
        then=later("site/good_pkg/helper.py") + f"\nimport {HELPER}\nimportlib.reload({HELPER})",
    ),
    "run by runpy after the start": Attack(
        f"{HELPER}: its code is not what was locked (",
        then=later("site/good_pkg/helper.py") + f"\nimport runpy\nrunpy.run_module('{HELPER}')",
    ),
    "added after the start": Attack(
        "good_pkg.extra: is not in the lock (", then=later("site/good_pkg/extra.py")
    ),
    "a package beside after the start": Attack(
        "good_pkg.late: its code is not what was locked (", then=later("site/good_pkg/late/__init__.py")
    ),
    "gone after the start": Attack(
        "No module named 'good_pkg.late'", then="import os; os.unlink(root + '/site/good_pkg/late.py')"
    ),
    "a library changed after the start": Attack(
        "good_pkg/lib/libgood.so.1: its code is not what was locked (",
        then=later("site/good_pkg/lib/libgood.so.1"),
    ),
    "the package sought elsewhere after the start": Attack(
        "good_pkg.late: its code is not what was locked (",
        evil("first/late.py"),
        then="import good_pkg; good_pkg.__path__.insert(0, root + '/first')",
    ),
    "the lock's finder taken away": Attack(
        "was taken off sys.meta_path, so what was imported since may be anything. "
        "Mend it (Find out which package does that, and start again)",
        then="import sys; sys.meta_path[:] = [item for item in sys.meta_path if type(item).__name__ != 'Guard']",
    ),
    "a finder ahead of the lock's": Attack(
        "good_pkg.late: its code is not what was locked (",
        evil("first/late.py"),
        then=ELSEWHERE.replace("HONEST", "0"),
        runs=True,
    ),
    "a file of the package under another name": Attack(
        "innocent: is not in the lock (",
        then=later("site/good_pkg/extra.py") + "\n" + by_path("innocent", "site/good_pkg/extra.py"),
        runs=True,
    ),
    # Other ways of installing.
    "without RECORD": Attack(NOT_LOCKED.format(HELPER), evil("site/good_pkg/helper.py"), "without_record"),
    "an editable folder": Attack(
        NOT_LOCKED.format(HELPER), evil("source/good_pkg/helper.py"), "setuptools_pth"
    ),
    "an editable folder elsewhere": Attack(
        NOT_LOCKED.format("good_pkg"),
        all_of(
            evil("evil/good_pkg/__init__.py"),
            replaced("site/__editable__.good-1.0.pth", "/source", "/evil"),
        ),
        "setuptools_pth",
    ),
    "a module of an editable folder that isn't of the distribution": Attack(
        "setup: is not in the lock (", way="setuptools_pth", then="import setup", runs=True
    ),
    "a finder's folder": Attack(
        NOT_LOCKED.format(HELPER), evil("source/good_pkg/helper.py"), "setuptools_finder"
    ),
    "a finder's folder added to": Attack(
        ADDED.format("good_pkg.extra"), evil("source/good_pkg/extra.py"), "setuptools_finder"
    ),
    "a finder that maps elsewhere": Attack(
        NOT_LOCKED.format("good_pkg"),
        lambda place: [
            place.evil("evil/good_pkg/__init__.py"),
            place.write(
                "site/__editable___good_1_0_finder.py", finder_text(place, f"{place.root}/evil/good_pkg")
            ),
        ],
        "setuptools_finder",
    ),
    "a finder's namespace": Attack(
        NOT_LOCKED.format("space.inner.good_pkg.helper"),
        evil("source/space/inner/good_pkg/helper.py"),
        "finder_namespace",
    ),
    "a finder's namespace added to": Attack(
        ADDED.format("space.inner.good_pkg.extra"),
        evil("source/space/inner/good_pkg/extra.py"),
        "finder_namespace",
    ),
    "hatch": Attack(NOT_LOCKED.format("good_single"), evil("source/good_single.py"), "hatch"),
    "hatch that maps elsewhere": Attack(
        NOT_LOCKED.format("good_single"),
        all_of(
            evil("evil/good_single.py"),
            replaced("site/_editable_impl_good.py", "/source/good_single", "/evil/good_single"),
        ),
        "hatch",
    ),
    "meson": Attack(NOT_LOCKED.format(HELPER), evil("source/good_pkg/helper.py"), "meson"),
    "meson whose loader reads something else": Attack(
        "loaded by _good_editable_loader.SourceFileLoader, which may run anything",
        lambda place: place.write(
            "site/_good_editable_loader.py",
            MESON.format(path=str(place.source), more="    def get_data(self, path):\n        return b''"),
        ),
        "meson",
    ),
    "flit": Attack(NOT_LOCKED.format(HELPER), evil("source/good_pkg/helper.py"), "flit"),
    "flit with a module added beside": Attack(ADDED.format("evil_top"), evil("source/evil_top.py"), "flit"),
    "an egg": Attack(NOT_LOCKED.format("good_single"), evil("source/good_single.py"), "egg_link"),
    "links of single files": Attack(
        NOT_LOCKED.format(HELPER), evil("source/good_pkg/helper.py"), "strict_links"
    ),
    "links of single files that lead elsewhere": Attack(
        NOT_LOCKED.format(HELPER),
        all_of(evil("evil.py"), linked("build/good_pkg/helper.py", "evil.py")),
        "strict_links",
    ),
    "a file added beside links": Attack(
        ADDED.format("good_pkg.extra"), evil("build/good_pkg/extra.py"), "strict_links"
    ),
    "a linked package": Attack(
        ADDED.format("good_pkg.sub.extra"), evil("source/good_pkg/sub/extra.py"), "linked_folder"
    ),
    "a zip file": Attack(
        NOT_LOCKED.format(HELPER),
        rezipped(lambda files: files.update({"good_pkg/helper.py": MARK.format("evil")})),
        "zipped",
    ),
    "a module added to a zip file": Attack(
        ADDED.format("good_pkg.extra"), zip_of({"good_pkg/extra.py": MARK.format("evil")}), "zipped"
    ),
    "bytecode in a zip file": Attack(NOT_LOCKED.format(HELPER), zipped_bytecode, "zipped"),
    "a namespace's portion first": Attack(
        NOT_LOCKED.format("space.inner.good_pkg"),
        evil("first/space/inner/good_pkg/__init__.py"),
        "namespace",
        paths=FIRST,
    ),
    "a namespace made a package": Attack(
        GONE.format("good_pkg").split(" ", 1)[1], evil("first/space/__init__.py"), "namespace", paths=FIRST
    ),
    "a namespace with another's portion": Attack(
        SERVES, evil("first/space/inner/other/__init__.py"), "namespace", paths=FIRST
    ),
    "a namespace in an editable folder": Attack(
        NOT_LOCKED.format("space.inner.good_pkg.helper"),
        evil("source/space/inner/good_pkg/helper.py"),
        "editable_namespace",
    ),
    "a package in portions, one added": Attack(
        ADDED.format("good_pkg.extra"), evil("first/good_pkg/extra.py"), "portions", paths=FIRST
    ),
    "a package in portions, one first": Attack(
        NOT_LOCKED.format("good_pkg.late"), evil("first/good_pkg/late.py"), "portions", paths=FIRST
    ),
    "a package in portions made whole": Attack(
        NOT_LOCKED.format("good_pkg"), evil("site/good_pkg/__init__.py"), "portions"
    ),
    "bytecode without source": Attack(
        NOT_LOCKED.format(HELPER), other_bytecode("site/good_pkg/helper.pyc"), "sourceless"
    ),
    "source beside bytecode": Attack(
        NOT_LOCKED.format(HELPER), evil("site/good_pkg/helper.py"), "sourceless"
    ),
    # What an installation says of itself.
    "a RECORD that leaves things out": Attack(NOT_LOCKED.format(HELPER), shorter_record),
    "a module added that RECORD lists": Attack(ADDED.format("good_pkg.added"), recorded),
    "no RECORD any more": Attack(GONE.format("good_single"), gone("site/good-1.0.dist-info/RECORD")),
    "another version": Attack(
        "plugin 'good': is of good 1.1, and 1.0 is locked",
        replaced("site/good-1.0.dist-info/METADATA", "Version: 1.0", "Version: 1.1"),
    ),
    "another entry point": Attack(
        "its entry point is good_pkg.helper, and good_pkg.plugin is locked",
        replaced("site/good-1.0.dist-info/entry_points.txt", "good_pkg.plugin", "good_pkg.helper"),
    ),
    "a further entry point": Attack(
        SERVES,
        all_of(
            evil("site/evil_plugin.py"),
            written(
                "site/good-1.0.dist-info/entry_points.txt",
                "[mszoo]\ngood=good_pkg.plugin\nevil=evil_plugin\n",
            ),
        ),
    ),
    "the installation gone": Attack(
        "plugin 'good': is locked, and good 1.0 with it is not installed",
        lambda place: shutil.rmtree(place.info),
    ),
    "the same name first": Attack(
        "plugin 'good': is of good 9, and 1.0 is locked",
        another_distribution("good", "[mszoo]\ngood = evil_plugin\n", "9"),
        paths=FIRST,
    ),
    "a distribution that isn't listed": Attack(
        SERVES, another_distribution("stranger", "[mszoo]\nstranger = evil_plugin\n"), paths=FIRST
    ),
    "another distribution with the plugin's name": Attack(
        SERVES, another_distribution("aaa-first", "[mszoo]\ngood = evil_plugin\n"), paths=FIRST
    ),
    "ops of a distribution that isn't listed": Attack(
        SERVES, another_distribution("stranger", "[mszoo.ops]\nevil = evil_plugin\n"), paths=FIRST
    ),
    # The lock file and the settings.
    "the lock file gone": Attack("doesn't exist. Write one with", gone("the.lock")),
    "the lock file cut": Attack("is damaged: it is not valid JSON", written("the.lock", '{"format": "msz')),
    "an older lock file": Attack(
        "has version 1, and this mszoo reads version 2", replaced("the.lock", '"version": 2', '"version": 1')
    ),
    "a lock file of something else": Attack("is not a lock file of mszoo", written("the.lock", "{}")),
    "a lock file of another hash": Attack(NOT_LOCKED.format(HELPER), relocked("md5:0")),
    "a lock file that takes code for a namespace": Attack(
        NOT_LOCKED.format(HELPER), all_of(evil("site/good_pkg/helper.py"), relocked("namespace"))
    ),
    "a lock file that holds less": Attack(
        ADDED.format("good_single"), replaced("the.lock", '"good_single": ', '"good_other": ')
    ),
    "a lock file that allows any loader": Attack(
        LOADED_BY.format(HELPER),
        lambda place: place.write(
            "the.lock",
            "\n".join(
                line.split(": ")[0] + ': "loader __main__.Evil",' if '"good_pkg.helper"' in line else line
                for line in (place.root / "the.lock").read_text().splitlines()
            ),
        ),
        first=EVIL_LOADER + "sys.meta_path.insert(0, Finder())",
    ),
    "the plugin switched off": Attack(
        "plugin 'good': is locked, and MSZOO_DISABLE leaves it out", environ={"MSZOO_DISABLE": "good"}
    ),
    "other kernels": Attack("MSZOO_KERNELS: is mindspore, and auto", environ={"MSZOO_KERNELS": "mindspore"}),
    "another order": Attack("MSZOO_PREFER: is good, and empty is locked", environ={"MSZOO_PREFER": "good"}),
    "another device": Attack("the device: is npu, and cpu is locked", device="npu"),
}
if not COMPILED.endswith(".so"):  # a Python that has it built in
    del ATTACKS["a compiled module"]
