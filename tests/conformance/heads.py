"""The standard tests of a head that proposes tokens to another model."""

from __future__ import annotations

from mszoo.conformance.architectures import ArchitectureConformance


class HeadConformance(ArchitectureConformance):
    """The standard tests of a head's adapter: those of its record.

    What it computes shows with a target only: compare it there with vLLM's own head, and with the answers without
    it, which no head changes::

        from mszoo.conformance import HeadConformance

        class TestMyHead(HeadConformance):
            architecture = "mysuite.EagleMyForCausalLM"
    """

    kind = "head"
