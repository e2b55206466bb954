"""Suites' ops: for MindSpore models, for vLLM and for torch."""
