"""The decoder layers of the ``mindspore`` kernel set as one MindSpore graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from mszoo.kernels import dispatch, graphs
from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers.decoder import path
from mszoo.layers.decoder.spec import AttentionSpec, DecoderLayerSpec, MLPSpec
from mszoo.layers.methods import MindSporeLinearMethod
from mszoo.layers.norm import RMSNorm
from mszoo.layers.seam import attention_context, cpu_backend
from mszoo.layers.step import Batch, Piece, current_step, rows_of, store

import mindspore as ms

if TYPE_CHECKING:
    from mszoo.layers.decoder.layer import DecoderLayer


class GraphPath:
    """Decides once, at the first step, whether all layers can run as one graph, and then does it.

    Args:
        layers: the decoder's.
        norm: the last norm.
    """

    def __init__(self, layers: Sequence[DecoderLayer], norm: torch.nn.Module) -> None:
        self._layers, self._norm, self._kernels = layers, norm, dispatch.current()
        self._wanted = path.is_wanted("mindspore")
        self._graph: DecoderGraph | None = None

    @property
    def runs(self) -> bool:
        """Whether the layers run as one graph, in the steps that a graph fits."""
        return self._graph is not None

    def __call__(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor | None:
        """Run layers and norm: [T], embeddings [T, hidden] -> hidden states [T, hidden].

        Returns:
            None where the layers have to run one by one.
        """
        if not self._wanted or path.is_profiling():
            return None
        if self._graph is None or self._graph.outdated:
            obstacle = self._obstacle()
            self._wanted = path.tell(obstacle, "as one graph")
            if obstacle is not None:
                return None
            assert isinstance(self._norm, RMSNorm)
            self._graph = DecoderGraph(self._layers, self._norm)
        return self._graph(positions, x)

    def _obstacle(self) -> str | None:
        if not isinstance(self._norm, RMSNorm):  # a subclass of a suite's takes its cell's arguments
            return f"a last norm of kind {type(self._norm).__name__}"
        for layer in self._layers:
            if layer.tap_before is not None or layer.tap_after is not None:
                return "a draft model reads what is between them"
            reason = (
                unsupported(layer.spec)
                or path.obstacle(layer, self._kernels)
                or path.multiplied_otherwise(layer, MindSporeLinearMethod)
            )
            if reason is not None:
                return reason
            if not _attends_by_mindspore(layer):
                return "the attention backend"
            own = _alike(layer)
            for what, value in _alike(self._layers[0]).items():
                if own[what] != value:
                    return f"layers have different {what}"
        return None


def unsupported(spec: DecoderLayerSpec) -> str | None:
    """Return what of a spec a graph doesn't do, by name, or None."""
    attention = spec.attention
    if not isinstance(attention, AttentionSpec):
        return "latent attention"
    if not isinstance(spec.mlp, MLPSpec):
        return "experts"
    before, after_attention, before_mlp, after_mlp = spec.norms
    refused: dict[str, bool] = {
        "parallel_residual": spec.parallel_residual,
        "residual_multiplier": spec.residual_multiplier != 1.0,
        "norm_before_attention": before is None or before.kind != "rms_norm",
        "norm_after_attention": after_attention is not None,
        "norm_before_mlp": before_mlp is None or before_mlp.kind != "rms_norm",
        "norm_after_mlp": after_mlp is not None,
        "norm_beside": spec.norm_beside is not None,
        "rotary": attention.rotary is None or not attention.rotary.is_neox_style,
        "norms_sums": spec.norms_sums,
        "is_causal": not attention.is_causal,
        "clip_qkv": attention.clip_qkv is not None,
        "sinks": attention.sinks,
        "qk_norm": attention.qk_norm is not None and attention.qk_norm.kind != "rms_norm",
        "qk_norm_spans_heads": attention.qk_norm_spans_heads,
        "qk_norm_weights": bool(attention.qk_norm_weights),
        "qk_norm_after_rotary": attention.qk_norm_after_rotary,
        "mlp.gated": not spec.mlp.gated,
    }
    found = [name for name, is_other in refused.items() if is_other]
    return f"a graph has no {found[0]} like this layer's" if found else None


