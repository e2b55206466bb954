"""The records of native models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.adapters.decoder import FUSED, INHERITED, TINY
from mszoo.registry import Capability, ModelAdapter

#: What vLLM's fused layers hold of BERT's modules.
BERT_FUSED: Mapping[str, tuple[str, ...]] = {"qkv_proj": ("query", "key", "value")}


def decoder(
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


def encoder(
    architecture: str,
    module: str,
    common: Mapping[str, Any],
    fused: Mapping[str, tuple[str, ...]] = BERT_FUSED,
    **config: Any,
) -> ModelAdapter:
    """Return the record of an encoder; its name says whether it has a head, and what for.

    Args:
        architecture: the name in config.json, and of its class.
        module: of mszoo.models, that has the class.
        common, config: the fields of a tiny config.json.
        fused: what vLLM's fused layers hold of its checkpoints' modules.
    """
    tasks = {"ForSequenceClassification": "classify", "ForTokenClassification": "token_classify"}
    return ModelAdapter(
        architecture,
        f"mszoo.models.{module}:{architecture}",
        capabilities=frozenset({Capability.TENSOR_PARALLEL}),
        packed_modules_mapping=fused,
        example_config={**common, **config} | {"architectures": [architecture]},
        pooling="CLS",
        task=next((task for ending, task in tasks.items() if architecture.endswith(ending)), "embed"),
    )
