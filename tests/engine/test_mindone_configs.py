"""What configs, checkpoints, ranks and kernels may change of MindSpore One's families that are replaced whole."""

from __future__ import annotations

import copy
import importlib.metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import pytest

from . import answers
from .conftest import RAW_LOGITS, assert_mindspore, running_engine, worst_logit
from .mindone_models import architecture_of, layers_of, make_tiny, pinned

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
        ("GPT2", {"scale_attn_weights": False}),
        ("GPTBigCode", {"multi_query": False}),
        ("GPTNeoX", {"use_parallel_residual": False}),
        ("OPT", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
        ("Mixtral", {"hidden_act": "gelu"}),
        ("Mixtral", {"hidden_act": "gelu_pytorch_tanh"}),
        ("Olmo", {"clip_qkv": 0.05}),
        ("Olmoe", {"clip_qkv": 0.05}),
        ("Olmo3", {}),  # a rotary embedding for each kind of layer
        ("SeedOss", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("SeedOss", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10000.0}}),
    ],
)
def test_what_a_config_may_change(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path, **fields)
    with running_engine(folder, hf_overrides=pinned(family), enforce_eager=False, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        (layers,) = llm.apply_model(layers_of)
    assert set(layers) == {("DecoderLayer", True)}
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


@pytest.mark.parametrize("kernel_set", ["cpu", "mindspore"])
@pytest.mark.parametrize(
    ("family", "fields"), [("StableLm", {"qk_layernorm": True}), ("Cohere", {"use_qk_norm": True})]
)
def test_each_head_may_have_a_norm_of_its_own(
    family: str, fields: dict[str, Any], kernel_set: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    folder = make_tiny(family, tmp_path, **fields)
    with running_engine(folder, hf_overrides=pinned(family), **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, f"mindone.{family}ForCausalLM", kernel_set) > 0
        (layers,) = llm.apply_model(layers_of)
    assert set(layers) == {("DecoderLayer", False)}
    assert worst <= (2e-5 if kernel_set == "cpu" else 5e-4), f"logits differ by {worst:.2e}"


@pytest.mark.parametrize(
    ("family", "prefix", "mask"),
    [
        ("GPT2", "transformer.", "h.0.attn.bias"),
        ("OPT", "model.", ""),
        ("GPTNeoX", "", "layers.0.attention.bias"),
    ],
)
def test_checkpoints_as_they_were_published(family: str, prefix: str, mask: str, tmp_path: Path) -> None:
    """GPT-2's and OPT's are of the network without the head; GPT-2's and Pythia's hold masks."""
    from safetensors.torch import load_file, save_file

    folder = make_tiny(family, tmp_path)
    published = tmp_path / "published"
    published.mkdir()
    (published / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = {
        name.removeprefix(prefix): value for name, value in load_file(folder / "model.safetensors").items()
    }
    if mask:
        base = "" if prefix else "gpt_neox."
        weights[base + mask] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    save_file(weights, published / "model.safetensors", metadata={"format": "pt"})
    with running_engine(published, hf_overrides=pinned(family), **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, f"mindone.{architecture_of(family)}", "cpu") > 0
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


@pytest.mark.parametrize(
    ("family", "kernel_set", "options"),
    [
        # The checkpoint has queries, keys and values head by head.
        pytest.param("GPTNeoX", "cpu", {}, marks=pytest.mark.long),
        # Each rank has half of the experts.
        pytest.param("Qwen2Moe", "mindspore", {"enable_expert_parallel": True}, marks=pytest.mark.long),
    ],
)
def test_ranks_share_a_model_out(
    family: str, kernel_set: str, options: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_tiny(family, tmp_path)
    given = []
    for ranks in (1, 2):
        job = {
            "model": str(folder),
            "prompts": [[5, 17, 99], list(range(3, 60))],
            "options": {"hf_overrides": pinned(family), "tensor_parallel_size": ranks, **options},
        }
        cores = "|".join(map(str, range(ranks)))
        settings = {"VLLM_CPU_OMP_THREADS_BIND": cores, "MSZOO_KERNELS": kernel_set}
        done = answers.run(job, tmp_path / f"{ranks}.json", **settings)
        assert [worker["adapter"] for worker in done["workers"]] == [f"mindone.{family}ForCausalLM"] * ranks
        given.append((done["answers"], done["logprobs"]))
    assert given[0][0] == given[1][0]
    assert given[0][1] == pytest.approx(given[1][1], abs=1e-3)


def test_whole_experts_on_ranks_are_refused_with_vllms_kernel(tmp_path: Path, monkeypatch) -> None:
    """vLLM 0.32's own models on CPU die in their first step; on one rank the flag changes nothing."""
    from mszoo.layers import moe

    folder, real = make_tiny("Qwen2Moe", tmp_path), moe.get_current_vllm_config
    options = {"hf_overrides": pinned("Qwen2Moe"), "enable_expert_parallel": True}
    with running_engine(folder, **options, **RAW_LOGITS) as llm:
        assert worst_logit(llm, folder) <= 2e-5

    def on_two_ranks() -> Any:
        config = copy.copy(real())
        config.parallel_config = SimpleNamespace(tensor_parallel_size=2, enable_expert_parallel=True)
        return config

    monkeypatch.setattr(moe, "get_current_vllm_config", on_two_ranks)
    why = "--enable-expert-parallel: a worker with vLLM's kernel for experts"
    with pytest.raises(Exception, match=why), running_engine(folder, **options):
        pass


@pytest.mark.parametrize("family", ["Cohere", "GPTNeoX", "Gemma2", "GraniteMoeShared"])
def test_mindspores_own_kernels_compute_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    folder = make_tiny(family, tmp_path)
    with running_engine(folder, hf_overrides=pinned(family), **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, f"mindone.{family}ForCausalLM", "mindspore") > 0
        (layers,) = llm.apply_model(layers_of)
    assert set(layers) == {("DecoderLayer", False)}
    assert worst <= 5e-4, f"logits differ by {worst:.2e}"


@pytest.mark.parametrize(
    ("family", "fields", "why"),
    [
        ("OPT", {"do_layer_norm_before": False}, "do_layer_norm_before=False"),  # OPT of 350m
        ("OPT", {"word_embed_proj_dim": 64}, "word_embed_proj_dim=64"),
    ],
)
def test_a_config_that_the_layers_do_not_know_is_left_to_vllm(
    family: str, fields: dict[str, Any], why: str, tmp_path: Path
) -> None:
    folder = make_tiny(family, tmp_path, **fields)
    with pytest.raises(Exception, match=why), running_engine(folder, hf_overrides=pinned(family)):
        pass
    job = {"model": str(folder), "prompts": [[5, 6, 7]], "max_tokens": 4, "options": {"enforce_eager": True}}
    done = answers.run(job, tmp_path / "answers.json")
    assert done["workers"][0]["adapter"] is None
    assert why in done["log"]
    assert len(done["answers"][0]) == 4
