"""Serving MindSpore models with vLLM: the wrapper that vLLM sees, and what builds and checks the model in it."""
