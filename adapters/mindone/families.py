"""The decoders of MindSpore One whose layers mszoo's own layers compute: how each differs from the others.

Data only; nothing heavy is imported. :mod:`mszoo.adapters.mindone.specs` makes a spec of a layer with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mszoo.adapters.decoder import FUSED, FUSED_MLP
from mszoo.registry import Capability

MODELS = "mindone.transformers.models"

#: Where most families norm; those with one norm a layer; both by GPT-2's names; those that norm what attention and
#: MLP return; and both.
_PRE = ("input_layernorm", None, "post_attention_layernorm", None)
_ONE = ("input_layernorm", None, None, None)
_GPT = ("ln_1", None, "ln_2", None)
_ONE_GPT = ("ln_1", None, None, None)
_POST = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
_BOTH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


@dataclass(frozen=True)
class Mixture:
    """How a family's mixture of experts is made; names are the checkpoint's, in the mixture.

    Attributes:
        router: the router's linear layer.
        bias: the bias by which experts are chosen; empty where there is none.
        scoring_func: what makes scores of the router's logits.
        experts: each expert's gate, up and down projection.
        stacked: one layer with gate and up projection of all experts, and one with their down projection, where
            the checkpoint has those.
        shared: the experts that every token passes; may be missing in a model.
        shared_gate: the layer that weighs them; empty where they aren't weighed.
    """

    router: str = "gate"
    bias: str = ""
    scoring_func: Literal["softmax", "sigmoid"] = "softmax"
    experts: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    stacked: tuple[str, str] | None = None
    shared: str = "shared_experts"
    shared_gate: str = ""


_BIASED = Mixture(bias="gate.e_score_correction_bias", scoring_func="sigmoid")
_STACKED = Mixture(router="router.layer", stacked=("input_linear", "output_linear"))


@dataclass(frozen=True)
class QKV:
    """Queries, keys and values in one tensor of the checkpoint.

    Attributes:
        name: the projection's.
        groups: its rows come in so many groups, each with queries, keys and values of its share of the heads; None
            for a group of each head. Where heads share keys and values, all queries come first in any case.
        order: of queries, keys and values in a group.
    """

    name: str
    groups: int | None = 1
    order: str = "qkv"

    @property
    def is_plain(self) -> bool:
        """Whether all queries come first, then all keys, then all values, as vLLM's layer has them."""
        return self.groups == 1 and self.order == "qkv"


@dataclass(frozen=True)
class Family:
    """One family's decoder layer.

    Attributes:
        name: how the names of its classes begin.
        layer: how that of its decoder layer ends.
        attention: the layer's name of its attention.
        norms: the layer's norms before and after attention, before and after the MLP; None where there is none.
        returns_tuple: whether its decoder layer returns a tuple, the output first.
        pairs: rotates pairs of neighbours (GPT-J) instead of halves of a head (GPT-NeoX).
        parallel: attention and MLP see the same normed stream.
        gated: its MLP is gated.
        fused_mlp: the checkpoint has the gate and up projection of its MLP in one tensor.
        whole_norms: norms queries and keys of all heads together, so ranks can't share the heads out.
        mixture: its mixture of experts, which all or some of its layers have in place of the MLP.
        flat_mlp: the layer has the projections of its MLP itself.
        qkv: how the checkpoint has queries, keys and values in one tensor; None where it has three.
        conv1d: the checkpoint has the weights of projections as [in, out].
        rotates: turns queries and keys; otherwise positions are learned, and added to the embeddings.
        own_angles: its attention has cosines and sines of its own, and the network no rotary embedding.
    """

    name: str
    layer: str = "DecoderLayer"
    attention: str = "self_attn"
    norms: tuple[str | None, str | None, str | None, str | None] = _PRE
    returns_tuple: bool = False
    pairs: bool = False
    parallel: bool = False
    gated: bool = True
    fused_mlp: bool = False
    whole_norms: bool = False
    mixture: Mixture | None = None
    flat_mlp: bool = False
    qkv: QKV | None = None
    conv1d: bool = False
    rotates: bool = True
    own_angles: bool = False

    @property
    def _lora_fits(self) -> bool:
        return self.qkv is None or (self.qkv.is_plain and not self.conv1d)

    @property
    def lacks(self) -> frozenset[Capability]:
        """What its layers don't have of what vLLM's layers give."""
        lacks = {
            # An adapter's rows would be in the order of the checkpoint's fused tensor.
            Capability.LORA: not self._lora_fits or self.mixture is not None,
            Capability.TENSOR_PARALLEL: self.whole_norms,
            Capability.QUANTIZATION: self.conv1d or self.mixture is not None,
        }
        return frozenset(capability for capability, lacking in lacks.items() if lacking)


