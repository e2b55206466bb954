"""A machine with Ascend NPUs: its facts, and what is wrong with them; the doctor asks, and vLLM's start."""
