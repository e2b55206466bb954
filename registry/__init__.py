"""The registry of MindSpore model adapters for vLLM: what a suite needs to register its models.

The ground floor: it imports nothing of vLLM, torch, MindSpore or mszoo's other packages. By what it is about:

* hooks and records: hookspecs, records, validation, devices (the table of devices), errors
* finding plugins: entry_points, plugins, discovery, hookcalls
* what plugins' code can't do: containment, process_state, streams, intake
* what comes from outside and goes out: text, json_text, files
* from candidates to decisions: candidates, availability, ranking, decisions, catalog
* the lock: lock (its file), lock_plugins, lock_check, fingerprints
* settings, and load, where all of it comes together; objects (``module:object``); versions
* cli: the ``mszoo`` command
"""

from mszoo.registry.errors import MszooError
from mszoo.registry.finding import Finding
from mszoo.registry.hookspecs import HOOK_VERSION, hookimpl
from mszoo.registry.records import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite

__all__ = [
    "HOOK_VERSION",
    "Capability",
    "Finding",
    "LayerAdapter",
    "ModelAdapter",
    "MszooError",
    "OpAdapter",
    "Suite",
    "hookimpl",
]
