"""What vLLM's kernels for processors with AMX don't take is refused by name, before weights are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mszoo.adapters import native
from mszoo.adapters.vllm.models import lacking
from mszoo.registry.errors import RefusalError
from tests.published import corpus

from .conftest import running_engine, served_by
from .test_inherited import make_w8a8


@pytest.fixture(autouse=True)
def processor_with_amx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals come before any kernel runs, so that this is the same on a processor without it."""
    monkeypatch.setattr(lacking, "_has_amx", lambda: True)


def test_a_latent_cache_in_float32(tmp_path: Path) -> None:
    (record,) = [
        item for item in native.mszoo_model_adapters() if item.architecture == "DeepseekV2ForCausalLM"
    ]
    corpus.write_config(dict(record.example_config), tmp_path)
    options = {"attention_backend": None, "load_format": "dummy"}
    with pytest.raises(RefusalError) as refusal, running_engine(tmp_path, **options):
        pass
    assert (
        "DeepseekV2ForCausalLM: it is served in float32, and vLLM attends to latent caches on processors with AMX "
        "in bfloat16 alone. Serve it with --dtype bfloat16, or with --attention-backend CPU_MLA "
        "(of a head: attention_backend in --speculative-config)"
    ) in str(refusal.value)


def test_int8_weights_in_float32(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_w8a8(checkpoint("llama"), tmp_path / "w8a8")
    with pytest.raises(RefusalError) as refusal, running_engine(folder):
        pass
    assert (
        "LlamaForCausalLM: it is served in float32, and vLLM multiplies int8 weights on processors with AMX in "
        "bfloat16 and float16 alone. Serve it with --dtype bfloat16"
    ) in str(refusal.value)


def test_int8_weights_with_zero_points_in_float32(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    """vLLM multiplies these by oneDNN, on any processor."""
    folder = make_w8a8(checkpoint("llama"), tmp_path / "w8a8")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["symmetric"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with running_engine(folder) as llm:
        assert served_by(llm)["adapter"] == "native.LlamaForCausalLM"
