"""The ``mindone`` suite without MindSpore: its list, its config mapping, its private imports."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from mszoo.adapters import mindone
from mszoo.adapters.mindone import architectures, config, importer
from mszoo.models.config import ConfigReader
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
    assert adapters.keys() == {*architectures.read(), *mindone.MULTIMODAL}
    assert all("image" in adapters[name].modalities for name in mindone.MULTIMODAL)
    for name, entry in architectures.read().items():
        assert adapters[name].refused == entry.refused
        assert adapters[name].devices == ("cpu", "npu")


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
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def as_v4(original: Any, length: int) -> Any:
    return config.to_v4(original, ConfigReader(original, "me", reference=original.model_type), length)


@pytest.mark.parametrize(
    ("rope", "expected"),
    [
        (DEFAULT, {"rope_theta": 5e5, "rope_scaling": None}),
        (LLAMA3 | {"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_scaling": LLAMA3 | {"type": "llama3"}}),
        # Hugging Face's Llama turns whole heads, whatever its config says.
        (DEFAULT | {"partial_rotary_factor": 0.5}, {"partial_rotary_factor": 1.0, "rope_scaling": None}),
        (
            {"full_attention": DEFAULT, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}},
            {"rope_theta": 5e5, "rope_local_base_freq": 1e4, "rope_scaling": None},
        ),
        (
            {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}},
            {"rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "type": "linear", "factor": 8.0}},
        ),
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1.0}, {"rope_theta": 1.0}),
    ],
)
def test_rope_parameters(rope: dict[str, Any], expected: dict[str, Any]) -> None:
    original = Config(rope_parameters=rope)
    v4 = as_v4(original, 512)
    assert {name: getattr(v4, name) for name in expected} == expected
    assert type(original) is Config and not hasattr(original, "rope_theta")


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1.0}, "--max-model-len 512"),
        (
            DEFAULT
            | {
                "rope_type": "longrope",
                "original_max_position_embeddings": 64,
                "short_factor": [1.0],
                "long_factor": [2.0],
            },
            "--max-model-len 64",
        ),
        ({"full_attention": DEFAULT, "chunked_attention": DEFAULT}, "chunked_attention"),
        ({"full_attention": DEFAULT, "sliding_attention": LLAMA3 | {"rope_theta": 1.0}}, "llama3"),
    ],
)
def test_rope_parameters_without_a_counterpart_are_refused(rope: dict[str, Any], said: str) -> None:
    with pytest.raises(RefusalError, match=said):
        as_v4(Config(rope_parameters=rope), 513)


def test_dropped_attributes_come_back() -> None:
    v4 = as_v4(Config(rope_parameters=DEFAULT), 512)
    assert {name: getattr(v4, name) for name in config.COMMON} == dict(config.COMMON)


def test_a_field_of_the_config_wins_over_its_default() -> None:
    assert as_v4(Config(attention_bias=True), 512).attention_bias is True


def test_renamed_attributes() -> None:
    class Neox(Config):
        model_type = "gpt_neox"

    v4 = as_v4(Neox(rope_parameters=DEFAULT | {"partial_rotary_factor": 0.25}), 512)
    assert (v4.rotary_pct, v4.rotary_emb_base) == (0.25, 5e5)


def test_no_window_is_none() -> None:
    assert as_v4(Config(sliding_window=0), 512).sliding_window is None


def refusal(fields: set[str], model_type: str = "llama", **values: Any) -> str:
    """Return why a config is refused whose network reads ``fields``."""
    from transformers import AutoConfig

    with pytest.raises(RefusalError) as caught:
        config.read(AutoConfig.for_model(model_type, **values), fields, "me", causal=model_type != "bert")
    return str(caught.value)


def accepted(fields: set[str], model_type: str = "llama", **values: Any) -> None:
    from transformers import AutoConfig

    config.read(AutoConfig.for_model(model_type, **values), fields, "me", causal=model_type != "bert")


def test_a_field_that_would_be_ignored_is_refused() -> None:
    accepted({"mlp_bias"}, mlp_bias=True)
    assert "mlp_bias=True" in refusal(set(), mlp_bias=True)
    assert "scale_attn_weights=False" in refusal(set(), "gpt2", scale_attn_weights=False)


def test_a_field_at_its_default_passes() -> None:
    accepted(set(), mlp_bias=False)
    accepted(set(), "gpt2", scale_attn_weights=True)


def test_a_field_that_transformers_never_reads_passes() -> None:
    accepted(set(), model_max_length=131072, use_grouping=True)


def test_decoders_look_back_and_encoders_both_ways() -> None:
    assert "is_causal=False" in refusal(set(), "qwen2", is_causal=False)
    accepted(set(), "qwen2", is_causal=True)
    # The reference takes null as false.
    assert "is_causal=None" in refusal(set(), "qwen2", is_causal=None)
    accepted(set(), "bert", is_causal=None)
    accepted(set(), "bert", is_causal=False)
    assert "is_causal=True" in refusal(set(), "bert", is_causal=True)
    assert "is_decoder=True" in refusal(set(), "bert", is_decoder=True)


def test_what_transformers_never_reads_is_kept_from_the_suite() -> None:
    v4 = as_v4(Config(rope_parameters=DEFAULT, model_max_length=131072, pretraining_tp=2), 512)
    assert not hasattr(v4, "model_max_length")
    assert v4.pretraining_tp == 1


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


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """An importer of a package named ``mindone.transformers``, on a path before any installed one."""
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

            def read(config):
                return config.a_field, getattr(config, "a_string")
        """,
        "transformers/lost.py": "from missing_module import Lost",
        "transformers/broken.py": "import no_such_module_anywhere",
    }
    for name, text in files.items():
        path = tmp_path / "mindone" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    modules = dict(sys.modules)
    for name in [item for item in modules if item.partition(".")[0] == "mindone"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    compat = "mszoo.adapters.mindone.compat"
    given = {"json": {"dumps": f"{compat}:no"}, "missing_module": {"Gone": f"{compat}:Unused"}}
    monkeypatch.setattr(sys, "meta_path", [importer.Finder(given), *sys.meta_path])
    yield lambda name: importlib.import_module(f"mindone.transformers.{name}")
    for name in [item for item in sys.modules if item.partition(".")[0] == "mindone"]:
        del sys.modules[name]
    sys.modules.update({name: module for name, module in modules.items() if name not in sys.modules})


Fake = Callable[[str], ModuleType]


def test_files_get_what_the_table_says_and_nobody_else_does(fake: Fake) -> None:
    from mszoo.adapters.mindone import compat

    user = fake("user")
    assert user.dumps is compat.no and user.j.dumps is compat.no
    assert user.loads is json.loads and user.j.decoder is json.decoder
    assert user.Gone is compat.Unused
    assert json.dumps is not compat.no
    assert user.late() == (7, False)
    assert user.VALUE == 7 and user.again is user.inner is user.helpers.inner
    assert "missing_module" not in sys.modules


def test_a_name_that_nobody_has_is_an_import_error(fake: Fake) -> None:
    with pytest.raises(ImportError, match="cannot import name 'Lost'"):
        fake("lost")


def test_a_file_that_fails_is_tried_again(fake: Fake) -> None:
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
            fake("broken")


def test_fields_that_a_module_reads(fake: Fake) -> None:
    assert importer.fields_read(fake("user")) == {"a_field", "a_string"}


def test_a_config_without_a_type_of_rope_is_left_alone() -> None:
    reader = ConfigReader(Config(), "me", reference="llama")
    assert config.rope_fields({}, Config(), reader, 512) == {"v4_rope_scaling": None}
