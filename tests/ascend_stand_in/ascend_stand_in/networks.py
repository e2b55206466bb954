"""MindSpore Transformers' networks as they are on NPU, but for the Ascend ops."""

from typing import Any

from ascend_stand_in.ascend_ops import use_stand_ins
from mszoo.adapters.mindformers import ascend, on_npu
from mszoo.layers import CausalLM


class OnStandIns(ascend.OwnNetwork):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: dict[str, int] = {}
        use_stand_ins(self.suite, self.calls)


def network(config: Any, *, prefix: str = "") -> CausalLM:
    """Return the model as the suite's own record does."""
    return on_npu.network(config, prefix=prefix, own=OnStandIns)
