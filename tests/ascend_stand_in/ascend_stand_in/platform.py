"""The platform: out of tree, on CPU."""

import os
from typing import Any

from vllm.platforms.cpu import CpuPlatform
from vllm.platforms.interface import PlatformEnum

_START_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


class StandInPlatform(CpuPlatform):
    """A CPU that vLLM takes for a device of another package."""

    _enum = PlatformEnum.OOT

    def is_cpu(self) -> bool:
        """Let vLLM's CPU worker do its work; the platform is out of tree nevertheless."""
        return True

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Use our worker, and leave the start method as it was: vLLM's is fork."""
        before = os.environ.get(_START_METHOD)
        super().check_and_update_config(vllm_config)
        if before is None:
            del os.environ[_START_METHOD]
        else:
            os.environ[_START_METHOD] = before
        vllm_config.parallel_config.worker_cls = "ascend_stand_in.worker.StandInWorker"
        vllm_config.compilation_config.custom_ops = ["all"]
