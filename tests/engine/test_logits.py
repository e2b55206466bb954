"""Logits of every native architecture, rope type and sliding window, against Hugging Face in float32."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import RAW_LOGITS, assert_mindspore, packs, running_engine, worst_logit

TOLERANCE = 2e-5
ROPE = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied-gelu": ("llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "llama-gelu-tanh": ("llama", {"hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 4}),
    "llama-mqa-odd-vocab": ("llama", {"num_key_value_heads": 1, "vocab_size": 251}),
    "arcee-quick-gelu": ("arcee", {"hidden_act": "quick_gelu"}),
    "rope-theta": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "rope-linear": ("llama", {"rope_parameters": ROPE | {"rope_type": "linear", "factor": 4.0}}),
    "rope-dynamic": ("llama", {"rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}}),
    "rope-llama3": (
        "llama",
        {
            "rope_parameters": ROPE
            | {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "rope-yarn": ("llama", {"rope_parameters": ROPE | YARN}),
    "rope-yarn-attention-factor": (
        "llama",
        {"rope_parameters": ROPE | YARN | {"attention_factor": 0.7, "beta_fast": 16.0, "beta_slow": 2.0}},
    ),
    "glm": ("glm", {"attention_bias": True}),
    "glm4": ("glm4", {"attention_bias": True}),
    "phi3": ("phi3", {"rope_parameters": ROPE | {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi3-longrope": (
        "phi3",
        {
            "num_attention_heads": 2,  # transformers takes the hidden size over them for a head's
            "original_max_position_embeddings": 256,
            "rope_parameters": ROPE
            | {
                "rope_type": "longrope",
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0 + 0.25 * pair for pair in range(12)],
                "long_factor": [4.0] * 12,
            },
        },
    ),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral-sliding": ("mistral", {"sliding_window": 16}),
    "qwen2": ("qwen2", {}),
    "qwen2-some-layers-slide": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", {}),
    "qwen3-bias": ("qwen3", {"attention_bias": True, "head_dim": 64}),
}
ADAPTER = {
    "arcee": "native.ArceeForCausalLM",
    "glm": "native.GlmForCausalLM",
    "glm4": "native.Glm4ForCausalLM",
    "llama": "native.LlamaForCausalLM",
    "mistral": "native.MistralForCausalLM",
    "phi3": "native.Phi3ForCausalLM",
    "qwen2": "native.Qwen2ForCausalLM",
    "qwen3": "native.Qwen3ForCausalLM",
}

# The rope types differ in one table, which all paths share.
MINDSPORE = ("glm4", "phi3", "llama", "llama-gelu-tanh", "rope-llama3", "mistral-sliding")
MINDSPORE += ("qwen2-some-layers-slide", "qwen3-bias")
COMPILED = (
    "arcee-quick-gelu",
    "glm",
    "glm4",
    "phi3",
    "llama-biases",
    "llama-gelu-tanh",
    "llama-mqa-odd-vocab",
    "mistral-sliding",
)
COMPILED += ("qwen2-some-layers-slide", "qwen3-bias", "rope-yarn-attention-factor")
GRAPHS = ("llama-biases", "llama-tied-gelu", "mistral-sliding", "qwen3-bias")
LONG = ("llama-tied-gelu",)  # of graphs, which take 10 s to compile; each part of it is in another one
RUNS = [("cpu", "eager", case) for case in CASES if case not in COMPILED or case in GRAPHS]
RUNS += [("cpu", "compiled", case) for case in COMPILED]
RUNS += [("mindspore", "eager", case) for case in MINDSPORE]
RUNS += [
    pytest.param("mindspore", "compiled", case, marks=pytest.mark.long if case in LONG else ())
    for case in GRAPHS
]


def runs_fused(model: Any) -> tuple[list[bool], list[bool]]:
    """Return whether the decoder runs as one graph, and each layer as one call."""
    decoder = model.network.decoder
    return [decoder.graph.runs], [layer.compiled.runs for layer in decoder.decoder_layers]


def worst_difference(case: str, kernel_set: str, mode: str, dtype: str, checkpoint) -> float:
    """Serve a case and return the largest difference of its logits from Hugging Face in float32."""
    model_type, fields = CASES[case]
    folder = checkpoint(model_type, **fields)
    with running_engine(folder, enforce_eager=mode == "eager", dtype=dtype, **RAW_LOGITS) as llm:
        worst = worst_logit(llm, folder)
        assert assert_mindspore(llm, ADAPTER[model_type], kernel_set) > 0
        (fused,) = llm.apply_model(runs_fused)
        whole = mode == "compiled" and (kernel_set == "mindspore" or packs(dtype))
        assert fused == (
            [whole and kernel_set == "mindspore"],
            [whole and kernel_set == "cpu"] * len(fused[1]),
        )
    return worst


@pytest.mark.parametrize(("kernel_set", "mode", "case"), RUNS)
def test_logits_equal_hugging_face(kernel_set: str, mode: str, case: str, checkpoint, monkeypatch) -> None:
    monkeypatch.setenv("MSZOO_KERNELS", kernel_set)
    worst = worst_difference(case, kernel_set, mode, "float32", checkpoint)
    assert worst <= TOLERANCE, f"logits differ by {worst:.2e}"


# Where oneDNN has no product of a dtype, torch multiplies and layers run op by op: of float16 on most x86
# processors, of bfloat16 on those with AVX2 alone.
@pytest.mark.parametrize(
    ("dtype", "mode", "tolerance"),
    [("bfloat16", "eager", 0.12), ("bfloat16", "compiled", 0.12), ("float16", "eager", 0.02)],
)
def test_half_precision(dtype: str, mode: str, tolerance: float, checkpoint) -> None:
    """The logits reach 5, and bfloat16 keeps 8 bits of each number in 3 layers."""
    worst = worst_difference("qwen3", "cpu", mode, dtype, checkpoint)
    assert worst <= tolerance, f"logits differ by {worst:.2e}"
