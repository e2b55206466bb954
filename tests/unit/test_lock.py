"""Lock files: they round-trip, let listed plugins in only, and name every difference."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import json
import pickle
import subprocess
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mszoo.registry import known_ops, plugins
from mszoo.registry.catalog import Catalog
from mszoo.registry.cli import build
from mszoo.registry.cli.lock.explain import HOLDS, LEAVES_OPEN
from mszoo.registry.discovery import discover
from mszoo.registry.errors import LockError
from mszoo.registry.fingerprints import Code, codes_of, module_hash
from mszoo.registry.load import load_catalog
from mszoo.registry.lock import Lock, LockedAdapter, LockedPlugin, parse_lock, read_lock
from mszoo.registry.lock_check import differences, enforce, make_lock
from mszoo.registry.lock_guard import compiled, in_force, release
from mszoo.registry.lock_plugins import unhashable
from mszoo.registry.settings import Settings

VERSION = importlib.metadata.version("mszoo")
MODELS = """
@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("{0}ForCausalLM", "{1}:JSONDecoder")]
"""
MOODY = """
import os

@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("MoodyForCausalLM", "json:" + os.environ.get("MOOD", "Good"))]
"""
NEEDY = """
@hookimpl
def mszoo_model_adapters():
    return [ModelAdapter("NeedyForCausalLM", "json:JSONDecoder", requires=["Hypothesis>=1"])]
"""
LAYERS = """
@hookimpl
def mszoo_layer_adapters():
    return [LayerAdapter("vllm:RMSNorm", "json:JSONEncoder")]

@hookimpl
def mszoo_op_adapters():
    return [OpAdapter("rms_norm", "json:dumps", "mine")]
