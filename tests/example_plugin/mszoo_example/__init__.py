"""A model for vLLM, written in MindSpore and registered with mszoo."""
