"""The ``mindone`` suite: decoders and encoders of MindSpore One (mindone.transformers).

Data only; nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mszoo.adapters.described import decoders
from mszoo.adapters.mindone.architectures import Architecture, norms, read
from mszoo.adapters.mindone.families import MODELS, layers, rotary_embeddings
from mszoo.registry import Capability, LayerAdapter, ModelAdapter, Suite, hookimpl

_HERE = "mszoo.adapters.mindone"
_CELLS = f"{_HERE}.cells"

_LINEAR = "mszoo.layers.network:Linear"

#: What replaces which cells, as ``module:Class``.
_REPLACEMENTS = {
    "mindspore.nn.layer.embedding:Embedding": "Embedding",
    "mindspore.nn.layer.embedding:EmbeddingExt": "Embedding",
    "mindspore.nn.layer.normalization:LayerNorm": "layer_norm",
    "mindspore.nn.layer.normalization:LayerNormExt": "layer_norm",
    "mindspore.mint.nn.layer.conv:Conv2d": "Patches",
    "mindspore.mint.nn.layer.conv:Conv3d": "Patches",
    f"{MODELS}.gemma3.modeling_gemma3:Gemma3TextScaledWordEmbedding": "ScaledEmbedding",
    f"{MODELS}.opt.modeling_opt:OPTLearnedPositionalEmbedding": "OffsetPositions",
    f"{MODELS}.gemma.modeling_gemma:GemmaRMSNorm": "RowNorm",
    f"{MODELS}.gemma2.modeling_gemma2:Gemma2RMSNorm": "RowNorm",
    f"{MODELS}.gemma3.modeling_gemma3:Gemma3RMSNorm": "RowNorm",
    f"{MODELS}.vaultgemma.modeling_vaultgemma:VaultGemmaRMSNorm": "RowNorm",
    f"{MODELS}.helium.modeling_helium:HeliumRMSNorm": "RowNorm",
    f"{MODELS}.cohere.modeling_cohere:CohereLayerNorm": "RowNorm",
    f"{MODELS}.cohere2.modeling_cohere2:Cohere2LayerNorm": "RowNorm",
    f"{MODELS}.nemotron.modeling_nemotron:NemotronLayerNorm1P": "RowNorm",
    f"{MODELS}.olmo.modeling_olmo:OlmoLayerNorm": "RowNorm",
    f"{MODELS}.phi3.modeling_phi3:Phi3RMSNorm": "RowNorm",
    f"{MODELS}.qwen2.modeling_qwen2:Qwen2RMSNorm": "RowNorm",
    f"{MODELS}.qwen2_vl.modeling_qwen2_vl:Qwen2RMSNorm": "RowNorm",
    f"{MODELS}.qwen2_5_vl.modeling_qwen2_5_vl:Qwen2RMSNorm": "RowNorm",
}
#: What reads images: the native model of the same architecture says what it is.
MULTIMODAL = (
    "LlavaForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
)
#: Encoders whose layers and embeddings are BERT's: how their classes' names begin, by family.
_BERTS = {
    "bert": "Bert",
    "camembert": "Camembert",
    "electra": "Electra",
    "ernie": "Ernie",
    "roberta": "Roberta",
    "xlm_roberta": "XLMRoberta",
}


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite(
        "mindone",
        description="decoders and encoders of MindSpore One",
        requires=("mindone>=0.5,<0.6",),
        install="pip install --no-deps mindone==0.5.0",
    )


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the models that the survey tried."""
    return [*(_adapter(name, found) for name, found in read().items()), *map(_multimodal, MULTIMODAL)]


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    """Give what replaces MindSpore One's cells."""
    targets = {cell: f"{_CELLS}:{name}" for cell, name in _REPLACEMENTS.items()}
    targets |= {f"mindspore.nn.layer.basic:{name}": _LINEAR for name in ("Dense", "Linear")}
    targets |= dict.fromkeys(norms(), f"{_CELLS}:RowNorm")
    targets |= dict.fromkeys(layers(), f"{_HERE}.layer:DecoderLayer")
    targets |= dict.fromkeys(rotary_embeddings(), f"{_HERE}.layer:NoRotary")
    for family, name in _BERTS.items():
        module = f"{MODELS}.{family}.modeling_{family}"
        targets[f"{module}:{name}Layer"] = f"{_HERE}.encoder:EncoderLayer"
        targets[f"{module}:{name}Embeddings"] = f"{_HERE}.encoder:Embeddings"
    return [LayerAdapter(f"mindone:{cell}", implementation) for cell, implementation in targets.items()]


def _multimodal(name: str) -> ModelAdapter:
    """Return the record of a model that reads images."""
    return replace(decoders()[name], model=f"{_HERE}.multimodal:{name}")


def _adapter(name: str, found: Architecture) -> ModelAdapter:
    own = f"{MODELS}.{found.family}.modeling_{found.family}:{name}"
    model = f"{_HERE}.encoder:EncoderModel" if found.pooling else f"{_HERE}.model:ModelForCausalLM"
    capabilities: frozenset[Capability] = frozenset()
    fused: Mapping[str, tuple[str, ...]] = {}
    if found.pooling:
        capabilities, fused = frozenset({Capability.TENSOR_PARALLEL}), {"qkv_proj": ("query", "key", "value")}
    elif not found.refused:  # its layers are the native model's
        described = decoders()[name]
        capabilities, fused = described.capabilities, described.packed_modules_mapping
    return ModelAdapter(
        name,
        own if found.refused else model,
        capabilities=capabilities,
        dtypes=found.dtypes,
        packed_modules_mapping=fused,
        example_config=found.example_config or {},
        refused=found.refused,
        pooling=found.pooling,
    )
