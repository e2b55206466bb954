"""Medusa: heads that each propose the token one further behind a hidden state."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Activation, LogitsProcessor, ModuleList, WholeLinear, lm_head
from mszoo.layers.draft import DraftHead
from mszoo.layers.model import Module
from mszoo.layers.residual import stream_sum
from mszoo.registry.errors import RefusalError

import mindspore as ms


class MedusaModel(DraftHead):
    """Medusa's heads: a residual block and an output projection each.

    Args:
        config: vLLM's of Medusa.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: they share an output projection, or choose among a part of the tokens.
    """

    shared = ()
    reads_tokens = False

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__()
        self.config = config
        vocabulary, hidden = config.vocab_size, config.hidden_size
        only = {"truncated_vocab_size": vocabulary, "original_lm_head": False}
        for name, value in only.items():
            found = getattr(config, name, value)
            if found != value:
                what = f"config.json says {name}={found!r}, which these heads don't implement"
                raise RefusalError("native.MedusaModel", what, "Serve it with an implementation that does")
        bias = bool(getattr(config, "medusa_fc_bias", False))
        self.blocks = ModuleList()
        for index in range(config.num_heads):
            block = Module()
            block.layers = ModuleList(
                WholeLinear(hidden, hidden, bias=bias, prefix=f"{prefix}blocks.{index}.layers.{number}")
                for number in range(config.num_hidden_layers)
            )
            self.blocks.append(block)
        self.lm_heads = ModuleList(
            lm_head(vocabulary, hidden, prefix=f"{prefix}lm_heads.{index}")
            for index in range(config.num_heads)
        )
        self.logits_processor = LogitsProcessor(vocabulary, scale=getattr(config, "logit_scale", 1.0))
        self._act, self._sum = Activation("silu", gated=False), stream_sum()

    def forward(self, hidden_states: ms.Tensor) -> list[ms.Tensor]:  # type: ignore[override]
        """Return a hidden state for each head: [T, hidden] -> [T, hidden] each."""
        found = []
        for block in self.blocks:
            x = to_mindspore(to_torch(hidden_states).clone())  # the sum overwrites it
            for layer in block.layers:
                x = self._sum(x, self._act(layer(x)))
            found.append(x)
        return found

    def compute_logits(self, hidden_states: list[ms.Tensor]) -> list[ms.Tensor]:  # type: ignore[override]
        """Return each head's logits [T, vocab]; none on ranks that don't gather them."""
        pairs = zip(self.lm_heads, hidden_states, strict=True)
        logits = [self.logits_processor(head, to_torch(x)) for head, x in pairs]
        return [to_mindspore(one) for one in logits if one is not None]

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: the publisher's ``0.0.linear.weight``."""
        parts = name.removeprefix("medusa_heads.").split(".")
        if len(parts) < 3 or not (parts[0].isdigit() and parts[1].isdigit()):
            return super().checkpoint_name(name, expected)
        if parts[2] == "linear":
            return ".".join(("blocks", parts[0], "layers", parts[1], *parts[3:]))
        return ".".join(("lm_heads", parts[0], *parts[2:]))
