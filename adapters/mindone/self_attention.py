"""Attention of MindSpore One's families, computed by mszoo's layers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mszoo.adapters.mindone.attention import Shape, shape_of
from mszoo.adapters.mindone.cells import Angles, norm_of
from mszoo.adapters.mindone.families import QKV, Family
from mszoo.adapters.mindone.projections import first, has, has_bias, own_tensors, sizes
from mszoo.layers import (
    Attention,
    Module,
    QKNorm,
    RMSNorm,
    apply_linear,
    current_model_config,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.cells import CellStays
from mszoo.layers.norm import Norm
from mszoo.layers.weights import Expected

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip

#: What turns queries and keys in a step: rows [T] of a table, and the table [T, R], R/2 cosines and as many sines.
Rotation = tuple[ms.Tensor, ms.Tensor]

# What families call the same thing.
_OUTPUT = ("o_proj", "dense", "out_proj", "c_proj")
_NORMED_LATE = "query_layernorm"
_HEAD_NORMS = (("q_norm", "k_norm"), (_NORMED_LATE, "key_layernorm"), ("q_layernorm", "k_layernorm"))
_TABLE = "embed_positions"


class SelfAttention(Module):
    """The attention of a family: fused projection, norms of heads, rotation, paged attention, output projection.

    Args:
        cell: the suite's attention.
        family: its family.
        prefix: its name.

    Raises:
        CellStays: it does something else too.
        RefusalError: as :class:`mszoo.layers.Attention`.
    """

    def __init__(self, cell: ms.nn.Cell, family: Family, prefix: str) -> None:
        super().__init__()
        config = getattr(cell, "config", None) or current_model_config().hf_config
        if getattr(config, "clip_qkv", None) is not None:
            raise CellStays(f"{prefix} clips queries, keys and values")
        shape = shape_of(cell, config, cell.layer_idx)
        self._heads = heads, kv_heads = heads_on_this_rank(shape.heads, shape.kv_heads)
        self._sizes = [heads * shape.size, kv_heads * shape.size, kv_heads * shape.size]
        self._family = family
        self._qkv_name, query_name = ("qkv_proj", "q_proj") if family.qkv is None else (family.qkv.name,) * 2
        query = getattr(cell, query_name)
        qkv = qkv_linear(
            sizes(query, family)[1],
            shape.size,
            shape.heads,
            shape.kv_heads,
            bias=has_bias(query),
            prefix=f"{prefix}.{self._qkv_name}",
        )
        self.add_module(self._qkv_name, qkv)
        self._groups = _groups(family.qkv, shape)
        self._norm_names = next((pair for pair in _HEAD_NORMS if has(cell, pair[0])), None)
        for name in self._norm_names or ():
            self.add_module(name, norm_of(getattr(cell, name)))
        self.norms_late = self._norm_names is not None and self._norm_names[0] == _NORMED_LATE
        self.__dict__["_norm_heads"] = self._norms_of_heads(shape.size)
        turns = family.rotates and _rotates(cell)
        self.rotation = ("pairs" if family.pairs else "halves") if turns else ""
        #: Cosines and sines, of a family whose attention has a table of its own.
        self.table = _own_table(cell) if turns and has(cell, _TABLE) else None
        self._rotate = dispatch.current().function("rotary_embedding")
        self.attn = Attention(
            heads,
            shape.size,
            shape.scale,
            kv_heads,
            sliding_window=shape.window,
            softcap=shape.softcap,
            prefix=f"{prefix}.attn",
        )
        self._output_name = first(cell, _OUTPUT)
        output = getattr(cell, self._output_name)
        projection = row_linear(
            shape.heads * shape.size,
            sizes(output, family)[0],
            bias=has_bias(output),
            prefix=f"{prefix}.{self._output_name}",
        )
        self.add_module(self._output_name, projection)

    def forward(self, x: ms.Tensor, turned: Rotation | None) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        qkv = apply_linear(self.qkv, x)
        if not self.norms_late:
            qkv = self._norm_heads(qkv)
        if turned is not None:
            qkv = self._rotate(turned[0], qkv, turned[1], *self._heads, self.rotation == "pairs")
        if self.norms_late:
            qkv = self._norm_heads(qkv)
        return apply_linear(self.output, self.attn(qkv))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        if self._family.qkv is None:
            return {}
        qkv = own_tensors(f"{name}.{self._qkv_name}", self.qkv, self._family, self._groups)
        return qkv | own_tensors(f"{name}.{self._output_name}", self.output, self._family)

    @property
    def qkv(self) -> torch.nn.Module:
        """The projection to queries, keys and values."""
        return self.get_submodule(self._qkv_name)

    @property
    def output(self) -> torch.nn.Module:
        """The output projection."""
        return self.get_submodule(self._output_name)

    @property
    def head_norms(self) -> tuple[Norm, Norm] | None:
        """The norms of queries and keys."""
        if self._norm_names is None:
            return None
        q_norm, k_norm = (getattr(self, name) for name in self._norm_names)
        return q_norm, k_norm

    def _norms_of_heads(self, head_size: int) -> Callable[[ms.Tensor], ms.Tensor]:
        """Return what norms queries and keys inside ``qkv``."""
        if self.head_norms is None:
            return lambda qkv: qkv
        q_norm, k_norm = self.head_norms
        if all(type(norm) is RMSNorm and norm.weight.shape == (head_size,) for norm in (q_norm, k_norm)):
            return QKNorm(q_norm, k_norm, *self._heads)
        return self._norm_parts

    def _norm_parts(self, qkv: ms.Tensor) -> ms.Tensor:
        assert self.head_norms is not None
        query, key, _ = to_torch(qkv).split(self._sizes, -1)
        for part, norm in zip((query, key), self.head_norms, strict=True):
            # The norm's width says whether each head is normed, or all together.
            rows = part.reshape(-1, norm.width).contiguous()
            part.copy_(to_torch(norm(to_mindspore(rows))).view(part.shape))
        return qkv


def rotation(
    embeddings: Angles | tuple[ms.Tensor, ms.Tensor], family: Family, dtype: torch.dtype
) -> Rotation:
    """Return what turns queries and keys: rows of a table of all positions, or a table of the step's.

    Args:
        embeddings: the suite's cosines and sines, [1, T, R] each, where each angle comes twice.
        family: says how they repeat.
        dtype: of queries and keys.
    """

    def table_of(cos: ms.Tensor, sin: ms.Tensor) -> ms.Tensor:
        both = to_torch(cos)[0], to_torch(sin)[0]
        once = slice(0, None, 2) if family.repeated else slice(both[0].shape[-1] // 2)
        return to_mindspore(torch.cat([angles[:, once] for angles in both], -1).to(dtype))

    if isinstance(embeddings, Angles):
        table = embeddings.table(table_of)
        if table is not None:
            return embeddings.rows, table
    cos, sin = embeddings
    made: Rotation | None = getattr(cos, "_mszoo_rotation", None)  # once for all layers of a step
    if made is None:
        table = table_of(cos, sin)
        made = cos._mszoo_rotation = to_mindspore(torch.arange(len(to_torch(table)))), table
    return made


def _own_table(cell: ms.nn.Cell) -> ms.Tensor:
    """Return cosines and sines [positions, R] of an attention that has sines and cosines of all positions.

    Raises:
        CellStays: it turns heads as if they were one.
    """
    if not cell.rotary_dim:
        raise CellStays(f"a {type(cell).__name__} has no rotary_dim")
    sines, cosines = to_torch(getattr(cell, _TABLE)).chunk(2, -1)
    return to_mindspore(torch.cat([cosines, sines], -1).to(torch.get_default_dtype()))


def _groups(qkv: QKV | None, shape: Shape) -> int:
    """Return in how many groups a checkpoint has queries, keys and values.

    Raises:
        CellStays: heads can't be shared out to them.
    """
    if qkv is None or shape.heads != shape.kv_heads:
        return 1
    groups = shape.heads if qkv.groups is None else qkv.groups
    if shape.heads % groups:
        raise CellStays(f"{shape.heads} heads don't make {groups} groups")
    return groups


def _rotates(cell: ms.nn.Cell) -> bool:
    """Return whether a layer's queries and keys are turned: some families leave out layers that see everything."""
    if hasattr(cell, "use_rope"):
        return bool(cell.use_rope)
    kind = type(cell).__name__
    if kind == "Cohere2Attention":
        return cell.sliding_window is not None
    if kind == "Exaone4Attention":
        return cell.sliding_window is None or bool(cell.is_sliding)
    return True
