"""The class that vLLM instantiates in place of one of its layers: vLLM's layer, computed by MindSpore.

The implementation that a LayerAdapter names is a class of its own; vLLM's layer keeps the parameters, the loading
and the tree of modules::

    class RMSNorm:
        def __init__(self, layer):                  # vLLM's layer, built and not yet loaded
            self.layer, self.view = layer, ParameterView()

        def __call__(self, x, residual=None):       # MindSpore tensors; arguments as of vLLM's forward
            weight = self.view.of(self.layer.weight)
            ...                                     # a MindSpore tensor, or a tuple of them

Its ``__init__`` raises RefusalError where it can't honour the layer's parameters; then the next candidate is asked,
and at last vLLM's own layer computes.

vLLM decides by its ``custom_ops`` option whether a ``CustomOp`` runs its device code or its torch-native code. Only
the device code (``forward_cpu``, ``forward_oot``) is MindSpore's; vLLM's torch-native code stays as it is, for
the compiler. A ``PluggableLayer`` has no such option: its ``forward`` is MindSpore's. In a compiled graph the call
is one opaque op, ``torch.ops.mszoo.layer``: arguments are tensors or None there, and vLLM's own forward says what
shapes it returns.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mszoo.adapters.vllm.device import start_mindspore
from mszoo.adapters.vllm.log import log
from mszoo.adapters.vllm.seam import CustomOp, get_current_vllm_config, get_forward_context
from mszoo.adapters.vllm.stages import stage
from mszoo.registry.catalog import Catalog
from mszoo.registry.decisions import Candidate
from mszoo.registry.errors import MszooError, RefusalError
from mszoo.registry.objects import load_object
from mszoo.registry.text import describe

_CONFIG_KEY = "mszoo_layers"


class Swap:
    """One replaced layer class in this process.

    Args:
        target: such as ``vllm:RMSNorm``.
        catalog: decides who computes it.

    Attributes:
        calls: how often MindSpore computed one of its layers, memory profiling included.
        computed_by: the candidates that compute its layers.
        custom_ops: vLLM's option of this name, as the layers found it.
        obeys_custom_ops: whether that option decides what runs; False for a PluggableLayer.
    """

    def __init__(self, target: str, catalog: Catalog) -> None:
        self.target = target
        self.name = target.partition(":")[2]
        self.calls = 0
        self.computed_by: dict[str, Candidate] = {}
        self.custom_ops: tuple[str, ...] = ()
        self.obeys_custom_ops = True
        self._catalog = catalog

    @property
    def is_enabled(self) -> bool:
        """Whether vLLM's custom_ops option lets the layers run their device code."""
        if not self.obeys_custom_ops:
            return True
        on = "all" in self.custom_ops or f"+{self.name}" in self.custom_ops
        return on and f"-{self.name}" not in self.custom_ops

    def bind(self, layer: torch.nn.Module, config: Any) -> Any:
        """Return the object that computes this layer, or None to leave it to vLLM; the log says why, once."""
        self.custom_ops = tuple(config.compilation_config.custom_ops)
        dtype = str(torch.get_default_dtype()).removeprefix("torch.")  # vLLM sets it while it builds a model
        decision = self._catalog.layer_decisions(dtype)[self.target]
        reasons = []
        for candidate in decision.chain:
            with stage(str(candidate.plugin), f"{candidate.adapter.implementation} was built") as failure:
                computation = self._build(candidate, layer)
            error = failure.error
            if type(error) is RefusalError:
                reasons.append(f"{candidate.suite.name}: {error}")
            elif error is not None:
                log.debug("mszoo: %s failed", candidate.qualified_name, exc_info=error)
                what = f"{candidate.adapter.implementation} can't be used ({describe(error)})"
                reasons.append(f"{candidate.plugin}: {what}. {candidate.plugin.cure}")
            else:
                if self._catalog.settings.lock is not None:
                    # Imported here: a lock is rare.
                    from mszoo.registry.lock_check import imported_refusal

                    other = imported_refusal(self._catalog.settings.lock)
                    if other is not None:
                        raise other
                self._salt(config, candidate)
                self.computed_by[candidate.qualified_name] = candidate
                if reasons:
                    log.warning_once(
                        "mszoo: %s goes to %s: %s", self.target, candidate.plugin, "; ".join(reasons)
                    )
                return computation
        unavailable = [item for item in decision.verdicts if item.status == "unavailable"]
        reasons += [f"{item.candidate.suite.name} {item.reason}" for item in unavailable]
        if self._catalog.settings.lock is not None:
            what = f"no implementation that MSZOO_LOCK names can compute this layer: {'; '.join(reasons)}"
            raise RefusalError(self.target, what, "Follow one of these hints, or unset MSZOO_LOCK")
        log.warning_once("mszoo: %s is computed by vLLM's own layer: %s", self.target, "; ".join(reasons))
        return None

    def _build(self, candidate: Candidate, layer: torch.nn.Module) -> Any:
        start_mindspore(self._catalog.device)
        return load_object(candidate.adapter.implementation)(layer)

    def _salt(self, config: Any, candidate: Candidate) -> None:
        """Tell vLLM's compile cache who computes: a graph that was compiled for another must not be loaded."""
        additional = config.additional_config
        if isinstance(additional, dict):
            who = f"{candidate.adapter.implementation} {candidate.plugin.source}"
            additional.setdefault(_CONFIG_KEY, {})[self.target] = who


