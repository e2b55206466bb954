"""Who serves a model: a candidate's network, what vLLM would serve alone, or nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mszoo.adapters.vllm.models import lacking
from mszoo.adapters.vllm.models.build import Built, build
from mszoo.adapters.vllm.models.checkpoint import is_broken
from mszoo.adapters.vllm.models.own import own_class
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Decision
from mszoo.registry.errors import BrokenCheckpointError, MszooError, RefusalError


@dataclass(frozen=True)
class Choice:
    """Who serves: one of the first three is there.

    Args:
        built: a MindSpore model.
        own: the class that vLLM would serve alone.
        error: why nobody does.
        refusals: why each candidate that was asked and doesn't serve refused, in order.
        decision: who was asked, in order.
    """

    built: Built | None
    own: Any
    error: MszooError | None
    refusals: tuple[MszooError, ...]
    decision: Decision

    @property
    def reasons(self) -> str:
        """Why candidates refused."""
        return "; ".join(str(refusal) for refusal in self.refusals)


def choose(
    decision: Decision,
    requested_kernels: str,
    catalog: Catalog,
    vllm_config: Any,
    prefix: str,
    packed_modules: dict[str, list[str]],
) -> Choice:
    """Build the model of a decision, or say who else serves it; the arguments are those of build."""
    if catalog.selects_by_config:
        decision = catalog.decide(decision.subject, vllm_config.model_config.hf_config.to_dict())
    built, refusals = build(decision, requested_kernels, catalog, vllm_config, prefix, packed_modules)
    own, error = None, None
    if built is None:
        try:
            own, error = _without_us(decision, catalog, vllm_config, refusals)
        except RefusalError as refusal:
            error = refusal
    if catalog.settings.lock is not None and error is None:
        # Imported here: a lock is rare.
        from mszoo.registry.lock_check import imported_refusal

        error = imported_refusal(catalog.settings.lock)
        built = built if error is None else None
    return Choice(built, own, error, tuple(refusals), decision)


def _without_us(
    decision: Decision, catalog: Catalog, vllm_config: Any, refusals: list[MszooError]
) -> tuple[Any, MszooError | None]:
    """Return vLLM's class, or the error to raise in its place."""
    architecture, lock = decision.architecture, catalog.settings.lock
    reasons = "; ".join(str(refusal) for refusal in refusals)
    if lock is not None:
        return None, RefusalError(
            architecture,
            f"no implementation that MSZOO_LOCK={lock} names can serve this model: {reasons}",
            "Follow one of these hints, or unset MSZOO_LOCK to let vLLM's own model serve",
        )
    if is_broken(refusals):  # vLLM's own model would answer with whatever lies in its memory
        return None, next(item for item in refusals if isinstance(item, BrokenCheckpointError))
    own = None if decision.pinned else own_class(vllm_config)
    if own is not None:
        lacking.check(architecture, vllm_config, catalog.device)
        lacking.check_lora_on_experts(architecture, vllm_config, catalog.device)
        return own, None
    if len(refusals) == 1:
        return None, refusals[0]
    return None, RefusalError(
        architecture,
        f"no MindSpore implementation can serve this model: {reasons}",
        "Follow one of these hints",
    )
