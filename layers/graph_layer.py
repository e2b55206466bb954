"""A decoder layer of the ``mindspore`` kernel set as one MindSpore graph, and the step around such layers.

The graphs of a step follow each other without a wait: waiting for one costs as much as computing it. So a graph
attends to the step's own keys and values beside those in vLLM's cache, and they are stored when all is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from vllm.model_executor.layers.attention.attention import get_attention_context

import mindspore as ms  # isort: skip
from mszoo.kernels import graphs  # isort: skip
from mszoo.kernels.exchange import ParameterView, to_mindspore, to_torch  # isort: skip
from mszoo.layers.attention import MindSporeAttentionImpl  # isort: skip
from mszoo.layers.methods import MindSporeLinearMethod  # isort: skip
from mszoo.layers.parts import Parts  # isort: skip
from mszoo.layers.step import current_step, rows_of, store  # isort: skip

#: What layers computed and the end of the step stores: cache, slots, keys, values.
_unstored: list[tuple[torch.Tensor, torch.Tensor, ms.Tensor, ms.Tensor]] = []


class GraphLayer:
    """Runs the layer by :func:`mszoo.kernels.graphs.decoder_layer`, for as many tokens as there are graphs for.

    Args:
        parts: for which :meth:`obstacle` found none.
    """

    description: ClassVar[str] = "as graphs"
    outdated: ClassVar[bool] = False  # it looks the weights up at each step

    def __init__(self, parts: Parts) -> None:
        attn, impl = parts.attn, parts.attn.impl
        self._graph = graphs.graph(graphs.decoder_layer)
        self._attention = attn.layer_name
        qkv, out, gate_up, down = parts.projections
        q_norm, k_norm = parts.head_norms or (None, None)
        weights = (
            (parts.input_norm, "weight"),
            (qkv, "weight"),
            (qkv, "bias"),
            (q_norm, "weight"),
            (k_norm, "weight"),
            (parts.rotary_emb, "cos_sin_cache"),
            (out, "weight"),
            (out, "bias"),
            (parts.post_norm, "weight"),
            (gate_up, "weight"),
            (gate_up, "bias"),
            (down, "weight"),
            (down, "bias"),
        )
        self._weights = [(module, name, ParameterView()) for module, name in weights]
        self._cache = ParameterView()
        self._constants = (
            parts.input_norm.eps,
            attn.num_heads,
            attn.num_kv_heads,
            impl.scale,
            None if impl.sliding_window < 0 else impl.sliding_window,
            float(impl.logits_soft_cap),
            parts.activation.op,
        )

    @staticmethod
    def obstacle(parts: Parts) -> str | None:
        """Return why a graph can't stand for these parts, or None."""
        if type(parts.attn.impl) is not MindSporeAttentionImpl:
            return "the attention backend"
        return parts.multiplied_otherwise(MindSporeLinearMethod)

    def __call__(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor] | None:
        """Run the layer; None for a step that no graph fits."""
        rows = positions.shape[0]  # not of x: that would wait for the layer before
        if rows not in graphs.TOKENS:
            return None
        metadata, _, kv_cache, slot_mapping = get_attention_context(self._attention)
        cache = rows_of(kv_cache)
        batch = current_step().batch(metadata).padded(rows, cache.shape[1])
        if batch is None:
            return None
        x, residual, key, value = self._graph(
            x, residual, positions, *self._views(), self._cache.of(cache), *batch, *self._constants
        )
        _unstored.append((kv_cache, slot_mapping, key, value))
        return x, residual

    def _views(self) -> list[ms.Tensor | None]:
        found = []
        for module, name, view in self._weights:
            weight = getattr(module, name, None)
            found.append(None if weight is None else view.of(weight))
        return found


class GraphStep:
    """Begins and ends a step whose layers may run as graphs.

    Args:
        graphs_run: whether all of them do, in the step that vLLM is running. Where one doesn't, its parts must
            see the real number of tokens (vLLM's LoRA layers do).
    """

    def __init__(self, graphs_run: Callable[[], bool]) -> None:
        self._graphs_run = graphs_run

    def begin(self, positions: ms.Tensor, x: ms.Tensor) -> tuple[ms.Tensor, ms.Tensor]:
        """Round the step up to a number of tokens that graphs are compiled for.

        [T], [T, hidden] -> [T'], [T', hidden].

        The added rows are computed and dropped; nothing of them reaches the KV cache or another row.
        """
        _unstored.clear()  # of a step that failed
        tokens = x.shape[0]
        size = graphs.bucket(tokens) if self._graphs_run() else None
        if size is None or size == tokens:
            return positions, x
        more = size - tokens
        padded = torch.nn.functional.pad(to_torch(positions), (0, more))
        return to_mindspore(padded), to_mindspore(torch.nn.functional.pad(to_torch(x), (0, 0, 0, more)))

    def end(self, x: ms.Tensor, tokens: int) -> ms.Tensor:
        """Store the layers' keys and values, and return the first ``tokens`` rows of ``x``."""
        for kv_cache, slot_mapping, key, value in _unstored:
            store(current_step(), kv_cache, slot_mapping, to_torch(key), to_torch(value))
        _unstored.clear()
        return x if x.shape[0] == tokens else to_mindspore(to_torch(x)[:tokens])
