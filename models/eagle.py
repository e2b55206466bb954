"""Heads of EAGLE and EAGLE-3 whose layer is a Llama's: they propose tokens to a target of any architecture."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import LogitsProcessor, Module, ModuleList, WholeLinear, lm_head, token_embedding
from mszoo.layers.decoder import DecoderLayer
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.decoder.spec import DecoderSpec
from mszoo.layers.draft import DraftHead
from mszoo.models.llama import LlamaForCausalLM
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: Before the names of a head's layers: those of its target have the others.
_LAYERS = "draft_head"


class EagleLlamaForCausalLM(DraftHead):
    """EAGLE: the last hidden state and the embedding of the token behind it pass Llama's layers.

    Args:
        config: vLLM's of a head, or the Llama's in it.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        self.fields = _fields(config)
        spec = LlamaForCausalLM.read_config(self.fields, f"native.{type(self).__name__}")
        self.spec, hidden = spec, spec.hidden_size
        self.model = Module()
        self.model.embed_tokens = token_embedding(
            spec.vocab_size, hidden, prefix=f"{prefix}model.embed_tokens"
        )
        self._build(spec, f"{prefix}{_LAYERS}")
        scale = float(self.field("logit_scale", 1.0))
        self.logits_processor = LogitsProcessor(self.draft_vocabulary, scale=scale)

    @property
    def draft_vocabulary(self) -> int:
        """How many tokens it chooses among."""
        return self.spec.vocab_size

    def field(self, name: str, default: Any) -> Any:
        """Return a field that Llama's config doesn't have; null is as none."""
        value = getattr(self.fields, name, None)
        return default if value is None else value

    def forward(  # type: ignore[override]
        self, input_ids: ms.Tensor, positions: ms.Tensor, hidden_states: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """See :meth:`mszoo.layers.draft.DraftHead.forward`."""
        x = self.model.fc(self.beside(self.embed_input_ids(input_ids), hidden_states))
        residual = None
        for layer in self.model.layers:
            x, residual = layer(positions, x, residual)
        if residual is not None:
            x = to_mindspore(to_torch(x) + to_torch(residual))
        return x, x

    def _build(self, spec: DecoderSpec, prefix: str) -> None:
        bias = bool(self.field("bias", False))
        self.model.fc = WholeLinear(2 * spec.hidden_size, spec.hidden_size, bias=bias, prefix=f"{prefix}.fc")
        first, *others = spec.layers
        layers = (replace(first, norm_before_attention=None), *others)
        self.model.layers = ModuleList(
            DecoderLayer(layer, prefix=f"{prefix}.layers.{index}") for index, layer in enumerate(layers)
        )


class Eagle3LlamaForCausalLM(EagleLlamaForCausalLM):
    """EAGLE-3: one layer on a projection of hidden states of several of the target's layers.

    Its attention reads the embedding beside them. It may choose among a part of the tokens, by a table.
    """

    def _build(self, spec: DecoderSpec, prefix: str) -> None:
        hidden = spec.hidden_size
        if len(spec.layers) != 1:
            self._refuse("num_hidden_layers", len(spec.layers))
        inner = self.field("eagle_config", {})
        for name, only in (("norm_before_fc", False), ("fc_norm", False), ("use_aux_hidden_state", True)):
            value = inner.get(name, self.field(name, only))
            if bool(value) != only:
                self._refuse(name, value)
        count = self.field(
            "num_aux_hidden_states", len(inner.get("eagle_aux_hidden_state_layer_ids") or "123")
        )
        self.model.fc = WholeLinear(
            count * self.field("target_hidden_size", hidden), hidden, bias=False, prefix=f"{prefix}.fc"
        )
        before = spec.layers[0].norm_before_attention
        assert before is not None  # Llama's has one
        norm = before.named("hidden_norm")
        # The stream itself is normed, or only what attention reads of it.
        self._norms_stream = bool(self.field("norm_before_residual", False))
        layer = DecoderLayer(
            replace(
                spec.layers[0],
                norm_beside=before,
                norm_before_attention=None if self._norms_stream else norm,
            ),
            prefix=f"{prefix}.layers.0",
        )
        if self._norms_stream:
            layer.add_module(norm.name, build_norm(norm, hidden))
        self.model.layers = ModuleList([layer])
        self.model.norm = build_norm(spec.norm, hidden)
        self.lm_head = lm_head(self.draft_vocabulary, hidden, prefix=f"{prefix}.lm_head")
        self.draft_id_to_target_id: torch.nn.Parameter | None = None
        if self.draft_vocabulary != spec.vocab_size:
            table = torch.zeros(self.draft_vocabulary, dtype=torch.long)
            self.draft_id_to_target_id = torch.nn.Parameter(table, requires_grad=False)

    @property
    def draft_vocabulary(self) -> int:
        """How many tokens it chooses among."""
        return int(self.field("draft_vocab_size", self.spec.vocab_size))

    def combine(self, hidden_states: ms.Tensor) -> ms.Tensor:
        """Return one hidden state of those of several layers: [T, layers x hidden] -> [T, hidden]."""
        combined: ms.Tensor = self.model.fc(hidden_states)
        return combined

    def forward(  # type: ignore[override]
        self, input_ids: ms.Tensor, positions: ms.Tensor, hidden_states: ms.Tensor
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """See :meth:`mszoo.layers.draft.DraftHead.forward`."""
        (layer,) = self.model.layers
        if self._norms_stream:
            x = layer.hidden_norm(hidden_states)
        else:  # a copy: the layer overwrites it
            x = to_mindspore(to_torch(hidden_states).clone())
        x, residual = layer(positions, x, None, self.embed_input_ids(input_ids))
        if residual is None:
            residual, normed = x, self.model.norm(x)
        else:
            normed, residual = self.model.norm(x, residual)
        return normed, normed if self.field("norm_output", False) else residual

    def logits_in_torch(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Return logits [T, vocab] of hidden states [T, hidden]; tokens that it doesn't know have none."""
        known = super().logits_in_torch(hidden_states)
        if known is None or self.draft_id_to_target_id is None:
            return known
        spread = known.new_full((known.shape[0], self.spec.vocab_size), float("-inf"))
        targets = torch.arange(known.shape[1]) + self.draft_id_to_target_id
        return spread.index_copy_(1, targets, known)  # indexing takes twice as long

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`."""
        if name == "d2t":
            return "draft_id_to_target_id"
        return super().checkpoint_name(name.replace("midlayer.", "layers.0."), expected)

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`: which of the target's tokens it knows."""
        return ("t2d",)

    def _refuse(self, name: str, value: Any) -> None:
        raise RefusalError(
            f"native.{type(self).__name__}",
            f"config.json says {name}={value!r}, which this head doesn't implement",
            "Serve it with an implementation that does",
        )


def _fields(config: Any) -> Any:
    """Return the Llama's config of a head's, as transformers has it."""
    inner = getattr(config, "model", None)
    return config if inner is None or isinstance(inner, str) else inner
