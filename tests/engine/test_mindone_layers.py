"""Decoder layers of MindSpore One's families that mszoo's layers compute: right in every way they run."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from mszoo.adapters.mindone import architectures, families
from mszoo.conformance.checkpoints import make_checkpoint as make_tiny

from . import answers
from .conftest import (
    RAW_LOGITS,
    assert_mindspore,
    give_routers_a_bias,
    make_checkpoint,
    running_engine,
    worst_logit,
)

try:
    importlib.metadata.version("mindone")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("mindone is not installed: make suites", allow_module_level=True)

#: What each has that the others lack; largest difference of logits.
FAMILIES = {
    "CodeGen": 2e-5,  # queries, values and keys in four groups of the checkpoint's rows
    "Cohere2": 2e-5,  # attention and MLP side by side, pairs turn, some layers don't
    "Ernie4_5_Moe": 2e-5,  # experts chosen by scores and a bias
    "Exaone4": 2e-5,  # norms of what attention and MLP return, and of heads
    "FlexOlmo": 2e-5,  # experts see the stream itself, and what they return is normed
    "Gemma3": 1e-3,  # norms on all sides by 1 + w, two rotary embeddings, large logits
    "GPT2": 2e-5,  # weights as [in, out], learned positions
    "GPTBigCode": 2e-5,  # one head of keys and values
    "GPTJ": 2e-5,  # attention has a table of angles
    "GPTNeoX": 2e-5,  # side by side, each with a norm; queries, keys and values head by head
    "Glm4": 2e-5,  # a part of each head turns by pairs, gate and up in one tensor
    "Glm4Moe": 2e-5,  # an MLP in the first layer, in others experts by sigmoids and a bias, and shared ones
    "Granite": 1e-4,  # factors of scores and of what layers add
    "GraniteMoeShared": 1e-4,  # experts stacked in the checkpoint, shared ones beside the mixture, factors
    "HunYuanDenseV1": 2e-5,  # heads are normed after they turned
    "Nemotron": 2e-5,  # norms of mean and variance by 1 + w, an MLP without a gate
    "Olmo2": 2e-5,  # all heads are normed together
    "OPT": 2e-5,  # the layer has the projections of its MLP itself
    "Persimmon": 2e-5,  # heads are normed by mean and variance
    "Phi": 2e-5,  # side by side, biases everywhere, an MLP without a gate
    "Qwen2Moe": 2e-5,  # shared experts are weighed
    "Phi3": 2e-5,  # all projections fused in the checkpoint
}


def layers_of(model: Any) -> list[tuple[str, bool]]:
    """Return the class of each decoder layer, and whether it runs as one call."""
    from mszoo.layers import FusedDecoderLayer

    modules = model.modules()
    layers = [module for module in modules if isinstance(getattr(module, "fused", None), FusedDecoderLayer)]
    return [(type(layer).__name__, layer.fused.runs_fused) for layer in layers]


def architecture_of(family: str) -> str:
    return "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"


@pytest.mark.parametrize("mode", ["compiled", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_hugging_face(family: str, mode: str, tmp_path: Path) -> None:
    architecture = architecture_of(family)
    folder = make_tiny(
        architectures.read()[architecture].example_config or {}, architecture, tmp_path, lambda _: {}
    ).folder
    give_routers_a_bias(folder)
    pinned = {"architectures": [f"mindone.{architecture}"]}
    with running_engine(folder, hf_overrides=pinned, enforce_eager=mode == "eager", **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, f"mindone.{architecture}", "cpu") > 0
        (layers,) = llm.apply_model(layers_of)
    whole = "TupleLayer" if family == "Phi3" else "DecoderLayer"
    assert len(layers) >= 2
    assert set(layers) == {(whole, mode == "compiled")}
    assert worst <= FAMILIES[family], f"logits differ by {worst:.2e}"


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}),
        ("GPT2", {"scale_attn_weights": False}),
        ("GPTBigCode", {"multi_query": False}),
        ("GPTNeoX", {"use_parallel_residual": False}),
        ("OPT", {"enable_bias": False, "layer_norm_elementwise_affine": False}),
        ("OPT", {"word_embed_proj_dim": 64}),
    ],
)
def test_what_a_config_may_change(family: str, fields: dict[str, Any], tmp_path: Path) -> None:
    architecture = architecture_of(family)
    config = dict(architectures.read()[architecture].example_config or {}, **fields)
    folder = make_tiny(config, architecture, tmp_path, lambda _: {}).folder
    with running_engine(
        folder, hf_overrides={"architectures": [f"mindone.{architecture}"]}, enforce_eager=False, **RAW_LOGITS
    ) as llm:
        worst = worst_logit(llm, folder)
        (layers,) = llm.apply_model(layers_of)
    assert layers == [("DecoderLayer", True)] * 2
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


def test_rows_head_by_head_are_shared_out_to_ranks(tmp_path: Path) -> None:
    fields = architectures.read()["GPTNeoXForCausalLM"].example_config or {}
    folder = make_tiny(fields, "GPTNeoXForCausalLM", tmp_path, lambda _: {}).folder
    pinned = {"architectures": ["mindone.GPTNeoXForCausalLM"]}
    given = []
    for ranks in (1, 2):
        job = {
            "model": str(folder),
            "prompts": [[5, 17, 99], list(range(3, 60))],
            "options": {"hf_overrides": pinned, "tensor_parallel_size": ranks},
        }
        cores = "|".join(map(str, range(ranks)))
        done = answers.run(job, tmp_path / f"{ranks}.json", VLLM_CPU_OMP_THREADS_BIND=cores)
        assert [worker["adapter"] for worker in done["workers"]] == ["mindone.GPTNeoXForCausalLM"] * ranks
        given.append((done["answers"], done["logprobs"]))
    assert given[0][0] == given[1][0]
    assert given[0][1] == pytest.approx(given[1][1], abs=1e-3)


@pytest.mark.parametrize(
    "family", ["Cohere", "Exaone4", "GPTJ", "GPTNeoX", "Gemma2", "Glm", "GraniteMoeShared", "Nemotron"]
)
def test_mindspores_own_kernels_compute_the_same(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", "mindspore")
    architecture = f"{family}ForCausalLM"
    config = architectures.read()[architecture].example_config or {}
    folder = make_tiny(config, architecture, tmp_path, lambda _: {}).folder
    pinned = {"architectures": [f"mindone.{architecture}"]}
    with running_engine(folder, hf_overrides=pinned, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, f"mindone.{architecture}", "mindspore") > 0
        (layers,) = llm.apply_model(layers_of)
    assert set(layers) == {("DecoderLayer", False)}
    assert worst <= 5e-4, f"logits differ by {worst:.2e}"


def test_a_config_that_the_layer_does_not_know_keeps_the_suites_own(tmp_path: Path) -> None:
    """OLMo may clip queries, keys and values: its layers then stay MindSpore One's, and are right."""
    folder = make_checkpoint(tmp_path, "olmo", clip_qkv=0.05, hidden_size=128)
    pinned = {"architectures": ["mindone.OlmoForCausalLM"]}
    with running_engine(folder, hf_overrides=pinned, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, "mindone.OlmoForCausalLM", "cpu") > 0
        (kinds,) = llm.apply_model(
            lambda model: {item.cell.rpartition(":")[2] for item in model.network.replaced}
        )
    with (
        pytest.raises(Exception, match="LoRA doesn't reach MindSpore One's own"),
        running_engine(folder, hf_overrides=pinned, enable_lora=True, max_lora_rank=8),
    ):
        pass
    assert "OlmoDecoderLayer" not in kinds
    assert kinds >= {"OlmoLayerNorm", "Linear"}
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


