"""The ``mindone`` suite: decoders and encoders of MindSpore One (mindone.transformers).

Data only; nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Iterable

from mszoo.adapters.decoder import FUSED, INHERITED
from mszoo.adapters.mindone.architectures import Architecture, norms, read
from mszoo.registry import Capability, LayerAdapter, ModelAdapter, Suite, hookimpl

_HERE = "mszoo.adapters.mindone"
_CELLS = f"{_HERE}.cells"
_MODELS = "mindone.transformers.models"

#: Families whose decoder layers are replaced whole, by mszoo's own; what those support, the model does.
_WHOLE = ("llama", "mistral", "qwen2", "qwen3")

#: What replaces which cells, as ``module:Class``.
_REPLACEMENTS = {
    "mindspore.nn.layer.basic:Dense": "Linear",
    "mindspore.nn.layer.basic:Linear": "Linear",
    "mindspore.nn.layer.embedding:Embedding": "Embedding",
    "mszoo.adapters.mindone.cpu_ops:Embedding": "Embedding",
    **{
        f"mindone.transformers.activations:{name}": "Activation"
        for name in (
            "FastGELUActivation",
            "GELUActivation",
            "GELUTanh",
            "NewGELUActivation",
            "ReLUSquaredActivation",
            "SiLUActivation",
        )
    },
    "mindspore.nn.layer.activation:ReLU": "Activation",
    "mindspore.mint.nn.layer.activation:SiLU": "Activation",
    "mindspore.nn.layer.normalization:LayerNorm": "LayerNorm",
    "mindspore.nn.layer.normalization:LayerNormExt": "LayerNorm",
    f"{_MODELS}.gemma3.modeling_gemma3:Gemma3TextScaledWordEmbedding": "ScaledEmbedding",
    f"{_MODELS}.llama.modeling_llama:LlamaRotaryEmbedding": "Rotary",
    f"{_MODELS}.mistral.modeling_mistral:MistralRotaryEmbedding": "Rotary",
    f"{_MODELS}.qwen2.modeling_qwen2:Qwen2RotaryEmbedding": "Rotary",
    f"{_MODELS}.qwen3.modeling_qwen3:Qwen3RotaryEmbedding": "Rotary",
    f"{_MODELS}.llama.modeling_llama:LlamaDecoderLayer": "Layer",
    f"{_MODELS}.mistral.modeling_mistral:MistralDecoderLayer": "TupleLayer",
    f"{_MODELS}.qwen2.modeling_qwen2:Qwen2DecoderLayer": "TupleLayer",
    f"{_MODELS}.qwen3.modeling_qwen3:Qwen3DecoderLayer": "TupleLayer",
}
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
    return [_adapter(name, found) for name, found in read().items()]


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    """Give what replaces MindSpore One's cells on CPU."""
    targets = {cell: f"{_CELLS}:{name}" for cell, name in _REPLACEMENTS.items()}
    targets |= dict.fromkeys(norms(), f"{_CELLS}:RMSNorm")
    for family, name in _BERTS.items():
        module = f"{_MODELS}.{family}.modeling_{family}"
        targets[f"{module}:{name}Layer"] = f"{_HERE}.encoder:EncoderLayer"
        targets[f"{module}:{name}Embeddings"] = f"{_HERE}.encoder:Embeddings"
    return [
        LayerAdapter(f"mindone:{cell}", implementation, devices=("cpu",))
        for cell, implementation in targets.items()
    ]


def _adapter(name: str, found: Architecture) -> ModelAdapter:
    own = f"{_MODELS}.{found.family}.modeling_{found.family}:{name}"
    model = f"{_HERE}.encoder:EncoderModel" if found.pooling else f"{_HERE}.model:ModelForCausalLM"
    capabilities: frozenset[Capability] = frozenset()
    fused: dict[str, tuple[str, ...]] = {}
    if found.pooling:
        capabilities, fused = frozenset({Capability.TENSOR_PARALLEL}), {"qkv_proj": ("query", "key", "value")}
    elif found.family in _WHOLE:
        capabilities, fused = INHERITED, FUSED
    return ModelAdapter(
        name,
        own if found.refused else model,
        capabilities=capabilities,
        devices=("cpu",),
        dtypes=found.dtypes,
        packed_modules_mapping=fused,
        example_config=found.example_config or {},
        refused=found.refused,
        pooling=found.pooling,
    )
