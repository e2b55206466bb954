"""The standard tests of a layer adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from mszoo.conformance.base import AdapterConformance, available, catalog, numeric, static
from mszoo.registry.objects import load_object, missing_object

TOKENS = (1, 3, 17, 64)
WIDTH = 96
#: Arguments of vLLM's classes, and how many tensors of which width a call takes.
LAYERS: dict[str, tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = {
    "RMSNorm": ({"hidden_size": WIDTH, "eps": 1e-6}, ((WIDTH,), (WIDTH, WIDTH))),
    "GemmaRMSNorm": ({"hidden_size": WIDTH, "eps": 1e-6}, ((WIDTH,), (WIDTH, WIDTH))),
    "SiluAndMul": ({}, ((2 * WIDTH,),)),
    "MulAndSilu": ({}, ((2 * WIDTH,),)),
    "GeluAndMul": ({"approximate": "none"}, ((2 * WIDTH,),)),
    "NewGELU": ({}, ((WIDTH,),)),
    "FastGELU": ({}, ((WIDTH,),)),
    "QuickGELU": ({}, ((WIDTH,),)),
    "ReLUSquaredActivation": ({}, ((WIDTH,),)),
}


class LayerConformance(AdapterConformance):
    """The standard tests of one layer adapter::

        from mszoo.conformance import LayerConformance

        class TestMyNorm(LayerConformance):
            suite = "mysuite"
            target = "vllm:RMSNorm"

    The implementation is built on vLLM's own layer and compared with that layer's ``forward_native`` in float64,
    for odd numbers of tokens and every dtype that the record declares. A layer of vLLM's whose arguments are not
    known here needs ``arguments`` and ``inputs``. A cell of a suite's models is judged by the answers of the models
    that hold it; give ``expected`` and ``computed`` to compare it by itself.

    Troubleshooting. *Wrong with a residual*: the layer has to return both the result and the new residual.
    *Wrong in one dtype*: the record declares a dtype that the implementation doesn't compute. *Nothing changes
    when it is served*: ``mszoo explain`` and the log say whether vLLM instantiated the replacement.

    Attributes:
        suite: the suite's name.
        target: what is replaced, as the record says: ``vllm:<LayerClass>`` or ``<suite>:<module>:<Class>``.
        tolerance: by dtype, relative to the largest expected value.
    """

    kind = "layer"
    suite: str
    target: str
    tolerance = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the constructor, by name."""
        return dict(self._known()[0])

    def inputs(self, tokens: int, dtype: Any) -> list[tuple[Any, ...]]:
        """Return the arguments of each call: torch tensors for ``tokens`` tokens in torch's ``dtype``."""
        import torch

        generator = torch.Generator().manual_seed(tokens)
        return [
            tuple(torch.randn(tokens, width, generator=generator).to(dtype) for width in widths)
            for widths in self._known()[1]
        ]

    def _known(self) -> tuple[dict[str, Any], tuple[tuple[int, ...], ...]]:
        kind, _, name = self.target.partition(":")
        if kind != "vllm" or name not in LAYERS:
            pytest.fail(
                f"how to call {self.target} is not known here: override {type(self).__name__}.arguments "
                "and .inputs",
                pytrace=False,
            )
        return LAYERS[name]

    @classmethod
    def subject(cls) -> str:
        """Return ``suite.target``."""
        return f"{cls.suite}.{cls.target}"

    @classmethod
    def key(cls) -> tuple[str, str]:
        """Return the suite's name and the target."""
        return cls.suite, cls.target

    @static
    def test_target_exists(self) -> None:
        """vLLM has a layer of this name that it lets others replace; the suite has the class of cells."""
        from mszoo.registry.vllm_layers import modules_of, nearest_name

        kind, _, name = self.target.partition(":")
        if kind != "vllm":
            obstacle = self.find()[1]
            if obstacle is not None:
                pytest.skip(obstacle)
            if name.startswith("mindspore."):
                _installed("mindspore")
            missing = missing_object(name)
            assert missing is None, f"the replacement would never run: {missing}"
            return
        _installed("vllm")
        nearest = nearest_name(name)
        assert modules_of(name), f"vLLM has no replaceable layer {name}" + (
            f"; {nearest}?" if nearest else ""
        )

    def expected(self, tokens: int, dtype: str) -> list[Any]:
        """Return the exact results of each call: float64 torch tensors, or tuples of them."""
        import copy

        import torch

        exact = copy.deepcopy(self._vllm_layer()).double()
        return [
            exact.forward_native(*(tensor.double() for tensor in given))
            for given in self.inputs(tokens, getattr(torch, dtype))
        ]

    def computed(self, tokens: int, dtype: str) -> list[Any]:
        """Return the results of the implementation for the same calls: torch tensors, or tuples of them."""
        import torch

        from mszoo.kernels import runtime
        from mszoo.kernels.exchange import to_mindspore, to_torch

        runtime.prepare(catalog().device)
        computation = load_object(self.find()[0].adapter.implementation)(self._vllm_layer())
        results = []
        for given in self.inputs(tokens, getattr(torch, dtype)):
            result = computation(*map(to_mindspore, given))
            results.append(tuple(map(to_torch, result)) if isinstance(result, tuple) else to_torch(result))
        return results

    @numeric
    @pytest.mark.parametrize("tokens", TOKENS)
    def test_values(self, dtype: str, tokens: int) -> None:
        """The implementation gives what vLLM's own layer gives."""
        cls = type(self)
        if not self.target.startswith("vllm:") and cls.computed is LayerConformance.computed:
            pytest.skip(f"judged by the models that hold it: mszoo check {self.target.partition(':')[0]}")
        from mszoo.registry.vllm_layers import modules_of

        kind, _, name = self.target.partition(":")
        if (
            kind == "vllm" and find_spec("vllm") and not modules_of(name)
        ):  # test_target_exists fails with it, once
            pytest.skip(f"vLLM has no replaceable layer {name}, so there is nothing to compare with")
        available(cls)
        from mszoo.conformance.shadow import relative_error

        with _layers_enabled(dtype):
            pairs = list(zip(self.computed(tokens, dtype), self.expected(tokens, dtype), strict=True))
        for call, (ours, exact) in enumerate(pairs):
            got, want = _tuple(ours), _tuple(exact)
            assert len(got) == len(want), f"call {call} gives {len(got)} results instead of {len(want)}"
            for one, other in zip(got, want, strict=True):
                assert one.shape == other.shape
                assert str(one.dtype) == f"torch.{dtype}"
                error = relative_error(one, other)
                assert error <= self.tolerance[dtype], f"call {call} is off by {error:.1e}"

    def _vllm_layer(self) -> Any:
        """Make vLLM's own layer with random weights; the same ones each time."""
        import torch

        from mszoo.registry.vllm_layers import modules_of

        arguments = self.arguments()  # first: it says what to do about a layer that is not known here
        name = self.target.partition(":")[2]
        modules = modules_of(name)
        assert len(modules) == 1, f"vLLM has {len(modules)} replaceable layers {name}"
        (module,) = modules
        vllm_class = load_object(f"{module}:{name}")
        # Calling the class would make the replacement, where that is installed in this process.
        layer = object.__new__(vllm_class)
        layer.__init__(**arguments)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float32) * 0.1 + 1
                )
        return layer


def _installed(package: str) -> None:
    """Skip the test without a package whose classes it would look for."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'mszoo[cpu]'")


@contextlib.contextmanager
def _layers_enabled(dtype: str) -> Iterator[None]:
    """Let vLLM's layers be made as an engine makes them, each with its own kernel."""
    import torch

    from mszoo.conformance.seam import CompilationConfig, VllmConfig, set_current_vllm_config

    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with set_current_vllm_config(VllmConfig(compilation_config=CompilationConfig(custom_ops=["all"]))):
            yield
    finally:
        torch.set_default_dtype(before)


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
