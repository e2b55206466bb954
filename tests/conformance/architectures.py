"""What the standard tests of models share, of those that generate text and of encoders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from mszoo.conformance.base import AdapterConformance, available, static
from mszoo.conformance.checkpoints import Checkpoint
from mszoo.conformance.engines import Engines
from mszoo.registry.bases import foreign_bases
from mszoo.registry.decisions import Candidate


class ArchitectureConformance(AdapterConformance):
    """The standard tests of an adapter of an architecture.

    Attributes:
        architecture: the qualified name, ``<suite>.<Architecture>``.
        engine_options: of ``vllm.LLM``, for every engine.
    """

    architecture: str
    engine_options: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def subject(cls) -> str:
        """Return the qualified name."""
        return cls.architecture

    @classmethod
    def key(cls) -> tuple[str, str]:
        """Return the suite's name and the architecture's; fails the test if the name isn't qualified."""
        suite, dot, name = cls.architecture.rpartition(".")
        if not dot:
            pytest.fail(
                f"{cls.__name__}.architecture is {cls.architecture!r}: qualify it, such as native.{name}",
                pytrace=False,
            )
        return suite, name

    @pytest.fixture(scope="class")
    @classmethod
    def engines(cls) -> Iterator[Engines]:
        """The engines of this model, one at a time."""
        available(cls)
        engines = Engines(cls.architecture, cls.engine_options)
        yield engines
        engines.close()

    @static
    def test_model_is_one_that_vllm_can_be_given(self, candidate: Candidate) -> None:
        """The record's class is a model of mszoo.layers, as far as its package's sources tell."""
        path = candidate.adapter.model
        bases = foreign_bases(path)
        if bases is None or path.startswith("mszoo.") or candidate.adapter.refused:
            return
        assert any(base.startswith("mszoo.") for base in bases), (
            f"{path} is derived from {', '.join(sorted(bases)) or 'nothing'}, so vLLM can't be given it. Serve a "
            "network of MindSpore cells by a mszoo.layers.network.NetworkForCausalLM, as `mszoo new NAME --kind "
            "cells` writes it; otherwise derive it from mszoo.layers.CausalLM or Encoder"
        )

    @static
    def test_example_config(self, candidate: Candidate) -> None:
        """The record brings a tiny config.json of this architecture."""
        adapter = candidate.adapter
        config = dict(adapter.example_config)
        assert config, "example_config is missing: give the fields of a tiny config.json"
        assert json.loads(json.dumps(config)) == config, "example_config is not plain JSON"
        assert config.get("model_type"), "example_config has no model_type"
        named = config.get("architectures", [adapter.architecture])
        assert named == [adapter.architecture], f"example_config is of {named}"

    @static
    def test_packed_modules(self, candidate: Candidate) -> None:
        """Fused layers are named as their last part, and no checkpoint module belongs to two of them."""
        packed = candidate.adapter.packed_modules_mapping
        parts = [part for names in packed.values() for part in names]
        assert not [name for name in [*packed, *parts] if "." in name], "give the last part of each name"
        assert len(set(parts)) == len(parts), "a checkpoint module is fused twice"


def random_tokens(checkpoint: Checkpoint, length: int, seed: int) -> list[int]:
    """Return a prompt of random token ids, without the special ones at the start of the vocabulary."""
    vocabulary = checkpoint.vocab_size
    return random.Random(seed).choices(range(min(3, vocabulary - 1), vocabulary), k=length)
