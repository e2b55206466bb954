"""A stand-in for vllm-ascend: a platform of its own that computes on CPU.

It is not vllm-ascend and runs none of its code. It does what vllm-ascend does to vLLM: an out-of-tree platform, its
layer names registered without looking when a worker starts, models of its own, and fork as the start method.
"""


def register() -> str:
    """Give vLLM the platform."""
    return "ascend_stand_in.platform.StandInPlatform"


def register_model() -> None:
    """Give vLLM a model: lazily, by name."""
    from vllm import ModelRegistry

    ModelRegistry.register_model("Qwen2ForCausalLM", "ascend_stand_in.models:StandInQwen2ForCausalLM")
