"""Builds the MindSpore model of a decision: the first candidate that accepts the config and the flags."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mszoo.registry.bridge import features
from mszoo.registry.bridge.device import start_mindspore
from mszoo.registry.bridge.kernels import choose_loadable_kernels
from mszoo.registry.bridge.log import log
from mszoo.registry.catalog import Candidate, Catalog, Decision
from mszoo.registry.errors import MszooError, PluginError, RefusalError


@dataclass(frozen=True)
class Built:
    """A model, who gave it, and the kernels that it runs."""

    network: Any
    candidate: Candidate
    kernels: Any


def build(
    decision: Decision,
    requested_kernels: str,
    catalog: Catalog,
    vllm_config: Any,
    prefix: str,
    packed_modules: dict[str, list[str]],
) -> tuple[Built | None, list[MszooError]]:
    """Build the first candidate that doesn't refuse.

    Args:
        decision: the candidates in order.
        requested_kernels: ``MSZOO_KERNELS``.
        catalog: has the device and the decisions about ops.
        vllm_config: vLLM's config; it is vLLM's current one while the model is built.
        prefix: prepended to the layers' names.
        packed_modules: vLLM's quantization config holds this very dict, which it read off the wrapper's class;
            it is filled with what the candidate that is built declares.

    Returns:
        What was built, or None; and why each candidate before it refused.
    """
    refusals: list[MszooError] = []
    compilation = vllm_config.compilation_config
    for candidate in decision.chain:
        known = set(compilation.static_forward_context)
        packed_modules.clear()
        packed_modules.update(packed_modules_of(candidate))
        try:
            return _build(candidate, requested_kernels, catalog, vllm_config, prefix), refusals
        except RefusalError as refusal:
            refusals.append(refusal)
        except Exception as error:
            log.debug("mszoo: %s failed", candidate.qualified_name, exc_info=True)
            failure = _failure(candidate, error)
            failure.__cause__ = error  # an author needs the traceback
            refusals.append(failure)
        if len(compilation.static_forward_context) > len(known):
            # Imported here: a refusal without it needs no MindSpore.
            from mszoo.layers.cells import forget_layers

            forget_layers(compilation, known)
    return None, refusals


def packed_modules_of(candidate: Candidate) -> dict[str, list[str]]:
    """Return the fused layers that a candidate declares, as vLLM wants them."""
    return {name: list(parts) for name, parts in candidate.adapter.packed_modules_mapping.items()}


def load_object(path: str) -> Callable[..., Any]:
    """Import ``module:Class``.

    Raises:
        ImportError, AttributeError: as Python raises them.
    """
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def _build(
    candidate: Candidate, requested_kernels: str, catalog: Catalog, vllm_config: Any, prefix: str
) -> Built:
    features.check(candidate, vllm_config)
    from mszoo.kernels import dispatch

    start_mindspore(catalog.device)
    model_class = load_object(candidate.adapter.model)
    dtype = str(vllm_config.model_config.dtype).removeprefix("torch.")
    kernels, failures = choose_loadable_kernels(catalog, requested_kernels, dtype)
    for failure in failures:
        log.warning("mszoo: %s", failure)
    if kernels.from_suites:
        log.info(
            "mszoo: ops by suites: %s",
            "; ".join(
                f"{op} by {item.who} ({item.path}, kernel set {item.kernel_set}): {item.reason}"
                for op, item in kernels.from_suites.items()
            ),
        )
    # Imported here: half of vLLM comes with them, and registration runs in every process.
    from mszoo.layers import cells
    from mszoo.registry.bridge import claims
    from mszoo.registry.bridge.cells import replacements

    in_cells = replacements(catalog, candidate.suite.name, dtype)
    with dispatch.building_with(kernels), cells.building_with(in_cells):
        network = model_class(vllm_config.model_config.hf_config, prefix=prefix)

    claims.check(candidate, network, vllm_config)
    return Built(network, candidate, kernels)


def _failure(candidate: Candidate, error: Exception) -> PluginError:
    who = f"{candidate.qualified_name} of {candidate.plugin.distribution} {candidate.plugin.version}"
    if isinstance(error, (ImportError, AttributeError)):
        what = f"{candidate.adapter.model} can't be loaded ({type(error).__name__}: {error})"
    else:
        what = f"building the model failed ({type(error).__name__}: {error})"
    return PluginError(who, what, f"Mend the plugin, or set MSZOO_DISABLE={candidate.plugin.name}")