"""


@pytest.fixture(autouse=True)
def no_lock_afterwards():
    yield
    release()


text = st.text(max_size=8)
decisions = st.dictionaries(
    text, st.lists(st.builds(LockedAdapter, text, text), max_size=2).map(tuple), max_size=3
)
locked_plugins = st.builds(
    LockedPlugin, text, text, text, st.dictionaries(text, st.none() | text, max_size=2)
)
locks = st.builds(
    Lock,
    text,
    text,
    text,
    kernels=text,
    prefer=st.lists(text, max_size=2).map(tuple),
    requires=st.dictionaries(text, st.none() | text, max_size=2),
    plugins=st.dictionaries(text, locked_plugins, max_size=2),
    code=st.dictionaries(text, st.dictionaries(text, text, max_size=2), max_size=2),
    models=decisions,
    layers=decisions,
    ops=decisions,
)


@given(locks)
def test_locks_round_trip(lock):
    written = lock.dumps()
    assert parse_lock(written, "x") == lock
    assert parse_lock(written, "x").dumps() == written
    assert written.isascii() and written.endswith("}\n")


def catalog_of(entry_points, lock=None, device="cpu", **environ):
    settings = Settings.from_environ(environ)
    return Catalog(discover(settings, entry_points, lock), settings, device)


def found(lock, entry_points, device="cpu", **environ):
    """The differences between a lock and what is there, in words."""
    return [
        f"{item.who}: {item.what}"
        for item in differences(lock, catalog_of(entry_points, lock, device, **environ))
    ]


@pytest.fixture
def pair(make_plugin):
    """Two plugins and the lock of both."""
    entry_points = [
        make_plugin(MODELS.format("Alpha", "json"), name="alpha", distribution="alpha-dist"),
        make_plugin(LAYERS, name="beta", distribution="beta-dist", version="2.0"),
    ]
    return entry_points, make_lock(catalog_of(entry_points))


def test_what_is_locked(pair):
    (alpha, _), lock = pair
    assert (lock.mszoo, lock.device, lock.kernels, lock.prefer, lock.requires) == (
        VERSION,
        "cpu",
        "auto",
        (),
        {},
    )
    assert list(lock.plugins) == ["alpha", "beta"]
    locked = lock.plugins["alpha"]
    assert (locked.distribution, locked.version, locked.entry_point) == ("alpha-dist", "1.0", alpha.value)
    assert sorted(locked.modules) == ["json", alpha.value]
    assert all(item.startswith("sha256:") for item in locked.modules.values())
    assert sorted(lock.code) == ["alpha-dist", "beta-dist", "mszoo"]
    assert lock.code["alpha-dist"] == {alpha.value: locked.modules[alpha.value]}
    assert lock.models == {"AlphaForCausalLM": (LockedAdapter("alpha.AlphaForCausalLM", "json:JSONDecoder"),)}
    assert lock.layers == {"vllm:RMSNorm": (LockedAdapter("beta.vllm:RMSNorm", "json:JSONEncoder"),)}
    assert lock.ops == {"rms_norm": (LockedAdapter("beta.rms_norm", "json:dumps"),)}


def test_as_locked(pair):
    entry_points, lock = pair
    assert found(lock, entry_points) == []
    assert found(parse_lock(lock.dumps(), "x"), reversed(entry_points)) == []


def test_a_plugin_that_is_not_listed_is_not_imported(pair, make_plugin):
    entry_points, lock = pair
    stranger = make_plugin("raise SystemExit", name="stranger")
    impostor = make_plugin(MODELS.format("Evil", "json"), name="alpha", distribution="aaa-first")
    catalog = catalog_of([*entry_points, stranger, impostor], lock)
    assert [plugin.distribution for plugin in catalog.discovery.unlisted] == ["aaa-first", "demo-dist"]
    assert differences(lock, catalog) == ()
    assert catalog.problems == ()
    assert not {stranger.value, impostor.value} & set(sys.modules)


def test_changed_code_is_named_and_not_imported(pair, tmp_path):
    entry_points, lock = pair
    module = entry_points[0].value
    sys.modules.pop(module)
    (tmp_path / f"{module}.py").write_text("raise SystemExit")
    assert found(lock, entry_points) == [
        f"plugin 'alpha': the code of {module} is not what was locked ({tmp_path}/{module}.py)"
    ]
    assert module not in sys.modules


def test_ops_of_changed_code_are_not_imported(pair, make_module, make_entry_point, tmp_path, monkeypatch):
    """The plugin beside has an op, so whoever specifies ops is asked; the changed distribution does, too."""
    entry_points, lock = pair
    ops = make_entry_point(make_module("raise SystemExit"), "ops", "alpha-dist", group="mszoo.ops")
    own = [item for item in importlib.metadata.entry_points(group="mszoo.ops") if item.dist.name == "mszoo"]
    monkeypatch.setattr("mszoo.registry.known_ops.readable", lambda group: ([ops, *own], []))
    known_ops._read.cache_clear()
    sys.modules.pop(entry_points[0].value)
    (tmp_path / f"{entry_points[0].value}.py").write_text("raise SystemExit")
    try:
        catalog = catalog_of(entry_points, lock)
        assert catalog.op_decisions().keys() == {"rms_norm"}
        assert catalog.problems == ()
        assert ops.value not in sys.modules
    finally:
        known_ops._read.cache_clear()


def test_changed_code_beside_the_named_modules(make_plugin, tmp_path):
    package = tmp_path / "package_under_lock"
    package.mkdir()
    (package / "__init__.py").write_text("")
    entry_point = make_plugin("from package_under_lock.adapter import *", attribute="")
    (package / "adapter.py").write_text(
        (tmp_path / f"{entry_point.value}.py").read_text().split("\n")[0] + MODELS.format("A", "json")
    )
    (package / "helper.py").write_text("x = 1")
    vars(entry_point)["value"] = "package_under_lock.adapter"
    try:
        lock = make_lock(catalog_of([entry_point]))
        assert lock.models
        assert found(lock, [entry_point]) == []
        (package / "helper.py").write_text("x = 2")
        assert found(lock, [entry_point]) == [
            f"plugin 'demo': the code of package_under_lock.helper is not what was locked ({package}/helper.py)"
        ]
    finally:
        for name in [name for name in sys.modules if name.startswith("package_under_lock")]:
            del sys.modules[name]


def test_other_differences_of_plugins(pair, make_plugin):
    (alpha, beta), lock = pair
    newer = make_plugin(
        MODELS.format("Alpha", "json"), name="alpha", distribution="alpha-dist", version="1.1"
    )
    assert found(lock, [newer, beta]) == ["plugin 'alpha': is of alpha-dist 1.1, and 1.0 is locked"]
    elsewhere = make_plugin(MODELS.format("Alpha", "json"), name="alpha", distribution="alpha-dist")
    assert found(lock, [elsewhere, beta]) == [
        f"plugin 'alpha': its entry point is {elsewhere.value}, and {alpha.value} is locked"
    ]
    assert found(lock, [beta]) == ["plugin 'alpha': is locked, and alpha-dist 1.0 with it is not installed"]
    assert found(lock, [alpha, beta], MSZOO_DISABLE="beta") == [
        "plugin 'beta': is locked, and MSZOO_DISABLE leaves it out"
    ]


def test_a_listed_plugin_that_no_longer_loads(make_plugin, monkeypatch):
    source = "import os\nif 'MOOD' in os.environ:\n    raise ValueError('bad mood')\n" + MODELS.format(
        "A", "json"
    )
    entry_point = make_plugin(source)
    lock = make_lock(catalog_of([entry_point]))
    sys.modules.pop(entry_point.value)
    monkeypatch.setenv("MOOD", "Bad")
    (only,) = found(lock, [entry_point])
    assert only.startswith("plugin 'demo': is locked, and can't be loaded (ValueError: bad mood")


def test_other_settings_and_another_device(pair):
    entry_points, lock = pair
    assert found(lock, entry_points, MSZOO_KERNELS="mindspore", MSZOO_PREFER="beta,alpha") == [
        "MSZOO_KERNELS: is mindspore, and auto is locked",
        "MSZOO_PREFER: is beta,alpha, and empty is locked",
    ]
    assert found(lock, entry_points, "npu") == ["the device: is npu, and cpu is locked"]


def test_another_version_of_mszoo(pair, monkeypatch):
    entry_points, lock = pair
    monkeypatch.setattr("mszoo.registry.lock_check.importlib.metadata.version", lambda name: "9.9")
    assert found(lock, entry_points) == [f"mszoo: is 9.9, and {VERSION} is locked"]
    (difference,) = differences(lock, catalog_of(entry_points, lock))
    assert difference.hint == f"pip install mszoo=={VERSION}"


def test_another_decision(make_plugin, monkeypatch):
    entry_points = [make_plugin(MOODY)]
    lock = make_lock(catalog_of(entry_points))
    monkeypatch.setenv("MOOD", "Bad")
    assert found(lock, entry_points) == [
        "architecture MoodyForCausalLM: is served by demo.MoodyForCausalLM (json:Bad), "
        "and demo.MoodyForCausalLM (json:Good) is locked"
    ]
    (difference,) = differences(lock, catalog_of(entry_points, lock))
    assert difference.hint == "Find out why with `mszoo explain`."


def test_another_version_of_what_an_adapter_needs(make_plugin):
    entry_points = [make_plugin(NEEDY)]
    lock = make_lock(catalog_of(entry_points))
    here = importlib.metadata.version("hypothesis")
    assert lock.requires == {"hypothesis": here}
    assert found(lock, entry_points) == []
    older = parse_lock(lock.dumps().replace(f'"hypothesis": "{here}"', '"hypothesis": "1.0"'), "x")
    assert found(older, entry_points) == [f"distribution hypothesis: is {here}, and 1.0 is locked"]


def test_enforce_names_the_differences(pair):
    entry_points, lock = pair
    enforce(Path("/etc/mszoo.lock"), ())
    with pytest.raises(LockError) as caught:
        enforce(Path("/etc/mszoo.lock"), differences(lock, catalog_of(entry_points[1:], lock)))
    assert str(caught.value) == (
        "MSZOO_LOCK=/etc/mszoo.lock: nothing is served, this differs: plugin 'alpha': is locked, and alpha-dist "
        "1.0 with it is not installed. Mend it (pip install alpha-dist==1.0), accept it with `mszoo lock "
        "/etc/mszoo.lock`, or unset MSZOO_LOCK."
    )
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_many_differences_are_counted(pair):
    problems = differences(pair[1], catalog_of([], pair[1])) * 4
    with pytest.raises(LockError, match="; and 3 more"):
        enforce(Path("x"), problems)


GOOD = Lock(VERSION, "cpu", "0" * 12, plugins={"a": LockedPlugin("d", "1", "m", {"m": None})})
DAMAGED = "FILE: is damaged: {}. Write it again with `mszoo lock FILE`."


def changed(**fields):
    return json.dumps(GOOD.to_json() | fields)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "FILE: doesn't exist. Write one with `mszoo lock FILE`."),
        (b"\xff\xfe", "FILE: is not text, so it is no lock file. Give a file that `mszoo lock` wrote."),
        ("", DAMAGED.format("it is not valid JSON (Expecting value: line 1 column 1 (char 0))")),
        (
            GOOD.dumps()[:100],
            "FILE: is damaged: it is not valid JSON (",
        ),
        ("[" * 100_000, "FILE: is damaged: it is not valid JSON ("),
        ('{"a": 1, "a": 2}', DAMAGED.format("it is not valid JSON ('a' is given twice)")),
        ("[]", "FILE: is not a lock file of mszoo. Give a file that `mszoo lock` wrote."),
        ('{"version": 1}', "FILE: is not a lock file of mszoo. Give a file that `mszoo lock` wrote."),
        (
            "!!python/object/apply:os.system ['true']",
            "FILE: is damaged: it is not valid JSON (Expecting value",
        ),
        (
            changed(version=1),
            "FILE: has version 1, and this mszoo reads version 2. Write it again with `mszoo lock FILE`.",
        ),
        ('{"format": "mszoo-lock", "version": 2}', DAMAGED.format("code is missing")),
        (changed(extra=1), DAMAGED.format("extra is not a field of a lock file")),
        (changed(device=3), DAMAGED.format("device is 3 instead of a string")),
        (changed(plugins=[]), DAMAGED.format("plugins is not an object")),
        (changed(plugins={"a": {}}), DAMAGED.format("plugins.a.distribution is missing")),
        (changed(code={"a": 1}), DAMAGED.format("code.a is not an object")),
        (changed(code={"a": {"m": None}}), DAMAGED.format("code.a.m is None instead of a string")),
        (changed(requires={"a": 1}), DAMAGED.format("requires.a is 1 instead of a string")),
        (
            changed(settings={"kernels": "auto", "prefer": "x"}),
            DAMAGED.format("settings.prefer is not a list"),
        ),
        (changed(models={"A": {}}), DAMAGED.format("models.A is not a list")),
        (changed(models={"A": [{"adapter": "x"}]}), DAMAGED.format("models.A.code is missing")),
    ],
)
def test_a_file_that_is_no_lock(content, message, tmp_path):
    path = tmp_path / "a.lock"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LockError) as caught:
        read_lock(path)
    assert str(caught.value).startswith(message.replace("FILE", str(path)))


def test_a_folder_is_no_lock(tmp_path):
    with pytest.raises(LockError, match=": is no lock file: it is no file"):
        read_lock(tmp_path)


def test_a_lock_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.lock"
    GOOD.write(path)
    assert read_lock(path) == GOOD
    (tmp_path / "plain").write_text("")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "plain").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mszoo.registry.files.os.fsync", full)
    with pytest.raises(LockError) as caught:
        Lock("x", "y", "z").write(path)
    assert str(caught.value) == (
        f"{path}: can't be written (No space left on device). Give another place, or mend this one."
    )
    assert read_lock(path) == GOOD
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LockError, match="No such file or directory"):
        GOOD.write(tmp_path / "nowhere" / "a.lock")


def test_finding_a_module_imports_nothing(tmp_path, monkeypatch):
    package = tmp_path / "parent_under_lock"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "child.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    expected = hashlib.sha256(b"raise SystemExit").hexdigest()
    assert module_hash("parent_under_lock.child") == f"sha256:{expected}"
    assert "parent_under_lock" not in sys.modules
    for name in ("parent_under_lock.ghost", "ghost_under_lock", "json.decoder.x", "sys", ""):
        assert module_hash(name) is None


def hashes(distribution, module):
    return {name: code.hash for name, code in codes_of(distribution, module).found.items()}


def test_installed_and_editable_code_have_one_hash(tmp_path, monkeypatch):
    site, source = tmp_path / "site", tmp_path / "source"
    for root in (site, source):
        (root / "twice_under_lock").mkdir(parents=True)
        (root / "twice_under_lock" / "__init__.py").write_text("x = 1")
    info = site / "twice-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text(
        "twice_under_lock/__init__.py,,\ntwice-1.0.dist-info/RECORD,,\n../bin/twice,,\n"
    )
    monkeypatch.syspath_prepend(site)
    installed = hashes(PathDistribution(info), "twice_under_lock")
    assert list(installed) == ["twice_under_lock"]
    (info / "RECORD").write_text("__editable__.twice.pth,,\n__editable___twice_finder.py,,\n")
    monkeypatch.syspath_prepend(source)
    assert hashes(PathDistribution(info), "twice_under_lock") == installed
    (source / "twice_under_lock" / "__init__.py").write_text("x = 2")
    assert hashes(PathDistribution(info), "twice_under_lock") != installed


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """An installed distribution with a package, a namespace package and a single module; gives it and its place."""
    site = tmp_path / "site"
    files = {
        "whole_under_lock/__init__.py": "x = 1",
        "whole_under_lock/sub/deep.py": "x = 2",
        "space_under_lock/part/__init__.py": "x = 3",
        "single_under_lock.py": "x = 4",
    }
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    info = site / "whole-1.0.dist-info"
    info.mkdir()
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in [*files, "whole_under_lock/data.txt"]))
    monkeypatch.syspath_prepend(site)
    return PathDistribution(info), site


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("whole_under_lock/__init__.py", "x = 0"),
        ("whole_under_lock/sub/deep.py", "x = 0"),
        ("whole_under_lock/sub/deep.py", None),
        ("space_under_lock/part/__init__.py", "x = 0"),
        ("single_under_lock.py", "x = 0"),
        ("whole_under_lock/added.py", "x = 0"),
        ("whole_under_lock/sub/added.pyc", "x = 0"),
        ("whole_under_lock/added.so", "x = 0"),
        ("whole_under_lock/new/added.py", "x = 0"),
        ("space_under_lock/part/added.py", "x = 0"),
        ("../first/whole_under_lock/__init__.py", "x = 0"),
        ("../first/single_under_lock.py", "x = 0"),
        ("../first/single_under_lock/__init__.py", "x = 0"),
    ],
)
def test_whatever_would_run_otherwise_changes_the_hash(installed, path, content, monkeypatch):
    distribution, site = installed
    first = site.parent / "first"
    first.mkdir()
    monkeypatch.syspath_prepend(first)
    locked = hashes(distribution, "whole_under_lock")
    if content is None:
        (site / path).unlink()
    else:
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
    importlib.invalidate_caches()
    assert hashes(distribution, "whole_under_lock") != locked


@pytest.mark.parametrize(
    "path", ["whole_under_lock/data.txt", "whole_under_lock/__pycache__/a.pyc", "other.py"]
)
def test_what_is_no_code_of_it_doesnt(installed, path):
    distribution, site = installed
    locked = hashes(distribution, "whole_under_lock")
    (site / path).parent.mkdir(exist_ok=True)
    (site / path).write_text("other")
    assert hashes(distribution, "whole_under_lock") == locked


def test_our_own_code_is_locked_whole():
    lock = make_lock(load_catalog({}))
    assert "mszoo.models.llama" in lock.plugins["native"].modules
    assert None not in lock.plugins["native"].modules.values()
    assert lock.code["mszoo"].keys() > {
        "mszoo.registry.lock_guard",
        "mszoo.layers.decoder",
        "mszoo.conformance",
    }
    assert not any(name.startswith("mszoo/build") for name in lock.code["mszoo"])


# The command.


@pytest.fixture
def zoo(pair, monkeypatch, tmp_path):
    """Let only our own test plugins be installed, in a working folder of their own; gives their entry points."""
    installed = list(pair[0])
    monkeypatch.setattr(plugins, "readable", lambda group: (installed, []))
    for name in ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return installed


def run(*arguments):
    return CliRunner().invoke(build(), list(arguments))


def test_lock_and_check(zoo, tmp_path):
    result = run("lock")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert f"{tmp_path}/mszoo.lock: locked 2 plugins, 1 architecture, 1 layer, 1 op" in words
    assert "Enforce it with MSZOO_LOCK=" in words
    assert json.loads((tmp_path / "mszoo.lock").read_text())["version"] == 2
    result = run("lock", "--check")
    assert (result.exit_code, "all is as locked" in " ".join(result.stdout.split())) == (0, True)
    del zoo[0]
    result = run("lock", "--check")
    assert result.exit_code == 1
    words = " ".join(result.stdout.split())
    assert "not as locked" in words
    assert (
        "Problems (1): - plugin 'alpha': is locked, and alpha-dist 1.0 with it is not installed. pip" in words
    )


def test_lock_json(zoo, tmp_path):
    result = run("lock", "a.lock", "--json")
    report = json.loads(result.stdout)
    assert list(report) == [
        "mszoo", "device", "digest", "disabled", "lock", "file", "written", "differences", "problems"
    ]  # fmt: skip
    assert (report["lock"], report["file"]) == (None, f"{tmp_path}/a.lock")
    assert report["written"] == json.loads((tmp_path / "a.lock").read_text())
    assert (report["differences"], report["problems"]) == ([], [])
    report = json.loads(run("lock", "a.lock", "--check", "--json", "--device", "npu").stdout)
    assert report["lock"] == {"file": f"{tmp_path}/a.lock", "unlisted": []}
    assert report["written"] is None
    assert report["problems"] == report["differences"]
    (difference,) = report["differences"]
    assert difference == {
        "who": "the device",
        "what": "is npu, and cpu is locked",
        "mend": "Write one lock for each device: mszoo lock --device npu",
        "plugin": None,
    }


def test_lock_explains_what_it_holds_to_and_what_not(zoo, tmp_path, make_plugin):
    zoo.append(make_plugin(NEEDY, name="needy", distribution="needy-dist"))
    assert run("lock", "a.lock").exit_code == 0
    before = (tmp_path / "a.lock").read_bytes()
    result = run("lock", "a.lock", "--explain")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "alpha-dist 1.0 (plugins alpha): 1 modules, 0 other files of code" in words
    assert f"- mszoo {VERSION} (no plugin): " in words
    assert "Of other distributions, modules that records name: json" in words
    assert (
        f"Versions of what adapters require: hypothesis {importlib.metadata.version('hypothesis')}" in words
    )
    for sentence in (*HOLDS, *LEAVES_OPEN):
        assert sentence in words
    report = json.loads(run("lock", "a.lock", "--explain", "--json").stdout)
    assert list(report) == ["file", "holds", "leaves_open", "distributions", "named", "requires"]
    assert report["distributions"]["beta-dist"] == {
        "version": "2.0", "plugins": ["beta"], "modules": 1, "files": 0
    }  # fmt: skip
    assert list(report["named"]) == ["json"]
    assert (tmp_path / "a.lock").read_bytes() == before
    result = run("lock", "a.lock", "--explain", "--check")
    assert (result.exit_code, result.stderr) == (
        2,
        "mszoo lock: --check and --explain are two questions. Ask one after the other.\n",
    )
    assert run("lock", "none.lock", "--explain").exit_code == 2


def test_what_a_lock_cannot_hold_to_is_told_when_it_is_written():
    code = {"a-dist": {"a": "sha256:0", "a.b": "loader x.Y", "a.c": "loader x.Y"}}
    (problem,) = unhashable(code)
    assert str(problem) == (
        "distribution a-dist: a.b, a.c is loaded by x.Y, which may run anything, so nothing is served under this "
        "lock. Install it as a wheel, and lock it again."
    )


def test_bytecode_of_another_python_is_refused():
    with pytest.raises(ImportError, match=r"bad magic number in /a.pyc"):
        compiled(Code("sha256:0", "/a.pyc", b"other" * 9))


def test_without_a_lock_nothing_of_it_is_imported():
    code = "import sys; from mszoo.registry.load import load_catalog; load_catalog({}).problems; "
    code += (
        "print({'lock', 'lock_guard', 'fingerprints'} & {name.rpartition('.')[2] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_without_a_lock_nothing_watches_imports(pair):
    before = list(sys.meta_path)
    catalog_of(pair[0])
    assert sys.meta_path == before
    assert in_force() is None
    catalog_of(pair[0], pair[1])
    assert sys.meta_path[0] is in_force()


def test_under_a_lock_list_shows_it(zoo, make_plugin, monkeypatch, tmp_path):
    monkeypatch.setenv("MSZOO_LOCK", "the.lock")
    assert run("lock").exit_code == 0
    zoo.append(make_plugin("raise SystemExit", name="stranger"))
    result = run("list")
    assert result.exit_code == 0
    words = " ".join(result.stdout.split())
    assert "Locked by " in words
    assert "/the.lock" in "".join(result.stdout.split())  # a long path is cut where the line ends
    assert "Not in the lock, so not loaded: stranger" in words
    lock = json.loads(run("list", "--json").stdout)["lock"]
    assert lock == {"file": f"{tmp_path}/the.lock", "unlisted": ["stranger"]}
    del zoo[0]
    assert run("list").exit_code == 1
    (tmp_path / "the.lock").write_text("{}")
    result = run("list")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"{tmp_path}/the.lock: is not a lock file of mszoo.")
    zoo.pop()
    assert run("lock").exit_code == 0  # a bad lock doesn't stand in the way of the next
    assert run("list").exit_code == 0


def test_lock_says_where_it_cannot_write(zoo, tmp_path):
    result = run("lock", str(tmp_path))
    assert result.exit_code == 2
    assert result.stderr == f"{tmp_path}: is a folder. Name a file in it: mszoo lock {tmp_path}/mszoo.lock.\n"
    assert run("lock", "nowhere/a.lock").exit_code == 2


def test_a_lock_of_a_broken_plugin_has_it_not_and_says_so(zoo, make_plugin):
    zoo.append(make_plugin("raise ValueError", name="broken"))
    result = run("lock", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert list(report["written"]["plugins"]) == ["alpha", "beta"]
    assert report["problems"][0]["plugin"] == "broken"
