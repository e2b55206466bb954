"""The ``mindone`` suite without MindSpore: its list, its config mapping, its private imports."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mszoo.adapters import mindone
from mszoo.adapters.mindone import architectures, config, eager, importer
from mszoo.registry.availability import Availability
from mszoo.registry.errors import RefusalError

FOLDER = Path(mindone.__file__).resolve().parent


def test_the_plugin_imports_nothing_heavy() -> None:
    code = """
import json, sys
from mszoo.adapters import mindone
list(mindone.mszoo_model_adapters()), list(mindone.mszoo_layer_adapters()), mindone.mszoo_suite()
heavy = ("torch", "mindspore", "vllm", "transformers", "mindone", "mindformers", "numpy")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_list_is_sane() -> None:
    entries = architectures.read()
    served = {name: entry for name, entry in entries.items() if not entry.refused}
    assert len(served) >= 40
    for name, entry in served.items():
        assert entry.example_config is not None
        assert entry.example_config["architectures"] == [name]
        assert entry.family and "float32" in entry.dtypes
        assert bool(entry.base) != bool(entry.pooling), f"{name} is a decoder or an encoder"
    for name, entry in entries.items():
        assert len(entry.refused) < 320, name
        assert "\n" not in entry.refused and "/" not in entry.refused.replace("key/value", ""), name


def test_every_entry_is_registered() -> None:
    adapters = {adapter.architecture: adapter for adapter in mindone.mszoo_model_adapters()}
    assert adapters.keys() == architectures.read().keys()
    for name, entry in architectures.read().items():
        assert adapters[name].refused == entry.refused
        assert adapters[name].devices == ("cpu",)


def test_the_families_that_spell_attention_out_are_listed() -> None:
    assert eager.FAMILIES.keys() <= {entry.family for entry in architectures.read().values()}


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("0.5.0", None),
        ("0.6.0", "mindone<0.6,>=0.5, but 0.6.0 is installed: pip install --no-deps mindone==0.5.0"),
        (None, "which is not installed: pip install --no-deps mindone==0.5.0"),
    ],
)
def test_other_versions_of_the_suite_are_not_used(installed: str | None, said: str | None) -> None:
    (llama,) = (item for item in mindone.mszoo_model_adapters() if item.architecture == "LlamaForCausalLM")
    obstacle = Availability("cpu", lambda name: installed).obstacle(llama, mindone.mszoo_suite())
    assert obstacle is None if said is None else said in str(obstacle)


# The config of transformers 5, as 4.57 wrote it.


class Config:
    """What the mapping reads of a Hugging Face config."""

    model_type = "llama"
    defaults: ClassVar[dict[str, Any]] = {"max_position_embeddings": 512, "hidden_size": 64}

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(self.defaults | fields)

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


DEFAULT = {"rope_type": "default", "rope_theta": 5e5}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (DEFAULT, {"rope_theta": 5e5, "rope_scaling": None}),
        (LLAMA3 | {"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_scaling": LLAMA3}),
        (DEFAULT | {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 0.5, "rope_scaling": None}),
        (
            {"full_attention": DEFAULT, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            {"rope_theta": 5e5, "rope_local_base_freq": 1e4, "rope_scaling": None},
        ),
        (
            {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        ),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1.0}, {"rope_theta": 1.0}),
    ],
)
def test_rope_parameters(rope: dict[str, Any], expected: dict[str, Any]) -> None:
    original = Config(rope_parameters=rope)
    v4 = config.to_v4(original, 512, "me")
    assert {name: getattr(v4, name) for name in expected} == expected
    assert type(original) is Config and not hasattr(original, "rope_theta")


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1.0}, "--max-model-len 512"),
        ({"rope_type": "longrope", "original_max_position_embeddings": 64}, "--max-model-len 64"),
        ({"full_attention": DEFAULT, "chunked_attention": DEFAULT}, "chunked_attention"),
        ({"full_attention": DEFAULT, "sliding_attention": LLAMA3}, "llama3"),
    ],
)
def test_rope_parameters_without_a_counterpart_are_refused(rope: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusalError, match=said):
        config.to_v4(Config(rope_parameters=rope), 513, "me")


def test_dropped_attributes_come_back() -> None:
    v4 = config.to_v4(Config(rope_parameters=DEFAULT), 512, "me")
    assert {name: getattr(v4, name) for name in config.COMMON} == dict(config.COMMON)


def test_a_field_of_the_config_wins_over_its_default() -> None:
    assert config.to_v4(Config(attention_bias=True), 512, "me").attention_bias is True


def test_renamed_attributes() -> None:
    class Neox(Config):
        model_type = "gpt_neox"

    v4 = config.to_v4(Neox(rope_parameters=DEFAULT | {"partial_rotary_factor": 0.25}), 512, "me")
    assert (v4.rotary_pct, v4.rotary_emb_base) == (0.25, 5e5)


def test_no_window_is_none() -> None:
    assert config.to_v4(Config(sliding_window=0), 512, "me").sliding_window is None


def test_a_field_that_would_be_ignored_is_refused() -> None:
    config.refuse_ignored(Config(hidden_size=128, use_grouping=False), {"hidden_size"}, "me")
    with pytest.raises(RefusalError, match="use_grouping=True"):
        config.refuse_ignored(Config(use_grouping=True), {"hidden_size"}, "me")


