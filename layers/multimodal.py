"""The base of models that read images, or another modality, beside text."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from mszoo.layers.model import CausalLM, current_model_config

import mindspore as ms


def may_read(modality: str) -> bool:
    """Return whether prompts may have items of a modality: not where ``--limit-mm-per-prompt`` says none.

    A model needs no towers for it then, as vLLM's own go without.
    """
    config = current_model_config().multimodal_config
    return config is None or config.get_limit_per_prompt(modality) > 0


class MultiModalLM(CausalLM):
    """Towers that make embeddings of images and so on, and a decoder that reads them among those of tokens.

    A subclass builds the decoder as ``self.language_model``, and its other parts by the names below. The adapter's
    record says with ``modalities`` what it reads. vLLM's processor of the architecture makes the inputs, and puts
    into the prompt one token for each embedding.

    Attributes:
        language_model: the decoder.
        deepstack: behind how many layers of the decoder, from the first one on, items' tokens get something added.
            Embeddings have it beside them then, [tokens, hidden (1 + deepstack)], and :meth:`forward` gets it by
            the name ``deepstack``, [deepstack, T, hidden], in a step that has such tokens.
        towers, connectors: names of the parts that read images, and of those that bring what towers give to the
            decoder's width.
    """

    towers: ClassVar[tuple[str, ...]] = ("vision_tower",)
    connectors: ClassVar[tuple[str, ...]] = ("multi_modal_projector",)
    language_model: CausalLM
    deepstack: int = 0

    @abstractmethod
    def embed_multimodal(self, **inputs: Any) -> Sequence[ms.Tensor]:
        """Return the embeddings of each item, in order: [tokens of the item, hidden].

        Args:
            inputs: what the processor made, tensors of MindSpore's and lists of them.

        Raises:
            ValueError: they don't fit the model.
        """

    def example_inputs(self) -> Mapping[str, torch.Tensor]:
        """Return inputs of one item, in the model's dtype, which prove the towers before there are weights.

        None are tried where there are none.
        """
        return {}

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.model.Model.forward`."""
        return self.language_model(input_ids, positions, inputs_embeds)

    def embed_input_ids(self, input_ids: ms.Tensor) -> ms.Tensor:
        """See :meth:`mszoo.layers.model.Model.embed_input_ids`: those of tokens alone."""
        return self.language_model.embed_input_ids(input_ids)

    def compute_logits(self, hidden_states: ms.Tensor) -> ms.Tensor | None:
        """See :meth:`mszoo.layers.CausalLM.compute_logits`."""
        return self.language_model.compute_logits(hidden_states)
