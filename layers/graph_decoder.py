"""A dense decoder of the ``mindspore`` kernel set as one MindSpore graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from vllm.model_executor.layers.attention.attention import get_attention_context

import mindspore as ms  # isort: skip
from mszoo.kernels import graphs  # isort: skip
from mszoo.kernels.exchange import to_mindspore, to_torch  # isort: skip
from mszoo.layers.attention import MindSporeAttentionImpl  # isort: skip
from mszoo.layers.methods import MindSporeLinearMethod  # isort: skip
from mszoo.layers.norm import RMSNorm  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip
from mszoo.layers.step import current_step, rows_of, store  # isort: skip


class GraphDecoder:
    """Runs the layers and the last norm by :class:`mszoo.kernels.graphs.DecoderCell`.

    Args:
        layers: each without an :meth:`obstacle`.
        norm: the last norm.
    """

    def __init__(self, layers: Sequence[Parts], norm: RMSNorm) -> None:
        self._attention = [parts.attn for parts in layers]
        self._shared = _SharedParameters()
        first = layers[0]
        self._cell = graphs.DecoderCell(
            [self._layer(parts) for parts in layers],
            self._shared.of(lambda: norm.weight),
            norm.eps,
            self._shared.of(lambda: first.rotary_emb.cos_sin_cache),
            [_window(parts) for parts in layers],
            rows_of(first.attn.kv_cache).shape[1],
        )
        self._cell.set_train(False)

    @staticmethod
    def obstacle(layers: Sequence[Parts]) -> str | None:
        """Return why a graph can't stand for these layers, or None."""
        for parts in layers:
            if type(parts.attn.impl) is not MindSporeAttentionImpl:
                return "the attention backend"
            if not parts.has_mlp or parts.rotation != "halves" or parts.after_attention is not None:
                return "a layer differs from Llama's in its MLP, rotation or norms"
            reason = parts.multiplied_otherwise(MindSporeLinearMethod)
            if reason is not None:
                return reason
            own = _alike(parts)
            for what, value in _alike(layers[0]).items():
                if own[what] != value:
                    return f"layers have different {what}"
        return None

    @property
    def outdated(self) -> bool:
        """Whether vLLM moved a weight (a weight reload): a compiled graph reads its parameters where they were."""
        return self._shared.moved

    def __call__(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor | None:
        """Compute a step: [T], embeddings [T, hidden] -> hidden states [T, hidden]; None if no graph fits it.

        The step is rounded up to a number of tokens that graphs are compiled for. The added rows are computed and
        dropped; nothing of them reaches the KV cache or another row.
        """
        tokens = x.shape[0]
        size = graphs.bucket(tokens)
        if size is None:
            return None
        attention = self._attention
        contexts = [get_attention_context(attn.layer_name) for attn in attention]
        if any(context[0] is not contexts[0][0] for context in contexts):
            return None  # layers of several KV cache groups have block tables of their own
        block_size = rows_of(contexts[0][2]).shape[1]
        batch = current_step().batch(contexts[0][0]).padded(size, block_size)
        if batch is None:
            return None
        more = size - tokens
        if more:
            positions = to_mindspore(torch.nn.functional.pad(to_torch(positions), (0, more)))
            x = to_mindspore(torch.nn.functional.pad(to_torch(x), (0, 0, 0, more)))
        hidden, keys, values = self._cell(x, positions, *batch)
        result, step = to_torch(hidden), current_step()
        pairs = torch.stack((to_torch(keys), to_torch(values)), 3)
        for (_, _, kv_cache, slot_mapping), of_layer in zip(contexts, pairs, strict=True):
            store(step, kv_cache, slot_mapping, of_layer)
        return hidden if not more else to_mindspore(result[:tokens])

    def _layer(self, parts: Parts) -> graphs.LayerCell:
        attn, impl = parts.attn, parts.attn.impl
        shape = graphs.LayerShape(
            attn.num_heads,
            attn.num_kv_heads,
            parts.before_attention.eps,
            impl.scale,
            _window(parts),
            float(impl.logits_soft_cap),
            parts.op,
        )
        kv_cache = self._shared.of(lambda: attn.kv_cache, rows_of)
        return graphs.LayerCell(dict(self._weights(parts)), kv_cache, shape)

    def _weights(self, parts: Parts) -> Iterator[tuple[str, ms.Parameter]]:
        modules: dict[str, torch.nn.Module] = {
            "input_norm": parts.before_attention,
            "post_norm": parts.before_mlp,
        }
        if parts.head_norms is not None:
            modules |= zip(("q_norm", "k_norm"), parts.head_norms, strict=True)
        for name, module in modules.items():
            yield name, self._shared.of(lambda module=module: module.weight)
        for name, layer in zip(("qkv", "out", "gate_up", "down"), parts.projections, strict=True):
            yield name, self._shared.of(lambda layer=layer: layer.weight)
            if layer.bias is not None:
                yield f"{name}_bias", self._shared.of(lambda layer=layer: layer.bias)


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


def _alike(parts: Parts) -> dict[str, Any]:
    """Return what the layers of a graph share."""
    return {
        "tables that rotate": parts.rotary_emb.cos_sin_cache.data_ptr(),
        "sizes of blocks": rows_of(parts.attn.kv_cache).shape[1],
        "scales of scores": parts.attn.impl.scale,
        "head norms": parts.head_norms is None,
    }


def _window(parts: Parts) -> int | None:
    window = parts.attn.impl.sliding_window
    return None if window < 0 else window
