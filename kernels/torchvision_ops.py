"""Names the operators that torchvision's Python code looks for where its compiled part can't be loaded.

PyPI has torchvision as a CUDA build only. Beside the CPU build of torch its compiled part doesn't load, and
``import torchvision`` fails because two operators have no name, and with it ``import vllm``. With the names,
vLLM and its multimodal models start: what they take of torchvision is written in Python. The operators have
no kernel; calling one says so.
"""

from __future__ import annotations

import contextlib
from importlib.util import find_spec
from pathlib import Path

import torch

#: The operators that must have a name before torchvision is imported.
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
#: Kept: an operator goes with its library.
_libraries: list[torch.library.Library] = []


def define() -> None:
    """Define the operators if torch is built for CPU and torchvision for CUDA; torch calls it at its import.

    It is the entry point of mszoo in the group ``torch.backends``. It never raises: torch would not import.
    """
    if torch.version.cuda is not None or not _is_for_cuda():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        with contextlib.suppress(RuntimeError):  # somebody else has named it
            library.define(name + _SCHEMA)
    _libraries.append(library)


def _is_for_cuda() -> bool:
    """Return whether a torchvision is installed whose wheel brings CUDA's runtime."""
    try:
        spec = find_spec("torchvision")
    except (ImportError, ValueError):  # a finder or a half-removed package that can't say
        return False
    if spec is None or spec.origin is None:
        return False
    return any(Path(spec.origin).parents[1].glob("torchvision.libs/libcudart*"))
