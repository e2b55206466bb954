"""Bad models, impossible flags and bad plugins: one clear message each, and serving goes on where it can."""

from __future__ import annotations

import gc
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest

from mszoo.registry.errors import RefusalError

from .conftest import running_engine, served_by
from .server import make_text_checkpoint

PROMPT = [5, 17, 99, 201, 3, 44, 180]
TOKENS = 8
PINNED = {"hf_overrides": {"architectures": ["native.LlamaForCausalLM"]}}
FALLS_BACK = re.compile(
    r"mszoo: LlamaForCausalLM falls back to vLLM's own model \(vllm\.model_executor\.models\.[\w.]+:\w+\): "
)


@pytest.fixture(scope="module")
def plain(checkpoint: Callable[..., Path]) -> Path:
    from vllm.plugins import load_general_plugins

    load_general_plugins()  # once per process; what is logged then is no matter of these tests
    return checkpoint("llama")


@pytest.fixture(scope="module")
def right_tokens(plain: Path) -> list[int]:
    """The native model's answer, from an engine that nothing is wrong with."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # module fixtures run before the one that sets it
    with running_engine(plain) as llm:
        assert served_by(llm)["adapter"] == "native.LlamaForCausalLM"
        return generate(llm)


@pytest.fixture
def spoil(plain: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of copies of the checkpoint whose config has other fields."""

    def make(**fields: Any) -> Path:
        folder = shutil.copytree(plain, tmp_path / "model")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))
        return folder

    return make


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """Collect what mszoo logs at level WARNING or above. vLLM's loggers don't propagate to pytest's."""
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    from vllm.config.logging import LoggingConfig
    from vllm.logger import configure_logging

    configure_logging(LoggingConfig())  # else the process's first engine does, which takes the collector away
    logger, handler = logging.getLogger("vllm.mszoo"), Collector(logging.WARNING)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def generate(llm: Any) -> list[int]:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False)
    (output,) = llm.generate([{"prompt_token_ids": PROMPT}], sampling, use_tqdm=False)
    return list(output.outputs[0].token_ids)


def assert_falls_back(lines: list[str], why: str) -> None:
    """One line says so: first why the native model refuses, then why another suite's does, where one is there."""
    (line,) = lines
    found = FALLS_BACK.match(line)
    assert found is not None, line
    said = line[found.end() :]
    assert said == why or said.startswith(f"{why}; ")


def error_of(folder: Path, **options: Any) -> BaseException:
    """Return what a user of ``LLM`` sees when the model can't be served."""
    from vllm.distributed import cleanup_dist_env_and_memory

    try:
        with pytest.raises(Exception) as raised, running_engine(folder, **options):
            pass
    finally:
        gc.collect()
        cleanup_dist_env_and_memory()
    return raised.value


# Checkpoints