#: By folder in MindSpore One.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "arcee": Family("Arcee", gated=False),
        "codegen": Family(
            "CodeGen",
            layer="Block",
            attention="attn",
            norms=_ONE_GPT,
            returns_tuple=True,
            pairs=True,
            parallel=True,
            gated=False,
            qkv=QKV("qkv_proj", groups=4, order="qvk"),
            own_angles=True,
        ),
        "cohere": Family("Cohere", norms=_ONE, parallel=True, pairs=True),
        "cohere2": Family("Cohere2", norms=_ONE, parallel=True, pairs=True),
        "dots1": Family("Dots1", mixture=_BIASED),
        "ernie4_5": Family("Ernie4_5", pairs=True),
        "ernie4_5_moe": Family(
            "Ernie4_5_Moe", pairs=True, mixture=Mixture(bias="moe_statics.e_score_correction_bias")
        ),
        "exaone4": Family("Exaone4", norms=_POST),
        "flex_olmo": Family("FlexOlmo", norms=_POST, whole_norms=True, mixture=Mixture()),
        "gemma": Family("Gemma", returns_tuple=True),
        "gemma2": Family("Gemma2", norms=_BOTH, returns_tuple=True),
        "gemma3": Family("Gemma3", norms=_BOTH, returns_tuple=True),
        "glm": Family("Glm", returns_tuple=True, pairs=True, fused_mlp=True),
        "glm4": Family(
            "Glm4",
            norms=(
                "input_layernorm",
                "post_self_attn_layernorm",
                "post_attention_layernorm",
                "post_mlp_layernorm",
            ),
            returns_tuple=True,
            pairs=True,
            fused_mlp=True,
        ),
        "glm4_moe": Family("Glm4Moe", mixture=_BIASED),
        "gpt2": Family(
            "GPT2",
            layer="Block",
            attention="attn",
            norms=_GPT,
            returns_tuple=True,
            gated=False,
            qkv=QKV("c_attn"),
            conv1d=True,
            rotates=False,
        ),
        "gpt_bigcode": Family(
            "GPTBigCode",
            layer="Block",
            attention="attn",
            norms=_GPT,
            returns_tuple=True,
            gated=False,
            qkv=QKV("c_attn", groups=None),
            rotates=False,
        ),
        "gpt_neox": Family(
            "GPTNeoX",
            layer="Layer",
            attention="attention",
            returns_tuple=True,
            gated=False,
            qkv=QKV("query_key_value", groups=None),
        ),
        "gptj": Family(
            "GPTJ",
            layer="Block",
            attention="attn",
            norms=_ONE_GPT,
            returns_tuple=True,
            pairs=True,
            parallel=True,
            gated=False,
            own_angles=True,
        ),
        "granite": Family("Granite", returns_tuple=True),
        "granitemoe": Family("GraniteMoe", returns_tuple=True, mixture=_STACKED),
        "granitemoeshared": Family("GraniteMoeShared", returns_tuple=True, mixture=_STACKED),
        "helium": Family("Helium", returns_tuple=True, pairs=True),
        "hunyuan_v1_dense": Family("HunYuanDenseV1"),
        "hunyuan_v1_moe": Family("HunYuanMoEV1", mixture=Mixture(router="gate.wg", shared="shared_mlp")),
        "llama": Family("Llama"),
        "ministral": Family("Ministral"),
        "mistral": Family("Mistral", returns_tuple=True),
        "mixtral": Family("Mixtral", returns_tuple=True, mixture=Mixture(experts=("w1", "w3", "w2"))),
        "nemotron": Family("Nemotron", returns_tuple=True, gated=False),
        "olmo": Family("Olmo", returns_tuple=True),
        "olmo2": Family("Olmo2", norms=_POST, returns_tuple=True, whole_norms=True),
        "olmo3": Family("Olmo3", norms=_POST, whole_norms=True),
        "olmoe": Family("Olmoe", returns_tuple=True, whole_norms=True, mixture=Mixture()),
        "opt": Family(
            "OPT",
            norms=("self_attn_layer_norm", None, "final_layer_norm", None),
            returns_tuple=True,
            gated=False,
            flat_mlp=True,
            rotates=False,
        ),
        "persimmon": Family(
            "Persimmon", returns_tuple=True, gated=False, qkv=QKV("query_key_value", groups=None)
        ),
        "phi": Family("Phi", norms=_ONE, parallel=True, returns_tuple=True, gated=False),
        "phi3": Family("Phi3", returns_tuple=True, qkv=QKV("qkv_proj"), fused_mlp=True),
        "qwen2": Family("Qwen2", returns_tuple=True),
        "qwen2_moe": Family(
            "Qwen2Moe",
            returns_tuple=True,
            mixture=Mixture(shared="shared_expert", shared_gate="shared_expert_gate"),
        ),
        "qwen3": Family("Qwen3", returns_tuple=True),
        "qwen3_moe": Family("Qwen3Moe", returns_tuple=True, mixture=Mixture()),
        "seed_oss": Family("SeedOss"),
        "smollm3": Family("SmolLM3"),
        "stablelm": Family("StableLm", returns_tuple=True),
        "starcoder2": Family("Starcoder2", returns_tuple=True, gated=False),
        "vaultgemma": Family(
            "VaultGemma",
            norms=("input_layernorm", None, "pre_feedforward_layernorm", None),
            returns_tuple=True,
        ),
    }
)


