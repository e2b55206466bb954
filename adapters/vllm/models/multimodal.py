"""What vLLM sees of a model that reads images, or another modality, beside text.

What stands in prompts and how inputs are made of images is vLLM's: its own model of the architecture brings the
processor, and is imported when somebody asks for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from mszoo.adapters.vllm.models.wrapper import MindSporeCausalLM, to_mindspore, to_torch
from mszoo.adapters.vllm.seam import SupportsMRoPE, SupportsMultiModal


class VllmProcessor:
    """The class attribute in which vLLM looks for an architecture's processor: that of its own model."""

    def __get__(self, instance: Any, owner: type[MindSporeMultiModal]) -> Any:
        """Return the factories."""
        return owner.own_model()._processor_factory


class MindSporeMultiModal(MindSporeCausalLM, SupportsMultiModal, SupportsMRoPE):
    """A MindSpore model of several modalities under vLLM's protocol of them.

    Its network is a :class:`mszoo.layers.multimodal.MultiModalLM`.

    Attributes:
        processor_entry: what vLLM's registry holds for its own model of the architecture.
        deepstack: what the step to come adds behind the decoder's first layers, [layers, T, hidden], or None.
        hf_to_vllm_mapper: from the names of LoRA adapters to those of the model's parts, which are vLLM's.
    """

    processor_entry: ClassVar[Any]
    _processor_factory = VllmProcessor()
    deepstack: torch.Tensor | None = None

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        # Of the instance: vLLM applies that of a class to a quantization config, as it does with its own model's.
        self.hf_to_vllm_mapper = getattr(self.own_model(), "hf_to_vllm_mapper", None)

    @classmethod
    def own_model(cls) -> Any:
        """Return vLLM's own model of the architecture, a class."""
        return cls.processor_entry.load_model_cls()

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Return what stands in a prompt for the ``i``-th item of a modality."""
        found: str | None = cls.own_model().get_placeholder_str(modality, i)
        return found

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[torch.Tensor, int]:
        """Return the positions of a prompt's tokens, and what those of its answer are ahead of their number.

        They follow from how vLLM's processor put items into the prompt, so vLLM's own model says them: by its
        config alone, without a part of it built.

        Args:
            input_tokens: of the prompt.
            mm_features: vLLM's, of its items.

        Returns:
            [axes, T] int64; and a number.
        """
        own = self.own_model()
        bare = own.__new__(own)
        torch.nn.Module.__init__(bare)
        bare.config = self.config
        found: tuple[torch.Tensor, int] = bare.get_mrope_input_positions(input_tokens, mm_features)
        return found

    def get_language_model(self) -> Any:
        """Return the decoder."""
        return self.network.language_model

    def get_mm_mapping(self) -> Any:
        """Return the names of the model's parts, by what they are."""
        # Imported here: registration runs in every process.
        from mszoo.adapters.vllm.seam import MultiModelKeys

        return MultiModelKeys.from_string_field(
            language_model="language_model",
            connector=list(self.network.connectors),
            tower_model=list(self.network.towers),
        )

    def embed_multimodal(self, **kwargs: Any) -> list[torch.Tensor]:
        """Return the embeddings of each item that a step begins to read, in order: [tokens of the item, hidden]."""
        inputs = {name: _to_mindspore(value) for name, value in kwargs.items()}
        return [to_torch(item) for item in self.call("a step", self.network.embed_multimodal, **inputs)]

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: Sequence[torch.Tensor] | torch.Tensor | None = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the embeddings of token ids, with items' own where they are: [T] -> [T, hidden].

        Args:
            input_ids: [T]; those in the places of items may be beyond the vocabulary.
            multimodal_embeddings: [tokens, hidden] of each item, or of the part that is in this step.
            is_multimodal: [T] bool, on the CPU: where they go.
        """
        self.deepstack = None
        if is_multimodal is None or multimodal_embeddings is None or not len(multimodal_embeddings):
            return super().embed_input_ids(input_ids)
        places = is_multimodal.to(input_ids.device)
        found = super().embed_input_ids(input_ids.masked_fill(places, 0))
        items = torch.cat(list(multimodal_embeddings))
        if len(items) != int(is_multimodal.sum()):
            raise ValueError(f"{len(items)} embeddings for {int(is_multimodal.sum())} tokens of a prompt")
        found = found.clone()  # not in place: MindSpore may own it
        width, levels = found.shape[-1], self.network.deepstack
        found[places] = items[:, :width].to(found.dtype)
        if levels:
            added = found.new_zeros(levels, *found.shape)
            added[:, places] = items[:, width:].view(-1, levels, width).transpose(0, 1).to(found.dtype)
            self.deepstack = added
        return found

    def _run(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        inputs_embeds: torch.Tensor | None,
        **others: Any,
    ) -> Any:
        if self.deepstack is not None:
            others["deepstack"] = to_mindspore(self.deepstack)
            self.deepstack = None
        return super()._run(input_ids, positions, inputs_embeds, **others)


def _to_mindspore(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return to_mindspore(value.contiguous())
    return [_to_mindspore(one) for one in value] if isinstance(value, (list, tuple)) else value
