"""Loads vLLM's op library and says, op by op, whether it takes what mszoo passes.

Versions of vLLM differ in the arguments of their ops. A caller names the op here before it relies on it, and gets
the reason in words where the op is lacking or takes something else; :data:`OPS` has what each call passes.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from mszoo.registry.errors import RefusalError


@dataclass(frozen=True)
class Call:
    """How mszoo calls one of vLLM's ops.

    Attributes:
        forms: argument names that the call can be made with, by the op's schema; the caller passes those of the
            first form that fits, and leaves what the schema has behind them to its defaults.
        serves: what doesn't work without the op.
    """

    forms: tuple[tuple[str, ...], ...]
    serves: str


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_BEFORE_WINDOW = _names(
    "query key_cache value_cache output query_start_loc seq_lens scale causal alibi_slopes"
)
_AFTER_WINDOW = _names("block_table softcap scheduler_metadata s_aux")
_COMPILED = "the compiled decoder layer (layers then run op by op)"
_CPU_SET = "the cpu kernel set"

#: By name in the namespace ``_C``.
OPS: dict[str, Call] = {
    "rms_norm": Call((_names("out input weight epsilon"),), _CPU_SET),
    "fused_add_rms_norm": Call((_names("input residual weight epsilon"),), _CPU_SET),
    "rotary_embedding": Call((_names("positions query key head_size cos_sin_cache is_neox"),), _CPU_SET),
    "onednn_mm": Call((_names("c a bias handler_tensor"),), _COMPILED),
    "cpu_attn_reshape_and_cache": Call(
        (_names("key value key_cache value_cache slot_mapping isa"),), _COMPILED
    ),
    "cpu_attention_with_kv_cache": Call(
        (
            (*_BEFORE_WINDOW, "sliding_window_size", *_AFTER_WINDOW, "dynamic_causal"),
            (*_BEFORE_WINDOW, "sliding_window_left", "sliding_window_right", *_AFTER_WINDOW),
        ),
        _COMPILED,
    ),
    "cpu_fused_moe": Call(
        (_names("output input w13 w2 w13_bias w2_bias topk_weights topk_id skip_weighted act isa"),),
        "compiled experts (they then run op by op)",
    ),
}
#: The ops of the ``cpu`` kernel set's Python functions.
CPU_SET = ("rms_norm", "fused_add_rms_norm", "rotary_embedding")
#: The ops that csrc calls; it reads their schemas too, and fills their arguments by name.
COMPILED_LAYER = tuple(name for name in OPS if name != "cpu_fused_moe")
COMPILED_EXPERTS = ("cpu_fused_moe",)


@functools.cache
def load() -> str | None:
    """Load vLLM's op library into ``torch.ops._C``; return None, or why it can't be loaded."""
    try:
        import vllm._custom_ops  # noqa: F401  loads the build that fits this processor
    except (ImportError, OSError) as error:
        return f"vLLM's op library doesn't load ({error})"
    return None


def obstacle(names: Collection[str]) -> str | None:
    """Return which of these ops can't be called and what doesn't work without it, or None.

    Args:
        names: keys of :data:`OPS`.
    """
    problem = load()
    if problem is not None:
        return problem
    for name in names:
        problem = _mismatch(name)
        if problem is not None:
            return problem
    return None


def require(names: Collection[str]) -> Any:
    """Return the namespace of vLLM's ops, ``torch.ops._C``.

    Raises:
        RefusalError: one of these ops is lacking, or takes other arguments than mszoo passes.
    """
    problem = obstacle(names)
    if problem is not None:
        raise RefusalError(
            "vLLM",
            problem,
            "Install a vLLM that mszoo supports (mszoo doctor), or set MSZOO_KERNELS=mindspore",
        )
    return torch.ops._C


def fits(schema: list[tuple[str, bool]], call: Call) -> bool:
    """Say whether an op can be called in one of the forms of ``call``.

    Args:
        schema: the op's arguments in order, each with whether it has a default.
        call: how mszoo calls it.
    """
    names = tuple(name for name, _ in schema)
    return any(
        names[: len(form)] == form and all(default for _, default in schema[len(form) :])
        for form in call.forms
    )


def _mismatch(name: str) -> str | None:
    call = OPS[name]
    packet = getattr(torch.ops._C, name, None)
    if packet is None:
        return f"vLLM has no op {name}, and {call.serves} needs it"
    arguments = packet.default._schema.arguments
    schema = [(argument.name, argument.has_default_value()) for argument in arguments]
    if fits(schema, call):
        return None
    taken = ", ".join(argument.name for argument in arguments)
    return f"vLLM's op {name} takes ({taken}), which {call.serves} can't pass"
