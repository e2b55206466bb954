"""MindSpore Transformers' own networks, as NPUs get them: on CPU, with stand-ins for vllm-ascend and Ascend's ops.

What is tried is the call: tensors that describe a step, masks, phases, KV cache, weights. No NPU is involved.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest

from .sites import install_stand_in_suite, on_path
from .test_mindformers import TOLERANCE, architecture_of, model_folder, telechat2  # noqa: F401  fixtures

ROOT = Path(__file__).parents[2]
TRIED = (
    "qwen2",
    "qwen3",
    "qwen3-theta-tied",
    "qwen3-moe",
    "glm4",
    "glm4-moe",
    "telechat2",
    "telechat3",
    "deepseek",
    "deepseek-yarn",
    "deepseek-full-rank",
)
#: Every network calls these, once a step and layer or more.
OPS = {"RmsNorm", "ApplyRotaryPosEmb", "ReshapeAndCache", "FlashAttentionScore", "PagedAttention"}
EXPERTS = {"TopKRouting", "GroupedMatmulV4"}


@pytest.fixture(scope="module")
def answered(model_folder, telechat2, tmp_path_factory) -> dict[str, Any]:  # noqa: F811
    """Serve all of them in turn, in one fresh process on the stand-in's platform."""
    jobs = {}
    for case in TRIED:
        folder = telechat2[0] if case == "telechat2" else model_folder(case)
        jobs[case] = {"folder": str(folder), "architecture": architecture_of(case)}
    site = install_stand_in_suite(tmp_path_factory.mktemp("stand-in"))
    result = tmp_path_factory.mktemp("result") / "result.json"
    environment = {
        "PYTHONPATH": on_path(site, ROOT),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    process = subprocess.run(
        [sys.executable, "-m", "tests.engine.on_stand_ins", str(result)],
        input=json.dumps(jobs),
        env=os.environ | environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-4000:] + process.stdout[-2000:]
    return json.loads(result.read_text())


@pytest.mark.parametrize("case", TRIED)
def test_logits_equal_hugging_face(case: str, answered: dict[str, Any]) -> None:
    seen = answered[case]
    assert seen["adapter"].startswith("stand_in.")
    assert seen["forwards"] > 4  # the longest prompt alone takes three
    experts = EXPERTS if case.startswith("deepseek") or case.endswith("moe") else set()
    assert set(seen["calls"]) == OPS | experts
    assert seen["worst"] <= TOLERANCE, f"logits differ by {seen['worst']:.2e}"


def sequences(*lens: tuple[int, int]) -> Any:
    """Return sequences of these numbers of new and of all tokens."""
    from mszoo.layers.kv_cache import Sequences

    new, all_tokens = (torch.tensor(item, dtype=torch.int32) for item in zip(*lens, strict=True))
    slots = torch.arange(int(new.sum()), dtype=torch.int32)
    return Sequences(new, all_tokens, torch.zeros(len(new), 1, dtype=torch.int32), slots)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("latent", [False, True])
def test_masks(dtype: torch.dtype, latent: bool) -> None:
    """FlashAttention's is 128 x 128 whatever the length; a chunk's goes by position; one token each needs none."""
    from mszoo.adapters.mindformers.contract import attention_mask

    def mask(*lens: tuple[int, int]) -> torch.Tensor:
        made = attention_mask(sequences(*lens), dtype, latent=latent)
        assert made.dtype is dtype
        return made.float()

    in_bfloat16 = dtype is torch.bfloat16
    prefill = mask((3, 3), (200, 200))
    assert torch.equal(prefill, torch.ones(128, 128).triu(1) * (1.0 if in_bfloat16 else -10000.0))
    assert torch.equal(mask((1, 9), (1, 4)), torch.zeros(1, 1))
    hidden = 1.0 if in_bfloat16 and latent else torch.tensor(-10000.0, dtype=dtype).item()
    expected = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]) * hidden
    assert torch.equal(mask((2, 4), (1, 5)), expected)