class DecoderGraph:
    """Runs layers and the last norm by :class:`mszoo.kernels.graphs.DecoderCell`.

    Args:
        layers: each without an obstacle.
        norm: the last norm.
    """

    def __init__(self, layers: Sequence[DecoderLayer], norm: RMSNorm) -> None:
        self._attention = [layer.attention.attn for layer in layers]
        self._shared, self._shapes = _SharedParameters(), graphs.Shapes()
        first = layers[0].attention
        self._cell = graphs.DecoderCell(
            [self._layer(layer) for layer in layers],
            self._shared.of(lambda: norm.weight),
            norm.eps,
            self._shared.of(lambda: _table(first)),
            [_window(attn) for attn in self._attention],
            rows_of(first.attn.kv_cache).shape[1],
        )
        self._cell.set_train(False)

    @property
    def outdated(self) -> bool:
        """Whether vLLM moved a weight (a weight reload): a compiled graph reads its parameters where they were."""
        return self._shared.moved

    def __call__(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor | None:
        """Compute a step: [T], embeddings [T, hidden] -> hidden states [T, hidden]; None if no graph fits it.

        It is computed in pieces, each rounded up to a shape that a graph is compiled for. The added rows are
        computed and dropped; nothing of them reaches the KV cache or another row.
        """
        contexts = [attention_context(attn.layer_name) for attn in self._attention]
        if any(context[0] is not contexts[0][0] for context in contexts):
            return None  # layers of several KV cache groups have block tables of their own
        batch = current_step().batch(contexts[0][0])
        given, at = to_torch(x), to_torch(positions)
        pieces = batch.pieces(graphs.SEQUENCES[-1], graphs.QUERIES[-1])
        if len(pieces) == 1 and pieces[0].rows == given.shape[0]:
            return to_mindspore(self._piece(batch, contexts, pieces[0], at, given))
        hidden = torch.zeros_like(given)  # vLLM may have padded the step
        for piece in pieces:
            rows = slice(piece.row, piece.row + piece.rows)
            hidden[rows] = self._piece(batch, contexts, piece, at[rows], given[rows])
        return to_mindspore(hidden)

    def _piece(
        self, batch: Batch, contexts: Sequence[Any], piece: Piece, positions: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """Compute a piece, and store its keys and values: [t], [t, hidden] -> [t, hidden]."""
        blocks = max(1, -(-piece.cached // rows_of(contexts[0][2]).shape[1]))
        shape = self._shapes.fit(piece.rows, piece.sequences, blocks)
        more = shape.tokens - piece.rows
        if more:
            positions, x = functional.pad(positions, (0, more)), functional.pad(x, (0, 0, 0, more))
        tables = batch.tables(piece, shape.sequences, shape.blocks)
        hidden, keys, values = self._cell(to_mindspore(x), to_mindspore(positions), *tables)
        result = to_torch(hidden)[: piece.rows]
        pairs = torch.stack((to_torch(keys), to_torch(values)), 3)[:, : piece.rows]
        for (_, _, kv_cache, slot_mapping), of_layer in zip(contexts, pairs, strict=True):
            store(current_step(), kv_cache, slot_mapping, of_layer, piece.row)
        return result

    def _layer(self, layer: DecoderLayer) -> graphs.LayerCell:
        attn, impl = layer.attention.attn, layer.attention.attn.impl
        kv_cache = self._shared.of(lambda: attn.kv_cache, rows_of)
        return graphs.LayerCell(
            dict(self._weights(layer)),
            kv_cache,
            num_heads=attn.num_heads,
            num_kv_heads=attn.num_kv_heads,
            eps=layer.norms[0].eps,
            scale=impl.scale,
            softcap=float(impl.logits_soft_cap),
            activation=layer.mlp.act_fn.op,
        )

    def _weights(self, layer: DecoderLayer) -> Iterator[tuple[str, ms.Parameter]]:
        norms = {"input_norm": layer.norms[0], "post_norm": layer.norms[2]}
        if layer.attention.qk_norms is not None:
            norms |= zip(("q_norm", "k_norm"), layer.attention.qk_norms, strict=True)
        for name, norm in norms.items():
            yield name, self._shared.of(functools.partial(getattr, norm, "weight"))
        for name, linear in zip(("qkv", "out", "gate_up", "down"), path.projections(layer), strict=True):
            yield name, self._shared.of(functools.partial(getattr, linear, "weight"))
            if linear.bias is not None:
                yield f"{name}_bias", self._shared.of(functools.partial(getattr, linear, "bias"))


class _SharedParameters:
    """MindSpore parameters whose memory is torch's."""

    def __init__(self) -> None:
        self._sources: list[tuple[Callable[[], torch.Tensor], int]] = []

    def of(
        self,
        source: Callable[[], torch.Tensor],
        view_as: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> ms.Parameter:
        """Make a parameter that views the tensor that ``source`` returns, or what ``view_as`` views of it."""
        tensor = source().detach()
        # Constructed around a placeholder: MindSpore copies a tensor that it makes a parameter of.
        view = ms.Parameter(ms.Tensor([0.0], ms.float32), name=f"p{len(self._sources)}", requires_grad=False)
        view.assign_value(to_mindspore(tensor if view_as is None else view_as(tensor)))
        self._sources.append((source, tensor.data_ptr()))
        return view

    @property
    def moved(self) -> bool:
        """Whether a tensor has other memory now."""
        return any(source().data_ptr() != address for source, address in self._sources)


def _alike(layer: DecoderLayer) -> dict[str, Any]:
    """Return what the layers of a graph share."""
    attn = layer.attention.attn
    return {
        "tables that rotate": _table(layer.attention).data_ptr(),
        "sizes of blocks": rows_of(attn.kv_cache).shape[1],
        "scales of scores": attn.impl.scale,
        "epsilons of norms": layer.norms[0].eps == layer.norms[2].eps,
        "norms of heads": layer.attention.qk_norms is None,
    }


def _table(attention: Any) -> torch.Tensor:
    """Return the cosines and sines that turn the heads of an attention."""
    table: torch.Tensor = attention.rotary_emb.cos_sin_cache
    return table


def _window(attn: Any) -> int | None:
    backend = cpu_backend()
    return None if backend is None else backend.sliding_window_of(attn.impl)


def _attends_by_mindspore(layer: DecoderLayer) -> bool:
    from mszoo.layers.cpu_attention import MindSporeAttentionImpl  # stands on vLLM's CPU backend

    return type(layer.attention.attn.impl) is MindSporeAttentionImpl