def layers() -> list[str]:
    """Return the families' decoder layers, as ``module:Class``."""
    return [_class_in(folder, f"{family.name}{family.layer}") for folder, family in FAMILIES.items()]


def rotary_embeddings() -> list[str]:
    """Return the families' rotary embeddings, as ``module:Class``."""
    rotating = {name: family for name, family in FAMILIES.items() if family.rotates and not family.own_angles}
    return [_class_in(folder, f"{family.name}RotaryEmbedding") for folder, family in rotating.items()]


def _class_in(folder: str, name: str) -> str:
    return f"{MODELS}.{folder}.modeling_{folder}:{name}"


def packed_modules(folder: str) -> Mapping[str, tuple[str, ...]]:
    """Return, by layer of vLLM's that holds several, the checkpoint's modules; of the family in ``folder``."""
    family = FAMILIES.get(folder)
    if family is None:
        return {}
    fused = dict(FUSED_MLP if family.fused_mlp else FUSED)
    if family.qkv is not None and family.qkv.is_plain:
        fused["qkv_proj"] = (family.qkv.name,)
    kept = {
        "qkv_proj": family.qkv is None or (family.qkv.is_plain and family.qkv.name == "qkv_proj"),
        "gate_up_proj": family.gated,
    }
    return {name: parts for name, parts in fused.items() if kept[name]}


def family_of(module: str) -> Family:
    """Return the family whose modeling file is ``module``."""
    return FAMILIES[module.split(".")[-2]]
