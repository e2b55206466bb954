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
    def get_attn_backend_cls(
        cls, selected_backend: Any, attn_selector_config: Any, *args: Any, **kwargs: Any
    ) -> str:
        """Use our backend, but for attention on a latent cache."""
        if attn_selector_config.use_mla:
            return super().get_attn_backend_cls(selected_backend, attn_selector_config, *args, **kwargs)
        return "ascend_stand_in.attention.StandInBackend"

    @classmethod
    def check_and_update_config(cls, vllm_config: Any) -> None:
        """Use our worker, and leave as they were the start method, vLLM's fork, and how prompts are cut."""
        before = os.environ.get(_START_METHOD)
        scheduler = vllm_config.scheduler_config
        chunks = scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens
        super().check_and_update_config(vllm_config)
        # The CPU's attention on a latent cache takes whole prompts.
        scheduler.enable_chunked_prefill, scheduler.max_num_batched_tokens = chunks
        if before is None:
            del os.environ[_START_METHOD]
        else:
            os.environ[_START_METHOD] = before
        vllm_config.parallel_config.worker_cls = "ascend_stand_in.worker.StandInWorker"
        vllm_config.compilation_config.custom_ops = ["all"]
