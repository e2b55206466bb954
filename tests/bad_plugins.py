"""Bad plugins as real distributions: what each does wrong, and what mszoo must say about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from .hostile_plugins import HOSTILE
from .plugin_sources import HEADER, Bad, hook, models, twisted

BAD: dict[str, Bad] = {
    # It can't be imported.
    "import_error": Bad("import no_such_module", "can't be loaded (ModuleNotFoundError: No module named"),
    "syntax_error": Bad("def", "can't be loaded (SyntaxError: invalid syntax"),
    "raises_at_import": Bad("raise RuntimeError('boom')", "can't be loaded (RuntimeError: boom"),
    "exits_at_import": Bad("import sys; sys.exit(0)", "can't be loaded (SystemExit: 0"),
    "not_utf8": Bad(b"name = '\xff\xfe'\n", "can't be loaded (SyntaxError: "),
    "null_bytes": Bad(b"name = 1\x00\n", "can't be loaded ("),
    "cyclic": Bad(
        "from bad_cyclic_other import thing",
        "can't be loaded (ImportError: cannot import name 'other' from partially initialized module 'bad_cyclic'",
        files={"bad_cyclic_other.py": "from bad_cyclic import other\nthing = other"},
    ),
    "recursive": Bad("def f():\n    f()\nf()", "can't be loaded (RecursionError: "),
    "evil_text": Bad(
        "class E(Exception):\n    def __str__(self):\n        raise ValueError\nraise E",
        "can't be loaded (E: no text, its __str__ raised ValueError",
    ),
    "long_text": Bad(
        r"raise ValueError('\x1b[31m' + 'x' * 9999)", r"can't be loaded (ValueError: \x1b[31m" + 400 * "x"
    ),
    "asks_for_the_catalog": Bad(
        "load_catalog()",
        "can't be loaded (PluginError: mszoo: a plugin asked for the catalog while it was being discovered itself",
    ),
    # Its entry point is wrong.
    "no_module": Bad(None, "can't be loaded (ModuleNotFoundError: No module named 'bad_no_module'"),
    "no_attribute": Bad("", "can't be loaded (AttributeError: ", value="bad_no_attribute:plugin"),
    "no_path": Bad(None, "its entry point is 'no-module!'. Write 'module'", value="no-module!"),
    "a_class": Bad(
        "class Plugin: pass", "its entry point names the class Plugin", value="bad_a_class:Plugin"
    ),
    "standard_library": Bad(
        None,
        "its module colorsys has the name of a module of Python's standard library",
        value="colorsys",
        files={"colorsys.py": HEADER + models("ShadowModel")},
    ),
    # Its hooks are wrong.
    "empty": Bad(b"", "has no hook implementation. Did you forget @hookimpl?"),
    "unmarked": Bad("def mszoo_model_adapters():\n    return []", "has no hook implementation"),
    "half_marked": Bad(
        models("HalfMarkedModel") + "def mszoo_suite():\n    return Suite('x')",
        "mszoo_suite is not marked as a hook, so it is ignored. Put @hookimpl on it.",
        keeps=("HalfMarkedModel",),
    ),
    "misspelt": Bad(hook("return []", "mszoo_models()"), "mszoo_models is not a hook. Did you mean mszoo_m"),
    "signature": Bad(
        hook("return []", "mszoo_model_adapters(config)"),
        "mszoo_model_adapters has an unknown argument 'config'",
    ),
    "wrapper": Bad(
        "@hookimpl(wrapper=True)\ndef mszoo_model_adapters():\n    return (yield)",
        "mszoo_model_adapters is a hook wrapper. Use plain @hookimpl.",
    ),
    "hook_raises": Bad(hook("raise ValueError('boom')"), "mszoo_model_adapters raised ValueError: boom"),
    "hook_exits": Bad(hook("raise SystemExit(1)"), "mszoo_model_adapters raised SystemExit: 1"),
    "hook_asks_for_the_catalog": Bad(
        hook("return load_catalog().architectures"),
        "mszoo_model_adapters raised PluginError: mszoo: a plugin",
    ),
    "coroutine": Bad(
        "@hookimpl\nasync def mszoo_model_adapters():\n    return []",
        "mszoo_model_adapters returned a coroutine instead of an iterable",
    ),
    "returns_none": Bad(hook("pass"), "mszoo_model_adapters returned None instead of an iterable"),
    "returns_text": Bad(hook("return 'a:A'"), "mszoo_model_adapters returned a str instead of an iterable"),
    "returns_a_record": Bad(
        hook("return ModelAdapter('A', 'a:A')"),
        "mszoo_model_adapters returned a ModelAdapter instead of an iter",
    ),
    "stops_midway": Bad(
        hook("yield ModelAdapter('MidwayModel', 'good_model:Model')\n    raise OSError('gone')"),
        "mszoo_model_adapters raised after 1 items OSError: gone",
        keeps=("MidwayModel",),
    ),
    "endless": Bad(
        hook("while True:\n        yield ModelAdapter('EndlessModel', 'good_model:Model')"),
        "mszoo_model_adapters gives more than 10000 records; all are ignored",
    ),
    # Its records are wrong.
    "wrong_record": Bad(
        hook("return [ModelAdapter('RightModel', 'good_model:Model'), Suite('b')]"),
        "item 1 of mszoo_model_adapters is a Suite instead of a ModelAdapter; it is skipped",
        keeps=("RightModel",),
    ),
    "bad_requirement": Bad(
        models("X", requires="['x=>1']"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): requires is",
    ),
    "bad_marker": Bad(
        models("X", requires="""["x; extras == 'a'"]"""),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'",
    ),
    "bad_version": Bad(
        models("X", requires="['x>=one.two']"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): requ",
    ),
    "bad_model_path": Bad(
        hook("return [ModelAdapter('X', 'a.B')]"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): model is 'a.B'. Set it to 'module:Class'.",
    ),
    "bad_architecture": Bad(
        hook("return [ModelAdapter(['X'], 'a:B')]"),
        "mszoo_model_adapters raised RecordError: ModelAdapter(['X']",
    ),
    "bad_device": Bad(
        models("X", devices="['gpu']"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): devices is 'gpu'. Set it to any of cpu, npu",
    ),
    "bad_dtype": Bad(
        models("X", dtypes="['fp32']"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): dtypes is 'fp",
    ),
    "bad_capability": Bad(
        models("UncapableModel", capabilities="['speed']"),
        "the capability 'speed' of ModelAdapter('UncapableModel') is unknown, so it is ignored.",
        keeps=("UncapableModel",),
    ),
    "bad_priority": Bad(
        models("X", priority="True"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): priority is True. Set it to an integer.",
    ),
    "bad_config": Bad(
        models("X", example_config="{'f': print}"),
        "mszoo_model_adapters raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds a "
        "builtin_function_or_method). Give it what a config.json may hold.",
    ),
    "loose_subclass": Bad(
        "class Loose(ModelAdapter):\n    def __post_init__(self):\n        pass\n"
        + hook("return [Loose(None, 1)]"),
        "item 0 of mszoo_model_adapters is a Loose instead of a ModelAdapter; it is skipped",
    ),
    "forged": Bad(
        hook("return [ModelAdapter.__new__(ModelAdapter)]"),
        "item 0 of mszoo_model_adapters is refused: RecordError: a ModelAdapter: lacks its field 'architecture'",
    ),
    "changed_later": Bad(
        hook("a = ModelAdapter('X', 'a:A')\n    object.__setattr__(a, 'devices', 5)\n    return [a]"),
        "item 0 of mszoo_model_adapters is refused: RecordError: ModelAdapter('X'): devices is 5; it is skipped. "
        "Set it to a tuple of strings.",
    ),
    "same_twice": Bad(
        hook("return [ModelAdapter('TwiceModel', f'good_model:{name}') for name in ('Model', 'Other')]"),
        "suite 'same_twice' has two adapters for TwiceModel: good_model:Model is kept, good_model:Other is skipped",
        keeps=("TwiceModel",),
    ),
    # Its suite is wrong.
    "takes_native": Bad(
        hook("return Suite('native')", "mszoo_suite()") + models("X"),
        "its suite 'native' is already given by plugin 'native' (mszoo ",
    ),
    "suite_named_vllm": Bad(
        hook("return Suite('vllm')", "mszoo_suite()"),
        "mszoo_suite raised RecordError: Suite('vllm'): name is 'vllm",
    ),
    "suite_of_none": Bad(
        hook("pass", "mszoo_suite()"), "mszoo_suite returned None instead of a Suite; all its"
    ),
    "suite_of_lines": Bad(
        hook(r"return Suite('lines', 'one\ntwo \ud800')", "mszoo_suite()"),
        "mszoo_suite raised RecordError: Suite('lines'): description is ",
    ),
    # It does things to the process.
    "imports_mindspore": Bad(
        "import mindspore\n" + models("HeavyModel"),
        "imported mindspore, which every vLLM process then pays for, when it was loaded. Import it in the modules",
        keeps=("HeavyModel",),
    ),
    "changes_folder": Bad(
        twisted("os.chdir('/')") + models("FolderModel"),
        "changed the working directory, which was undone, when it was loaded. Remove the os.chdir().",
        keeps=("FolderModel",),
    ),
    "changes_variables": Bad(
        twisted("os.environ['VLLM_PLUGINS'] = 'none'; os.environ.pop('MSZOO_TEST', 0)")
        + models("VariableModel"),
        "changed MSZOO_TEST, VLLM_PLUGINS, which was undone, when it was loaded. Leave vLLM's and mszoo's",
        keeps=("VariableModel",),
    ),
    "changes_folder_in_a_hook": Bad(
        hook("import os; os.chdir('/')\n    yield ModelAdapter('LateFolderModel', 'good_model:Model')"),
        "changed the working directory, which was undone, when its hooks were called. Remove the os.chdir().",
        keeps=("LateFolderModel",),
    ),
    "replaces_stderr": Bad(
        twisted("sys.stdout = sys.stderr = open(os.devnull, 'w')") + models("MutedModel"),
        "replaced sys.stdout, sys.stderr, which was undone, when it was loaded. Leave it as it is.",
        keeps=("MutedModel",),
    ),
    "starts_a_thread": Bad(
        twisted("threading.Thread(target=threading.Event().wait, daemon=True).start()")
        + models("ThreadModel"),
        "started a thread, when it was loaded. Start it where the model is built",
        keeps=("ThreadModel",),
    ),
    "forks": Bad(
        twisted("os.fork()") + models("ForkModel"),
        "forked the process, when it was loaded. Use subprocess, where the model is built",
        keeps=("ForkModel",),
    ),
    # Discovery can't know; the doctor does.
    "prints": Bad(
        twisted("print('{noise}'); os.write(1, b'{noise}'); os.system('echo {noise}')")
        + models("NoisyModel"),
        keeps=("NoisyModel",),
    ),
    "unmet": Bad(
        models("UnmetModel", requires="['no-such-dist>=9']"),
        finding=(
            "warning",
            "none of its 1 models can run on cpu: needs no-such-dist>=9, which is not installed",
        ),
    ),
    "no_such_model_module": Bad(
        hook("return [ModelAdapter('GhostModel', 'no_such_package.model:Model')]"),
        finding=(
            "problem",
            "names no_such_package.model:Model, and there is no module no_such_package.model",
        ),
        keeps=("GhostModel",),
    ),
    "no_such_class": Bad(
        hook("return [ModelAdapter('NamelessModel', 'good_model:Absent')]"),
        finding=("problem", "names good_model:Absent, and module good_model defines no Absent"),
        keeps=("NamelessModel",),
    ),
    **HOSTILE,
}


#: Takes seconds to import.
HEAVY = "imports_mindspore"
LIGHT = tuple(name for name in BAD if name != HEAVY)


def install_bad_plugins(folder: Path, names: Iterable[str] = LIGHT) -> dict[str, str]:
    """Install bad plugins, a good one and some odd distributions; returns the environment that sees them."""
    site, boot = folder / "site", folder / "boot"
    site.mkdir()
    boot.mkdir()
    for name in names:
        bad, module = BAD[name], f"bad_{name}"
        if bad.source is not None:
            source = bad.source if isinstance(bad.source, bytes) else (HEADER + bad.source).encode()
            (site / f"{module}.py").write_bytes(source)
        for path, text in bad.files.items():
            (site / path).write_text(text)
        install(site, f"bad-{name.replace('_', '-')}", f"{name} = {bad.value or module}")
    (site / "good_plugin.py").write_text(HEADER + models("GoodModel"))
    (site / "good_model.py").write_text("class Model:\n    pass\n\nOther = Model\n")
    install(site, "good-dist", "good = good_plugin")
    (site / "twin.py").write_text(HEADER + models("TwinModel"))
    install(site, "twin-a", "twin = twin")
    install(site, "twin-b", "twin = twin")
    install(site, "torn-dist", "this line has no equals sign")
    install(site, "bare-dist", "bare = bare", metadata=None)
    (site / "bare.py").write_text(HEADER + models("BareModel"))
    install(site, "binary-dist", "binary = binary", metadata=b"Name: \xff\xfe\n")
    (site / "binary.py").write_text(HEADER + models("BinaryModel"))
    (site / "escaped.py").write_text(
        HEADER + hook("return Suite('escaped')", "mszoo_suite()") + models("EscapedModel")
    )
    odd = "Metadata-Version: 2.1\nName: escaped-\x1b[31mdist\nVersion: 1\u202e0\n".encode()
    install(site, "escaped-dist", "\x1b]0;red\x07 $(touch owned) = escaped", odd)
    install(site, "long-dist", f"{'long' * 100_000} = long_plugin")
    install(site, "flood-dist", "\n".join(f"flood{number} = good_plugin" for number in range(200)))
    install(site, "ops-dist", "bad_ops = bad_ops", group="mszoo.ops")
    (site / "bad_ops.py").write_text("raise SystemExit('no ops')")
    install(site, "command-dist", "bad-command = bad_ops:command", group="mszoo.commands")
    # Appended as site-packages is: what is installed never hides the standard library.
    (boot / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(site)!r})\n")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MSZOO_", "VLLM_PLUGINS"))
    }
    path = os.pathsep.join([str(boot), *filter(None, [inherited.get("PYTHONPATH")])])
    return inherited | {
        "PYTHONPATH": path,
        "MSZOO_TEST": "1",
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
    }


def install(
    site: Path,
    distribution: str,
    entry_points: str,
    metadata: bytes | None = b"",
    group: str = "mszoo",
) -> None:
    """Install a distribution's metadata; b"" for the usual, None for no METADATA at all."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry_points}\n")
    usual = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n".encode()
    if metadata is not None:
        (info / "METADATA").write_bytes(metadata or usual)
