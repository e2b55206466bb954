"""A device without memory is told apart from a plugin that fails."""

from __future__ import annotations

import torch

from mszoo.adapters.vllm.models.memory import shortage
from mszoo.registry.errors import RefusalError


def test_both_libraries_words_are_known_and_causes_are_looked_at() -> None:
    said = "Device(id:0) memory isn't enough and alloc failed, kernel name: Default/x, alloc size: 8B."
    for error in (torch.OutOfMemoryError("NPU out of memory.\n Tried"), RuntimeError(f"\n{said}\n")):
        refused = RefusalError("native.M", "its first step raised", "mend it")
        refused.__cause__ = error
        for found in (error, refused):
            told = str(shortage("native.M", found))
            assert told.startswith("native.M: the device has no memory left for it (")
            assert " ".join(str(error).split()) in told


def test_other_errors_are_none() -> None:
    class Said(RuntimeError):
        def __str__(self) -> str:
            raise AssertionError("a plugin's class was asked for its text")

    for error in (RuntimeError("no kernel"), ValueError("memory isn't enough and alloc failed"), Said()):
        assert shortage("native.M", error) is None