def test_what_the_suites_own_networks_cannot_do_is_refused(monkeypatch) -> None:
    from transformers import DeepseekV3Config, Qwen3Config

    from mszoo.adapters.mindformers import ascend
    from mszoo.registry.errors import RefusalError

    with pytest.raises(RefusalError, match=r"kv_lora_rank=256, and the suite attends to 512"):
        ascend.OwnNetwork(DeepseekV3Config(kv_lora_rank=256, architectures=["DeepseekV3ForCausalLM"]))
    asked = SimpleNamespace(enable_prompt_embeds=True)
    monkeypatch.setattr(ascend, "current_model_config", lambda: asked)
    with pytest.raises(RefusalError, match="Serve without --enable-prompt-embeds"):
        ascend.OwnNetwork(Qwen3Config(architectures=["Qwen3ForCausalLM"]))
    asked = SimpleNamespace(enable_prompt_embeds=False, runner_type="pooling")
    with pytest.raises(RefusalError, match="Serve with --runner generate"):
        ascend.OwnNetwork(Qwen3Config(architectures=["Qwen3ForCausalLM"]))


def test_a_kv_cache_of_another_layout_or_dtype_is_refused(monkeypatch) -> None:
    """vLLM's CPU backend keeps keys and values in one tensor."""
    from mszoo.layers import kv_cache
    from mszoo.registry.errors import RefusalError

    layer: Any = SimpleNamespace(num_kv_heads=2, head_size=32, layer_name="model.layers.0.self_attn.attn")
    layer.kv_cache = torch.zeros(4, 2, 16, 64)
    with pytest.raises(
        RefusalError, match=r"KV cache has shape \[4, 2, 16, 64\], and .* \[blocks, block, 2, 32\]"
    ):
        kv_cache.KVCache.key_value(layer)
    layer.kv_cache = (torch.zeros(4, 16, 2, 32), torch.ones(4, 16, 2, 32))
    key, value = kv_cache.KVCache.key_value(layer)
    assert key.shape == value.shape == (4, 16, 2, 32)
    assert (key.asnumpy().max(), value.asnumpy().min()) == (0.0, 1.0)
    config = SimpleNamespace(cache_config=SimpleNamespace(cache_dtype="fp8"))
    monkeypatch.setattr(kv_cache, "get_current_vllm_config", lambda: config)
    with pytest.raises(RefusalError, match=r"is to be fp8, .*\. Serve without --kv-cache-dtype"):
        kv_cache.KVCache(4, 32, 2, prefix="attn")


def test_a_parameter_is_set_when_it_is_whole() -> None:
    from mszoo.adapters.mindformers.parameters import Piece, load
    from mszoo.registry.errors import CheckpointError

    import mindspore as ms

    parameters = {"both": ms.Parameter(ms.Tensor([[0.0], [0.0]], ms.float32), name="both")}
    table = {"first": Piece("both", (1, 1)), "second": Piece("both", (1, 1), start=1)}
    first, second = ("first", torch.ones(1, 1)), ("second", torch.full((1, 1), 2.0))
    other = ("other", torch.ones(1))
    with pytest.raises(CheckpointError, match="the checkpoint gave no second"):
        load(parameters, table, [first, other], ("other",), "mindformers.Model")
    with pytest.raises(CheckpointError, match="no place for tensor other"):
        load(parameters, table, [first, other], (), "mindformers.Model")
    with pytest.raises(CheckpointError, match="tensor second has shape"):
        load(parameters, table, [first, ("second", torch.ones(1))], (), "mindformers.Model")
    assert parameters["both"].asnumpy().tolist() == [[0.0], [0.0]]
    load(parameters, table, [second, first], (), "mindformers.Model")
    assert parameters["both"].asnumpy().tolist() == [[1.0], [2.0]]
