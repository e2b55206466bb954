"""Qwen2-VL, and what its successors share with it: a tower for images of any size, and M-RoPE."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from mszoo.kernels.exchange import to_mindspore, to_torch
from mszoo.layers import Module, current_model_config
from mszoo.layers.decoder import DecoderForCausalLM
from mszoo.layers.decoder.spec import AttentionSpec, DecoderSpec, MLPSpec, NormSpec
from mszoo.layers.mrope import axes_of
from mszoo.layers.multimodal import MultiModalLM, may_read
from mszoo.layers.vision_grid import Grid, GridVisionSpec, GridVisionTransformer, MergerSpec
from mszoo.layers.vision_merger import ConvolutionalMergerSpec
from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.models.config_types import MOST
from mszoo.models.reader import DecoderReader

import mindspore as ms

#: By the first part of a name, what checkpoints have: those of transformers 4.52 and later, and before.
_MOVED = (
    ("model.language_model.", "language_model.model."),
    ("model.visual.", "visual."),
    ("lm_head.", "language_model.lm_head."),
    ("model.", "language_model.model."),
)
#: Of the tower's norms, whatever the config says, as in Hugging Face's code.
VISION_EPS = 1e-6


@dataclass(frozen=True)
class QwenVLSpec:
    """What a Qwen-VL is.

    Attributes:
        vision: the tower.
        text: the config of the decoder.
    """

    vision: GridVisionSpec
    text: Any


class Qwen2VLText(DecoderForCausalLM):
    """Qwen2-VL's decoder: Qwen2's, whose tokens have a frame, a row and a column."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen2_vl_text`` config."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        size = reader.head_size_of_equal_shares()
        spec = reader.pre_norm_decoder(
            reader.rms_norm(),
            reader.mlp(),
            lambda index: reader.attention(index, qkv_bias=True, head_size=size),
        )
        return with_mrope(spec, config, who, interleaved=False)


def with_mrope(spec: DecoderSpec, config: Any, who: str, *, interleaved: bool) -> DecoderSpec:
    """Return a decoder whose heads turn by several positions of a token, as ``mrope_section`` shares them out.

    Args:
        spec: the decoder without.
        config: has it.
        who: the adapter's name, for messages.
        interleaved: as of :func:`mszoo.layers.mrope.axes_of`.

    Raises:
        RefusalError: the config has none, or it doesn't fit the heads.
    """
    section = (config.rope_parameters or {}).get("mrope_section")
    layers = []
    for layer in spec.layers:
        attention = layer.attention
        assert isinstance(attention, AttentionSpec)
        rotary = attention.rotary
        assert rotary is not None
        turned = int(attention.head_size * rotary.parameters.get("partial_rotary_factor", 1.0)) // 2
        counts = section if isinstance(section, (list, tuple)) else ()
        whole = all(type(count) is int and count > 0 for count in counts)
        if len(counts) != 3 or not whole or sum(counts) != turned:
            ConfigReader(config, who).refuse("mrope_section", section)
        rotary = replace(rotary, axes=axes_of(counts, interleaved=interleaved))
        layers.append(replace(layer, attention=replace(attention, rotary=rotary)))
    return replace(spec, layers=tuple(layers))


