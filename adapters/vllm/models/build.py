"""Builds the MindSpore model of a decision: the first candidate that takes config, flags and files, and runs."""

from __future__ import annotations

import shlex
import traceback
from dataclasses import dataclass
from typing import Any

from mszoo.adapters.vllm.device import start_mindspore
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.models import dry_step, features, lacking, memory, ranks, sizes
from mszoo.adapters.vllm.models.checkpoint import Reader
from mszoo.adapters.vllm.ops.kernels import choose_loadable_kernels
from mszoo.adapters.vllm.stages import stage
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate, Decision
from mszoo.registry.errors import (
    BrokenCheckpointError,
    CheckpointError,
    MszooError,
    PluginError,
    RefusalError,
)
from mszoo.registry.objects import load_object
from mszoo.registry.text import describe


@dataclass(frozen=True)
class Built:
    """A model, who gave it, its kernels, and the files that vLLM's loader is to read (None: its pick)."""

    network: Any
    candidate: Candidate
    kernels: Any
    files: str | None


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
    checkpoint = Reader(vllm_config)
    for candidate in decision.chain:
        known = set(compilation.static_forward_context)
        packed_modules.clear()
        packed_modules.update(packed_modules_of(candidate))
        built, refusal = _try(candidate, requested_kernels, catalog, vllm_config, prefix, checkpoint)
        if refusal is None:
            return built, refusals
        refusals.append(refusal)
        if len(compilation.static_forward_context) > len(known):
            # Imported here: a refusal without it needs no MindSpore.
            from mszoo.layers.cells import forget_layers

            forget_layers(compilation, known)
    return None, refusals


def _try(
    candidate: Candidate,
    requested_kernels: str,
    catalog: Catalog,
    vllm_config: Any,
    prefix: str,
    checkpoint: Reader,
) -> tuple[Built | None, MszooError | None]:
    """Build a candidate's model and let it prove itself; return it, or why it doesn't serve.

    All ranks of tensor parallelism come to the same end: what one of them refuses is refused by all.
    """
    built: Built | None = None
    refusal: MszooError | None = None
    with stage(_who(candidate), "its model was built") as failure:
        built = _build(candidate, requested_kernels, catalog, vllm_config, prefix, checkpoint)
    if failure.error is not None:
        refusal = _refusal_of(candidate, failure.error)
    # Agreed on before the step, whose collective operations need every rank.
    refusal = refusal or ranks.other_refusal(candidate, vllm_config, refused=refusal is not None)
    if refusal is not None or built is None:
        return None, refusal
    with stage(_who(candidate), "its first step was tried") as failure:
        dry_step.prove(candidate, built.network, vllm_config, catalog.device)
    if failure.error is not None:
        refusal = _refusal_of(candidate, failure.error)
    return built, refusal or ranks.other_refusal(candidate, vllm_config, refused=refusal is not None)


def _refusal_of(candidate: Candidate, error: BaseException) -> MszooError:
    short = memory.shortage(candidate.qualified_name, error)
    # By the type itself: a class of the plugin's may do anything when it is asked for its text.
    if short is not None:
        refusal: MszooError = short
    elif type(error) in (RefusalError, CheckpointError, BrokenCheckpointError):
        refusal = error  # type: ignore[assignment]
    else:
        refusal = _failure(candidate, error)
        refusal.__cause__ = error  # an author needs the traceback
    if error.__cause__ is not None or refusal is not error:
        log.debug("mszoo: %s failed", candidate.qualified_name, exc_info=error)
    # The frames hold the network, and with it the memory that the next candidate needs.
    chain: BaseException | None = error
    while chain is not None:
        traceback.clear_frames(chain.__traceback__)
        chain = chain.__cause__ or chain.__context__
    return refusal


def packed_modules_of(candidate: Candidate) -> dict[str, list[str]]:
    """Return the fused layers that a candidate declares, as vLLM wants them."""
    return {name: list(parts) for name, parts in candidate.adapter.packed_modules_mapping.items()}


def _build(
    candidate: Candidate,
    requested_kernels: str,
    catalog: Catalog,
    vllm_config: Any,
    prefix: str,
    checkpoint: Reader,
) -> Built:
    features.check(candidate, vllm_config)
    lacking.check(candidate.qualified_name, vllm_config, catalog.device)
    if (
        not candidate.adapter.drafts
    ):  # a draft's config may be its target's, and its checkpoint lack embeddings
        sizes.check(vllm_config, checkpoint.found())
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
    from mszoo.adapters.vllm.models import claims, pooling
    from mszoo.adapters.vllm.models.cells import replacements
    from mszoo.adapters.vllm.seam import is_moe_model
    from mszoo.layers import cells

    in_cells = replacements(catalog, candidate.suite.name, dtype)
    with dispatch.building_with(kernels), cells.building_with(in_cells):
        network = model_class(vllm_config.model_config.hf_config, prefix=prefix)
    claims.must_be_a_model(candidate, network)
    # The record is the one truth; the model reads its checkpoint by it.
    network.packed_modules_mapping = candidate.adapter.packed_modules_mapping
    if vllm_config.model_config.convert_type in features.CONVERSIONS:
        network.drop_output_projection()
        network.set_aside += ("score.weight", "score.bias")  # of the head that vLLM adds, for classes
    claims.check(candidate, network, vllm_config)
    if vllm_config.lora_config is not None and is_moe_model(network):  # mszoo's experts keep out of its sight
        lacking.check_lora_on_experts(candidate.qualified_name, vllm_config, catalog.device)
    pooling.check(candidate, network, vllm_config)
    head = pooling.head_for_classes(vllm_config.model_config)
    return Built(network, candidate, kernels, checkpoint.check(network, head))


def _who(candidate: Candidate) -> str:
    return f"{candidate.qualified_name} of {candidate.plugin.source}"


def _failure(candidate: Candidate, error: BaseException) -> PluginError:
    who = _who(candidate)
    if isinstance(error, (ImportError, AttributeError)):
        what = f"{candidate.adapter.model} can't be loaded ({describe(error, place=False)})"
    else:
        what = f"building the model failed ({describe(error, place=False)})"
    return PluginError(
        who, what, f"Mend the plugin, or set MSZOO_DISABLE={shlex.quote(candidate.plugin.name)}"
    )