def edit_tensors(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def truncated(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size // 2)


def index_of_a_missing_file(folder: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def missing_tensor(folder: Path) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def missing_head(folder: Path) -> None:
    """vLLM's own model answers from it, with whatever lies in the head's memory."""
    edit_tensors(folder, lambda tensors: tensors.pop("lm_head.weight"))


def wrong_shape(folder: Path) -> None:
    import torch

    norm = {"model.norm.weight": torch.ones(32)}
    edit_tensors(folder, lambda tensors: tensors.update(norm))


CHECKPOINTS: dict[Callable[[Path], None], tuple[str, str]] = {
    without_weights: (
        "FOLDER: holds no weights (no *.safetensors or *.bin or *.pt file)",
        "Download or convert the checkpoint again",
    ),
    truncated: (
        "FOLDER/model.safetensors: is truncated or not a safetensors file (Error while deserializing header: "
        "incomplete metadata, file not fully covered)",
        "Copy the file again",
    ),
    index_of_a_missing_file: (
        "FOLDER: lacks model-00002-of-00002.safetensors, which model.safetensors.index.json lists",
        "Copy the missing files",
    ),
    missing_head: (
        "FOLDER: tensor lm_head.weight is missing from the checkpoint",
        "Copy or convert the checkpoint again: its config.json describes tensors that its files lack",
    ),
    missing_tensor: (
        "FOLDER: tensor model.layers.1.mlp.up_proj.weight is missing from the checkpoint",
        "Copy or convert the checkpoint again: its config.json describes tensors that its files lack",
    ),
    wrong_shape: (
        "FOLDER: tensor model.norm.weight has shape [32], and config.json makes it [64]",
        "Mend config.json, or convert the checkpoint again",
    ),
}


@pytest.mark.parametrize("fault", CHECKPOINTS, ids=lambda fault: fault.__name__)
def test_a_bad_checkpoint_is_one_error_before_anything_is_loaded(fault, spoil, lines) -> None:
    from mszoo.registry.errors import BrokenCheckpointError

    folder = spoil()
    fault(folder)
    error = error_of(folder)
    assert type(error) is BrokenCheckpointError
    what, hint = CHECKPOINTS[fault]
    assert str(error) == f"{what}. {hint}".replace("FOLDER", str(folder))
    assert lines == []


def test_what_only_vllms_own_could_take_goes_to_it(spoil, lines) -> None:
    """Nobody takes this one: vLLM says so, and the line before it why mszoo doesn't."""
    folder = spoil()
    edit_tensors(folder, lambda tensors: tensors.update({"model.extra.weight": torch.ones(128)}))
    error = error_of(folder)
    assert "extra" in str(error), error
    why = (
        f"{folder}: the model has no place for tensor model.extra.weight. Compare config.json with the "
        "checkpoint: it may describe another model, or lack a field"
    )
    assert_falls_back(lines, why)


def test_biases_that_quantization_tools_leave_are_left_out(spoil, right_tokens, lines) -> None:
    folder = spoil()
    biases = {f"model.layers.{layer}.self_attn.q_proj.bias": torch.zeros(128) for layer in range(3)}
    edit_tensors(folder, lambda tensors: tensors.update(biases))
    with running_engine(folder) as llm:
        assert served_by(llm)["adapter"] == "native.LlamaForCausalLM"
        assert generate(llm) == right_tokens
    assert lines == []


def test_mistrals_files_beside_hugging_faces(spoil, right_tokens, lines) -> None:
    """By itself vLLM would read Mistral's, whose names its own model knows."""
    from safetensors.torch import save_file

    folder = spoil()
    save_file({"tok_embeddings.weight": torch.ones(2, 2)}, folder / "consolidated.safetensors")
    with running_engine(folder) as llm:
        assert served_by(llm)["adapter"] == "native.LlamaForCausalLM"
        assert generate(llm) == right_tokens
    assert lines == []


# Configs and flags that our model refuses and vLLM's own serves

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "original_max_position_embeddings": 128,
}
UNKNOWN_FIELD = (
    "native.LlamaForCausalLM: config.json says vision_feature_layer=5, a field that this model doesn't know. "
    "If the field has no influence on inference, remove it from config.json"
)
FLOAT32_ONLY = (
    "MSZOO_KERNELS=mindspore: MindSpore's CPU backend multiplies matrices in float32 only, and the model's "
    "dtype is bfloat16. Serve with --dtype float32, or unset MSZOO_KERNELS"
)
#: config fields, options of LLM, MSZOO_KERNELS, why, and whether the answer must be the native model's.
VLLM_SERVES: dict[str, tuple[dict[str, Any], dict[str, Any], str, str, bool]] = {
    "unknown field": ({"vision_feature_layer": 5}, {}, "auto", UNKNOWN_FIELD, True),
    "rope type": (
        {"rope_parameters": LONGROPE},
        {},
        "auto",
        "config.json: rope_type='longrope' changes the keys of earlier tokens once a sequence passes "
        "original_max_position_embeddings=128, and max_model_len is 256. Serve with --max-model-len 128",
        False,
    ),
    "mindspore and bfloat16": ({}, {"dtype": "bfloat16"}, "mindspore", FLOAT32_ONLY, False),
    "mindspore and a quantized cache": (
        {},
        {"kv_cache_dtype": "fp8"},
        "mindspore",
        "MSZOO_KERNELS=mindspore: the KV cache dtype is fp8, and MindSpore's CPU backend attends in float32 "
        "only. Serve without --kv-cache-dtype, or unset MSZOO_KERNELS",
        False,
    ),
    "ascend kernels": (
        {},
        {},
        "ascend",
        "MSZOO_KERNELS=ascend: its kernels run on NPU and this is CPU. Unset MSZOO_KERNELS",
        True,
    ),
}


@pytest.mark.parametrize("case", VLLM_SERVES)
def test_vllm_serves_what_we_refuse(case, spoil, right_tokens, lines, monkeypatch) -> None:
    fields, options, kernels, why, same = VLLM_SERVES[case]
    if options.get("kv_cache_dtype") == "fp8" and not torch.cpu._is_avx512_supported():
        pytest.skip("vLLM's own fp8 KV cache needs AVX-512 or AMX on x86")
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    with running_engine(spoil(**fields), **options) as llm:
        seen, tokens = served_by(llm), generate(llm)
    assert seen["adapter"] is None
    assert seen["wrapper"][0] == "LlamaForCausalLM"
    assert "MindSporeModel" not in seen["wrapper"]
    assert len(tokens) == TOKENS
    assert tokens == right_tokens or not same
    assert_falls_back(lines, why)


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_checkpoint(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize("conversion", ["embed", "classify"])
def test_a_decoder_is_pooled_without_its_head(conversion, with_tokenizer, lines) -> None:
    options: dict[str, Any] = {"runner": "pooling", "convert": conversion, "skip_tokenizer_init": False}
    if conversion == "classify":  # the checkpoint has no head for it
        options |= {"load_format": "dummy", "hf_overrides": {"num_labels": 2}}
    with running_engine(with_tokenizer, **options) as llm:
        seen = served_by(llm)
        if conversion == "embed":
            (output,) = llm.embed(["abc"], use_tqdm=False)
            assert len(output.outputs.embedding) == 64
        else:
            (output,) = llm.classify(["abc"], use_tqdm=False)
            assert len(output.outputs.probs) == 2
    assert seen["adapter"] == "native.LlamaForCausalLM"
    assert lines == []


def test_vllm_may_serve_a_pipeline(plain) -> None:
    """Where no record declares stages, as none of a suite's does: up to the model's class."""
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader.utils import get_model_cls

    from mszoo.adapters.vllm.models.build import build
    from mszoo.adapters.vllm.models.own import own_class

    arguments = EngineArgs(str(plain), dtype="float32", pipeline_parallel_size=2, skip_tokenizer_init=True)
    config = arguments.create_engine_config()  # vLLM asks the registered class whether it supports pipelines
    wrapper = get_model_cls(config.model_config)
    chain = [
        replace(candidate, adapter=replace(candidate.adapter, capabilities=frozenset()))
        for candidate in wrapper.decision.chain
    ]
    with set_current_vllm_config(config):
        built, refusals = build(SimpleNamespace(chain=chain), "auto", wrapper.catalog, config, "", {})
    assert built is None
    assert [str(refusal) for refusal in refusals] == [
        f"{candidate.qualified_name}: doesn't support --pipeline-parallel-size. Serve without it, or with "
        "another implementation"
        for candidate in wrapper.decision.chain
    ]
    own = own_class(config)
    assert own.__module__ == "vllm.model_executor.models.llama"


def test_a_pipeline_that_nobody_supports_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from mszoo.adapters.vllm.models import own

    class NoPipelines:
        pass

    entry = SimpleNamespace(model_cls=NoPipelines)
    model_config = SimpleNamespace(hf_config=SimpleNamespace(architectures=["A"]), convert_type="none")
    config = SimpleNamespace(
        model_config=model_config, parallel_config=SimpleNamespace(pipeline_parallel_size=2)
    )
    registry = SimpleNamespace(resolve_model_cls=lambda *_: (entry.model_cls, "A"))
    monkeypatch.setattr(own, "registry_without_mszoo", lambda: registry)
    with pytest.raises(RefusalError) as raised:
        own.own_class(config)
    assert str(raised.value) == (
        "NoPipelines: neither mszoo's adapters nor vLLM's own model support --pipeline-parallel-size. Serve "
        "without it"
    )


# Nobody serves it


@pytest.mark.parametrize(
    ("fields", "why", "vllm_says"),
    [
        (
            {"hidden_act": "spike"},
            "config.json: hidden_act='spike' has no kernel in mszoo as the gate of an MLP. Known activations: "
            "silu, swish, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh",
            "Unsupported activation: spike. Only silu is supported for now.",
        ),
        (
            {"rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}},
            "config.json: rope_type='spiral' is not supported. Supported types: default, linear, llama3, "
            "yarn, dynamic, longrope",
            "Unknown RoPE scaling type spiral",
        ),
    ],
)
def test_vllm_refuses_it_too(fields, why, vllm_says, spoil, lines) -> None:
    error = error_of(spoil(**fields))
    assert (type(error), str(error)) == (ValueError, vllm_says)
    assert_falls_back(lines, why)


@pytest.mark.parametrize("architecture", ["NobodyForCausalLM", "nobody.LlamaForCausalLM"])
def test_an_unknown_architecture(architecture, spoil, lines) -> None:
    text = str(error_of(spoil(architectures=[architecture])))
    assert (
        f"Model architectures ['{architecture}'] are not supported for now. Supported architectures:" in text
    )
    assert "'native.LlamaForCausalLM'" in text
    assert lines == []


# Whoever asks for our model by name gets it or an error, never another one


@pytest.mark.parametrize(
    ("fields", "options", "kernels", "text"),
    [
        ({"vision_feature_layer": 5}, {}, "auto", UNKNOWN_FIELD),
        ({}, {"dtype": "bfloat16"}, "mindspore", FLOAT32_ONLY),
    ],
)
def test_a_qualified_name_never_falls_back(fields, options, kernels, text, spoil, lines, monkeypatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernels)
    error = error_of(spoil(**fields), **PINNED, **options)
    assert (type(error), str(error)) == (RefusalError, text)
    assert lines == []


def test_a_qualified_name_in_a_pipeline_is_refused_at_once(plain, lines) -> None:
    """An encoder's: none has stages."""
    pinned = {"architectures": ["native.BertModel"]}
    error = error_of(plain, hf_overrides=pinned, pipeline_parallel_size=2)
    assert type(error) is NotImplementedError
    assert str(error).startswith("Pipeline parallelism is not supported for this model.")
    assert lines == []


# Bad plugins

HEADER = "from mszoo.registry import LayerAdapter, ModelAdapter, Suite, hookimpl\n\n@hookimpl\n"
CURE = "Fix or upgrade NAME-dist, or set MSZOO_DISABLE=NAME to go on without it."
ON_WARNING = (  # found when the model is built
    "NAME.LlamaForCausalLM of NAME-dist 1.0: WHAT. Mend the plugin, or set MSZOO_DISABLE=NAME"
)
#: source of the plugin's module, and the one line of the log that names it.
PLUGINS = {
    "absent": (
        "import no_such_module",
        f"can't be loaded (ModuleNotFoundError: No module named 'no_such_module' "
        f"(absent_plugin.py:1)). {CURE}",
    ),
    "quits": ("raise SystemExit(3)", f"can't be loaded (SystemExit: 3 (quits_plugin.py:1)). {CURE}"),
    "raises": (
        HEADER + "def mszoo_model_adapters():\n    raise ValueError('boom')",
        f"mszoo_model_adapters raised ValueError: boom (raises_plugin.py:5). {CURE}",
    ),
    "mistyped": (
        HEADER + "def mszoo_model_adapters():\n    return [Suite('other')]",
        "item 0 of mszoo_model_adapters is a Suite instead of a ModelAdapter; it is skipped. Return "
        "ModelAdapter records only.",
    ),
    "misspelt": (
        HEADER + "def mszoo_model_adapter():\n    return []",
        "mszoo_model_adapter is not a hook. Did you mean mszoo_model_adapters?",
    ),
    "twice": (
        HEADER + "def mszoo_model_adapters():\n"
        "    return [ModelAdapter('TwiceForCausalLM', f'twice:{name}') for name in 'BA']",
        "suite 'twice' has two adapters for TwiceForCausalLM: twice:A is kept, twice:B is skipped. Give only "
        "one, or give them different devices.",
    ),
    "ghost": (
        HEADER + "def mszoo_model_adapters():\n"
        "    return [ModelAdapter('LlamaForCausalLM', 'no_such_package.model:Llama', priority=20)]",
        ON_WARNING.replace(
            "WHAT",
            "no_such_package.model:Llama can't be loaded (ModuleNotFoundError: No module named "
            "'no_such_package')",
        ),
    ),
    "faulty": (
        HEADER + "def mszoo_model_adapters():\n"
        "    return [ModelAdapter('LlamaForCausalLM', 'faulty_plugin:Llama', priority=10)]\n\n"
        "class Llama:\n"
        "    def __init__(self, config, *, prefix=''):\n"
        "        raise KeyError('boom')",
        ON_WARNING.replace("WHAT", "building the model failed (KeyError: 'boom')"),
    ),
    "leaver": (
        HEADER + "def mszoo_model_adapters():\n"
        "    return [ModelAdapter('LlamaForCausalLM', 'leaver_plugin:Llama', priority=9)]\n\n"
        "class Llama:\n"
        "    def __init__(self, config, *, prefix=''):\n"
        "        raise SystemExit(0)",
        ON_WARNING.replace("WHAT", "building the model failed (SystemExit: 0)"),
    ),
    "late": (
        HEADER + "def mszoo_model_adapters():\n"
        "    return [ModelAdapter('LlamaForCausalLM', 'late_plugin:Llama', priority=8)]\n\n"
        "def __getattr__(name):\n"
        "    raise SystemExit(name) if name == 'Llama' else AttributeError(name)",
        ON_WARNING.replace("WHAT", "building the model failed (SystemExit: Llama)"),
    ),
}


def test_bad_plugins_are_named_once_and_stop_nobody(plain, right_tokens, tmp_path) -> None:
    site = tmp_path / "site"
    for name, (source, _) in PLUGINS.items():
        info = site / f"{name}_dist-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[mszoo]\n{name} = {name}_plugin\n")
        (site / f"{name}_plugin.py").write_text(source)
    answer, log = run_engine(plain, tmp_path, site)
    assert answer["tokens"] == right_tokens
    assert answer["served"]["adapter"] == "native.LlamaForCausalLM"
    assert answer["served"]["forwards"] > 0
    for name, (_, text) in PLUGINS.items():
        expected = text.replace("NAME", name)
        if not expected.startswith(f"{name}.Llama"):
            expected = f"plugin '{name}' ({name}-dist 1.0): {expected}"
        (line,) = [line for line in log if f"{name}-dist 1.0" in line]
        assert f"mszoo: {expected}" in line


SCRIPT = """
import json, sys
from tests.engine.conftest import running_engine, served_by
from tests.engine.test_bad_input import generate

with running_engine(sys.argv[1]) as llm:
    result = {"tokens": generate(llm), "served": served_by(llm)}
with open(sys.argv[2], "w") as file:
    json.dump(result, file)
"""


def run_engine(folder: Path, workplace: Path, site: Path) -> tuple[dict[str, Any], list[str]]:
    """Run an engine in one fresh process with the plugins in ``site``; gives its answer and its log."""
    answer = workplace / "answer.json"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MSZOO_")}
    environment |= {
        "PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{site}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "INFO",
        "NO_COLOR": "1",
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(answer)],
        check=False,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    return json.loads(answer.read_text()), result.stdout.splitlines()
