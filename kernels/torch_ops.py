"""Ops as torch ops: ``torch.ops.<namespace>.<op>``, for torch code to call and torch.compile to trace.

A torch op takes and returns torch CPU tensors as its spec says; the implementation sees MindSpore views of the same
memory. It is functional, as torch.compile needs it: what the spec lets an implementation overwrite is copied first,
and so is an argument whose memory is not contiguous, and a result that lies in an argument's memory. Nothing else
is. Importing this module imports torch only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch.library import Library, register_fake

from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import RefusalError

#: How each op looks to torch. The names are those of the op's spec.
SCHEMAS: Mapping[str, str] = MappingProxyType(
    {
        "embedding": "(Tensor ids, Tensor weight) -> Tensor",
        "linear": "(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor",
        "rms_norm": "(Tensor x, Tensor weight, float eps) -> Tensor",
        "fused_add_rms_norm": "(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
        "qk_norm": "(Tensor qkv, Tensor q_weight, Tensor k_weight, float eps, int num_heads, int num_kv_heads) "
        "-> Tensor",
        "rotary_embedding": "(Tensor positions, Tensor qkv, Tensor cos_sin_cache, int num_heads, "
        "int num_kv_heads, bool interleaved=False) -> Tensor",
        "silu_and_mul": "(Tensor x) -> Tensor",
        "gelu_and_mul": "(Tensor x) -> Tensor",
        "gelu_tanh_and_mul": "(Tensor x) -> Tensor",
        "paged_attention": "(Tensor query, Tensor kv_cache, Tensor block_table, int[] query_start, "
        "int[] seq_lens, float scale, int num_kv_heads, int? sliding_window=None, float softcap=0.0) -> Tensor",
    }
)

# A library's ops live as long as it does.
_libraries: dict[str, Library] = {}


def define(namespace: str, op: str, functions: Mapping[str, Callable[[], Callable[..., Any]]]) -> None:
    """Define ``torch.ops.<namespace>.<op>``.

    Args:
        namespace: letters, digits and ``_``.
        op: the name of an op spec.
        functions: by dtype ("float32", ...), what gives the implementation: it takes and returns MindSpore
            tensors, as the spec says. Called at every call of the op, so it should remember its answer.
    """
    library = _libraries.setdefault(namespace, Library(namespace, "FRAGMENT"))
    library.define(op + SCHEMAS[op])
    library.impl(op, _Call(namespace, op, functions), "CPU")
    register_fake(f"{namespace}::{op}", _FAKES[op], lib=library)


class _Call:
    """What torch calls: the exchange around an implementation."""

    def __init__(
        self, namespace: str, op: str, functions: Mapping[str, Callable[[], Callable[..., Any]]]
    ) -> None:
        self._name = f"torch.ops.{namespace}.{op}"
        self._functions = functions
        names = [part.split("=")[0].split()[-1] for part in _parameters(SCHEMAS[op])]
        self._overwrites = [name in SPECS[op].overwrites for name in names]

    def __call__(self, *args: Any) -> Any:
        # Imported here: MindSpore comes with it, and ops are defined in processes that never call one.
        from mszoo.kernels.exchange import to_mindspore, to_torch

        function = self._functions.get(_dtype(args))
        if function is None:
            raise RefusalError(
                self._name,
                f"doesn't compute in {_dtype(args)}",
                f"It computes in {', '.join(self._functions)}",
            )
        # The implementation is loaded before MindSpore sees the first tensor: that starts MindSpore.
        implementation = function()
        overwrites = self._overwrites[: len(args)]
        given = [
            to_mindspore(value.clone() if overwritten else value.contiguous())
            if isinstance(value, torch.Tensor)
            else value
            for value, overwritten in zip(args, overwrites, strict=True)
        ]
        result = implementation(*given)
        memory = {value.data_ptr() for value in args if isinstance(value, torch.Tensor)}
        if isinstance(result, tuple):
            return tuple(_apart(to_torch(item), memory) for item in result)
        return _apart(to_torch(result), memory)


def _apart(result: torch.Tensor, memory: set[int]) -> torch.Tensor:
    """Return a contiguous result that shares no memory with the arguments: the compiler counts on it."""
    return result.clone() if result.data_ptr() in memory else result.contiguous()


def _parameters(schema: str) -> list[str]:
    return schema[1 : schema.index(")")].split(", ")


def _dtype(args: tuple[Any, ...]) -> str:
    """Return what the op computes in: the dtype of its first floating-point tensor."""
    for value in args:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return str(value.dtype).removeprefix("torch.")
    return "no floating-point dtype"


def _like(first: torch.Tensor, *_: Any) -> torch.Tensor:
    return first.new_empty(first.shape)


def _gated(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


# What torch.compile runs in place of an op: results of the right shape and dtype.
_FAKES: Mapping[str, Callable[..., Any]] = {
    "embedding": lambda ids, weight: weight.new_empty((*ids.shape, weight.shape[-1])),
    "linear": lambda x, weight, bias=None: x.new_empty((*x.shape[:-1], weight.shape[0])),
    "rms_norm": _like,
    "fused_add_rms_norm": lambda x, residual, weight, eps: (_like(x), _like(residual)),
    "qk_norm": _like,
    "rotary_embedding": lambda positions, qkv, *_, **__: _like(qkv),
    "silu_and_mul": _gated,
    "gelu_and_mul": _gated,
    "gelu_tanh_and_mul": _gated,
    "paged_attention": lambda query, kv_cache, *_: query.new_empty(
        (query.shape[0], query.shape[1] * query.shape[2])
    ),
}
