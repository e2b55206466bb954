"""Two of vLLM's own layers, computed by MindSpore."""
