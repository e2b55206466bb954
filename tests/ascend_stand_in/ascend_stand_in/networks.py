"""MindSpore Transformers' networks as they are on NPU, but for the Ascend ops; a class by architecture."""

from typing import Any

from ascend_stand_in.ascend_ops import use_stand_ins
from mszoo.adapters.mindformers import ascend


def __getattr__(name: str) -> Any:
    """Make the class of an architecture."""
    if name.startswith("__"):
        raise AttributeError(name)

    class OnStandIns(getattr(ascend, name)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.calls: dict[str, int] = {}
            use_stand_ins(self.suite, self.calls)

    return OnStandIns
