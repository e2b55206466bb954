"""The tests that an adapter must pass, as pytest classes that any package subclasses.

A package that registers a model, layer or op with mszoo puts a class like this in its tests, and pytest runs
all standard tests for it::

    from mszoo.conformance import ModelConformance

    class TestMyModel(ModelConformance):
        architecture = "mysuite.MyForCausalLM"

There are three tiers. ``static`` needs neither vLLM nor MindSpore: the record, the class path, a light
registration. ``numeric`` compares results with a reference: a model's logits through a real vLLM engine with
Hugging Face's, an encoder's hidden states likewise, an op with float64, a layer with vLLM's own. ``engine`` serves
a model the hard way: batches, chunked prefill, cached prefixes, preemption, the features that its record declares.
``pytest --mszoo-tier static`` runs the tiers up to the named one. What the record declares decides which tests
apply.

``mszoo check`` runs the same classes for every adapter that is installed and writes a report. A package whose
adapter needs more than the plain class, such as a reference of its own or a reasoned expected failure, keeps
its class in an importable module and names that module in its pyproject, so that ``mszoo check`` uses it::

    [project.entry-points."mszoo.conformance"]
    mysuite = "mypackage.conformance"

A standard test may be overridden only with the mark ``pytest.mark.xfail(reason=...)``; the reason is shown in
the report. Tests of your own may be added freely.

Importing this package needs pytest, and none of vLLM, torch and MindSpore: ``pip install 'mszoo[conformance]'``.
"""

import pytest

# Before the modules are imported: assertions of these classes then show their values.
pytest.register_assert_rewrite(f"{__name__}.base", f"{__name__}.layers", f"{__name__}.models")
pytest.register_assert_rewrite(f"{__name__}.architectures", f"{__name__}.encoders", f"{__name__}.multimodal")
pytest.register_assert_rewrite(f"{__name__}.device", f"{__name__}.ops", f"{__name__}.suites")

from mszoo.conformance.base import engine, numeric, static  # noqa: E402
from mszoo.conformance.device import DeviceConformance  # noqa: E402
from mszoo.conformance.encoders import EncoderConformance  # noqa: E402
from mszoo.conformance.heads import HeadConformance  # noqa: E402
from mszoo.conformance.layers import LayerConformance  # noqa: E402
from mszoo.conformance.models import LibraryCopiesError, ModelConformance  # noqa: E402
from mszoo.conformance.multimodal import MultiModalConformance  # noqa: E402
from mszoo.conformance.ops import OpConformance  # noqa: E402
from mszoo.conformance.suites import SuiteConformance  # noqa: E402

__all__ = [
    "DeviceConformance",
    "EncoderConformance",
    "HeadConformance",
    "LayerConformance",
    "LibraryCopiesError",
    "ModelConformance",
    "MultiModalConformance",
    "OpConformance",
    "SuiteConformance",
    "engine",
    "numeric",
    "static",
]
