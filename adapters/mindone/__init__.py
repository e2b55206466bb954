"""The ``mindone`` suite: decoders of MindSpore One (mindone.transformers). Data only; nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Iterable

from mszoo.adapters.decoder import FUSED, INHERITED
from mszoo.adapters.mindone.architectures import Architecture, norms, read
from mszoo.registry import LayerAdapter, ModelAdapter, Suite, hookimpl

_CELLS = "mszoo.adapters.mindone.cells"
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


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite."""
    return Suite(
        "mindone",
        description="decoders of MindSpore One",
        requires=("mindone>=0.5,<0.6",),
        install="pip install --no-deps mindone==0.5.0",
    )


@hookimpl
def mszoo_model_adapters() -> Iterable[ModelAdapter]:
    """Give the decoders that the survey tried."""
    return [_adapter(name, found) for name, found in read().items()]


@hookimpl
def mszoo_layer_adapters() -> Iterable[LayerAdapter]:
    """Give what replaces MindSpore One's cells on CPU."""
    targets = _REPLACEMENTS | dict.fromkeys(norms(), "RMSNorm")
    return [
        LayerAdapter(f"mindone:{cell}", f"{_CELLS}:{implementation}", devices=("cpu",))
        for cell, implementation in targets.items()
    ]


def _adapter(name: str, found: Architecture) -> ModelAdapter:
    own = f"{_MODELS}.{found.family}.modeling_{found.family}:{name}"
    whole = found.family in _WHOLE
    return ModelAdapter(
        name,
        own if found.refused else "mszoo.adapters.mindone.model:ModelForCausalLM",
        capabilities=INHERITED if whole else frozenset(),
        devices=("cpu",),
        dtypes=found.dtypes,
        packed_modules_mapping=FUSED if whole else {},
        example_config=found.example_config or {},
        refused=found.refused,
    )
