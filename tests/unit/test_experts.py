"""What is refused of models with experts before weights are read, and how a token's experts are chosen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from tests.published import corpus
from tests.published.readers import config_of, readers

CORPUS = corpus.read()
V2, R1, GLM = "deepseek-ai/DeepSeek-V2-Lite", "deepseek-ai/DeepSeek-R1", "zai-org/GLM-4.5"
GROUPED = {"n_group": 4, "topk_group": 2, "topk_method": "group_limited_greedy"}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Transformers warns of each config that it finds odd."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def read(name: str, **fields: Any) -> Any:
    """Return what the native reader makes of a published config with other fields, past transformers' checks."""
    config = config_of(CORPUS[name])
    own_name = getattr(config, "attribute_map", {})
    config.__dict__ |= {own_name.get(field, field): value for field, value in fields.items()}
    return readers(config.architectures[0])["native"](config, 128)


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        (V2, {"topk_method": "noaux_tc"}, "topk_method='noaux_tc', which this model doesn't implement"),
        (V2, GROUPED | {"num_experts_per_tok": 5}, "num_experts_per_tok=5 with 4 experts to choose of"),
        (V2, GROUPED | {"n_group": 3}, "n_group=3 with 8 experts"),
        (V2, {"attention_bias": True}, "attention_bias=True"),
        (V2, {"mlp_bias": True}, "mlp_bias=True"),
        (V2, {"n_shared_experts": 0}, "n_shared_experts=0"),
        (V2, {"num_key_value_heads": 2}, "num_key_value_heads=2"),
        (R1, {"num_experts_per_tok": 9}, "num_experts_per_tok=9 with 8 experts to choose of"),
        (R1, {"n_group": 3}, "n_group=3 with 16 experts"),
        (R1, {"n_group": 16}, "n_group=16 with 16 experts"),  # none has two to be scored by
        (R1, {"topk_group": 9}, "topk_group=9 with n_group=8"),
        (R1, {"moe_intermediate_size": None}, "config.json has no moe_intermediate_size"),
        (R1, {"kv_lora_rank": None}, "config.json has no kv_lora_rank"),
        (GLM, {"n_routed_experts": None}, "config.json has no n_routed_experts"),
        (GLM, {"n_routed_experts": 0}, "n_routed_experts=0, which must be a whole number above 0"),
        (GLM, {"num_experts_per_tok": 9}, "num_experts_per_tok=9 with 8 experts to choose of"),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_local_experts": 1}, "num_experts_per_tok=2 with 1 experts"),
        ("Qwen/Qwen1.5-MoE-A2.7B", {"decoder_sparse_step": 0}, "decoder_sparse_step=0"),
        ("Qwen/Qwen1.5-MoE-A2.7B", {"num_experts": None}, "config.json has no num_experts"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", {"moe_layer_interval": 0}, "moe_layer_interval=0"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", {"moe_norm_min": 0.1}, "moe_norm_min=0.1"),
        ("baidu/ERNIE-4.5-21B-A3B-PT", {"use_bias": True}, "use_bias=True"),
        ("tencent/Hunyuan-A13B-Instruct-hf", {"moe_topk": [2]}, r"moe_topk=\[2\]"),
        ("tencent/Hunyuan-A13B-Instruct-hf", {"moe_topk": [2, 9]}, "num_experts_per_tok=9 with 8 experts"),
        ("allenai/OLMoE-1B-7B-0924", {"sliding_window": 16}, "sliding_window=16"),
    ],
)
def test_experts_that_no_layer_has_are_refused_by_name(name: str, fields: dict[str, Any], why: str) -> None:
    from mszoo.registry.errors import RefusalError

    read(name)  # it is the fields that are refused
    with pytest.raises(RefusalError, match=why):
        read(name, **fields)


def test_functions_that_vllms_experts_lack_are_refused_by_name() -> None:
    from mszoo.layers import Experts, TopKRouter
    from mszoo.registry.errors import RefusalError

    router: Any = None
    with pytest.raises(RefusalError, match="hidden_act is 'relu2', and experts have silu, swish, gelu"):
        Experts(router, 64, 32, "relu2", prefix="experts")
    with pytest.raises(RefusalError, match="scoring_func='softplus' is not known"):
        TopKRouter(64, 8, 2, scoring_func="softplus", prefix="gate")


def test_layers_have_experts_where_hugging_face_has_them() -> None:
    def sparse(name: str, **fields: Any) -> list[bool]:
        return [layer.has_experts for layer in read(name, num_hidden_layers=4, **fields).layers]

    qwen, ernie = "Qwen/Qwen3-235B-A22B", "baidu/ERNIE-4.5-21B-A3B-PT"
    assert sparse(qwen, decoder_sparse_step=2) == [False, True, False, True]
    assert sparse(qwen, mlp_only_layers=[0, 2]) == [False, True, False, True]
    assert sparse(R1, first_k_dense_replace=3) == [False, False, False, True]
    assert sparse(ernie, moe_layer_start_index=1, moe_layer_end_index=2) == [False, True, True, False]
    assert sparse(ernie, moe_layer_start_index=0, moe_layer_interval=3) == [False, False, True, False]


def test_a_latent_cache_scores_as_hugging_face_does() -> None:
    """Its norms keep their own eps, and yarn's mscale_all_dim scales the scores twice."""
    from transformers import DeepseekV2ForCausalLM

    config = config_of(CORPUS[V2])
    (expected, *_) = (layer.self_attn for layer in DeepseekV2ForCausalLM(config).model.layers)
    attention = read(V2).layers[0].attention
    assert attention.scale == pytest.approx(expected.scaling, rel=1e-12)
    assert attention.scale != pytest.approx((64 + 64) ** -0.5, rel=1e-3)
    assert attention.norm_eps == expected.kv_a_layernorm.variance_epsilon
    assert attention.q_lora_rank is None


def test_no_expert_outside_the_best_groups_is_chosen_however_low_a_bias_is() -> None:
    """As Hugging Face's router of DeepSeek-V3 does it; 0 would be better than what the bias makes of the rest."""
    import torch

    from mszoo.layers.moe import best_groups

    scores = torch.tensor([[0.5, 0.6, 0.1, 0.2]])
    found = best_groups(scores - 2.0, 2, 1, by_two=True)
    assert found.tolist() == [[-1.5, pytest.approx(-1.4), -torch.inf, -torch.inf]]
    # One very good expert makes a group the best without a bias, and not where two count.
    scores = torch.tensor([[0.9, 0.0, 0.5, 0.5]])
    assert best_groups(scores, 2, 1, by_two=False).isinf().tolist() == [[False, False, True, True]]
    assert best_groups(scores, 2, 1, by_two=True).isinf().tolist() == [[True, True, False, False]]
