"""Layers of vLLM's own models, computed by MindSpore."""
