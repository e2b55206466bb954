"""Puts mszoo's layers into a suite's own network of MindSpore cells, as the records in effect say.

The network stays the suite's: its cells, its order of computation. A cell that a record names gives its place to a
torch module of ours. Every weight ends up in the torch module tree of the model, under its checkpoint name: that
of a replaced cell in vLLM's layers, that of any other cell in a torch parameter whose memory the MindSpore
parameter views. vLLM's loader, tensor parallelism and LoRA then see one ordinary model, and weights exist once.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from mszoo.kernels import dispatch
from mszoo.kernels.exchange import TORCH_DTYPE, to_mindspore
from mszoo.layers.seam import CompilationConfig, get_current_vllm_config, init_logger
from mszoo.registry.containment import asks_to_end
from mszoo.registry.errors import PluginError

import mindspore as ms

logger = init_logger("vllm.mszoo.layers")

#: MindSpore's names of parameters, by the cells that have them, and the checkpoint's.
_LEAVES = (
    (ms.nn.Embedding, {"embedding_table": "weight"}),
    ((ms.nn.LayerNorm, ms.nn.GroupNorm), {"gamma": "weight", "beta": "bias"}),
)


class CellStays(Exception):
    """A replacement is not for this one cell; the text says why. The model may be served all the same."""


@dataclass(frozen=True)
class Replacement:
    """What takes the place of one class of cells.

    Attributes:
        implementation: ``module:Class``, constructed as ``Class(cell, prefix=name)``: ``cell`` is the suite's own
            (for its sizes), ``name`` the checkpoint's name of the module. The instance is a torch module whose
            forward takes and returns what the cell's construct does, and whose parameters have the checkpoint's
            names. It may raise CellStays: the cell then stays, and its children are visited. RefusalError is the
            whole model's.
        who: the suite and distribution that registered it.
        cure: what to do if it can't be loaded.
    """

    implementation: str
    who: str
    cure: str

    def load(self) -> Callable[..., Any]:
        """Import the implementation.

        Raises:
            PluginError: it can't be imported.
        """
        try:
            return dispatch.load(self.implementation)
        except (Exception, SystemExit, GeneratorExit) as error:
            if asks_to_end(error):
                raise
            raise PluginError(
                self.who,
                f"{self.implementation} can't be loaded ({type(error).__name__}: {error})",
                self.cure,
            ) from error


#: By class of the suite's cells, as ``module:Class``.
Replacements = Mapping[str, Replacement]


@dataclass(frozen=True)
class Replaced:
    """One cell that was replaced.

    Attributes:
        name: the checkpoint's name of the module.
        cell: the class of the suite's cell, as ``module:Class``.
        replacement: what took its place.
    """

    name: str
    cell: str
    replacement: Replacement


_current: ContextVar[Replacements] = ContextVar("mszoo_cells", default=MappingProxyType({}))


@contextlib.contextmanager
def building_with(replacements: Replacements) -> Iterator[None]:
    """Make ``replacements`` those of the model that is built inside."""
    token = _current.set(replacements)
    try:
        yield
    finally:
        _current.reset(token)


def replace_cells(
    network: ms.nn.Cell,
    model: torch.nn.Module,
    *,
    name_of: Callable[[str], str] = str,
    prefix: str = "",
    required: Collection[str] = (),
) -> tuple[Replaced, ...]:
    """Replace the cells that the records in effect name, outermost first, and give every weight to ``model``.

    Args:
        network: the suite's network, built without values for its parameters.
        model: gets the modules and parameters, under their checkpoint names.
        name_of: from a cell's path in ``network`` to the checkpoint's name of the module.
        prefix: prepended to the names that replacements get.
        required: classes of cells, as ``module:Class``, that the model can't be served with.

    Returns:
        What was replaced. The network computes with it from now on.

    Raises:
        CellStays: a replacement of a required class is not for one of its cells.
        PluginError: a replacement can't be loaded.
        RefusalError: a replacement can't honour what the model is.
        TypeError: a parameter has a dtype that torch lacks.
    """
    work = _Work(model, _current.get(), name_of, f"{prefix}." if prefix else "", required)
    work.visit(network, "")
    for (cell, replacement), count in Counter(
        (item.cell, item.replacement) for item in work.replaced
    ).items():
        logger.info(
            "mszoo: %d x %s replaced by %s (%s)", count, cell, replacement.implementation, replacement.who
        )
    return tuple(work.replaced)


def forget_layers(config: CompilationConfig, known: Collection[str]) -> None:
    """Undo the naming of layers that were made for nothing: theirs are the names of what is made instead.

    Args:
        config: where vLLM's attention and layers of experts put themselves as they are made.
        known: the layers to keep.
    """
    for name in set(config.static_forward_context) - set(known):
        del config.static_forward_context[name]
    config.static_all_moe_layers[:] = [name for name in config.static_all_moe_layers if name in known]


def kind_of(cell: ms.nn.Cell) -> str:
    """Return a cell's class as ``module:Class``."""
    return f"{type(cell).__module__}:{type(cell).__qualname__}"


