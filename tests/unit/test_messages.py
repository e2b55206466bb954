"""Every message of the core has a test of its text, and what the command promises in its help is so."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mszoo.registry.cli import build
from mszoo.registry.objects import load_object

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("registry/**/*.py", "adapters/vllm/**/*.py")
# What makes a message, and the names under which its parts are put together.
MAKERS = {"Problem", "Finding", "Trace", "report", "sentence", "_error", "_failure", "_outputs_differ"}
PARTS = {"what", "hint", "form", "why"}
SHORTEST = 12  # characters that tell one message from another


def literals(node: ast.AST) -> Iterator[str]:
    """Give the literal pieces of an expression of strings."""
    for item in ast.walk(node):
        if isinstance(item, ast.Constant) and isinstance(item.value, str):
            yield item.value


def messages(source: str) -> Iterator[tuple[int, str]]:
    """Give (line, longest literal piece) of each message in a module; short ones can't be told apart."""
    for node in ast.walk(ast.parse(source)):
        expressions: list[ast.AST] = []
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name in MAKERS or name.endswith("Error"):
                expressions = [*node.args, *(item.value for item in node.keywords)]
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(item, ast.Name) and item.id in PARTS for item in targets):
                expressions = [node.value]
        for expression in expressions:
            longest = max((text.strip(" .,;:") for text in literals(expression)), key=len, default="")
            if len(longest) >= SHORTEST:
                yield node.lineno, longest


def text_of_tests() -> str:
    """Return all text that tests hold, except of this module."""
    pieces = []
    for path in ROOT.glob("tests/**/*.py"):
        if path != Path(__file__) and "conformance" not in path.parts:
            pieces.extend(literals(ast.parse(path.read_text())))
    return squeezed("\n".join(pieces))


def squeezed(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise MszooError(who, 'is not at all right', hint)", ["is not at all right"]),
        ("raise RecordError(who, f'{x} is not a thing here', 'Mend the thing.')", None),
        ("what = f'a {x} which is bad enough'", ["which is bad enough"]),
        ("what += ', and more of the same'", ["and more of the same"]),
        ("print('this is no message at all')", []),
    ],
)
def test_the_collector_bites(source, expected):
    found = [text for _, text in messages(source)]
    assert found == (["is not a thing here", "Mend the thing"] if expected is None else expected)


def test_every_message_of_the_core_has_a_test_of_its_text():
    known = text_of_tests()
    missing, count = [], 0
    for pattern in FOLDERS:
        for path in sorted(ROOT.glob(pattern)):
            for line, text in messages(path.read_text()):
                count += 1
                if squeezed(text) not in known:
                    missing.append(f"{path.relative_to(ROOT)}:{line}: {text}")
    assert count > 100
    assert not missing, "\n".join(["without a test of its text:", *missing])


# The part of a command's name in the function that makes its JSON, and arguments that give a report.
JSON_COMMANDS = {"list": ["list"], "explain": ["explain", "LlamaForCausalLM"], "doctor": ["doctor"]}


@pytest.mark.parametrize("command", JSON_COMMANDS)
def test_the_json_has_the_keys_that_are_documented(command, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MSZOO_")]:
        monkeypatch.delenv(name)
    package = "mszoo.adapters.vllm.cli" if command == "explain" else "mszoo.registry.cli"
    document = load_object(f"{package}.{command}:{command}_json").__doc__
    report = json.loads(CliRunner().invoke(build(), [*JSON_COMMANDS[command], "--json"]).stdout)
    assert [*report] == keys_of(document, "Keys: ")


def keys_of(document: str, start: str) -> list[str]:
    """Return the keys that the clause after `start` names, what is in parentheses aside."""
    text = re.sub(r"\([^)]*\)", "", squeezed(document).partition(start)[2])
    return re.findall(r"``(\w+)``", re.split("[.;] ", text)[0])


def test_the_documented_keys_of_the_records():
    from mszoo.registry.cli import doctor, list

    report = json.loads(CliRunner().invoke(build(), ["list", "--json"]).stdout)
    document = list.list_json.__doc__
    assert keys_of(document, "A suite has") == [*report["suites"][0]]
    assert keys_of(document, "An architecture has")[:4] == [*report["architectures"][0]]
    assert keys_of(document, "An architecture has")[4:] == [*report["architectures"][0]["candidates"][0]]
    findings = json.loads(CliRunner().invoke(build(), ["doctor", "--json"]).stdout)["findings"]
    assert keys_of(doctor.doctor_json.__doc__, "A finding has") == [*findings[0]]


def complete(*words: str) -> list[str]:
    """Return what the shell would be offered for the last word."""
    environ = {
        **os.environ,
        "_MSZOO_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["mszoo", *words]),
        "COMP_CWORD": str(len(words)),
    }
    mszoo = Path(sys.executable).with_name("mszoo")
    return subprocess.run(
        [mszoo], check=False, env=environ, capture_output=True, text=True, timeout=60
    ).stdout.split()


def test_shell_completion():
    group = typer.main.get_command(build())
    commands = set(group.list_commands(None))
    assert {"list", "explain", "doctor"} <= commands
    assert set(complete("")) == commands
    assert complete("doc") == ["doctor"]
    assert "--imports" in complete("doctor", "--")
    assert complete("explain", "LlamaFor") == ["LlamaForCausalLM", "LlamaForCausalLMEagle3"]
    qwens = [
        f"native.Qwen3{kind}"
        for kind in (
            "ForCausalLM",
            "MoeForCausalLM",
            "VLForConditionalGeneration",
            "VLMoeForConditionalGeneration",
        )
    ]
    assert complete("check", "native.Qwen3") == qwens


def test_the_completion_script():
    # The shell is asked of the parent process; without one the variable names it.
    environ = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    mszoo = Path(sys.executable).with_name("mszoo")
    result = subprocess.run(
        [mszoo, "--show-completion", "bash"],
        check=False,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "_MSZOO_COMPLETE=complete_bash" in result.stdout
    assert "complete -o default -F" in result.stdout
