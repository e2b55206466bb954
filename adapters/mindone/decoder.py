"""Decoder layers of MindSpore One's families, computed by mszoo's layers.

Sizes, biases and scales are read off the suite's cells, and how families differ beyond that is declared in
:mod:`mszoo.adapters.mindone.families`. The rotary embedding stays the suite's: its cosines and sines become the
table of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mszoo.adapters.mindone.attention import Shape, shape_of
from mszoo.adapters.mindone.cells import activation, norm_of, with_batch, without_batch
from mszoo.adapters.mindone.experts import MixtureOfExperts, activation_of, is_mixture
from mszoo.adapters.mindone.families import QKV, Family, family_of
from mszoo.layers import (
    Attention,
    FusedDecoderLayer,
    GatedActivation,
    Module,
    Parts,
    QKNorm,
    RMSNorm,
    apply_linear,
    column_linear,
    current_model_config,
    gate_up_linear,
    heads_on_this_rank,
    qkv_linear,
    row_linear,
)
from mszoo.layers.cells import CellStays
from mszoo.layers.norm import Norm
from mszoo.layers.residual import stream_sum
from mszoo.layers.weights import Expected, checkpoint_shape

import mindspore as ms  # isort: skip
from mszoo.kernels import dispatch  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip

#: What turns queries and keys in a step: rows [T] of a table, and the table [T, R], R/2 cosines and as many sines.
Rotation = tuple[ms.Tensor, ms.Tensor]

#: Activations as :class:`mszoo.layers.Parts` names them, by class of the suite's.
_ACTIVATIONS = {
    "FastGELUActivation": "gelu_tanh",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_tanh",
    "NewGELUActivation": "gelu_tanh",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
#: Those of a gated MLP, and what Hugging Face's configs call them.
_GATED = {"silu": "silu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}

# What families call the same thing.
_OUTPUT = ("o_proj", "dense", "out_proj", "c_proj")
_NORMED_LATE = "query_layernorm"
_HEAD_NORMS = (("q_norm", "k_norm"), (_NORMED_LATE, "key_layernorm"), ("q_layernorm", "k_layernorm"))
_MLP = ("mlp", "block_sparse_moe")
_UP_AND_DOWN = (
    ("up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("input_linear", "output_linear"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc_in", "fc_out"),
)
_ACTIVATION = ("act_fn", "activation_fn", "act", "activation")
_TABLE = "embed_positions"


class DecoderLayer(Module):
    """A family's decoder layer: attention and MLP on a residual stream, one after the other or side by side.

    Args:
        cell: the suite's decoder layer.
        prefix: its name.

    Raises:
        CellStays: it does something else too.
        RefusalError: as :class:`mszoo.layers.Attention`.
    """

    #: What comes after attention.
    feed_forward: MLP | MixtureOfExperts

    def __init__(self, cell: ms.nn.Cell, *, prefix: str) -> None:
        super().__init__()
        if _has(cell, "crossattention") or not getattr(cell, "do_layer_norm_before", True):
            raise CellStays(f"{prefix} attends to an encoder too, or norms the stream itself")
        family = self._family = family_of(type(cell).__module__)
        self._parallel = family.parallel or getattr(cell, "use_parallel_residual", False)
        attention = getattr(cell, family.attention)
        self.add_module(family.attention, SelfAttention(attention, family, f"{prefix}.{family.attention}"))
        if family.flat_mlp:
            mlp: MLP | MixtureOfExperts = MLP(cell, family, prefix, owner=self)
        else:
            name = _first(cell, _MLP)
            mlp = mlp_of(cell, family, prefix, name)
            self.add_module(name, mlp)
        self.__dict__["feed_forward"] = mlp
        #: GraniteMoeShared has the shared experts beside the mixture, not in it.
        self.shared_mlp = None
        if _has(cell, "shared_mlp"):
            self.shared_mlp = MLP(cell.shared_mlp, family, f"{prefix}.shared_mlp")
        names = [None if name is None or not _has(cell, name) else name for name in family.norms]
        for name in filter(None, names):
            self.add_module(name, norm_of(getattr(cell, name)))
        self._norm_names = names
        self._multiplier = float(getattr(cell, "residual_multiplier", 1.0))
        self._sum = stream_sum()
        # Gemma 3 has a rotary embedding for each kind of layer.
        kind = "local" if getattr(attention, "is_sliding", False) else "global"
        self._own_embeddings = f"position_embeddings_{kind}"
        self._is_dense = isinstance(self.feed_forward, MLP)
        # Experts get what they compute beside the stream.
        self.fused = FusedDecoderLayer(self._parts, carries=not self._is_dense)

    def forward(
        self,
        hidden_states: ms.Tensor,
        *_: Any,
        position_embeddings: tuple[ms.Tensor, ms.Tensor] | None = None,
        **others: Any,
    ) -> ms.Tensor | tuple[ms.Tensor]:
        """Compute what the cell does: [1, T, hidden] -> the same; ``hidden_states`` may be overwritten.

        What GPT-BigCode gives by place is None: a cache, masks, an encoder's states.
        """
        x = without_batch(hidden_states)
        turned: Rotation | None = None
        if self._attention.table is not None:
            turned = without_batch(others["position_ids"]), self._attention.table
        elif self._attention.rotation:
            given = others[self._own_embeddings] if position_embeddings is None else position_embeddings
            turned = rotation(given, self._family, to_torch(x).dtype)
        rows, table = (None, None) if turned is None else (turned[0], to_torch(turned[1]))
        fused = self.fused(rows, x, table=table)
        if fused is None:
            output = self._by_parts(x, turned)
        else:
            output = fused[0] if self._is_dense else self._add_mlp(*fused)
        batched = with_batch(output)
        return (batched,) if self._family.returns_tuple else batched

    @property
    def _attention(self) -> SelfAttention:
        attention = self._modules[self._family.attention]
        assert isinstance(attention, SelfAttention)
        return attention

    def _by_parts(self, x: ms.Tensor, turned: Rotation | None) -> ms.Tensor:
        """[T, hidden] -> [T, hidden], as decoder_layer.cpp does it."""
        before_attention, after_attention, before_mlp, _ = self._norms()
        multiplier = self._multiplier
        residual = x
        normed = residual if before_attention is None else before_attention(residual)
        x = self._attention(normed, turned)
        if self._parallel:
            beside = self.feed_forward(normed if before_mlp is None else before_mlp(residual))
            return self._sum(self._sum(residual, x, multiplier), beside, multiplier)
        if after_attention is not None:
            x = after_attention(x)
        if type(before_mlp) is RMSNorm and multiplier == 1.0:
            x, residual = before_mlp(x, residual)
        else:
            residual = self._sum(residual, x, multiplier)
            x = residual if before_mlp is None else before_mlp(residual)
        return self._add_mlp(x, residual)

    def _add_mlp(self, x: ms.Tensor, residual: ms.Tensor | None) -> ms.Tensor:
        """Return the stream and what the MLP makes of ``x``, the normed stream: [T, hidden] each."""
        before_mlp, after_mlp = self._norms()[2:]
        if before_mlp is None:
            x = residual
        y = self.feed_forward(x)
        if self.shared_mlp is not None:
            to_torch(y).add_(to_torch(self.shared_mlp(x)))
        if after_mlp is not None:
            y = after_mlp(y)
        return self._sum(residual, y, self._multiplier)

    def _norms(self) -> list[Norm | None]:
        return [None if name is None else getattr(self, name) for name in self._norm_names]

    def _parts(self) -> Parts:
        before_attention, after_attention, before_mlp, after_mlp = self._norms()
        attention = self._attention
        mlp = self.feed_forward if isinstance(self.feed_forward, MLP) else None
        return Parts(
            before_attention=before_attention,
            after_attention=after_attention,
            before_mlp=before_mlp,
            after_mlp=after_mlp,
            qkv_proj=attention.qkv,
            head_norms=attention.head_norms,
            attn=attention.attn,
            o_proj=attention.output,
            up_proj=None if mlp is None else mlp.up,
            activation="" if mlp is None else mlp.activation,
            down_proj=None if mlp is None else mlp.down,
            rotation=attention.rotation,
            norms_late=attention.norms_late,
            parallel=self._parallel,
            multiplier=self._multiplier,
        )


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
        self._qkv_name, first = ("qkv_proj", "q_proj") if family.qkv is None else (family.qkv.name,) * 2
        query = getattr(cell, first)
        qkv = qkv_linear(
            _sizes(query, family)[1],
            shape.size,
            shape.heads,
            shape.kv_heads,
            bias=_has_bias(query),
            prefix=f"{prefix}.{self._qkv_name}",
        )
        self.add_module(self._qkv_name, qkv)
        self._groups = _groups(family.qkv, shape)
        self._norm_names = next((pair for pair in _HEAD_NORMS if _has(cell, pair[0])), None)
        for name in self._norm_names or ():
            self.add_module(name, norm_of(getattr(cell, name)))
        self.norms_late = self._norm_names is not None and self._norm_names[0] == _NORMED_LATE
        self.__dict__["_norm_heads"] = self._norms_of_heads(shape.size)
        turns = family.rotates and _rotates(cell)
        self.rotation = ("pairs" if family.pairs else "halves") if turns else ""
        #: Cosines and sines, of a family whose attention has a table of its own.
        self.table = _own_table(cell) if turns and _has(cell, _TABLE) else None
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
        self._output_name = _first(cell, _OUTPUT)
        output = getattr(cell, self._output_name)
        projection = row_linear(
            shape.heads * shape.size,
            _sizes(output, family)[0],
            bias=_has_bias(output),
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


class MLP(Module):
    """A family's MLP: two products with an activation between, or the gated one.

    Args:
        cell: the suite's MLP.
        family: its family.
        prefix: its name.
        owner: the module that gets its projections; None for itself.

    Raises:
        CellStays: there is no gated op for its activation.
    """

    def __init__(
        self, cell: ms.nn.Cell, family: Family, prefix: str, owner: torch.nn.Module | None = None
    ) -> None:
        super().__init__()
        self._family = family
        # Past the module tree: vLLM may replace projections there (LoRA), and finds them once.
        self.__dict__["_owner"] = owner or self
        act = getattr(cell, _first(cell, _ACTIVATION))
        kind = _kind_of(act)
        gate = GatedActivation(gate_of(act, prefix)) if family.gated else None
        #: What lies between the products; a name where there is no gate.
        self.activation: GatedActivation | str = gate or kind
        self.__dict__["_act"] = gate or activation(act)
        up_name, down_name = next(pair for pair in _UP_AND_DOWN if _has(cell, pair[1]))
        up, down = getattr(cell, up_name, None), getattr(cell, down_name)
        hidden_size, width = _sizes(down, family)
        make_up: Callable[..., torch.nn.Module] = column_linear
        if family.gated:
            make_up = gate_up_linear
            if up is None or up.weight.shape[0] == width:  # not gate and up in one
                up_name, up = "gate_up_proj", getattr(cell, "gate_up_proj", up)
        self._names = up_name, down_name
        first = make_up(hidden_size, width, bias=_has_bias(up), prefix=f"{prefix}.{up_name}")
        second = row_linear(width, hidden_size, bias=_has_bias(down), prefix=f"{prefix}.{down_name}")
        self._owner.add_module(up_name, first)
        self._owner.add_module(down_name, second)

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down, self._act(apply_linear(self.up, x)))

    def checkpoint_tensors(self, name: str) -> dict[str, Expected]:
        """See :class:`mszoo.layers.weights.HasOwnTensors`."""
        if not self._family.transposed:
            return {}
        up_name, down_name = self._names
        up = own_tensors(f"{name}.{up_name}", self.up, self._family)
        return up | own_tensors(f"{name}.{down_name}", self.down, self._family)

    @property
    def up(self) -> torch.nn.Module:
        """The first product; of a gated MLP, gate and up."""
        return self._projection(0)

    @property
    def down(self) -> torch.nn.Module:
        """The second product."""
        return self._projection(1)

    def _projection(self, which: int) -> torch.nn.Module:
        owner: torch.nn.Module = self._owner
        return owner.get_submodule(self._names[which])


def own_tensors(name: str, linear: torch.nn.Module, family: Family, groups: int = 1) -> dict[str, Expected]:
    """Return, by checkpoint name, the tensors of a projection that its checkpoint has in another way.

    Args:
        name: the projection's, in the model and in the checkpoint.
        linear: the layer of vLLM's.
        family: says how.
        groups: of queries, keys and values, see :class:`mszoo.adapters.mindone.families.QKV`.
    """

    def load(parameter: torch.nn.Parameter, tensor: torch.Tensor) -> None:
        if family.transposed and tensor.dim() == 2:
            tensor = tensor.t()
        axis = getattr(parameter, "output_dim", None)  # None for what all rows share
        if groups > 1 and axis is not None and family.qkv is not None:
            parts = tensor.unflatten(axis, (groups, 3, -1)).unbind(axis + 1)
            in_order = (parts[family.qkv.order.index(part)] for part in "qkv")
            tensor = torch.cat([part.flatten(axis, axis + 1) for part in in_order], axis)
        parameter.weight_loader(parameter, tensor)

    table = {}
    for leaf, _ in linear.named_parameters():
        shape = checkpoint_shape(linear, leaf, None)
        if family.transposed and shape is not None:
            shape = shape[::-1]
        table[f"{name}.{leaf}"] = Expected(f"{name}.{leaf}", None, shape, load=load)
    return table


def mlp_of(layer: ms.nn.Cell, family: Family, prefix: str, name: str) -> MLP | MixtureOfExperts:
    """Return what takes the place of a layer's MLP, or of its mixture of experts.

    Args:
        layer: the suite's decoder layer.
        family: its family.
        prefix: its name.
        name: the MLP's, in the layer.

    Raises:
        CellStays, RefusalError: as :class:`MLP` and :class:`MixtureOfExperts`.
    """
    cell, path, mixture = getattr(layer, name), f"{prefix}.{name}", family.mixture
    if mixture is None or not is_mixture(cell):
        return MLP(cell, family, path)
    hidden_act = gate_of(activation_of(cell, mixture), path)
    shared = getattr(cell, mixture.shared, None)
    if shared is not None:
        shared = MLP(shared, family, f"{path}.{mixture.shared}")
    return MixtureOfExperts(cell, mixture, hidden_act, shared, path)


def gate_of(act: ms.nn.Cell, where: str) -> str:
    """Return a gate's activation, as Hugging Face's configs call it.

    Raises:
        CellStays: there is no gated op for it.
    """
    kind = _kind_of(act)
    if kind not in _GATED:
        raise CellStays(f"{where} has {kind} for its gate")
    return _GATED[kind]


def rotation(embeddings: tuple[ms.Tensor, ms.Tensor], family: Family, dtype: torch.dtype) -> Rotation:
    """Return what turns queries and keys, made once for all layers of a step.

    Args:
        embeddings: the suite's cosines and sines, [1, T, R] each, where each angle comes twice.
        family: says how they repeat.
        dtype: of queries and keys.
    """
    cos, sin = embeddings
    made: Rotation | None = getattr(cos, "_mszoo_rotation", None)
    if made is None:
        both = to_torch(cos)[0], to_torch(sin)[0]
        once = slice(0, None, 2) if family.repeated else slice(both[0].shape[-1] // 2)
        table = torch.cat([angles[:, once] for angles in both], -1).to(dtype)
        made = cos._mszoo_rotation = to_mindspore(torch.arange(len(table))), to_mindspore(table)
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


def _sizes(linear: ms.nn.Cell, family: Family) -> tuple[int, int]:
    """Return outputs and inputs of a projection."""
    rows, columns = linear.weight.shape
    return (columns, rows) if family.transposed else (rows, columns)


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


def _kind_of(act: ms.nn.Cell) -> str:
    return _ACTIVATIONS.get(type(act).__name__, type(act).__name__)


def _has(cell: ms.nn.Cell, name: str) -> bool:
    return getattr(cell, name, None) is not None


def _has_bias(cell: ms.nn.Cell) -> bool:
    return isinstance(getattr(cell, "bias", None), ms.Parameter)


def _first(cell: ms.nn.Cell, names: tuple[str, ...]) -> str:
    return next(name for name in names if _has(cell, name))
