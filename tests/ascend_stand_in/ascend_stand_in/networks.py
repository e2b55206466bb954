"""MindSpore Transformers' networks as they are on NPU, but for the Ascend ops."""

from typing import Any

from ascend_stand_in.ascend_ops import use_stand_ins
from mszoo.adapters.mindformers import ascend


class OnStandIns(ascend.OwnNetwork):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: dict[str, int] = {}
        use_stand_ins(self.suite, self.calls)
