"""Hostile plugins: objects that lie, text that isn't for terminals, and code that changes the process around it."""

from __future__ import annotations

from .plugin_sources import Bad, hook, models, twisted

GIVES = "mszoo_model_adapters"
REFUSED = f"item 0 of {GIVES} is refused: RecordError: "
HUGE = f"'{'X' * 120}'... (20000000 characters)"
IN_HOOKS = ", when its hooks were called"
LOADED = ", when it was loaded"


def lying(body: str, name: str = "Lying", base: str = "object") -> str:
    """Source of a class."""
    lines = "".join(f"    {line}\n" for line in body.split("\n"))
    return f"class {name}({base}):\n{lines}"


def gives(expression: str, before: str = "") -> str:
    """Source of a module whose hook gives one value."""
    return before + hook(f"return {expression}")


def doctored(field: str, value: str, before: str = "") -> str:
    """Source of a module that gives a record whose field was changed behind its constructor's back."""
    change = f"object.__setattr__(a, '{field}', {value})"
    return before + hook(f"a = ModelAdapter('X', 'good_model:Model')\n    {change}\n    return [a]")


def undone(name: str, line: str, what: str, hint: str, stage: str = "import") -> dict[str, Bad]:
    """A good plugin but for one line, at import and in a hook."""
    architecture = "".join(part.title() for part in name.split("_"))
    early, late = f"{architecture}Early", f"{architecture}Late"
    told = f"changed {what}, which was undone" if what[:1] != "!" else what[1:]
    imports = "import builtins, gc, locale, logging, os, resource, signal, sys, threading, warnings\n"
    return {
        f"{name}_early": Bad(f"{imports}{line}\n{models(early)}", f"{told}{LOADED}. {hint}", keeps=(early,)),
        f"{name}_late": Bad(
            imports + hook(f"{line}\n    return [ModelAdapter('{late}', 'good_model:Model')]"),
            f"{told}{IN_HOOKS}. {hint}",
            keeps=(late,),
        ),
    }


_RAISES = "def {0}(self, *a):\n    raise RuntimeError('{0}')"
_LEAVE = "Leave it as it is."
_INSTALL = "Install what is to be imported."
_SIGNALS = "Leave signals to the server."

