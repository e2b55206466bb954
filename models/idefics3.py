"""Idefics3 and SmolVLM: an image in tiles, several patches of a tile in one embedding, and Llama."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Module, WholeLinear, current_model_config
from mszoo.layers.multimodal import MultiModalLM, may_read
from mszoo.layers.vision import VisionSpec, VisionTransformer
from mszoo.models.config import ConfigReader
from mszoo.models.llama import LlamaForCausalLM
from mszoo.models.vision import read_vision_config

import mindspore as ms

#: By the first part of a name in checkpoints, what the parts are called here.
_NAMES = (
    ("model.vision_model.", "vision_model."),
    ("model.connector.", "connector."),
    ("model.text_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
#: On a side of an image: no model comes near, and a list of them is made.
_MOST_PATCHES = 2**14


@dataclass(frozen=True)
class Idefics3Spec:
    """What an Idefics3 is.

    Attributes:
        vision: the tower, whose last norm counts.
        scale_factor: so many rows and columns of patches become one embedding.
    """

    vision: VisionSpec
    scale_factor: int


class Idefics3ForConditionalGeneration(MultiModalLM):
    """Idefics3: as Hugging Face's ``models/idefics3`` defines it.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    towers: ClassVar[tuple[str, ...]] = ("vision_model",)
    connectors: ClassVar[tuple[str, ...]] = ("connector",)

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        spec = self.read_config(config, f"native.{type(self).__name__}")
        super().__init__()
        self.config, self.spec = config, spec
        dot = f"{prefix}." if prefix else ""
        self.reads_images = may_read("image")
        if self.reads_images:
            self.vision_model = VisionTransformer(spec.vision, prefix=f"{dot}vision_model")
            self.connector = Module()
            self.connector.modality_projection = Module()
            self.connector.modality_projection.proj = WholeLinear(
                spec.vision.hidden_size * spec.scale_factor**2,
                config.text_config.hidden_size,
                bias=False,
                prefix=f"{dot}connector.modality_projection.proj",
            )
        self.language_model = LlamaForCausalLM(config.text_config, prefix=f"{dot}language_model")

    @classmethod
    def read_config(cls, config: Any, who: str) -> Idefics3Spec:
        """Read an ``idefics3`` or ``smolvlm`` config; Hugging Face's network reads no other fields.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """
        reader = ConfigReader(config, who)
        text, vision = config.text_config, config.vision_config
        if text.model_type != "llama":  # vLLM's own is a Llama whatever the config says
            reader.refuse("text_config.model_type", text.model_type)
        tied = reader.flag("tie_word_embeddings")
        if tied != bool(text.tie_word_embeddings):
            reader.refuse("tie_word_embeddings", tied)
        tower = read_vision_config(vision, who, vision.num_hidden_layers)
        tower = replace(tower, norm_after_layers=tower.norm.named("post_layernorm"))
        side, factor = tower.image_size // tower.patch_size, reader.required("scale_factor")
        if factor < 1 or side % factor:
            reader.refuse("scale_factor", factor)
        if side > _MOST_PATCHES or not _in_order(side):
            reader.refuse("vision_config.image_size", tower.image_size)
        return Idefics3Spec(tower, factor)

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: ``pixel_values`` [tiles, channels, image_size, image_size] of all images and ``num_patches``
                [B], how many of them an image has; or ``image_embeds``, of an image each. A tile has no padding,
                whatever ``pixel_attention_mask`` says of tiles of other sizes.
        """
        if inputs.get("image_embeds") is not None:
            given = inputs["image_embeds"]
            return given if isinstance(given, list) else [to_mindspore(one) for one in to_torch(given)]
        if inputs.get("pixel_values") is None:
            return []
        counts = to_torch(inputs["num_patches"]).tolist()
        tiles = self.embed_tiles(inputs["pixel_values"]).split(counts)
        return [to_mindspore(one.flatten(0, 1)) for one in tiles]

    def embed_tiles(self, pixels: ms.Tensor) -> torch.Tensor:
        """Return the embeddings of tiles: [tiles, channels, height, width] -> [tiles, tokens, hidden].

        Raises:
            ValueError: the processor made tiles of another size than the tower reads.
        """
        vision, factor = self.spec.vision, self.spec.scale_factor
        size, channels = vision.image_size, vision.num_channels
        if pixels.shape[1:] != (channels, size, size):
            raise ValueError(
                f"tiles are {list(pixels.shape)}, and this model reads [{channels}, {size}, {size}]"
            )
        features = to_torch(self.vision_model(pixels, {vision.num_layers})[vision.num_layers])
        side = size // vision.patch_size // factor
        patches = features.view(-1, side, factor, side, factor, vision.hidden_size)
        joined = patches.transpose(2, 3).reshape(-1, factor**2 * vision.hidden_size)
        embeddings = to_torch(self.connector.modality_projection.proj(to_mindspore(joined)))
        return embeddings.view(pixels.shape[0], side**2, -1)

    def example_inputs(self) -> dict[str, torch.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.example_inputs`."""
        if not self.reads_images:
            return {}
        vision = self.spec.vision
        shape = 2, vision.num_channels, vision.image_size, vision.image_size
        pixels = torch.zeros(shape, dtype=current_model_config().dtype)
        return {"pixel_values": pixels, "num_patches": torch.tensor([2])}

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`."""
        del expected
        for theirs, ours in _NAMES:
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return name

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`."""
        unread = () if self.reads_images else ("vision_model.*", "connector.*")
        return (*unread, *(f"language_model.{name}" for name in self.language_model.unused_tensors()))


class SmolVLMForConditionalGeneration(Idefics3ForConditionalGeneration):
    """SmolVLM: as Hugging Face's ``models/smolvlm`` defines it, which is Idefics3 with a smaller Llama."""


def _in_order(side: int) -> bool:
    """Return whether patches have the positions of a square's in order, so many on a side.

    The reference looks up, by fractions of a side in float32, between which two of a list they lie, and rounding
    puts the patches of a few sizes one too low.
    """
    bounds = torch.arange(1 / side, 1.0, 1 / side, dtype=torch.float32)
    fractions = (torch.arange(side, dtype=torch.float32) * (1.0 / torch.tensor([side]))).clamp(max=1.0 - 1e-6)
    found: list[int] = torch.bucketize(fractions, bounds, right=True).tolist()
    return found == list(range(side))
