"""What mszoo leans on in vLLM, checked against vLLM's sources; nothing of vLLM is imported.

``inventory.json`` lists every name, parameter and attribute with the feature that it serves. It is generated from
mszoo's own code by tests/tools/make_inventory.py.
"""
