"""Names the operators that torchvision's Python code looks for where its compiled part can't be loaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch

#: The operators that must have a name before torchvision is imported.
_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
#: Kept: an operator goes with its library.
_libraries: list[torch.library.Library] = []


def define() -> None:
    """Define the operators if torch is built for CPU and torchvision for CUDA; torch calls it at its import."""
    if torch.version.cuda is not None or not _is_for_cuda():
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        library.define(name + _SCHEMA)
    _libraries.append(library)


def _is_for_cuda() -> bool:
    """Return whether a torchvision is installed whose wheel brings CUDA's runtime."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    return any(Path(spec.origin).parents[1].glob("torchvision.libs/libcudart*"))
