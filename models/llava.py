"""LLaVA 1.5 and what shares its architecture: a vision transformer, a projector and a decoder."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Module, current_model_config
from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.multimodal import MultiModalLM, may_read
from mszoo.layers.vision import Projector, VisionSpec, VisionTransformer
from mszoo.models.config import ConfigReader
from mszoo.models.llama import LlamaForCausalLM
from mszoo.models.mistral import MistralForCausalLM
from mszoo.models.qwen2 import Qwen2ForCausalLM
from mszoo.models.qwen3 import Qwen3ForCausalLM
from mszoo.models.vision import CLIP, SIGLIP, read_vision_config

import mindspore as ms

#: The decoder by ``model_type`` of ``text_config``, as Hugging Face picks it; their checkpoints have the same
#: projections apart.
DECODERS: Mapping[str, type[DecoderForCausalLM]] = MappingProxyType(
    {
        "llama": LlamaForCausalLM,
        "mistral": MistralForCausalLM,
        "qwen2": Qwen2ForCausalLM,
        "qwen3": Qwen3ForCausalLM,
    }
)
#: By the first part of a name, what checkpoints of transformers 4.52 and later have in front of it, and where the
#: output projection lies in older ones.
_MOVED = (
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
_TOWER, _ROOT = "vision_tower.", "vision_model."


@dataclass(frozen=True)
class LlavaSpec:
    """What a LLaVA is.

    Attributes:
        vision: the tower, without layers behind the last one that is read.
        layers_of_tower: how many layers the checkpoint has of it.
        feature_layers: behind how many layers features are read; those of several lie side by side.
        drops_first: an image's first vector isn't read (CLIP's, which stands for the whole image).
        projector_act, projector_bias: of the projector.
        decoder: reads the embeddings.
    """

    vision: VisionSpec
    layers_of_tower: int
    feature_layers: tuple[int, ...]
    drops_first: bool
    projector_act: str
    projector_bias: bool
    decoder: type[DecoderForCausalLM]


class LlavaForConditionalGeneration(MultiModalLM):
    """LLaVA 1.5: as Hugging Face's ``models/llava`` defines it, on CLIP or SigLIP.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        suite: whose model it is, for messages.
        modalities: what it reads beside text.
        reads_end_of_siglip: whether the last layer of a SigLIP may be read, as it is before the last norm.
        spec: what it is.
        reads_images: whether it has a tower and a projector.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    suite: ClassVar[str] = "native"
    modalities: ClassVar[tuple[str, ...]] = ("image",)
    reads_end_of_siglip: ClassVar[bool] = False

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        spec = self.read_config(config, f"{self.suite}.{type(self).__name__}")
        super().__init__()
        self.config, self.spec = config, spec
        dot, text = f"{prefix}." if prefix else "", config.text_config
        self.reads_images = any(map(may_read, self.modalities))
        if self.reads_images:
            self._build_tower(dot)
        self.language_model = spec.decoder(text, prefix=f"{dot}language_model")

    def _build_tower(self, dot: str) -> None:
        """Add what reads images."""
        spec = self.spec
        self.vision_tower = Module()
        self.vision_tower.vision_model = VisionTransformer(
            spec.vision, prefix=f"{dot}vision_tower.vision_model"
        )
        self.multi_modal_projector = Projector(
            spec.vision.hidden_size * len(spec.feature_layers),
            self.config.text_config.hidden_size,
            spec.projector_act,
            bias=spec.projector_bias,
            prefix=f"{dot}multi_modal_projector",
        )

    @classmethod
    def read_config(cls, config: Any, who: str) -> LlavaSpec:
        """Read a ``llava`` config; Hugging Face's network reads no other fields.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """
        reader = ConfigReader(config, who)
        text, vision = config.text_config, config.vision_config
        decoder = DECODERS.get(text.model_type)
        if decoder is None:
            reader.refuse("text_config.model_type", text.model_type)
        if vision.model_type not in (CLIP, SIGLIP):
            reader.refuse("vision_config.model_type", vision.model_type)
        tied = reader.flag("tie_word_embeddings")
        if tied != bool(text.tie_word_embeddings):
            reader.refuse("tie_word_embeddings", tied)
        strategy = reader.required("vision_feature_select_strategy")
        reader.must_be("vision_feature_select_strategy", "default", "full")
        all_layers = vision.num_hidden_layers
        layers = _feature_layers(reader, all_layers)
        is_last = vision.model_type == SIGLIP and max(layers) == all_layers
        if is_last and not cls.reads_end_of_siglip:
            # Versions of transformers differ in whether the last norm is part of the last layer.
            reader.refuse("vision_feature_layer", config.vision_feature_layer)
        return LlavaSpec(
            read_vision_config(vision, who, max(layers)),
            all_layers,
            layers,
            strategy == "default",
            reader.required("projector_hidden_act"),
            reader.flag("multimodal_projector_bias"),
            decoder,
        )

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: ``pixel_values`` [B, channels, height, width], or ``image_embeds``, of an image each.
        """
        if inputs.get("image_embeds") is not None:
            given = inputs["image_embeds"]
            return given if isinstance(given, list) else [to_mindspore(one) for one in to_torch(given)]
        if inputs.get("pixel_values") is None:
            return []
        return [to_mindspore(one) for one in self.embed_pixels(inputs["pixel_values"])]

    def embed_pixels(self, pixels: ms.Tensor) -> torch.Tensor:
        """Return the embeddings of images: [B, channels, height, width] -> [B, tokens, hidden].

        Raises:
            ValueError: the processor made images of another size than the tower reads.
        """
        size, channels = self.spec.vision.image_size, self.spec.vision.num_channels
        if isinstance(pixels, list) or pixels.shape[1:] != (channels, size, size):
            found = [list(one.shape) for one in pixels]
            raise ValueError(f"images are {found}, and this model reads [{channels}, {size}, {size}]")
        embeddings = to_torch(self.multi_modal_projector(self._features(pixels)))
        return embeddings.view(pixels.shape[0], -1, embeddings.shape[-1])

    def example_inputs(self) -> dict[str, torch.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.example_inputs`."""
        if not self.reads_images:
            return {}
        spec = self.spec.vision
        shape = 1, spec.num_channels, spec.image_size, spec.image_size
        return {"pixel_values": torch.zeros(shape, dtype=current_model_config().dtype)}

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: names are those before transformers 4.52."""
        del expected
        for new, old in _MOVED:
            if name.startswith(new):
                name = old + name.removeprefix(new)
                break
        rest = name.removeprefix(_TOWER)
        if name.startswith(_TOWER) and not rest.startswith(_ROOT):  # transformers 5
            return f"{_TOWER}{_ROOT}{rest}"
        return name

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`: what of the tower is behind the last layer read."""
        root = f"{_TOWER}{_ROOT}"
        unread = () if self.reads_images else (f"{_TOWER}*", "multi_modal_projector.*")
        behind = range(self.spec.vision.num_layers, self.spec.layers_of_tower)
        return (
            *unread,
            *(f"language_model.{name}" for name in self.language_model.unused_tensors()),
            *(f"{root}{self.spec.vision.layers_name}.{index}.*" for index in behind),
            f"{root}embeddings.position_ids",
            f"{root}post_layernorm.*",
            f"{root}head.*",
        )

    def _features(self, pixels: ms.Tensor) -> ms.Tensor:
        """Return what the projector reads: [B, channels, height, width] -> [B tokens, features]."""
        tower = cast(VisionTransformer, self.vision_tower.vision_model)
        found = tower(pixels, set(self.spec.feature_layers))
        shape = pixels.shape[0], -1, self.spec.vision.hidden_size
        parts = [to_torch(found[layer]).view(shape) for layer in self.spec.feature_layers]
        if self.spec.drops_first:
            parts = [part[:, 1:] for part in parts]
        return to_mindspore(torch.cat(parts, -1).flatten(0, 1))


def _feature_layers(reader: ConfigReader, count: int) -> tuple[int, ...]:
    """Return behind how many layers features are read, by the order in which they lie side by side.

    Raises:
        RefusalError: the tower has no such layer.
    """
    value = reader.required("vision_feature_layer")
    given = value if isinstance(value, (list, tuple)) else [value]
    layers = tuple(count + 1 + one if one < 0 else one for one in given)
    if not layers or min(layers) < 0 or max(layers) > count:
        reader.refuse("vision_feature_layer", value)
    return layers
