"""The ``native`` suite: mszoo's own MindSpore models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, FUSED_MLP, FUSED_TOO, INHERITED, TINY
from mszoo.adapters.native import publishers
from mszoo.registry import Capability, ModelAdapter, Suite, hookimpl

#: What vLLM's layers can't take of checkpoints with queries, keys and values in an order of their own, and with
#: transposed weights.
_ROWS = frozenset({Capability.LORA})
_CONV1D = _ROWS | {Capability.QUANTIZATION}
#: Fused layers: of publishers' models, and of families whose MLP has no gate.
_W_PACK = {"W_pack": ("W_pack",), "gate_up_proj": FUSED["gate_up_proj"]}
_W1_W3 = {"gate_up_proj": ("w1", "w3")}
_GATE_UP = {"gate_up_proj": FUSED["gate_up_proj"]}
_QKV = {"qkv_proj": FUSED["qkv_proj"]}
#: The fields of GPT-2's relatives, which have no head size of their own.
_GPT: Mapping[str, Any] = {"hidden_size": 128, "n_inner": 192}


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite("native", description="mszoo's own MindSpore models")


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the native models."""
    return [
        _publishers("BaiChuanForCausalLM", "baichuan", _W_PACK),
        _publishers("BaichuanForCausalLM", "baichuan", _W_PACK),
        _chatglm("ChatGLMForConditionalGeneration"),
        _chatglm("ChatGLMModel"),
        _decoder("CodeGenForCausalLM", "gptj", {}, lacks=_ROWS, model_type="codegen", **_GPT, rotary_dim=16),
        _decoder("GPT2LMHeadModel", "gpt2", {}, lacks=_CONV1D, model_type="gpt2", **_GPT),
        _decoder("GPTBigCodeForCausalLM", "gpt2", {"c_attn": ("c_attn",)}, model_type="gpt_bigcode", **_GPT),
        _decoder("GPTJForCausalLM", "gptj", _QKV, model_type="gptj", **_GPT, rotary_dim=16),
        _decoder("GPTNeoXForCausalLM", "gpt_neox", {}, lacks=_ROWS, model_type="gpt_neox", hidden_size=128),
        # vLLM refuses GLM-4 in float16.
        _decoder("Glm4ForCausalLM", "glm", FUSED_MLP, ("float32", "bfloat16"), model_type="glm4"),
        _decoder("GlmForCausalLM", "glm", FUSED_MLP, model_type="glm"),
        _publishers("InternLM2ForCausalLM", "internlm", _W1_W3, _ROWS, num_key_value_heads=2, bias=True),
        _publishers("InternLM3ForCausalLM", "internlm", **publishers.INTERNLM3),
        _decoder("LlamaForCausalLM", "llama", model_type="llama"),
        _publishers("MiniCPMForCausalLM", "minicpm", **publishers.MINICPM),
        _decoder("MistralForCausalLM", "mistral", model_type="mistral"),
        _decoder("OPTForCausalLM", "opt", _QKV, model_type="opt", hidden_size=128, ffn_dim=192),
        _publishers("OrionForCausalLM", "orion"),
        _decoder(
            "PersimmonForCausalLM", "gpt_neox", {}, lacks=_ROWS, model_type="persimmon", hidden_size=128
        ),
        _decoder("Phi3ForCausalLM", "phi3", FUSED_TOO, model_type="phi3"),
        _decoder("PhiForCausalLM", "phi", _QKV, model_type="phi"),
        _decoder("Qwen2ForCausalLM", "qwen2", model_type="qwen2"),
        _decoder("Qwen3ForCausalLM", "qwen3", model_type="qwen3"),
        _decoder(
            "StableLmForCausalLM", "stablelm", model_type="stablelm", hidden_size=128, use_qkv_bias=True
        ),
        _decoder("Starcoder2ForCausalLM", "starcoder2", _QKV, model_type="starcoder2", sliding_window=16),
        _decoder(
            "TeleChat2ForCausalLM", "telechat2", _GATE_UP, lacks=_CONV1D, common={}, **publishers.TELECHAT2
        ),
        _publishers("XverseForCausalLM", "xverse"),
    ]


def _decoder(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16"),
    lacks: frozenset[Capability] = frozenset(),
    common: Mapping[str, Any] = TINY,
    **config: Any,
) -> ModelAdapter:
    """Return the record of a decoder.

    Args:
        architecture: the name in config.json, and of its class.
        module: of mszoo.models, that has the class.
        fused: what vLLM's fused layers hold of its checkpoints' modules.
        dtypes: what it computes in.
        lacks: what it doesn't inherit from vLLM's layers.
        common, config: the fields of a tiny config.json.
    """
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=INHERITED - lacks,
        dtypes=dtypes,
        packed_modules_mapping=fused,
        example_config={**common, **config} | {"architectures": [architecture]},
    )


def _publishers(
    architecture: str,
    module: str,
    fused: Mapping[str, tuple[str, ...]] = FUSED,
    lacks: frozenset[Capability] = frozenset(),
    **config: Any,
) -> ModelAdapter:
    """Return the record of a decoder whose config class comes with its checkpoints (``--trust-remote-code``)."""
    config |= {"model_type": module, "auto_map": {"AutoConfig": f"configuration_{module}.Config"}}
    return _decoder(architecture, module, fused, lacks=lacks, common=publishers.COMMON, **config)


def _chatglm(architecture: str) -> ModelAdapter:
    """Return the record of ChatGLM, whose config class vLLM has."""
    fused = {name: (name,) for name in ("query_key_value", "dense_h_to_4h")}
    return _decoder(architecture, "chatglm", fused, common={}, **publishers.CHATGLM)
