"""What stands in the pages is so: each block of code runs, and each command is one that there is.

CONTRIBUTING.md ("Pages") says what is held to what. An HTML comment `<!-- run by TEST -->` above a block names the
test that runs it, where this one can't: it needs an engine, or files of a package.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

from mszoo.registry.cli.new import KINDS, names_of, write
from tests.tools.pages import LANGUAGES, PAGES, ROOT, Block, blocks, fault, faults, mentions

PYTHON = [
    block for page in PAGES for block in blocks(page) if block.language == "python" and not block.run_by
]

#: What has to hold behind the blocks of a page, in their namespace.
PROOFS = {
    "models/README.md": """
from transformers import PhiConfig
from mszoo.adapters.decoder import TINY
from mszoo.layers.decoder.compiled import unsupported
from mszoo.registry.errors import RefusalError
spec = PhiForCausalLM.read_config(PhiConfig(**TINY), 'native.PhiForCausalLM')
layer = spec.layers[1]
assert layer.parallel_residual and layer.norms[0].kind == 'layer_norm' and not layer.mlp.gated
assert spec.lm_head_bias and spec.norm.name == 'final_layernorm' and unsupported(layer) is None
try: PhiForCausalLM.read_config(PhiConfig(**TINY, qk_layernorm=True), 'native.PhiForCausalLM')
except RefusalError as error: assert 'qk_layernorm=True' in str(error)
else: raise AssertionError('it was not refused')
""",
    "registry/README.md": """
assert mszoo_suite().name == mszoo_model_adapters()[0].model.split('_')[1].split('.')[0] == 'example'
""",
    "registry/docs/decoder.md": """
from transformers import LlamaConfig
from mszoo.layers.decoder.compiled import unsupported
fields = dict(record.example_config)
spec = ZetaForCausalLM.read_config(LlamaConfig(**fields), 'acme.ZetaForCausalLM')
attention = spec.layers[1].attention
assert (spec.name, spec.final_logit_softcapping, len(spec.layers)) == ('net', 20.0, 2)
assert attention.rotary.parameters['partial_rotary_factor'] == 0.5 and not attention.rotary.is_neox_style
assert unsupported(spec.layers[1]) is None
""",
    "registry/docs/encoder.md": """
from transformers import BertConfig
spec = ThetaModel.read_config(BertConfig(**record.example_config), 'acme.ThetaModel')
assert spec.layers[0].norms_sums and spec.layers[0].attention.rotary and not spec.layers[0].attention.is_causal
""",
    "registry/docs/layers-and-ops.md": """
import numpy as np
from mszoo.conformance.reference import reference
from mszoo.kernels import runtime
from mszoo.kernels.exchange import to_torch
runtime.prepare('cpu')
x = np.random.default_rng(0).normal(size=(3, 8)).astype('float32')
import torch
expected = reference('silu_and_mul', {'x': torch.from_numpy(x).double()})
assert (to_torch(silu_and_mul(ms.Tensor(x))) - expected).abs().max() < 1e-6
(item,) = mszoo_op_adapters()
assert (item.op, mszoo_layer_adapters()[0].target) == (TestAcmeOp.op, TestAcmeLayer.target)
""",
    "registry/docs/operating.md": """
(finding,) = mszoo_doctor_checks('cpu')
assert finding.fix[0] == 'mkdir'
""",
    "registry/docs/cells.md": """
from transformers import GPT2Config
from mszoo.registry.errors import RefusalError
record = mszoo_model_adapters()[0]
assert [item.target.partition(':')[0] for item in mszoo_layer_adapters()] == [AcmeForCausalLM.suite] * 2
config = GPT2Config(**{name: value for name, value in record.example_config.items() if name != 'model_type'})
network = AcmeForCausalLM.build_network(None, config)
assert network.blocks[1].attn.num_heads == 2 and network.tokens.embedding_table.shape == (256, 64)
try: AcmeForCausalLM.build_network(None, GPT2Config(activation_function='gelu'))
except RefusalError as error: assert 'activation_function' in str(error) or 'n_inner' in str(error)
else: raise AssertionError('it was not refused')
""",
}

#: Runs the blocks of all pages in one process, which imports torch and MindSpore once; a page is one namespace.
RUNNER = """
import json, sys, traceback
failures = {}
for page, pieces in json.load(sys.stdin).items():
    namespace = {"__name__": "page"}
    for place, line, text in pieces:
        try:
            exec(compile("\\n" * (line - 1) + text, place, "exec", dont_inherit=True), namespace)
        except BaseException:
            failures[place] = traceback.format_exc()
            break