def test_a_field_at_its_default_passes() -> None:
    class Grouped(Config):
        defaults: ClassVar[dict[str, Any]] = {"groups": 4}

    config.refuse_ignored(Grouped(), set(), "me")
    with pytest.raises(RefusalError, match="groups=8"):
        config.refuse_ignored(Grouped(groups=8), set(), "me")


# Private imports.


def defined(file: str) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for node in ast.parse((FOLDER / file).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return names


@pytest.mark.parametrize("table", [importer.DROPPED, importer.NO_CPU_KERNEL])
def test_what_the_tables_name_exists(table: Any) -> None:
    for names in table.values():
        for path in names.values():
            module, _, name = path.partition(":")
            assert name in defined(f"{module.rpartition('.')[2]}.py"), path


def test_every_redirected_method_has_an_implementation() -> None:
    table = defined("cpu_ops.py")["METHODS"].value  # type: ignore[attr-defined]
    assert sorted(key.value for key in table.keys) == sorted(importer.METHODS_WITHOUT_CPU_KERNEL)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> importer.Suite:
    """A package named ``mindone``, on a path before any installed one."""
    files = {
        "__init__.py": "raise RuntimeError('a shell runs')",
        "transformers/__init__.py": "raise RuntimeError('a shell runs')",
        "transformers/helpers/__init__.py": "from .inner import VALUE",
        "transformers/helpers/inner.py": "VALUE = 7",
        "transformers/user.py": """
            import json as j, json.decoder
            from json import loads, dumps
            from .helpers import VALUE, inner
            from mindone.transformers import helpers
            import mindone.transformers.helpers.inner as again
            from missing_module import Gone

            def late():
                from .helpers.inner import VALUE as value
                from json import dumps
                return value, dumps(3)
        """,
        "transformers/data.py": """
            from __future__ import annotations
            from dataclasses import dataclass

            @dataclass
            class Point:
                x: int = 1
        """,
        "transformers/broken.py": "import no_such_module_anywhere",
    }
    for name, text in files.items():
        path = tmp_path / "mindone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    for name in [item for item in sys.modules if item.partition(".")[0] == "mindone"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    compat = "mszoo.adapters.mindone.compat"
    return importer.Suite(
        {"json": {"dumps": f"{compat}:no"}, "missing_module": {"Gone": f"{compat}:Unused"}}, ()
    )


def test_files_get_what_the_table_says_and_nobody_else_does(fake: importer.Suite) -> None:
    from mszoo.adapters.mindone import compat

    user = fake.load("mindone.transformers.user")
    assert user.dumps is compat.no and user.j.dumps is compat.no
    assert user.loads is json.loads and user.j.decoder is json.decoder
    assert user.Gone is compat.Unused
    assert json.dumps is not compat.no
    assert user.late() == (7, False)
    assert user.VALUE == 7 and user.again is user.inner is user.helpers.inner


def test_nothing_stays_in_sys_modules(fake: importer.Suite) -> None:
    fake.load("mindone.transformers.user")
    assert fake.load("mindone.transformers.data").Point() == fake.load("mindone.transformers.data").Point(1)
    assert not [name for name in sys.modules if name.partition(".")[0] in ("mindone", "missing_module")]


def test_a_file_that_fails_is_tried_again(fake: importer.Suite) -> None:
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            fake.load("mindone.transformers.broken")


def test_mentioned_names(fake: importer.Suite) -> None:
    assert "Gone" not in fake.mentioned("mindone.transformers.user")  # neither an attribute nor a string
    assert importer.Suite.mentioned(fake, "mindone.transformers.data") == frozenset()


SPELLED_OUT = """
class OlmoeAttention:
    def construct(self, x, mask=None):
        query, key, value = self.heads(x)
        key = repeat_kv(key, 2)
        value = repeat_kv(value, 2)
        attn_weights = mint.matmul(query, key.swapaxes(2, 3)) / self.scale
        if mask is not None:
            attn_weights = attn_weights + mask
        attn_weights = softmax(attn_weights)
        attn_output = mint.matmul(attn_weights, value)
        return self.out(attn_output), attn_weights
"""


def test_spelled_out_attention_is_rewritten() -> None:
    tree = ast.parse(SPELLED_OUT)
    eager.rewrite(tree, "olmoe")
    scope: dict[str, Any] = {eager.ATTEND: lambda *found: ("attended", *found[1:])}
    exec(compile(ast.fix_missing_locations(tree), "test", "exec"), scope)
    cell = scope["OlmoeAttention"]()
    cell.heads, cell.out = lambda x: ("q", "k", "v"), lambda y: y
    assert cell.construct("x", "a mask") == (("attended", "q", "k", "v"), None)


@pytest.mark.parametrize(
    "source",
    [
        "class Other: pass",
        SPELLED_OUT.replace("attn_output =", "output ="),
        SPELLED_OUT.replace("mint.matmul", "dot"),
    ],
)
def test_attention_spelled_otherwise_is_an_error(source: str) -> None:
    with pytest.raises(eager.RewriteError, match="olmoe"):
        eager.rewrite(ast.parse(source), "olmoe")


def test_a_config_without_a_type_of_rope_is_left_alone() -> None:
    assert config.rope_fields({}, SimpleNamespace(), 512, "me") == {"v4_rope_scaling": None}
