"""The standard tests of an op adapter."""

from __future__ import annotations

from typing import Any

import pytest

from mszoo.conformance.base import AdapterConformance, available, catalog, numeric, static
from mszoo.kernels.spec import SPECS
from mszoo.registry.decisions import Candidate
from mszoo.registry.objects import load_object

#: Numbers of tokens: one, and those that no vector width or block divides.
TOKENS = (1, 3, 17, 64)
TOLERANCE = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


class OpConformance(AdapterConformance):
    """The standard tests of one op adapter::

        from mszoo.conformance import OpConformance

        class TestMyNorm(OpConformance):
            suite = "mysuite"
            op = "rms_norm"

    The op's spec in mszoo.kernels.spec gives the example and the tolerance; the implementation is called with
    MindSpore tensors and compared with the same computation in float64, for every dtype that the record
    declares. For a MindSpore primitive there is no spec: override ``example`` and ``reference``.

    Troubleshooting. *Wrong in one dtype*: the record declares a dtype that the implementation doesn't compute;
    declare fewer. *An input is overwritten*: only arguments that the spec lists as ``overwrites`` may be.
    *Right for 64 tokens and wrong for 17*: the tail of a vector or block is not handled.

    Attributes:
        suite: the suite's name.
        op: the op's name in mszoo.kernels.spec, or a primitive's.
        implementation: picks one of several implementations that the suite gives, as its record names it.
    """

    kind = "op"
    suite: str
    op: str

    def example(self, rng: Any, tokens: int) -> dict[str, Any]:
        """Return arguments by name: float32 or integer numpy arrays, and plain values."""
        if self.op in SPECS:
            return SPECS[self.op].example(rng, tokens)
        pytest.fail(
            f"{self.op} has no spec: override {type(self).__name__}.example and .reference", pytrace=False
        )

    def reference(self, **arguments: Any) -> Any:
        """Return the exact result, torch tensors in float64, of such arguments."""
        from mszoo.conformance.reference import reference

        return reference(self.op, arguments)

    @classmethod
    def subject(cls) -> str:
        """Return ``suite.op``, with the implementation if it was picked."""
        return f"{cls.suite}.{cls.op}" + (f" ({cls.implementation})" if cls.implementation else "")

    @classmethod
    def key(cls) -> tuple[str, str]:
        """Return the suite's name and the op's."""
        return cls.suite, cls.op

    @static
    def test_op_exists(self) -> None:
        """The op is one that models call, or a MindSpore primitive with a reference of its own."""
        assert self._has_reference(), f"{self.op} is no op of mszoo.kernels.spec; override reference for it"

    def _has_reference(self) -> bool:
        return self.op in SPECS or type(self).reference is not OpConformance.reference

    @numeric
    @pytest.mark.parametrize("tokens", TOKENS)
    def test_values(self, dtype: str, tokens: int) -> None:
        """The result is the reference's, within the spec's tolerance of the dtype, and inputs stay as they are."""
        if not self._has_reference():  # test_op_exists fails with it, once
            pytest.skip(f"{self.op} is no op of mszoo.kernels.spec, so there is nothing to compare with")
        candidate = available(type(self))
        import torch

        import numpy as np

        from mszoo.conformance.reference import as_torch, compare, exact

        function = _function(candidate)
        made = self.example(np.random.default_rng(tokens), tokens)
        given = {name: as_torch(value, getattr(torch, dtype)) for name, value in made.items()}
        passed = on_device(given, catalog().device)
        ours = call(function, passed)
        spec = SPECS.get(self.op)
        tolerance = (spec.tolerance if spec else TOLERANCE)[dtype]
        compare(self.op, dtype, ours, self.reference(**exact(given)), tolerance)
        changed = [
            name
            for name, value in given.items()
            if _is_tensor(value) and not torch.equal(value, passed[name].cpu())
        ]
        allowed = spec.overwrites if spec else ()
        assert set(changed) <= set(allowed), f"{self.op} overwrites {changed}, which callers go on using"


def _function(candidate: Candidate) -> Any:
    from mszoo.kernels import runtime

    runtime.prepare(catalog().device)
    return load_object(candidate.adapter.implementation)


def on_device(arguments: dict[str, Any], device: str) -> dict[str, Any]:
    """Return an op's arguments with copies of their torch tensors on a device."""
    return {
        name: value.to(device, copy=True) if _is_tensor(value) else value for name, value in arguments.items()
    }


def call(function: Any, arguments: dict[str, Any]) -> Any:
    """Call an implementation with MindSpore views of torch tensors; return its results in torch, on CPU."""
    from mszoo.kernels.exchange import to_mindspore, to_torch

    views = {name: to_mindspore(value) if _is_tensor(value) else value for name, value in arguments.items()}
    result = function(**views)
    return (
        tuple(to_torch(item).cpu() for item in result)
        if isinstance(result, tuple)
        else to_torch(result).cpu()
    )


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
