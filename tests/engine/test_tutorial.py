"""The tutorial to its end: the package that it makes passes its numeric tests, serves SmolLM2, and is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools import tutorial
from tests.tools.pages import blocks, commands, lines

from .server import MODEL, running_server


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tutorial.make_package(tmp_path_factory.mktemp("tutorial"))


def of_page(program: str) -> list[list[str]]:
    """Return the page's commands of a program."""
    found = [block for block in blocks(tutorial.PAGE) if block.language == "console"]
    words = (words for block in found for line in lines(block) for words in commands(line))
    return [item for item in words if item[0] == program]


@pytest.mark.long
def test_it_passes_the_numeric_tier(package: Path) -> None:
    command = next(words for words in of_page("mszoo") if "numeric" in words)
    done = tutorial.mszoo(command[1:], package, tutorial.install(package))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.long
def test_it_serves_smollm2(package: Path, tmp_path: Path) -> None:
    environ = tutorial.install(package)
    (made,) = (words for words in of_page("mszoo") if words[1] == "demo-model")
    tutorial.mszoo(made[1:], tmp_path, environ).check_returncode()
    ((_, _, folder, *options),) = of_page("vllm")
    dtype = options.index("--dtype")
    del options[dtype : dtype + 2]  # the tests' servers have it already
    with running_server(tmp_path / folder, tmp_path, *options, PYTHONPATH=environ["PYTHONPATH"]) as server:
        question = {"role": "user", "content": "What is the capital of France?"}
        body = {"model": MODEL, "temperature": 0, "messages": [question]}
        answer = server.http.post("/v1/chat/completions", json=body).raise_for_status().json()
        assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
        log = server.log()
    for line in (
        "mszoo: AcmeForCausalLM is served by acme.AcmeForCausalLM",
        "mszoo: decoder layers run compiled",
        "mszoo: acme.AcmeForCausalLM answers (kernel set cpu",
    ):
        assert line in log


@pytest.mark.long
def test_it_is_built(package: Path) -> None:
    """By the page's command, with what is installed here in place of an index."""
    (command,) = (words for words in of_page("python") if words[2] == "build")
    done = subprocess.run(
        [sys.executable, *command[1:3], "--no-isolation", *command[3:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=package.parent,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    built = sorted(path.name for path in (package / "dist").iterdir())
    assert built == ["mszoo_acme-0.1.0-py3-none-any.whl", "mszoo_acme-0.1.0.tar.gz"]
