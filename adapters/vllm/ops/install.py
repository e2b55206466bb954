"""Offers suites' ops to vLLM and torch: as providers of ``vllm.ir`` ops, and as torch ops.

Nothing runs by being offered. A provider runs where vLLM's own option names it, such as
``--ir-op-priority '{"rms_norm": ["mszoo_mindone"]}'``; a torch op where torch code calls
``torch.ops.mszoo_mindone.silu_and_mul``. What an implementation imports is imported at its first call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mszoo.adapters.vllm.device import start_mindspore
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.stages import stage
from mszoo.kernels import dispatch, torch_ops
from mszoo.kernels.spec import SPECS
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import PluginError
from mszoo.registry.text import describe


def install_ops(catalog: Catalog) -> None:
    """Define a torch op for every op of every suite, and a provider for those that vllm.ir has.

    Suite ``my-suite`` is provider ``mszoo_my_suite`` and namespace ``torch.ops.mszoo_my_suite``. Of several
    implementations by one suite, each dtype gets the first in rank. They exchange memory on CPU, so on other
    devices nothing is offered.
    """
    by_suite = _by_suite(catalog)
    if by_suite and catalog.device != "cpu":
        log.info("mszoo: ops are offered to vLLM and torch on cpu only, not on %s", catalog.device)
        return
    offered: dict[str, str] = {}
    for suite, ops in by_suite.items():
        provider = provider_name(suite)
        other = offered.setdefault(provider, suite)
        if other != suite:
            log.warning(
                "mszoo: ops of suite %r are not offered to vLLM and torch: suite %r has their provider name "
                "%s. Rename one suite.",
                suite,
                other,
                provider,
            )
            continue
        providing = []
        for op, candidates in ops.items():
            functions = {dtype: _Function(op, item, catalog.device) for dtype, item in candidates.items()}
            torch_ops.define(provider, op, functions)
            if op in _PROVIDERS and _provide(provider, op, tuple(functions)):
                providing.append(op)
        log.info(
            "mszoo: suite %s offers torch.ops.%s: %s; as --ir-op-priority provider: %s",
            suite,
            provider,
            ", ".join(ops),
            ", ".join(providing) or "none",
        )


def provider_name(suite: str) -> str:
    """Return the name of a suite as provider of vllm.ir ops and as namespace of torch ops."""
    return "mszoo_" + re.sub(r"\W", "_", suite.lower())


def _by_suite(catalog: Catalog) -> dict[str, dict[str, dict[str, Candidate]]]:
    """Return the available implementations of op specs: suite -> op -> dtype -> candidate."""
    found: dict[str, dict[str, dict[str, Candidate]]] = {}
    for op, decision in catalog.op_decisions().items():
        if op not in SPECS:
            continue  # a MindSpore primitive: its suite calls it itself
        for candidate in decision.chain:
            by_dtype = found.setdefault(candidate.suite.name, {}).setdefault(op, {})
            for dtype in candidate.adapter.dtypes:
                by_dtype.setdefault(dtype, candidate)
    return found


class _Function:
    """Gives an implementation; the first time, imports it and starts MindSpore."""

    def __init__(self, op: str, candidate: Candidate, device: str) -> None:
        self._op, self._candidate, self._device = op, candidate, device
        self._loaded: Callable[..., Any] | None = None

    def __call__(self) -> Callable[..., Any]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    def _load(self) -> Callable[..., Any]:
        plugin, path = self._candidate.plugin, self._candidate.adapter.implementation
        who = f"{self._op} of {self._candidate.suite.name} ({plugin.source})"
        start_mindspore(self._device)
        with stage(who, f"{path} was imported") as failure:
            function = dispatch.load(path)
        if failure.error is not None:
            error = failure.error
            hint = f"Mend the plugin, or leave {provider_name(self._candidate.suite.name)} out"
            raise PluginError(who, f"{path} can't be loaded ({describe(error)})", hint) from error
        log.info("mszoo: %s runs inside torch: %s", who, path)
        from mszoo.kernels.checked import checked  # MindSpore comes with it

        return checked(self._op, function, who, plugin.cure)


def _provide(provider: str, op: str, dtypes: tuple[str, ...]) -> bool:
    """Register a provider; one that vLLM doesn't take is reported and left out."""
    # Imported here: without ops of suites nobody needs it.
    from mszoo.adapters.vllm.seam import IrOp

    ir_op = IrOp.registry.get(op)
    if ir_op is None or provider in ir_op.impls:
        what = "has no such op" if ir_op is None else "already has a provider of that name"
        log.warning("mszoo: %s is not offered to vllm.ir as provider %s: vLLM %s", op, provider, what)
        return False
    implementation, supports = _PROVIDERS[op](
        getattr(getattr(torch.ops, provider), op), tuple(getattr(torch, dtype) for dtype in dtypes)
    )
    try:
        ir_op.register_impl(provider, supports_args=supports)(implementation)
    except Exception as error:  # another signature in another vLLM
        log.warning("mszoo: %s is not offered to vllm.ir as provider %s: %s", op, provider, describe(error))
        return False
    return True


Provider = tuple[Callable[..., Any], Callable[..., bool]]
TorchOp = Callable[..., Any]


# The functions below are traced by torch.compile, and vLLM compares their signatures with its own.
def _rms_norm(torch_op: TorchOp, dtypes: tuple[torch.dtype, ...]) -> Provider:
    def rms_norm(
        x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
    ) -> Tensor:
        return torch_op(x.reshape(-1, x.shape[-1]), weight, epsilon).view(x.shape)

    def supports(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
        return _fits(x, weight, variance_size, dtypes)

    return rms_norm, supports


def _fused_add_rms_norm(torch_op: TorchOp, dtypes: tuple[torch.dtype, ...]) -> Provider:
    def fused_add_rms_norm(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        width = x.shape[-1]
        y, residual = torch_op(x.reshape(-1, width), x_residual.reshape(-1, width), weight, epsilon)
        return y.view(x.shape), residual.view(x.shape)

    def supports(
        x: Tensor,
        x_residual: Tensor,
        weight: Tensor | None,
        epsilon: float,
        variance_size: int | None = None,
    ) -> bool:
        return _fits(x, weight, variance_size, dtypes) and x_residual.dtype == x.dtype

    return fused_add_rms_norm, supports


def _fits(
    x: Tensor, weight: Tensor | None, variance_size: int | None, dtypes: tuple[torch.dtype, ...]
) -> bool:
    """Say whether the op spec covers a call: vLLM's ops also norm without a weight, or by a part of a row."""
    if weight is None or variance_size is not None:
        return False
    return x.dtype in dtypes and weight.dtype == x.dtype and x.device.type == "cpu"


#: By op spec: the provider for the vllm.ir op of the same name and meaning.
_PROVIDERS: Mapping[str, Callable[[TorchOp, tuple[torch.dtype, ...]], Provider]] = {
    "rms_norm": _rms_norm,
    "fused_add_rms_norm": _fused_add_rms_norm,
}
