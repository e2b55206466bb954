"""The commands that need vLLM; they join ``mszoo`` through the entry point group ``mszoo.commands``."""
