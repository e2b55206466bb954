"""MindSpore model for vLLM, registered with mszoo."""
