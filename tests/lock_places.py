"""A good plugin, installed in all the ways that people know, for attacks on its lock."""

from __future__ import annotations

import importlib.util
import py_compile
import shutil
import sysconfig
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: Each module notes that it ran, and whose it is.
MARK = "import sys\nsys.ran.append('{} ' + __name__)\n"
PLUGIN = """
from mszoo.registry import ModelAdapter, OpAdapter, hookimpl
import {0}.record

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("GoodModel", "{0}.model:Model")]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", "{0}.helper:ANSWER", "mine")]
"""
MODEL = """
from {0} import helper
from {0}.sub import deep
import good_single, importlib
try:
    from {0} import extra
except ImportError:
    pass
for name in ("late", "sub.more"):
    importlib.import_module("{0}." + name)

class Model:
    answer = helper.ANSWER
"""
LIBRARY = b"\x7fELF, as good as any"
#: An extension module of Python's own, whose name is the same in any package.
COMPILED = getattr(importlib.util.find_spec("_bisect"), "origin", "")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def sources(package: str) -> dict[str, str]:
    """Return the files of the good plugin."""
    bodies = {
        "__init__": "",
        "plugin": PLUGIN.format(package),
        "record": "",
        "model": MODEL.format(package),
        "helper": "ANSWER = 'good'\n",
        "late": "",
        "sub/__init__": "",
        "sub/deep": "",
        "sub/more": "",
    }
    folder = package.replace(".", "/")
    found = {f"{folder}/{name}.py": MARK.format("good") + body for name, body in bodies.items()}
    return found | {"good_single.py": MARK.format("good")}


@dataclass
class Place:
    """Where the plugin is: ``site`` is as site-packages, ``source`` a checkout, ``first`` is first on sys.path."""

    root: Path
    package: str = "good_pkg"

    @property
    def site(self) -> Path:
        return self.root / "site"

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def first(self) -> Path:
        return self.root / "first"

    @property
    def info(self) -> Path:
        return self.site / "good-1.0.dist-info"

    def write(self, path: str | Path, text: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    def evil(self, path: str | Path, more: str = "ANSWER = 'evil'\n") -> Path:
        return self.write(path, MARK.format("evil") + more)

    def code(self, folder: str) -> None:
        for path, text in sources(self.package).items():
            self.write(f"{folder}/{path}", text)
        library = f"{folder}/{self.package.replace('.', '/')}/lib/libgood.so.1"
        self.write(library, LIBRARY)
        if COMPILED.endswith(".so"):
            shutil.copy(COMPILED, self.root / folder / self.package.replace(".", "/") / f"_bisect{SUFFIX}")

    def metadata(
        self, record: list[str] | None, top_level: str = "", info: str = "site/good-1.0.dist-info"
    ) -> None:
        egg = info.endswith("egg-info")
        self.write(
            f"{info}/{'PKG-INFO' if egg else 'METADATA'}", "Metadata-Version: 2.1\nName: good\nVersion: 1.0\n"
        )
        self.write(f"{info}/entry_points.txt", f"[mszoo]\ngood = {self.package}.plugin\n")
        if top_level:
            self.write(f"{info}/top_level.txt", top_level)
        if record is not None:
            lines = [*record, f"{Path(info).name}/METADATA", f"{Path(info).name}/RECORD", "../bin/good"]
            self.write(f"{info}/RECORD", "".join(f"{line},,\n" for line in lines))

    def files(self, folder: str) -> list[str]:
        root = self.root / folder
        return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]


def wheel(place: Place) -> None:
    place.code("site")
    place.metadata(place.files("site"))


def without_record(place: Place) -> None:
    place.code("site")
    place.metadata(None)


def setuptools_pth(place: Place) -> None:
    place.code("source")
    place.evil("source/setup.py")
    place.write("site/__editable__.good-1.0.pth", f"{place.source}\n")
    place.metadata(["__editable__.good-1.0.pth"], "good_pkg\ngood_single\n")


FINDER = """
import sys
from importlib.machinery import PathFinder
from importlib.util import spec_from_file_location
from pathlib import Path

MAPPING: dict[str, str] = {mapping}
NAMESPACES: dict[str, list[str]] = {{}}

class _EditableFinder:
    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in MAPPING:
            return None
        place = Path(MAPPING[fullname])
        for candidate in (place / "__init__.py", place.with_suffix(".py")):
            if candidate.exists():
                return spec_from_file_location(fullname, candidate)

def install():
    sys.meta_path.append(_EditableFinder)
"""


def finder_text(place: Place, package: str | None = None) -> str:
    mapping = {
        "good_pkg": package or f"{place.source}/good_pkg",
        "good_single": f"{place.source}/good_single",
    }
    return FINDER.format(mapping=mapping)


def setuptools_finder(place: Place) -> None:
    place.code("source")
    name = "__editable___good_1_0_finder"
    place.write(f"site/{name}.py", finder_text(place))
    place.write("site/__editable__.good-1.0.pth", f"import {name}; {name}.install()")
    place.metadata(["__editable__.good-1.0.pth", f"{name}.py"], "good_pkg\ngood_single\n")


PATH_HOOK = """
class _Namespaces:
    @classmethod
    def hook(cls, path):
        if path != 'good-1.0.__path_hook__':
            raise ImportError
        return cls
    @staticmethod
    def find_spec(fullname, target=None):
        from importlib.machinery import ModuleSpec
        if fullname not in ('space', 'space.inner'):
            return None
        spec = ModuleSpec(fullname, None, is_package=True)
        spec.submodule_search_locations = ['good-1.0.__path_hook__']
        return spec

sys.path_hooks.append(_Namespaces.hook)
sys.path.append('good-1.0.__path_hook__')
"""


