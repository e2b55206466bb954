"""Ops as torch ops: ``torch.ops.<namespace>.<op>``, for torch code to call and torch.compile to trace.

A torch op takes and returns torch CPU tensors as its spec says; the implementation sees MindSpore views of the same
memory. It is functional, as torch.compile needs it: what the spec lets an implementation overwrite is copied first,
and so is an argument whose memory is not contiguous, and a result that lies in an argument's memory. Nothing else
is. Importing this module imports torch only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.library import Library, register_fake

from mszoo.kernels.spec import SPECS
from mszoo.registry.errors import RefusalError

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
    library.define(op + SPECS[op].schema)
    library.impl(op, _Call(namespace, op, functions), "CPU")
    register_fake(f"{namespace}::{op}", SPECS[op].fake, lib=library)


class _Call:
    """What torch calls: the exchange around an implementation."""

    def __init__(
        self, namespace: str, op: str, functions: Mapping[str, Callable[[], Callable[..., Any]]]
    ) -> None:
        self._name = f"torch.ops.{namespace}.{op}"
        self._functions = functions
        names = [part.split("=")[0].split()[-1] for part in _parameters(SPECS[op].schema)]
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
