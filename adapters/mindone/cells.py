"""What takes the place of MindSpore One's cells on CPU: vLLM's layers, and mszoo's own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from mszoo.layers import Module, TokenEmbedding, WholeLinear, current_model_config
from mszoo.layers import norm as norms
from mszoo.layers.cells import CellStays
from mszoo.models.config import DecoderConfig
from mszoo.models.decoder import DecoderLayer
from mszoo.models.llama import LlamaForCausalLM
from mszoo.models.mistral import MistralForCausalLM
from mszoo.models.phi3 import Phi3ForCausalLM
from mszoo.models.qwen2 import Qwen2ForCausalLM
from mszoo.models.qwen3 import Qwen3ForCausalLM

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.registry.errors import RefusalError  # isort: skip

_READERS = {
    "llama": LlamaForCausalLM.read_config,
    "mistral": MistralForCausalLM.read_config,
    "phi3": Phi3ForCausalLM.read_config,
    "qwen2": Qwen2ForCausalLM.read_config,
    "qwen3": Qwen3ForCausalLM.read_config,
}


class Linear(WholeLinear):
    """``x @ weight.T + bias``, for ``nn.Dense`` and ``mint.nn.Linear`` of MindSpore: [..., in] -> [..., out].

    Raises:
        CellStays: the cell applies an activation.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        if getattr(cell, "activation_flag", False):
            raise CellStays(f"{prefix} applies an activation")
        rows, columns = cell.weight.shape
        has_bias = isinstance(getattr(cell, "bias", None), ms.Parameter)
        super().__init__(columns, rows, bias=has_bias, prefix=prefix)