def test_a_stream_that_is_normed_itself_is_replaced_leaf_by_leaf(tmp_path: Path) -> None:
    """OPT of 350m norms after it adds."""
    fields = dict(architectures.read()["OPTForCausalLM"].example_config or {}, do_layer_norm_before=False)
    folder = make_tiny(fields, "OPTForCausalLM", tmp_path, lambda _: {}).folder
    pinned = {"architectures": ["mindone.OPTForCausalLM"]}
    with running_engine(folder, hf_overrides=pinned, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        (kinds,) = llm.apply_model(
            lambda model: Counter(item.cell.rpartition(":")[2] for item in model.network.replaced)
        )
    assert kinds["LayerNorm"] == 2 * 2
    assert kinds["Linear"] == 2 * 6
    assert kinds["Embedding"] == kinds["OPTLearnedPositionalEmbedding"] == 1
    assert "OPTDecoderLayer" not in kinds
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


def test_lora_is_refused_where_the_suite_calls_a_projection(tmp_path: Path) -> None:
    """OPT of 350m has one after its embedding."""
    fields = dict(architectures.read()["OPTForCausalLM"].example_config or {}, word_embed_proj_dim=64)
    folder = make_tiny(fields, "OPTForCausalLM", tmp_path, lambda _: {}).folder
    pinned = {"architectures": ["mindone.OPTForCausalLM"]}
    with (
        pytest.raises(Exception, match="LoRA doesn't reach MindSpore One's own"),
        running_engine(folder, hf_overrides=pinned, enable_lora=True, max_lora_rank=8),
    ):
        pass


def test_norms_that_mszoo_lacks_keep_the_suites_own(tmp_path: Path) -> None:
    """StableLM may norm each head by a norm of its own."""
    fields = dict(architectures.read()["StableLmForCausalLM"].example_config or {}, qk_layernorm=True)
    folder = make_tiny(fields, "StableLmForCausalLM", tmp_path, lambda _: {}).folder
    pinned = {"architectures": ["mindone.StableLmForCausalLM"]}
    with running_engine(folder, hf_overrides=pinned, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, "mindone.StableLmForCausalLM", "cpu") > 0
    assert worst <= 2e-5, f"logits differ by {worst:.2e}"


def test_every_family_is_one_that_is_served() -> None:
    served = {found.family for found in architectures.read().values() if not found.refused}
    assert set(families.FAMILIES) | set(families.WHOLE) <= served
    assert not set(families.FAMILIES) & set(families.WHOLE)


@pytest.mark.parametrize("kernel_set", ["cpu", "mindspore"])
@pytest.mark.parametrize("kind", ["gemma", "plain", "bias", "nothing", "offset"])
def test_norms(kind: str, kernel_set: str) -> None:
    from mszoo.kernels import dispatch, runtime
    from mszoo.kernels.exchange import to_mindspore, to_torch
    from mszoo.layers.norm import GemmaRMSNorm, LayerNorm

    runtime.prepare("cpu")
    with dispatch.building_with(dispatch.choose(kernel_set, "cpu", "float32", {})):
        norm: Any = {
            "gemma": lambda: GemmaRMSNorm(48, 1e-6),
            "plain": lambda: LayerNorm(48, 1e-5, bias=False),
            "bias": lambda: LayerNorm(48, 1e-5),
            "nothing": lambda: LayerNorm(48, 1e-5, weight=False, bias=False),
            "offset": lambda: LayerNorm(48, 1e-5, offset=1.0),
        }[kind]()
    for parameter in norm.parameters():
        parameter.data.normal_()
    x = torch.randn(5, 48, dtype=torch.float64) + 0.5
    weight = norm.weight.double() if norm.weight is not None else torch.ones(48, dtype=torch.float64)
    if kind == "gemma":
        expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight)
    else:
        centred = x - x.mean(-1, keepdim=True)
        expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        expected = expected * (weight + (kind == "offset"))
        if norm.bias is not None:
            expected = expected + norm.bias.double()
    given = x.float()
    result = to_torch(norm(to_mindspore(given)))
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(given, x.float()), "the input is the residual stream, which goes on"
