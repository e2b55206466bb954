"""The bridge's logger: a child of vLLM's, so that its lines appear among vLLM's own.

vLLM's API process loads plugins before it configures logging: only warnings are seen there, engine and workers show
everything.
"""

from mszoo.adapters.vllm.seam import init_logger

log = init_logger("vllm.mszoo")
