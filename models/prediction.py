"""The layer behind a model's others that predicts a further token (MTP), as a head for the model itself."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import LogitsProcessor, Module, WholeLinear, lm_head, token_embedding
from mszoo.layers.decoder import DecoderForCausalLM, DecoderLayer
from mszoo.layers.decoder.build import build_norm
from mszoo.layers.draft import DraftHead
from mszoo.models.deepseek import DeepseekV3ForCausalLM
from mszoo.models.glm_moe import Glm4MoeForCausalLM
from mszoo.registry.errors import RefusalError

import mindspore as ms


class PredictionLayer(DraftHead):
    """One more layer of a model, on the last hidden state and the embedding of the token behind it.

    Its checkpoint is the model's own, whose other tensors are the target's.

    Args:
        config: the model's.
        prefix: prepended to the layers' names.

    Attributes:
        target: the model's class, which reads the config.
        feeds_normed: the next step reads hidden states as logits do, after the last norm.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    target: ClassVar[type[DecoderForCausalLM]]
    feeds_normed: ClassVar[bool] = False

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__()
        who = f"native.{type(self).__name__}"
        self.config, self.index = config, config.num_hidden_layers
        count = getattr(config, "num_nextn_predict_layers", None)
        if count != 1:
            what = f"config.json says num_nextn_predict_layers={count!r}, and this head is one layer"
            raise RefusalError(who, what, "Serve it with an implementation that does")
        whole = copy.copy(config)
        whole.num_hidden_layers = self.index + 1
        spec = self.target.read_config(whole, who)
        hidden, name = spec.hidden_size, f"{prefix}model.layers.{self.index}"
        self.model = Module()
        self.model.embed_tokens = token_embedding(
            spec.vocab_size, hidden, prefix=f"{prefix}model.embed_tokens"
        )
        layer = DecoderLayer(spec.layers[-1], prefix=name)
        layer.enorm, layer.hnorm = build_norm(spec.norm, hidden), build_norm(spec.norm, hidden)
        layer.eh_proj = WholeLinear(2 * hidden, hidden, bias=False, prefix=f"{name}.eh_proj")
        layer.shared_head = Module()
        layer.shared_head.norm = build_norm(spec.norm, hidden)
        layer.shared_head.head = lm_head(spec.vocab_size, hidden, prefix=f"{name}.shared_head.head")
        self.model.layers = torch.nn.ModuleDict({str(self.index): layer})
        self.logits_processor = LogitsProcessor(spec.vocab_size)

    @property
    def layer(self) -> Any:
        """The layer, which has more parts than a decoder's."""
        return self.model.layers[str(self.index)]

    @property
    def shared(self) -> tuple[str, ...]:  # type: ignore[override]
        """See :class:`mszoo.layers.draft.DraftHead`."""
        return ("model.embed_tokens.weight", f"model.layers.{self.index}.shared_head.head.weight")

    def forward(  # type: ignore[override]
        self, input_ids: ms.Tensor, positions: ms.Tensor, hidden_states: ms.Tensor
    ) -> ms.Tensor | tuple[ms.Tensor, ms.Tensor]:
        """See :meth:`mszoo.layers.draft.DraftHead.forward`; nothing is read of a first token."""
        layer = self.layer
        embeddings = to_torch(self.embed_input_ids(input_ids))
        embeddings = torch.where(to_torch(positions)[:, None] == 0, 0, embeddings)
        x = layer.eh_proj(self.beside(layer.enorm(to_mindspore(embeddings)), layer.hnorm(hidden_states)))
        x, residual = layer(positions, x)
        if residual is not None:
            x = to_mindspore(to_torch(x) + to_torch(residual))
        return (x, layer.shared_head.norm(x)) if self.feeds_normed else x

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """See :meth:`mszoo.layers.draft.DraftHead.compute_logits`."""
        head = self.layer.shared_head
        logits = self.logits_processor(head.head, to_torch(head.norm(hidden_states)))
        return None if logits is None else to_mindspore(logits)

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`: the target's."""
        of_layers = (f"model.layers.{index}.*" for index in range(self.index))
        own_copy = f"model.layers.{self.index}.embed_tokens.weight"
        return (*of_layers, "model.norm.weight", "lm_head.weight", own_copy)


class DeepSeekMTPModel(PredictionLayer):
    """DeepSeek-V3's."""

    target = DeepseekV3ForCausalLM
    feeds_normed = True


class Glm4MoeMTPModel(PredictionLayer):
    """GLM-4-MoE's (GLM-4.5 to 4.7)."""

    target = Glm4MoeForCausalLM
