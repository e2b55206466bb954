"""The bridge's logger: a child of vLLM's, so that its lines appear among vLLM's own."""

from vllm.logger import init_logger  # configures vLLM's logging when it is imported

log = init_logger("vllm.mszoo")