class _Work:
    """One walk through a network."""

    def __init__(
        self,
        model: torch.nn.Module,
        replacements: Replacements,
        name_of: Callable[[str], str],
        dot: str,
        required: Collection[str],
    ) -> None:
        self.model, self.replacements, self.name_of, self.dot = model, replacements, name_of, dot
        self.required = required
        self.replaced: list[Replaced] = []
        # A cell or parameter that the network holds in two places (tied weights) stays one.
        self._seats: dict[int, Seat | None] = {}
        self._parameters: dict[int, tuple[torch.nn.Parameter, ms.Parameter]] = {}

    def visit(self, cell: ms.nn.Cell, path: str) -> None:
        """Replace what is below ``cell``, and adopt the parameters that stay."""
        for name, child in list(cell._cells.items()):
            if child is None:
                continue
            child_path = f"{path}.{name}" if path else name
            if id(child) not in self._seats:
                self._seats[id(child)] = self._replace(child, self.name_of(child_path))
                if self._seats[id(child)] is None:
                    self.visit(child, child_path)
            seat = self._seats[id(child)]
            if seat is not None:
                _put(cell, name, seat)
        self._adopt(cell, path)

    def _replace(self, cell: ms.nn.Cell, name: str) -> Seat | None:
        kind = kind_of(cell)
        found = self.replacements.get(kind)
        if found is None:
            return None
        config = get_current_vllm_config().compilation_config
        known = set(config.static_forward_context)
        try:
            module = found.load()(cell, prefix=self.dot + name)
        except CellStays as reason:
            if kind in self.required:
                raise
            logger.info_once("mszoo: %s stays: %s", kind, reason)
            forget_layers(config, known)
            return None
        owner, leaf = self._place(name)
        owner.add_module(leaf, module)
        self.replaced.append(Replaced(name, kind, found))
        return Seat(cell, owner, leaf)

    def _adopt(self, cell: ms.nn.Cell, path: str) -> None:
        leaves = next((names for kinds, names in _LEAVES if isinstance(cell, kinds)), {})
        for leaf, parameter in list(cell._params.items()):
            if parameter is None:
                continue
            if id(parameter) not in self._parameters:
                self._parameters[id(parameter)] = _shared(parameter)
            owned, view = self._parameters[id(parameter)]
            setattr(cell, leaf, view)
            dotted = self.name_of(f"{path}.{leaf}" if path else leaf)
            owner, name = self._place(dotted)
            owner.register_parameter(leaves.get(name, name), owned)

    def _place(self, name: str) -> tuple[torch.nn.Module, str]:
        """Return the module that holds ``name``, made where it's missing, and the last part of the name."""
        owner = self.model
        *parents, leaf = name.split(".")
        for part in parents:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        return owner, leaf


class Seat(ms.nn.Cell):
    """The place of a replaced cell: calls the module that has it now.

    The module is looked up at each call, since vLLM may replace it in the torch tree (LoRA). What else the suite
    reads off the cell (sizes, an index, a type of attention) is still the cell's own.

    Args:
        cell: the suite's cell.
        owner: the torch module that holds the replacement.
        leaf: its name there.
    """

    def __init__(self, cell: ms.nn.Cell, owner: torch.nn.Module, leaf: str) -> None:
        super().__init__(auto_prefix=False)
        # Past Cell's own attribute handling: neither is a part of the MindSpore network.
        self.__dict__.update(_cell=cell, _places=owner._modules, _leaf=leaf)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module; nothing of Cell's own call is needed in PyNative mode without gradients."""
        return self._places[self._leaf](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            cell = self.__dict__.get("_cell")
            if cell is None:  # Cell's constructor looks for optional methods
                raise
            return getattr(cell, name)


def _put(parent: ms.nn.Cell, name: str, seat: Seat) -> None:
    if isinstance(parent, (ms.nn.CellList, ms.nn.SequentialCell)):
        parent[int(name)] = seat
    else:
        setattr(parent, name, seat)


def _shared(parameter: ms.Parameter) -> tuple[torch.nn.Parameter, ms.Parameter]:
    """Return a torch parameter of the same shape and dtype, and a MindSpore parameter that views its memory."""
    dtype = TORCH_DTYPE.get(parameter.dtype)
    if dtype is None:
        raise TypeError(f"parameter {parameter.name} of {parameter.dtype} has no counterpart in torch")
    owned = torch.nn.Parameter(torch.zeros(tuple(parameter.shape), dtype=dtype), requires_grad=False)
    # Constructed around a placeholder: MindSpore copies a tensor that it makes a parameter of.
    view = ms.Parameter(ms.Tensor([0.0], ms.float32), name=parameter.name, requires_grad=False)
    view.assign_value(to_mindspore(owned.data))
    return owned, view