print("\\n" + json.dumps(failures))
"""


def run(pages: dict[str, list[tuple[str, int, str]]], folder: Path) -> dict[str, str]:
    """Run blocks, by page; gives what failed, by place."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(pages),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    pages: dict[str, list[tuple[str, int, str]]] = {}
    for block in PYTHON:
        pages.setdefault(name_of(block.page), []).append((block.place, block.line, block.text))
    assert PROOFS.keys() <= pages.keys()
    for name, proof in PROOFS.items():
        pages[name].append((f"{name}: proof", 1, proof))
    return run(pages, tmp_path_factory.mktemp("pages"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_book_has_every_page_in_one_order() -> None:
    """The index beside the tutorial names each page once, and so does what makes a site of it."""
    index = ROOT / "registry" / "docs" / "README.md"
    part, found = "", {}
    for line in index.read_text("utf-8").splitlines():
        if line.startswith("## "):
            part = line.removeprefix("## ")
        elif line.startswith("* "):
            (link,) = re.findall(r"\]\((\S+)\)$", line)
            found.setdefault(part, []).append(name_of((index.parent / link).resolve()))
    (first, *parts) = yaml.safe_load((index.parent / "mkdocs.yml").read_text("utf-8"))["nav"]
    assert list(first.values()) == [name_of(index)]
    assert {name: pages for item in parts for name, pages in item.items()} == found
    pages = [name for names in found.values() for name in names]
    assert sorted([*pages, name_of(index)]) == sorted(map(name_of, PAGES))


@pytest.mark.parametrize("name", sorted({name_of(block.page) for block in PYTHON}))
def test_python_runs(ran: dict[str, str], name: str) -> None:
    failed = [text for place, text in ran.items() if place.startswith(f"{name}:")]
    assert not failed, failed[0]


def test_python_that_fails_is_found(tmp_path: Path) -> None:
    page = [("a.md:3", 3, "x = 1\n"), ("a.md:9", 9, "assert x == 2\n")]
    failed = run({"a.md": page, "b.md": [("b.md:1", 1, "x\n")], "c.md": [("c.md:1", 1, "y = 1\n")]}, tmp_path)
    assert sorted(failed) == ["a.md:9", "b.md:1"]
    assert 'File "a.md:9", line 9' in failed["a.md:9"]
    assert "NameError" in failed["b.md:1"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_right(page: Path) -> None:
    assert [wrong for block in blocks(page) for wrong in wrong_in(block)] == []


def wrong_in(block: Block) -> list[str]:
    """Return what is wrong with a block that isn't Python's to run."""
    found = []
    if block.language not in LANGUAGES:
        found.append(f"its language is {block.language!r}, and not one of {', '.join(LANGUAGES)}")
    if block.language == "console":
        found += faults(block)
    elif block.language in ("toml", "json"):
        try:
            tomllib.loads(block.text) if block.language == "toml" else json.loads(block.text)
        except ValueError as error:
            found.append(str(error))
    if block.run_by and not test_exists(block.run_by):
        found.append(f"there is no test {block.run_by}")
    return [f"{block.place}: {wrong}" for wrong in found]


def test_exists(name: str) -> bool:
    """Return whether there is a test, named as pytest names it."""
    path, _, function = name.partition("::")
    if not (ROOT / path).is_file():
        return False
    tree = ast.parse((ROOT / path).read_text("utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


test_exists.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    assert mentions(page) == []


def test_the_record_of_the_worked_example() -> None:
    (record,) = (block for block in blocks(ROOT / "models" / "README.md") if block.run_by)
    assert record.text.strip() in (ROOT / "adapters" / "native" / "dense.py").read_text("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_that_a_new_package_gets(kind: str, tmp_path: Path) -> None:
    write(names_of("acme-llm"), tmp_path / "new", kind)
    page = tmp_path / "new" / "README.md"
    found = blocks(page)
    assert any(block.language == "console" for block in found)
    assert [wrong for block in found for wrong in wrong_in(block)] + mentions(page) == []


@pytest.mark.parametrize(
    ("command", "wrong"),
    [
        ("mszoo list --json", ""),
        ("mszoo lst", "lst"),
        ("mszoo check native --tier quick", "quick"),
        ("mszoo new", "Missing"),
        ("MSZOO_PREFER=mindone mszoo explain DIR --ops", ""),
        ("MSZOO_PREFFER=mindone mszoo list", "there is no MSZOO_PREFFER"),
        ("make test VLLM=0.30 ARGS=--all", ""),
        ("make tests", "there is no target tests"),
        ("make test VLM=0.30", "make takes no VLM"),
        ("make test VLLM=0.1", "there are no requirements of vLLM 0.1"),
        ("pip install --no-deps -r requirements-cpu.txt", ""),
        ("pip install --no-dep -r requirements-cpu.txt", "--no-dep"),
        ("pip install -r requirements.txt", "there is no requirements.txt"),
        ("pip install '.[cpu]'", ""),
        ("pip install '.[gpu]'", "there is no extra gpu"),
        ("pip install 'mszoo[cpu'", "mszoo[cpu"),
        ("python -m mszoo.registry.vllm_metadata", ""),
        ("python -m mszoo.registry.gone", "there is no module mszoo.registry.gone"),
        ("python tests/tools/gone.py", "there is no tests/tools/gone.py"),
        ("pytest --mszoo-tier static", ""),
        ("pytest --mszoo-tear static", "--mszoo-tear"),
        ("vllm server DIR", "no such command of vllm's"),
        ("mytool DIR", "nobody looks at this program's arguments"),
    ],
)
def test_a_wrong_command_is_found(command: str, wrong: str) -> None:
    import shlex

    found = fault(shlex.split(command))
    assert wrong in found and bool(wrong) == bool(found), found


def test_faults_of_a_page_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "A `mszoo list --fast` and `make tests`.\n\n```\nx\n```\n\n"
        "   ```console\n   $ for x in 1; do mszoo lst $x; done | mszoo list > out\n   output\n   $ mszoo \\\n"
        "       new  # a name is missing\n   ```\n\n"
        "<!-- run by tests/unit/test_pages.py::test_gone -->\n```toml\nx =\n```\n",
        "utf-8",
    )
    assert mentions(page) == ["mszoo list --fast: it has no --fast", "make tests: there is no target tests"]
    bare, console, toml = blocks(page)
    assert [wrong_in(bare), len(wrong_in(toml))] == [
        [f"{page}:4: its language is '', and not one of {', '.join(LANGUAGES)}"],
        2,
    ]
    assert [wrong.split(": ")[1] for wrong in wrong_in(console)] == ["mszoo lst '$x'", "mszoo new"]
