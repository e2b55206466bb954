"""Counts the tensor copies that a model's own code makes in a step, in torch, MindSpore and numpy."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

_COPIES = frozenset({"aten::copy_", "aten::clone", "aten::_to_copy"})
_MAY_COPY = frozenset({"aten::to", "aten::reshape", "aten::contiguous", "aten::flatten", "aten::type_as"})
#: Methods that copy, or that leave for numpy, by name; whichever library's.
_METHODS = frozenset({"asnumpy", "copy", "clone", "numpy", "tolist", "contiguous", "from_numpy", "array"})
#: They call a decoder layer, or a part of one, that is one kernel; its working copies are its own.
_WHOLE_LAYERS = tuple(
    f"mszoo.layers.decoder.{name}"
    for name in ("compiled_layer", "compiled_latent", "compiled_mixture", "graph")
)
#: Its way to MindSpore is through numpy, without a copy.
_EXCHANGE = "mszoo.kernels.exchange"
_ASKED = ("torch", "mindspore", "numpy")
#: vLLM, and who brings it another platform's layers.
_VLLM = ("vllm", "vllm_ascend")
_LIBRARIES = (*_ASKED, *_VLLM)


@dataclass(frozen=True)
class Place:
    """Where something is copied.

    Attributes:
        what: the function that copies.
        module: the Python module of the line that calls it.
        line: the file's name and the line.
    """

    what: str
    module: str
    line: str

    def __str__(self) -> str:
        return f"{self.what} at {self.line}"

    def within(self, modules: Collection[str]) -> bool:
        """Return whether the line is in one of these modules or packages."""
        return any(f"{self.module}.".startswith(f"{name}.") for name in modules)


class CopyCounter(TorchDispatchMode):
    """Counts copies while it is entered; ``places`` tells how many, by what and where.

    Two nets are out. Torch's dispatcher sees every copy in torch, by whatever call; Python's profiler sees the
    calls of MindSpore's and numpy's copying methods. A copy belongs to the innermost Python code outside the
    libraries. What a kernel copies for itself, inside vLLM's layers or a kernel set, is not counted: the
    counter is about the data that a model hands on.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[Place] = Counter()
        self._before: Any = None

    def __enter__(self) -> CopyCounter:
        super().__enter__()
        self._before = sys.getprofile()
        sys.setprofile(self._profile)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.setprofile(self._before)
        super().__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.name().split(".")[0]
        moved = (
            name in _MAY_COPY and result.untyped_storage().data_ptr() != args[0].untyped_storage().data_ptr()
        )
        if name in _COPIES or moved:
            self._count(name, sys._getframe(1))
        return result

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call" and argument.__name__ in _METHODS:
            owner = type(getattr(argument, "__self__", None)).__module__.split(".")[0]
            if owner in ("mindspore", "numpy") or getattr(argument, "__module__", None) == "numpy":
                self._count(argument.__qualname__, frame)
        elif event == "call" and frame.f_code.co_name in _METHODS and _library(frame) == "mindspore":
            caller = frame.f_back
            if caller is not None and _library(caller) != "mindspore":
                self._count(f"mindspore {frame.f_code.co_name}", caller)

    def _count(self, what: str, frame: FrameType | None) -> None:
        # Out of torch, MindSpore, numpy and this file, to whoever asked for the copy.
        while frame is not None and (_library(frame) in _ASKED or _file(frame) == __file__):
            frame = frame.f_back
        shares = frame is not None and _module(frame) == _EXCHANGE and what.endswith("numpy")
        if frame is not None and not shares and not _is_kernel(frame):
            line = f"{Path(_file(frame)).name}:{frame.f_lineno}"
            self.places[Place(what, _module(frame), line)] += 1


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _library(frame: FrameType) -> str | None:
    name = _module(frame).split(".")[0]
    return name if name in _LIBRARIES else None


def _is_kernel(frame: FrameType) -> bool:
    module = _module(frame)
    kernels = module.startswith("mszoo.kernels.") and module != _EXCHANGE
    return kernels or module in _WHOLE_LAYERS or _library(frame) in _VLLM
