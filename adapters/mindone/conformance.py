"""How mszoo's conformance tests the decoders of which MindSpore One's own cells compute a part in each step."""

from __future__ import annotations

from typing import Any

import pytest

from mszoo.adapters.mindone import mszoo_model_adapters
from mszoo.adapters.mindone.architectures import read
from mszoo.adapters.mindone.families import WHOLE
from mszoo.conformance import LibraryCopiesError, ModelConformance, engine
from mszoo.registry import ModelAdapter

_WHY = (
    "MindSpore One's own cells copy activations between their ops, and ops that neither MindSpore nor torch has a "
    "kernel of run in numpy, on copies"
)


def _in_part(adapter: ModelAdapter) -> type[ModelConformance]:
    """Make the class of a decoder of which a part stays the suite's: the suite's own copies are expected."""

    class Test(ModelConformance):
        """The standard tests; a copy that the adapter makes fails."""

        architecture = f"mindone.{adapter.architecture}"
        # The last two compute what the suite's cells ask for, its copies among it.
        library_modules = ("mindone", "mszoo.adapters.mindone.cpu_ops", "mszoo.adapters.mindone.torch_ops")

        @engine
        @pytest.mark.xfail(reason=_WHY, raises=LibraryCopiesError)
        def test_no_copies(self, tight: Any, checkpoint: Any) -> None:
            """As the standard test."""
            super().test_no_copies(tight, checkpoint)

    Test.__name__ = Test.__qualname__ = f"Test{adapter.architecture}"
    return Test


# Layers that turn queries and keys by a table of mszoo's leave nothing to the suite that copies.
globals().update(
    {
        f"Test{adapter.architecture}": _in_part(adapter)
        for adapter in mszoo_model_adapters()
        if not adapter.refused and not adapter.pooling and read()[adapter.architecture].family not in WHOLE
    }
)