class MindSporeLayer(torch.nn.Module):
    """What all replaced layers share; comes before vLLM's class in the order of bases."""

    swap: ClassVar[Swap]
    vllm_forward: ClassVar[Any]  # vLLM's own computation, a function of the layer and its arguments

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Imported here: MindSpore comes with it, and registration runs in every process.
        from mszoo.layers.model import outside_the_tree

        super().__init__(*args, **kwargs)
        config = get_current_vllm_config()
        # Not a submodule, even if it is a module: it holds this layer.
        outside_the_tree(self, computation=self.swap.bind(self, config))
        if self.computation is not None:
            # As vLLM's own opaque layers do: a compiled graph names the layer, the forward context holds it.
            layers = config.compilation_config.static_forward_context
            prefix = f"mszoo.{self.swap.name}."
            self.mszoo_key = f"{prefix}{sum(key.startswith(prefix) for key in layers)}"
            layers[self.mszoo_key] = self


def layer_class(vllm_layer: type[torch.nn.Module], swap: Swap) -> type[MindSporeLayer]:
    """Make the class that replaces one of vLLM's layer classes.

    Args:
        vllm_layer: a subclass of CustomOp or PluggableLayer.
        swap: what is known of it; one per class.
    """

    def own(method: str) -> Any:
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            if self.computation is None:
                return getattr(super(made, self), method)(*args, **kwargs)
            return _compute(self, args, kwargs)

        return forward

    is_custom_op = issubclass(vllm_layer, CustomOp)
    swap.obeys_custom_ops = is_custom_op
    methods = ("forward_cpu", "forward_oot") if is_custom_op else ("forward",)
    made = type(
        f"MindSpore{vllm_layer.__name__}",
        (MindSporeLayer, vllm_layer),
        {
            "__module__": __name__,
            "__doc__": f"vLLM's {vllm_layer.__name__}, computed by MindSpore.",
            "swap": swap,
            "vllm_forward": staticmethod(_native if is_custom_op else vllm_layer.forward),
            **{method: own(method) for method in methods},
        },
    )
    return made


def _native(layer: Any, *args: Any, **kwargs: Any) -> Any:
    return layer.forward_native(*args, **kwargs)


def _compute(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if not torch.compiler.is_compiling():
        return _run(layer, args, kwargs)
    outputs = torch.ops.mszoo.layer([*args, *kwargs.values()], ",".join(kwargs), layer.mszoo_key)
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _run(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    from mszoo.kernels.exchange import to_mindspore, to_torch

    from mindspore import Tensor

    def given(value: Any) -> Any:
        return to_mindspore(value) if isinstance(value, torch.Tensor) else value

    result = layer.computation(*map(given, args), **{name: given(value) for name, value in kwargs.items()})
    layer.swap.calls += 1
    for item in result if isinstance(result, tuple) else (result,):
        if not isinstance(item, Tensor):
            who = f"{type(layer.computation).__module__}:{type(layer.computation).__qualname__}"
            what = f"returned a {type(item).__name__} for {layer.swap.target}"
            raise MszooError(who, what, "Return a MindSpore tensor, or a tuple of them.")
    return tuple(map(to_torch, result)) if isinstance(result, tuple) else to_torch(result)


def _op(tensors: list[torch.Tensor | None], names: str, key: str) -> list[torch.Tensor]:
    """Compute a layer from within a compiled graph; `names` are those of the last arguments."""
    layer = get_forward_context().no_compile_layers[key]
    result = _run(layer, *_arguments(tensors, names))
    outputs = list(result) if isinstance(result, tuple) else [result]
    inputs = {item.data_ptr() for item in tensors if item is not None and item.numel()}
    # An op must not return its inputs; the compiler counts on it.
    return [item.clone() if item.data_ptr() in inputs else item.contiguous() for item in outputs]


def _fake_op(tensors: list[torch.Tensor | None], names: str, key: str) -> list[torch.Tensor]:
    layer = get_forward_context().no_compile_layers[key]
    args, kwargs = _arguments(tensors, names)
    mode: Any = next(item for item in tensors if item is not None).fake_mode  # type: ignore[attr-defined]
    state = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    fakes = {f"layer.{name}": mode.from_tensor(item, static_shapes=True) for name, item in state.items()}
    result = torch.func.functional_call(_Shapes(layer), fakes, args, kwargs)
    outputs = result if isinstance(result, tuple) else (result,)
    return [torch.empty(item.shape, dtype=item.dtype, device=item.device) for item in outputs]


class _Shapes(torch.nn.Module):
    """Runs vLLM's own forward of a layer, for the shapes of its results."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.vllm_forward(self.layer, *args, **kwargs)


def _arguments(tensors: list[torch.Tensor | None], names: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    keywords = names.split(",") if names else []
    first = len(tensors) - len(keywords)
    return tuple(tensors[:first]), dict(zip(keywords, tensors[first:], strict=True))


# The library object owns the op: it lives as long as this module.
_library = torch.library.Library("mszoo", "FRAGMENT")
_library.define("layer(Tensor?[] tensors, str names, str key) -> Tensor[]")
_library.impl("layer", _op, "CompositeExplicitAutograd")
torch.library.register_fake("mszoo::layer", _fake_op, lib=_library)
