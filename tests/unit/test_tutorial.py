"""The tutorial's commands that need no engine, in their order; tests/engine/test_tutorial.py serves its model."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from tests.tools import tutorial
from tests.tools.pages import blocks, commands, lines

#: What is left out here: it needs an index, an engine or a model. `pip install -e` is done by hand.
ELSEWHERE = ("pip", "python", "twine", "vllm", "curl", "mszoo doctor", "mszoo demo-model", "mszoo check acme")


def test_the_tutorial(tmp_path: Path) -> None:
    environ, ran = dict(os.environ), []
    for block in blocks(tutorial.PAGE):
        if block.language == "python":
            tutorial.change(tmp_path / tutorial.NAME)
            continue
        for words in (words for line in lines(block) for words in commands(line)):
            command = shlex.join(words)
            if words[:3] == ["pip", "install", "-e"]:
                assert words[3] == f"{tutorial.NAME}[test]"
                environ = tutorial.install(tmp_path / tutorial.NAME)
            if command.startswith(ELSEWHERE) and "--tier static" not in command:
                continue
            done = tutorial.mszoo(words[1:], tmp_path, environ)
            assert (words[0], done.returncode) == ("mszoo", 0), (command, done.stdout, done.stderr)
            ran.append((command, done.stdout))
    assert [command for command, _ in ran] == [
        "mszoo new mszoo-acme",
        "mszoo list acme",
        "mszoo explain AcmeForCausalLM",
        "mszoo check acme --tier static",
    ]
    assert "AcmeForCausalLM" in ran[1][1]
    assert "AcmeForCausalLM is served by acme.AcmeForCausalLM" in ran[2][1]
    # What the reader has in the end passes as well.
    done = tutorial.mszoo(["check", "acme", "--tier", "static", "--json"], tmp_path, environ)
    tests = [test for adapter in json.loads(done.stdout)["adapters"] for test in adapter["tests"]]
    assert (done.returncode, {test["outcome"] for test in tests}) == (0, {"passed"}), done.stdout