OBJECTS: dict[str, Bad] = {
    # What a hook returns is no plain list.
    "class_raises": Bad(
        gives("Lying()", lying("@property\n" + _RAISES.format("__class__"))),
        f"{GIVES} returned a Lying instead of an iterable",
    ),
    "class_lies": Bad(
        gives("Lying()", lying("__class__ = list")), f"{GIVES} returned a Lying instead of an iterable"
    ),
    "getattr_exits": Bad(
        gives("[Lying()]", lying("def __getattribute__(self, name):\n    raise SystemExit(name)")),
        f"item 0 of {GIVES} is a Lying instead of a ModelAdapter; it is skipped",
    ),
    "item_class_raises": Bad(
        gives("[Lying()]", lying("@property\n" + _RAISES.format("__class__"))),
        f"item 0 of {GIVES} is a Lying instead of a ModelAdapter",
    ),
    "iter_exits": Bad(
        gives("Lying()", lying("def __iter__(self):\n    raise SystemExit(0)")),
        f"{GIVES} raised SystemExit: 0",
    ),
    "next_interrupts": Bad(
        gives(
            "Lying()",
            lying(
                "def __iter__(self):\n    yield ModelAdapter('NextModel', 'good_model:Model')\n"
                "    raise KeyboardInterrupt"
            ),
        ),
        f"{GIVES} raised after 1 items KeyboardInterrupt",
        keeps=("NextModel",),
    ),
    "closes_badly": Bad(
        hook("try:\n        yield 5\n    finally:\n        raise GeneratorExit"),
        f"item 0 of {GIVES} is an int instead of a ModelAdapter",
    ),
    "endless_of_wrong": Bad(
        hook("while True:\n        yield 1"), f"{GIVES} gives more than 10000 records; all are ignored"
    ),
    "a_hundred_thousand": Bad(
        hook("return (ModelAdapter(f'M{i}', 'good_model:Model') for i in range(100_000))"),
        f"{GIVES} gives more than 10000 records; all are ignored",
    ),
    "many_wrong": Bad(
        hook("return [ModelAdapter('ManyModel', 'good_model:Model'), *range(5000)]"),
        f"item 1 of {GIVES} is an int instead of a ModelAdapter, and so are 4999 more; they are skipped",
        keeps=("ManyModel",),
    ),
    "list_subclass": Bad(
        gives(
            "Lying([ModelAdapter('ListModel', 'good_model:Model')])",
            lying(_RAISES.format("__iter__"), base="list"),
        ),
        f"{GIVES} raised RuntimeError: __iter__",
    ),
    "huge_name_of_a_class": Bad(
        gives("[type('X' * 20_000_000, (), {})()]"),
        f"item 0 of {GIVES} is a {'X' * 80}... (20000000 characters) instead",
    ),
    "escapes_in_a_class": Bad(
        gives("[type('\\x1b[31mred\\u202e', (), {})()]"),
        rf"item 0 of {GIVES} is a \x1b[31mred\u202e instead of a ModelAdapter",
    ),
    "metaclass": Bad(
        "class Meta(type):\n    @property\n    def __name__(cls):\n        raise SystemExit(1)\n"
        + lying("pass", base="metaclass=Meta")
        + hook("return Lying()"),
        f"{GIVES} returned a Lying instead of an iterable",
    ),
    # What a record holds.
    "huge_integer": Bad(
        models("X", priority="10 ** 5000"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): priority is an int. Set it to an integer between",
    ),
    "huge_integer_later": Bad(
        doctored("priority", "10 ** 5000"),
        f"{REFUSED}ModelAdapter('X'): priority is an int; it is skipped. Set it",
    ),
    "huge_integer_in_a_config": Bad(
        models("X", example_config="{'a': [10 ** 5000]}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds an integer of more",
    ),
    "huge_name": Bad(
        hook("return [ModelAdapter('X' * 20_000_000, 'a:A')]"),
        f"{GIVES} raised RecordError: ModelAdapter({HUGE}): architecture is {HUGE}. Set it to at most",
    ),
    "huge_path": Bad(
        hook("return [ModelAdapter('X', 'a:' + 'b.' * 10_000_000 + 'c')]"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): model is 'a:b.b.",
    ),
    "huge_text": Bad(
        models("X", refused="'x' * 20_000_000"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): refused is 'xxx",
    ),
    "huge_repr": Bad(
        models("X", devices="Lying()").replace(
            "@hookimpl", lying("def __repr__(self):\n    return 'x' * 20_000_000") + "@hookimpl"
        ),
        f"{GIVES} raised RecordError: ModelAdapter('X'): devices is {'x' * 120}... (20000000 characters). Set",
    ),
    "repr_raises": Bad(
        models("X", devices="Lying()").replace("@hookimpl", lying(_RAISES.format("__repr__")) + "@hookimpl"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): devices is a Lying. Set it to a tuple of strings.",
    ),
    "endless_devices": Bad(
        models("X", devices="iter(lambda: 'cpu', None)"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): devices holds more than 1000 strings. Give it fewer.",
    ),
    "endless_modules": Bad(
        models("X", packed_modules_mapping="{str(i): () for i in range(2000)}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): packed_modules_mapping holds more than 1000 names. Give",
    ),
    "endless_config": Bad(
        models("X", example_config="{'a': list(range(30_000))}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds more than 20000 value",
    ),
    "deep_config": Bad(
        "deep = []\nfor _ in range(100_000):\n    deep = [deep]\n"
        + models("X", example_config="{'a': deep}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds more than 20000 value",
    ),
    "round_config": Bad(
        "loop = {}\nloop['loop'] = loop\n" + models("X", example_config="loop"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds more than 20000 value",
    ),
    "long_string_in_a_config": Bad(
        models("X", example_config="{'a': 'x' * 20_000_000}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds a string of 20000000",
    ),
    "long_key_in_a_config": Bad(
        models("X", example_config="{'x' * 20_000_000: 1}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (it holds a key of 20000000",
    ),
    "odd_key_in_a_config": Bad(
        models("X", example_config="{1: 1}"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): example_config isn't JSON (one of its keys is an int)",
    ),
    "long_requirement": Bad(
        models("X", requires="['x; ' + '(' * 5000 + 'a' + ')' * 5000]"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): requires is 'x; ((((((",
    ),
    "deep_requirement": Bad(
        models("X", requires="['x; ' + '(' * 140 + 'extra' + ')' * 140]"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): requires is 'x; ((((((",
    ),
    "string_subclass_raises": Bad(
        lying(
            "\n".join(
                _RAISES.format(name) for name in ("__eq__", "__hash__", "__str__", "__format__", "__len__")
            ),
            base="str",
        )
        + models("StringModel", model="Lying('good_model:Model')").replace("'good_model:Model', model=", ""),
        None,
        keeps=("StringModel",),
    ),
    "string_subclass_later": Bad(
        doctored(
            "architecture",
            "Lying('LaterModel')",
            lying("def __eq__(self, other):\n    return True\n" + _RAISES.format("__hash__"), base="str"),
        ),
        None,
        keeps=("LaterModel",),
    ),
    "integer_subclass": Bad(
        lying(
            "\n".join(
                _RAISES.format(name)
                for name in ("__neg__", "__lt__", "__gt__", "__eq__", "__abs__", "__repr__")
            )
            + "\n__hash__ = int.__hash__",
            base="int",
        )
        + models("IntegerModel", priority="Lying(0)"),
        None,
        keeps=("IntegerModel",),
    ),
    "always_greater": Bad(
        lying("def __lt__(self, other):\n    return True\ndef __neg__(self):\n    return self", base="int")
        + models("GreaterModel", "LlamaForCausalLM", priority="Lying(-5)"),
        None,
        keeps=("GreaterModel",),
    ),
    "mapping_raises": Bad(
        lying(
            "def __iter__(self):\n    raise SystemExit(3)\n__len__ = __getitem__ = lambda *_: 1",
            base="__import__('collections.abc').abc.Mapping",
        )
        + models("X", example_config="Lying()"),
        f"{GIVES} raised SystemExit: 3",
    ),
    "forged_fields": Bad(
        hook("a = ModelAdapter.__new__(ModelAdapter)\n    vars(a).update(architecture='X')\n    return [a]"),
        f"{REFUSED}a ModelAdapter: lacks its field 'model'; it is skipped. Call ModelAdapter() with",
    ),
    "nulls_later": Bad(
        hook(
            "a = ModelAdapter('X', 'good_model:Model')\n    vars(a).update(dict.fromkeys(list(vars(a))))\n"
            "    return [a, ModelAdapter('AfterNullsModel', 'good_model:Model')]"
        ),
        f"{REFUSED}ModelAdapter(None): architecture is None; it is skipped. Set it to a class name",
        keeps=("AfterNullsModel",),
    ),
    "record_class_swapped": Bad(
        hook("a = Suite('x')\n    object.__setattr__(a, '__class__', ModelAdapter)\n    return [a]"),
        f"{REFUSED}a ModelAdapter: lacks its field",
    ),
    "capability_lies": Bad(
        models("X", capabilities="[5]"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): capabilities is [5]. Set",
    ),
    "bidi_in_a_description": Bad(
        hook(r"return Suite('bidi', 'evil\u202etxt')", "mszoo_suite()"),
        "mszoo_suite raised RecordError: Suite('bidi'): description is",
    ),
    "escapes_in_refused": Bad(
        models("X", refused=r"'\x1b]0;owned\x07'"),
        f"{GIVES} raised RecordError: ModelAdapter('X'): refused is",
    ),
    "bidi_in_a_message": Bad(
        r"raise ValueError('evil\u202e\x9b31m\x07\r\n\u2028txt')",
        r"can't be loaded (ValueError: evil\u202e\x9b31m\x07 txt",
    ),
    "error_of_objects": Bad(
        "from mszoo.registry import MszooError\n" + hook("raise MszooError(5, print, object)"),
        f"{GIVES} raised MszooError: ",
    ),
    "error_exits": Bad(
        lying("def __str__(self):\n    raise SystemExit(0)", base="BaseException") + hook("raise Lying"),
        f"{GIVES} raised Lying: no text, its __str__ raised SystemExit",
    ),
    "traceback_lies": Bad(
        lying("@property\n" + _RAISES.format("__traceback__"), base="Exception") + hook("raise Lying('so')"),
        f"{GIVES} raised Lying: so (bad_traceback_lies.py:",
    ),
    "endless_source": Bad(
        "exec(compile('def f():\\n    raise OSError(5)', '/dev/zero', 'exec'))\n" + hook("return f()"),
        f"{GIVES} raised OSError: 5 (zero:2)",
    ),
    # Objects in the plugin's own place.
    "equal_to_all": Bad(
        lying(
            "__hash__ = None\ndef __eq__(self, other):\n    return True\n"
            + "\n".join(
                models("EqualModel")
                .replace("mszoo_model_adapters()", "mszoo_model_adapters(self)")
                .splitlines()
            )
        )
        + "plugin = Lying()\n",
        None,
        keeps=("EqualModel",),
        value="bad_equal_to_all:plugin",
    ),
    "comparison_raises": Bad(
        lying(
            _RAISES.format("__eq__")
            + "\n__hash__ = None\n"
            + "\n".join(
                models("CompareModel")
                .replace("mszoo_model_adapters()", "mszoo_model_adapters(self)")
                .splitlines()
            )
        )
        + "plugin = Lying()\n",
        None,
        keeps=("CompareModel",),
        value="bad_comparison_raises:plugin",
    ),
    "dir_exits": Bad(
        lying("def __dir__(self):\n    raise SystemExit(0)") + "plugin = Lying()",
        "can't be loaded (SystemExit: 0",
        value="bad_dir_exits:plugin",
    ),
    "signature_lies": Bad(
        "@hookimpl\ndef mszoo_model_adapters():\n    return []\nmszoo_model_adapters.__signature__ = 5",
        "can't be loaded (TypeError: ",
    ),
    "interrupts_at_import": Bad("raise KeyboardInterrupt", "can't be loaded (KeyboardInterrupt"),
    "stops_at_import": Bad("raise GeneratorExit", "can't be loaded (GeneratorExit"),
    "base_exception": Bad("raise BaseException('base')", "can't be loaded (BaseException: base"),
    "group_at_import": Bad(
        "raise BaseExceptionGroup('many', [SystemExit(1)])", "can't be loaded (BaseExceptionGroup: many"
    ),
    "out_of_memory": Bad("raise MemoryError", "can't be loaded (MemoryError"),
    "suite_exits": Bad(hook("raise SystemExit(2)", "mszoo_suite()"), "mszoo_suite raised SystemExit: 2"),
    "suite_interrupts": Bad(
        hook("raise KeyboardInterrupt", "mszoo_suite()"), "mszoo_suite raised KeyboardInterrupt"
    ),
    "suite_forged": Bad(
        hook("return Suite.__new__(Suite)", "mszoo_suite()"),
        "mszoo_suite returned a bad Suite: RecordError: a Suite: lacks its field 'name'; all its",
    ),
    "suite_class_raises": Bad(
        lying("@property\n" + _RAISES.format("__class__")) + hook("return Lying()", "mszoo_suite()"),
        "mszoo_suite returned a Lying instead of a Suite; all its adapters",
    ),
    "layers_exit": Bad(
        hook("raise SystemExit(2)", "mszoo_layer_adapters()"), "mszoo_layer_adapters raised SystemExit: 2"
    ),
    "ops_interrupt": Bad(
        hook("raise KeyboardInterrupt", "mszoo_op_adapters()"), "mszoo_op_adapters raised KeyboardInterrupt"
    ),
    # Its mszoo_select is wrong.
    "select_exits": Bad(
        models("SelectExitsModel") + hook("raise SystemExit(4)", "mszoo_select(architecture, candidates)"),
        "mszoo_select raised SystemExit: 4",
        keeps=("SelectExitsModel",),
    ),
    "select_interrupts": Bad(
        models("SelectInterruptsModel") + hook("raise KeyboardInterrupt", "mszoo_select(architecture)"),
        "mszoo_select raised KeyboardInterrupt",
        keeps=("SelectInterruptsModel",),
    ),
    "select_lies": Bad(
        lying("@property\n" + _RAISES.format("__class__"))
        + hook("return Lying()", "mszoo_select(candidates)"),
        "mszoo_select returned a Lying instead of a candidate or None, for ",
    ),
    "select_forges": Bad(
        hook("return ModelAdapter.__new__(ModelAdapter)", "mszoo_select(candidates)"),
        "mszoo_select returned a bad record (RecordError: ",
    ),
    "select_strays": Bad(
        hook("return ModelAdapter('X', 'a:Stray')", "mszoo_select(candidates)"),
        "mszoo_select returned a:Stray, which is not a candidate, for ",
    ),
    "select_writes": Bad(
        "\n"
        + hook(
            "for item in candidates:\n        vars(item).update(model='evil:Model')\n    candidates.clear()",
            "mszoo_select(candidates)",
        ),
        None,
    ),
    "select_changes_folder": Bad(
        hook(
            "import os\n    architecture == 'LlamaForCausalLM' and os.chdir('/')",
            "mszoo_select(architecture)",
        ),
        "changed the working directory, which was undone, when mszoo_select was called. Remove the os.chdir().",
    ),
    "select_forks": Bad(
        hook("import os\n    architecture == 'LlamaForCausalLM' and os.fork()", "mszoo_select(architecture)"),
        "forked the process, when mszoo_select was called. Use subprocess",
    ),
}

PROCESS: dict[str, Bad] = {
    **undone("handler", "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "signal handling", _SIGNALS),
    **undone("interrupt", "signal.signal(signal.SIGINT, lambda *_: None)", "signal handling", _SIGNALS),
    **undone("alarm", "signal.alarm(30)", "signal handling", _SIGNALS),
    **undone(
        "mask", "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})", "signal handling", _SIGNALS
    ),
    **undone(
        "variable",
        "os.environ['EVIL_HOME'] = '/'",
        "EVIL_HOME",
        "Set them where the model is built, if at all.",
    ),
    **undone("environ", "os.environ = {}", "os.environ", _LEAVE),
    **undone(
        "filters",
        "warnings.simplefilter('error')",
        "warnings.filters",
        "Use warnings.catch_warnings() around",
    ),
    **undone("path", "sys.path.insert(0, '/evil')", "sys.path", _INSTALL),
    **undone("path_list", "sys.path = []", "sys.path", _INSTALL),
    **undone(
        "finder",
        "sys.meta_path.insert(0, type('F', (), {'find_spec': lambda *_: 1 / 0})())",
        "sys.meta_path",
        _INSTALL,
    ),
    **undone("recursion", "sys.setrecursionlimit(250)", "the recursion limit", _LEAVE),
    **undone(
        "limit",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
        "RLIMIT_NOFILE, RLIMIT_OFILE",
        "Leave the limits",
    ),
    **undone(
        "level", "logging.disable(logging.CRITICAL)", "logging", "Configure a logger of your own name alone."
    ),
    **undone("handlers", "logging.basicConfig()", "logging", "Configure a logger of your own name alone."),
    **undone("excepthook", "sys.excepthook = print", "sys.excepthook", _LEAVE),
    **undone("umask", "os.umask(0o777)", "umask", _LEAVE),
    **undone("collector", "gc.disable()", "garbage collection", _LEAVE),
    **undone("builtin", "builtins.open = None", "names of Python's builtins", _LEAVE),
    **undone(
        "modules",
        "sys.modules['json'] = None",
        "modules that others had imported",
        "Leave sys.modules alone.",
    ),
    **undone(
        "descriptor",
        "os.close(1)",
        "!closed or replaced file descriptor 1, which was undone",
        "Leave the standard streams open.",
    ),
    **undone("errors", "sys.__stderr__.close()", "!closed sys.stderr, which was undone", _LEAVE),
    **undone(
        "null",
        "os.dup2(os.open(os.devnull, os.O_RDWR), 2)",
        "!closed or replaced file descriptor 2, which was undone",
        "Leave the",
    ),
    "affinity": Bad(
        twisted("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") + models("PinnedModel"),
        "changed the cores, which was undone, when it was loaded. Leave the cores to the operator and to vLLM.",
        keeps=("PinnedModel",),
    ),
    "forks_and_prints": Bad(
        hook(
            "import os\n    os.fork()\n    print('{noise}')\n"
            "    return [ModelAdapter('ForkingModel', 'good_model:Model')]"
        ),
        "forked the process, when its hooks were called. Use subprocess",
        keeps=("ForkingModel",),
    ),
    "leaves_the_child": Bad(
        hook(
            "import os\n    if os.fork() == 0:\n        raise SystemExit\n"
            "    return [ModelAdapter('ChildModel', 'good_model:Model')]"
        ),
        "forked the process, when its hooks were called. Use subprocess",
        keeps=("ChildModel",),
    ),
    "closes_what_it_gets": Bad(
        twisted("print('{noise}'); sys.stdout.close(); sys.stderr.close()") + models("ClosingModel"),
        None,
        keeps=("ClosingModel",),
    ),
}

#: Of Python's standard library.
LIBRARY: dict[str, Bad] = {
    **undone("arguments", "sys.argv[:] = ['evil']", "sys.argv", _LEAVE),
    **undone("executable", "sys.executable = '/bin/false'", "names of Python's sys", _LEAVE),
    **undone("exit", "sys.exit = os._exit", "names of Python's sys", _LEAVE),
    **undone("is_file", "os.path.isfile = lambda path: False", "names of Python's posixpath", _LEAVE),
    **undone("json_text", "import json; json.dumps = None", "names of Python's json", _LEAVE),
    **undone(
        "path_class",
        "import pathlib; pathlib.Path.read_text = None",
        "attributes of Python's pathlib.Path",
        _LEAVE,
    ),
    **undone("logger", "logging.Logger.info = None", "attributes of Python's logging.Logger", _LEAVE),
    **undone(
        "log_records",
        "logging.setLogRecordFactory(lambda *a, **b: 1 / 0)",
        "names of Python's logging",
        _LEAVE,
    ),
    **undone(
        "metadata",
        "import importlib.metadata; importlib.metadata.version = lambda name: '0'",
        "names of Python's importlib.metadata",
        _LEAVE,
    ),
    **undone("clock", "import time; time.monotonic = lambda: 0.0", "names of Python's time", _LEAVE),
    **undone("stacks", "threading.stack_size(1 << 42)", "the size of threads' stacks", _LEAVE),
    **undone(
        "time_limit",
        "import socket; socket.setdefaulttimeout(0.001)",
        "the sockets' time limit",
        _LEAVE,
    ),
    **undone(
        "start_method",
        "import multiprocessing; multiprocessing.set_start_method('fork', force=True)",
        "multiprocessing's start method",
        _LEAVE,
    ),
    **undone(
        "codec_errors",
        "import codecs; codecs.register_error('strict', lambda error: ('', error.end))",
        "codecs' error handler 'strict'",
        _LEAVE,
    ),
    # What would keep the process from its end.
    "endless_thread": Bad(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()\n"
        + models("ThreadModel"),
        "started a thread, when it was loaded. Start it where the model is built",
        keeps=("ThreadModel",),
    ),
    "endless_pool": Bad(
        "import concurrent.futures, time\npool = concurrent.futures.ThreadPoolExecutor(1)\n"
        "pool.submit(time.sleep, 10**6)\n" + models("PoolModel"),
        "started a thread, when it was loaded. Start it where the model is built",
        keeps=("PoolModel",),
    ),
    # Before any that forks, whose children wait to be collected.
    "a_process_that_stays": Bad(
        "import subprocess\nstarted = subprocess.Popen(['true'])\n" + models("ProcessModel"),
        "started a process, which stays, when it was loaded. Start it where the model is built, and end it there.",
        keeps=("ProcessModel",),
    ),
}

HOSTILE = OBJECTS | PROCESS | LIBRARY