def finder_namespace(place: Place) -> None:
    """What setuptools does for a package in a namespace: a hook finds the namespace, the finder what lies in it."""
    place.package = "space.inner.good_pkg"
    setuptools_finder(place)
    folder = f"{place.source}/space/inner/good_pkg"
    text = finder_text(place, folder).replace("'good_pkg'", "'space.inner.good_pkg'") + PATH_HOOK
    place.write("site/__editable___good_1_0_finder.py", text)
    place.write("site/good-1.0.dist-info/top_level.txt", "space\ngood_single\n")


HATCH = """
from good_editables import RedirectingFinder as F
F.install()
F.map_module('good_pkg', {0!r})
F.map_module('good_single', {1!r})
"""
EDITABLES = """
import importlib.util, sys
class RedirectingFinder:
    found = {}
    @classmethod
    def map_module(cls, name, path):
        cls.found[name] = path
    @classmethod
    def install(cls):
        sys.meta_path.append(cls)
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return importlib.util.spec_from_file_location(name, cls.found[name]) if name in cls.found else None
"""


def hatch(place: Place) -> None:
    place.code("source")
    place.write("site/good_editables.py", EDITABLES)
    places = f"{place.source}/good_pkg/__init__.py", f"{place.source}/good_single.py"
    place.write("site/_editable_impl_good.py", HATCH.format(*places))
    place.write("site/_good.pth", "import _editable_impl_good")
    place.metadata(["_good.pth", "_editable_impl_good.py"])


MESON = """
import importlib.machinery, os, sys

class SourceFileLoader(importlib.machinery.SourceFileLoader):
    def set_data(self, path, data, *, _mode=0o666):
        pass
{more}

class Finder:
    def __init__(self, names, path):
        self.names, self.path = names, path
    def find_spec(self, name, path=None, target=None):
        from importlib.util import spec_from_file_location
        if name.partition('.')[0] not in self.names:
            return None
        base = os.path.join(self.path, *name.split('.'))
        for file in (os.path.join(base, '__init__.py'), base + '.py'):
            if os.path.exists(file):
                return spec_from_file_location(name, file, loader=SourceFileLoader(name, file))

def install(package_name, names, path, cmd, verbose=False):
    sys.meta_path.insert(0, Finder(names, path))

install('good-dist', {{'good_pkg', 'good_single'}}, {path!r}, ['ninja'], False)
"""


def meson(place: Place) -> None:
    place.code("source")
    place.write("site/_good_editable_loader.py", MESON.format(path=str(place.source), more=""))
    place.write("site/good-editable.pth", "import _good_editable_loader")
    place.metadata(["good-editable.pth", "_good_editable_loader.py"])


def flit(place: Place) -> None:
    place.code("source")
    place.write("site/good.pth", "../source\n")
    place.metadata(["good.pth"])


def egg_link(place: Place) -> None:
    place.code("source")
    place.write("site/easy-install.pth", f"{place.source}\n")
    place.metadata(None, "good_pkg\ngood_single\n", "source/good.egg-info")
    place.write("source/good.egg-info/SOURCES.txt", "\n".join(sources("good_pkg")))


def strict_links(place: Place) -> None:
    place.code("source")
    for name in place.files("source"):
        link = place.root / "build" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place.source / name)
    place.write("site/__editable__.good-1.0.pth", f"{place.root}/build\n")
    place.metadata(["__editable__.good-1.0.pth"], "good_pkg\ngood_single\n")


def linked_folder(place: Place) -> None:
    place.code("source")
    place.site.mkdir()
    (place.site / "good_pkg").symlink_to(place.source / "good_pkg")
    (place.site / "good_single.py").symlink_to(place.source / "good_single.py")
    place.metadata(place.files("source"))


def zipped(place: Place) -> None:
    place.site.mkdir()
    with zipfile.ZipFile(place.root / "good.zip", "w") as file:
        for path, text in sources(place.package).items():
            file.writestr(zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0)), text)
    place.write("site/good.pth", f"{place.root}/good.zip\n")
    place.metadata(None, "good_pkg\ngood_single\n")


def namespace(place: Place) -> None:
    place.package = "space.inner.good_pkg"
    wheel(place)


def editable_namespace(place: Place) -> None:
    place.package = "space.inner.good_pkg"
    setuptools_pth(place)
    place.write("site/good-1.0.dist-info/top_level.txt", "space\ngood_single\n")


def portions(place: Place) -> None:
    """The package itself is a namespace: it has no ``__init__.py``."""
    place.code("site")
    (place.site / "good_pkg/__init__.py").unlink()
    place.metadata(place.files("site"))


def sourceless(place: Place) -> None:
    place.code("site")
    for path in list(place.site.rglob("*.py")):
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH  # the same wherever and whenever it is made
        py_compile.compile(str(path), f"{path}c", path.name, doraise=True, invalidation_mode=mode)
        path.unlink()
    place.metadata(place.files("site"))


WAYS: dict[str, Callable[[Place], None]] = {
    item.__name__: item
    for item in (
        *(wheel, without_record, setuptools_pth, setuptools_finder, hatch, meson, flit, egg_link),
        *(
            strict_links,
            linked_folder,
            zipped,
            namespace,
            finder_namespace,
            editable_namespace,
            portions,
            sourceless,
        ),
    )
}
