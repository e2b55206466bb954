"""What vLLM would serve alone: its own model, another plugin's, or Hugging Face's in its Transformers backend."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.vllm.seam import ModelRegistry, supports_pp
from mszoo.registry.errors import RefusalError


def registry_without_mszoo() -> Any:
    """Return vLLM's model registry as it would be if mszoo had registered nothing."""
    models = {}
    for name, entry in ModelRegistry.models.items():
        model_class: Any = getattr(entry, "model_cls", None)
        # One of mszoo's classes knows what it took the place of.
        before = model_class.vllm_entry if hasattr(model_class, "vllm_entry") else entry
        if before is not None:
            models[name] = before
    return type(ModelRegistry)(models)


def own_class(vllm_config: Any) -> Any:
    """Return the class that vLLM would make without mszoo: converted to a pooling model if that was asked for.

    Returns:
        None where vLLM alone has nothing for the model.

    Raises:
        RefusalError: it doesn't support the pipeline parallelism that was asked for.
    """
    model_config = vllm_config.model_config
    architectures = model_config.hf_config.architectures
    try:
        model_class, _ = registry_without_mszoo().resolve_model_cls(architectures, model_config)
    except ValueError:  # what vLLM raises for an architecture that it doesn't know
        return None
    if vllm_config.parallel_config.pipeline_parallel_size > 1 and not supports_pp(model_class):
        raise RefusalError(
            model_class.__name__,
            "neither mszoo's adapters nor vLLM's own model support --pipeline-parallel-size",
            "Serve without it",
        )
    return converted(model_class, model_config)


def converted(model_class: Any, model_config: Any) -> Any:
    """Return a class of vLLM's as vLLM converts it to a pooling model, if that was asked for."""
    # Imported here: half of vLLM comes with it, and registration runs in every process.
    from mszoo.adapters.vllm.seam import as_embedding_model, as_seq_cls_model

    convert = {"embed": as_embedding_model, "classify": as_seq_cls_model}
    conversion = convert.get(model_config.convert_type)
    return model_class if conversion is None else conversion(model_class)


def describe(model_class: type) -> str:
    """Say what a class of vLLM's is: by which way it serves, and ``module:Class``."""
    path = path_of(model_class)
    if ".models.transformers" in model_class.__module__:
        return f"Hugging Face's model in vLLM's Transformers backend ({path})"
    if model_class.__module__.startswith("vllm."):
        return f"vLLM's own model ({path})"
    return f"another plugin's model ({path})"


def path_of(model_class: type) -> str:
    """Return ``module:Class``; of a class that vLLM made for pooling, that of the model in it."""
    named = next(item for item in model_class.__mro__ if "<locals>" not in item.__qualname__)
    return f"{named.__module__}:{named.__qualname__}"
