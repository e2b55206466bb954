"""The decoders of MindSpore One whose layers mszoo's own layers compute: where their cells are.

Data only; nothing heavy is imported. What such a layer is, :mod:`mszoo.adapters.described` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

MODELS = "mindone.transformers.models"


@dataclass(frozen=True)
class Family:
    """One family's modeling file.

    Attributes:
        name: how the names of its classes begin.
        layer: how that of its decoder layer ends.
        returns_tuple: whether its decoder layer returns a tuple, the output first.
        has_rotary: whether its network has a rotary embedding, of which its layers get cosines and sines.
    """

    name: str
    layer: str = "DecoderLayer"
    returns_tuple: bool = False
    has_rotary: bool = True


#: By folder in MindSpore One.
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "arcee": Family("Arcee"),
        "codegen": Family("CodeGen", layer="Block", returns_tuple=True, has_rotary=False),
        "cohere": Family("Cohere"),
        "cohere2": Family("Cohere2"),
        "dots1": Family("Dots1"),
        "ernie4_5": Family("Ernie4_5"),
        "ernie4_5_moe": Family("Ernie4_5_Moe"),
        "exaone4": Family("Exaone4"),
        "flex_olmo": Family("FlexOlmo"),
        "gemma": Family("Gemma", returns_tuple=True),
        "gemma2": Family("Gemma2", returns_tuple=True),
        "gemma3": Family("Gemma3", returns_tuple=True),
        "glm": Family("Glm", returns_tuple=True),
        "glm4": Family("Glm4", returns_tuple=True),
        "glm4_moe": Family("Glm4Moe"),
        "gpt2": Family("GPT2", layer="Block", returns_tuple=True, has_rotary=False),
        "gpt_bigcode": Family("GPTBigCode", layer="Block", returns_tuple=True, has_rotary=False),
        "gpt_neox": Family("GPTNeoX", layer="Layer", returns_tuple=True),
        "gptj": Family("GPTJ", layer="Block", returns_tuple=True, has_rotary=False),
        "granite": Family("Granite", returns_tuple=True),
        "granitemoe": Family("GraniteMoe", returns_tuple=True),
        "granitemoeshared": Family("GraniteMoeShared", returns_tuple=True),
        "helium": Family("Helium", returns_tuple=True),
        "hunyuan_v1_dense": Family("HunYuanDenseV1"),
        "hunyuan_v1_moe": Family("HunYuanMoEV1"),
        "llama": Family("Llama"),
        "ministral": Family("Ministral"),
        "mistral": Family("Mistral", returns_tuple=True),
        "mixtral": Family("Mixtral", returns_tuple=True),
        "nemotron": Family("Nemotron", returns_tuple=True),
        "olmo": Family("Olmo", returns_tuple=True),
        "olmo2": Family("Olmo2", returns_tuple=True),
        "olmo3": Family("Olmo3"),
        "olmoe": Family("Olmoe", returns_tuple=True),
        "opt": Family("OPT", returns_tuple=True, has_rotary=False),
        "persimmon": Family("Persimmon", returns_tuple=True),
        "phi": Family("Phi", returns_tuple=True),
        "phi3": Family("Phi3", returns_tuple=True),
        "qwen2": Family("Qwen2", returns_tuple=True),
        "qwen2_5_vl": Family("Qwen2_5_VL", returns_tuple=True),
        "qwen2_moe": Family("Qwen2Moe", returns_tuple=True),
        "qwen2_vl": Family("Qwen2VL", returns_tuple=True),
        "qwen3": Family("Qwen3", returns_tuple=True),
        "qwen3_moe": Family("Qwen3Moe", returns_tuple=True),
        "seed_oss": Family("SeedOss"),
        "smollm3": Family("SmolLM3"),
        "stablelm": Family("StableLm", returns_tuple=True),
        "starcoder2": Family("Starcoder2", returns_tuple=True),
        "vaultgemma": Family("VaultGemma", returns_tuple=True),
    }
)


def layers() -> list[str]:
    """Return the families' decoder layers, as ``module:Class``."""
    return [_class_in(folder, f"{family.name}{family.layer}") for folder, family in FAMILIES.items()]


def rotary_embeddings() -> list[str]:
    """Return the families' rotary embeddings, as ``module:Class``."""
    rotating = {folder: family for folder, family in FAMILIES.items() if family.has_rotary}
    return [_class_in(folder, f"{family.name}RotaryEmbedding") for folder, family in rotating.items()]


def _class_in(folder: str, name: str) -> str:
    return f"{MODELS}.{folder}.modeling_{folder}:{name}"


def family_of(module: str) -> Family:
    """Return the family whose modeling file is ``module``."""
    return FAMILIES[module.split(".")[-2]]
