"""Decoder layers of MindSpore One's families that mszoo's layers compute: right in every way they run."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import torch

import pytest

from mszoo.adapters.mindone import architectures, families, multimodal

from .conftest import RAW_LOGITS, assert_mindspore, give_routers_a_bias, running_engine, worst_logit
from .mindone_models import architecture_of, layers_of, make_tiny, pinned, run_op_by_op

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


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_hugging_face(family: str, tmp_path: Path) -> None:
    folder = make_tiny(family, tmp_path)
    give_routers_a_bias(folder)
    with running_engine(folder, hf_overrides=pinned(family), enforce_eager=False, **RAW_LOGITS) as llm:
        for compiled in (True, False):
            worst = worst_logit(llm, folder)
            (layers,) = llm.apply_model(layers_of)
            assert len(layers) >= 2
            assert set(layers) == {("DecoderLayer", compiled)}
            assert worst <= FAMILIES[family], f"logits differ by {worst:.2e}"
            llm.apply_model(run_op_by_op)
        assert assert_mindspore(llm, f"mindone.{architecture_of(family)}", "cpu") > 0


def test_every_family_is_one_that_is_served() -> None:
    served = {found.family for found in architectures.read().values() if not found.refused}
    with_images = {multimodal.Qwen2VLText.family, multimodal.Qwen2_5_VLText.family}
    assert set(families.FAMILIES) <= served | with_images


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


def test_what_an_embedding_gives_is_scaled_and_added_to_by_torch() -> None:
    from mszoo.adapters.mindone.cells import Embedded
    from mszoo.kernels import runtime
    from mszoo.kernels.exchange import to_mindspore, to_torch

    import mindspore as ms

    runtime.prepare("cpu")
    found = to_mindspore(torch.arange(6.0).view(2, 3))
    found.__class__ = Embedded
    positions = to_mindspore(torch.full((2, 3), 10.0))
    for given, expected in (
        (found * 2.0, [[0, 2, 4], [6, 8, 10]]),
        (found * ms.Tensor(2.0), [[0, 2, 4], [6, 8, 10]]),
        (found + positions, [[10, 11, 12], [13, 14, 15]]),
    ):
        assert type(given) is ms.Tensor
        assert given._mszoo_torch.data_ptr() == given.data_ptr(), "torch computed it"
        assert to_torch(given).tolist() == expected
