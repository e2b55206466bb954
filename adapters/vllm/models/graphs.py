"""vLLM's graphs of a device, which can't hold what MindSpore computes."""

from __future__ import annotations

from typing import Any

from mszoo.adapters.vllm.log import log


def turn_off(who: str, vllm_config: Any) -> None:
    """Let vLLM run every step of this engine's models as Python, and say so once.

    A captured graph holds what torch put on the stream that vLLM captures. MindSpore puts its ops on a stream of
    its own, so a replay would leave them out and answer with what lay in memory at the capture. vLLM asks the mode
    after a model is built, and wraps none where it is NONE.

    Args:
        who: the candidate that serves.
        vllm_config: vLLM's config, of this process.
    """
    compilation = vllm_config.compilation_config
    mode = compilation.cudagraph_mode
    if mode is None or mode == type(mode).NONE:
        return
    log.info(
        "mszoo: %s: vLLM's graphs (cudagraph_mode %s) are off: they can't hold MindSpore's ops",
        who,
        mode.name,
    )
    # As vLLM itself leaves them with --enforce-eager.
    compilation.cudagraph_mode = type(mode).NONE
    compilation.cudagraph_capture_sizes = []
    compilation.max_cudagraph_capture_size = 0