class Qwen2VLForConditionalGeneration(MultiModalLM):
    """Qwen2-VL: as Hugging Face's ``models/qwen2_vl`` defines it.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Attributes:
        suite: whose model it is, for messages.
        decoder: the class of its decoder.
        spec: what it is.
        reads: whether it has a tower.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    suite: ClassVar[str] = "native"
    towers = ("visual.",)
    connectors = ("visual.merger.",)
    decoder: ClassVar[type[DecoderForCausalLM]] = Qwen2VLText

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        spec = self.read_config(config, f"{self.suite}.{type(self).__name__}")
        super().__init__()
        self.config, self.spec, self._dtype = config, spec, torch.get_default_dtype()
        dot = f"{prefix}." if prefix else ""
        self.reads = may_read("image") or may_read("video")
        if self.reads:
            self.visual = self.build_tower(f"{dot}visual")
        self.language_model = self.decoder(spec.text, prefix=f"{dot}language_model")

    def build_tower(self, prefix: str) -> Module:
        """Return what makes embeddings [T, hidden] of patches [N, pixels] and the grids of their items."""
        return GridVisionTransformer(self.spec.vision, prefix=prefix)

    @classmethod
    def read_config(cls, config: Any, who: str) -> QwenVLSpec:
        """Read the config of a Qwen-VL; Hugging Face's network reads no other fields.

        Args:
            config: the Hugging Face config.
            who: the adapter's name, for messages.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """
        text = copy.copy(config.text_config)
        text.tie_word_embeddings = ConfigReader(config, who).flag("tie_word_embeddings")
        spec = cls.read_vision_config(GridVisionReader(config.vision_config, who))
        if spec.merger.output_size != text.hidden_size:
            ConfigReader(config.vision_config, who).refuse(cls.output_field, spec.merger.output_size)
        return QwenVLSpec(spec, text)

    #: The field of ``vision_config`` that has the decoder's width.
    output_field: ClassVar[str] = "hidden_size"

    @classmethod
    def read_vision_config(cls, reader: GridVisionReader) -> GridVisionSpec:
        """Return the tower."""
        hidden = reader.required("embed_dim")
        mlp = MLPSpec(
            int(hidden * reader.required("mlp_ratio")),
            reader.required("hidden_act"),
            gated=False,
            bias=True,
            up_name="fc1",
            down_name="fc2",
        )
        norm = NormSpec("layer_norm", VISION_EPS)
        merger = MergerSpec(reader.required(cls.output_field), norm.named("ln_q"), "mlp.0", "mlp.2")
        return reader.tower(hidden, mlp, norm, merger)

    def embed_multimodal(self, **inputs: Any) -> list[ms.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.embed_multimodal`.

        Args:
            inputs: of images ``pixel_values`` [N, pixels of a patch], or ``image_embeds`` [T, embedding], with
                ``image_grid_thw`` [B, 3], in patches; of videos ``pixel_values_videos`` or ``video_embeds`` with
                ``video_grid_thw``.
        """
        found: list[ms.Tensor] = []
        images = "pixel_values", "image_embeds", "image_grid_thw"
        videos = "pixel_values_videos", "video_embeds", "video_grid_thw"
        kinds = {name: kind for kind in (images, videos) for name in kind[:2]}
        # In the order in which they were given.
        for pixels, embeddings, grid in dict.fromkeys(kinds[name] for name in inputs if name in kinds):
            if inputs.get(pixels) is not None or inputs.get(embeddings) is not None:
                found += self._items(inputs.get(pixels), inputs.get(embeddings), to_torch(inputs[grid]))
        return found

    def _items(self, pixels: Any, embeddings: Any, grids: torch.Tensor) -> list[ms.Tensor]:
        listed: list[Grid] = [(t, h, w) for t, h, w in grids.tolist()]
        if pixels is not None:
            embeddings = self.visual(pixels, listed)
        made = to_torch(embeddings).to(self._dtype)
        counts = [t * h * w // self.spec.vision.unit for t, h, w in listed]
        return [to_mindspore(one) for one in made.split(counts)]

    def example_inputs(self) -> dict[str, torch.Tensor]:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.example_inputs`."""
        if not self.reads:
            return {}
        spec = self.spec.vision
        grid = torch.tensor([[1, 3 * spec.merge_size, spec.merge_size]])
        pixels = torch.zeros(3 * spec.unit, spec.pixels, dtype=current_model_config().dtype)
        return {"pixel_values": pixels, "image_grid_thw": grid}

    def checkpoint_name(self, name: str, expected: Collection[str]) -> str:
        """See :meth:`mszoo.layers.model.Model.checkpoint_name`: by the names of parts here."""
        del expected
        for old, new in _MOVED:
            if name.startswith(old):
                return new + name.removeprefix(old)
        return name

    def unused_tensors(self) -> tuple[str, ...]:
        """See :meth:`mszoo.layers.model.Model.unused_tensors`."""
        unread = () if self.reads else ("visual.*",)
        return (*unread, *(f"language_model.{name}" for name in self.language_model.unused_tensors()))


class GridVisionReader(ConfigReader):
    """Reads what the towers of Qwen-VLs and GLM-4.1V have in common, all of it by names that they share."""

    def tower(
        self,
        hidden: int,
        mlp: MLPSpec,
        norm: NormSpec,
        merger: MergerSpec | ConvolutionalMergerSpec,
        **others: Any,
    ) -> GridVisionSpec:
        """Return the tower.

        Args:
            hidden: width of its stream.
            mlp, norm, merger: of the spec.
            others: further fields of it.

        Raises:
            RefusalError: naming the field that can't be honoured.
        """
        heads = self.size("num_heads")
        if (
            hidden % heads or hidden // heads % 4
        ):  # a quarter of a head turns by the row, a quarter by the column
            self.refuse("num_heads", heads)
        self.must_be("head_dim", hidden // heads)
        rope = self.optional("rope_parameters", None) or {}
        if rope.get("rope_type", "axial") not in ("axial", "default"):
            self.refuse("rope_parameters", rope)
        return GridVisionSpec(
            patch_size=self.size("patch_size"),
            temporal_patch_size=self.size("temporal_patch_size"),
            num_channels=self.size("in_channels"),
            merge_size=self.size("spatial_merge_size"),
            hidden_size=hidden,
            num_layers=self.size("depth"),
            num_heads=heads,
            rope_theta=float(rope.get("rope_theta", 10000.0)),
            mlp=mlp,
            norm=norm,
            merger=merger,
            **others,
        )

    def size(self, name: str) -> int:
        """Return a whole number above 0.

        Raises:
            RefusalError: the field is something else.
        """
        value = self.required(name)
        if type(value) is not int or not 1 <= value <= MOST:
            self.refuse(name, value)
        return value