class Embedding(TokenEmbedding):
    """Rows of a table, for ``nn.Embedding`` and ``mint.nn.Embedding`` of MindSpore: [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        table = cell.embedding_table if isinstance(cell, ms.nn.Embedding) else cell.weight
        rows, columns = table.shape
        super().__init__(rows, columns, prefix=prefix)


class ScaledEmbedding(Embedding):
    """Rows of a table, scaled, for Gemma 3: [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__(cell, prefix=prefix)
        self.scale = torch.tensor(float(cell.embed_scale), dtype=self.weight.dtype)

    def forward(self, input: ms.Tensor) -> ms.Tensor:
        """Look up and scale."""
        return to_mindspore(to_torch(super().forward(input)) * self.scale)


class OffsetPositions(Embedding):
    """Rows of a table for positions that begin at an offset, for OPT: position_ids [...] -> [..., width]."""

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__(cell, prefix=prefix)
        self.offset = int(cell.offset)

    def forward(self, *_: Any, position_ids: ms.Tensor) -> ms.Tensor:  # type: ignore[override]  # the cell's own
        """Look up."""
        return super().forward(to_mindspore(to_torch(position_ids) + self.offset))


def norm_of(cell: ms.nn.Cell) -> norms.Norm:
    """Build mszoo's norm of a family's norm: [T, N] -> [T, N].

    Raises:
        CellStays: it isn't one of the known ones.
    """
    kind = type(cell).__name__
    if isinstance(cell, ms.nn.LayerNorm):
        return norms.LayerNorm(_width(cell), float(cell.epsilon), bias=cell.beta is not None)
    if isinstance(cell, ms.mint.nn.LayerNorm):
        offset = 1.0 if kind == "NemotronLayerNorm1P" else 0.0
        weight, bias = cell.weight is not None, cell.bias is not None
        return norms.LayerNorm(_width(cell), float(cell.eps), weight=weight, bias=bias, offset=offset)
    if kind == "OlmoLayerNorm":
        return norms.LayerNorm(_width(cell), 1e-5, weight=False, bias=False)
    if getattr(cell, "weight", None) is None or len(cell.weight.shape) > 1:
        raise CellStays(f"a {kind} has a norm for each head, or is none that mszoo knows")
    (width,) = cell.weight.shape
    if kind in ("CohereLayerNorm", "Cohere2LayerNorm"):
        return norms.LayerNorm(width, float(cell.variance_epsilon), bias=False)
    if kind.endswith("GemmaRMSNorm") or kind in ("Gemma2RMSNorm", "Gemma3RMSNorm"):
        return norms.GemmaRMSNorm(width, float(cell.eps))
    return norms.RMSNorm(width, float(cell.variance_epsilon))


def _width(cell: ms.nn.Cell) -> int:
    (width,) = cell.normalized_shape
    return int(width)


class RowNorm(Module):
    """A norm of a family that stands alone, on tensors of any rank: [..., N] -> [..., N].

    Raises:
        CellStays: it isn't one of the known ones.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        del prefix
        super().__init__()
        norm = norm_of(cell)
        self.__dict__["_norm"] = norm
        for name, parameter in norm.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, hidden_states: ms.Tensor) -> ms.Tensor:
        """Normalise."""
        x = to_torch(hidden_states)
        if x.is_contiguous():
            return to_mindspore(self._rows(x))
        # Heads before tokens, in memory the other way round: the rows are taken as they lie, or they were copied.
        leading = sorted(range(x.dim() - 1), key=x.stride, reverse=True)
        back = sorted(range(x.dim() - 1), key=leading.__getitem__)
        return to_mindspore(self._rows(x.permute(*leading, -1)).permute(*back, -1))

    def _rows(self, x: torch.Tensor) -> torch.Tensor:
        return to_torch(self._norm(to_mindspore(x.reshape(-1, x.shape[-1])))).view(x.shape)


#: By class of the cell.
_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "FastGELUActivation": functools.partial(functional.gelu, approximate="tanh"),
    "GELUActivation": functional.gelu,
    "GELUTanh": functools.partial(functional.gelu, approximate="tanh"),
    "NewGELUActivation": functools.partial(functional.gelu, approximate="tanh"),
    "ReLU": functional.relu,
    "ReLUSquaredActivation": lambda x: functional.relu(x).square(),
    "SiLU": functional.silu,
    "SiLUActivation": functional.silu,
}


class Activation(Module):
    """An activation by torch, on the same memory: [...] -> [...].

    MindSpore's CPU kernels of several have no bfloat16, and that of tanh is off by 1e-5.

    Raises:
        CellStays: all math is to be MindSpore's, or torch's isn't known.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__()
        stay_where_mindspore_computes()
        kind = type(cell).__name__
        if kind not in _ACTIVATIONS:
            raise CellStays(f"{kind} is none that mszoo knows")
        #: The same for a tensor of torch's.
        self.of = _ACTIVATIONS[kind]

    def forward(self, input: ms.Tensor) -> ms.Tensor:
        """Apply it."""
        return to_mindspore(self.of(to_torch(input)))


def activation(cell: ms.nn.Cell) -> Callable[[ms.Tensor], ms.Tensor]:
    """Return what computes an activation: torch, or the cell itself where MindSpore is to compute it."""
    try:
        return Activation(cell, prefix="")
    except CellStays:
        return cell  # type: ignore[no-any-return]


def stay_where_mindspore_computes() -> None:
    """Raise CellStays with a kernel set that leaves all math to MindSpore."""
    if dispatch.current().base != "cpu":
        raise CellStays("the kernel set computes with MindSpore alone")


#: Types of rotary embeddings whose angles depend on the position alone, not on how long a sequence is.
_STATIC_ROPES = ("default", "linear", "llama3", "yarn")


class Rotary(Module):
    """The rotary embedding of a family whose layers are replaced whole: computed once, for all positions.

    The suite's cell would compute cosines and sines in each step, and copy them as it goes. A layer that stays the
    suite's own gets those of its step, as from the cell.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        del prefix
        super().__init__()
        self.__dict__["_cell"] = cell
        self._is_static = getattr(cell, "rope_type", "default") in _STATIC_ROPES
        self._positions = current_model_config().max_model_len
        self._table: ms.Tensor | None = None

    def forward(self, x: ms.Tensor, position_ids: ms.Tensor) -> Angles:
        """Return the cosines and sines of a step, still to be computed: [1, T, hidden], [1, T]."""
        return Angles(self, position_ids, lambda ids: self._cell.construct(x, ids))

    def table(
        self, angles: Callable[[ms.Tensor], _Pair], of_pair: Callable[[ms.Tensor, ms.Tensor], ms.Tensor]
    ) -> ms.Tensor | None:
        """Return the table that ``of_pair`` makes of the cosines and sines of all positions, or None.

        None stands for angles that depend on more than a position.
        """
        if self._table is None and self._is_static:
            every = to_mindspore(torch.arange(self._positions)[None])
            self._table = of_pair(*angles(every))
        return self._table


_Pair = tuple[ms.Tensor, ms.Tensor]


class Angles:
    """The cosines and sines of a step; unpacks like the tuple that the suite's cell gives, [1, T, R] each.

    Args:
        rotary: whose they are.
        position_ids: [1, T].
        compute: makes cosines and sines of position ids.
    """

    def __init__(
        self, rotary: Rotary, position_ids: ms.Tensor, compute: Callable[[ms.Tensor], _Pair]
    ) -> None:
        self._rotary, self._position_ids, self._compute = rotary, position_ids, compute
        self._pair: _Pair | None = None

    def __iter__(self) -> Iterator[ms.Tensor]:
        if self._pair is None:
            self._pair = self._compute(self._position_ids)
        return iter(self._pair)

    def table(self, of_pair: Callable[[ms.Tensor, ms.Tensor], ms.Tensor]) -> ms.Tensor | None:
        """See :meth:`Rotary.table`."""
        return self._rotary.table(self._compute, of_pair)

    @property
    def rows(self) -> ms.Tensor:
        """The step's rows in the table, [T]."""
        return without_batch(self._position_ids)


class Layer(DecoderLayer):
    """A whole decoder layer of Llama, Mistral, Phi-3, Qwen2 or Qwen3, as mszoo's own models run it.

    Raises:
        CellStays: the config has something that the layer doesn't know.
    """

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        config = current_model_config().hf_config
        try:
            decoder: DecoderConfig = _READERS[config.model_type](config)
            super().__init__(decoder, decoder.sliding_windows[cell.self_attn.layer_idx], prefix)
        except RefusalError as refusal:  # leaf by leaf the suite's own layer may do
            raise CellStays(str(refusal)) from refusal
        self._by_torch = dispatch.current().base == "cpu"

    def forward(  # type: ignore[override]  # the cell's own
        self, hidden_states: ms.Tensor, position_ids: ms.Tensor, **_: Any
    ) -> ms.Tensor:
        """Return the layer's output with the residual stream added: [1, T, hidden], [1, T] -> [1, T, hidden].

        ``hidden_states`` may be overwritten, and then it is what is returned.
        """
        tokens = without_batch(hidden_states)
        x, residual = super().forward(without_batch(position_ids), tokens, None)
        if not self._by_torch:
            return ms.mint.add(x, residual).view(hidden_states.shape)
        to_torch(x).add_(to_torch(residual))
        return hidden_states if x is tokens else to_mindspore(to_torch(x)[None])


class TupleLayer(Layer):
    """A whole decoder layer of a family whose layers return a tuple, the output first."""

    def forward(  # type: ignore[override]
        self, hidden_states: ms.Tensor, position_ids: ms.Tensor, **_: Any
    ) -> tuple[ms.Tensor]:
        """Return the output alone in a tuple."""
        return (super().forward(hidden_states, position_ids),)


def with_batch(tensor: ms.Tensor) -> ms.Tensor:
    """Return a view with a first axis of size 1, and remember the tensor for :func:`without_batch`."""
    batched = to_mindspore(to_torch(tensor)[None])
    batched._mszoo_without_batch = tensor
    return batched


def without_batch(tensor: ms.Tensor) -> ms.Tensor:
    """Return a view without the first axis, of size 1; it is made once for all layers of a step."""
    view = getattr(tensor, "_mszoo_without_batch", None)
    if view is None:
        view = tensor._mszoo_without_batch = to_mindspore(to_torch(tensor)[0])
    return view
