"""A model of an architecture that mszoo has, too."""

from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM


class StandInQwen2ForCausalLM(Qwen2ForCausalLM):
    """vLLM's own under another name."""
