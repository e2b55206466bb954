"""Qwen3-VL, dense and with experts: images enter the first layers of its decoder too (deepstack)."""

from __future__ import annotations

from typing import Any, ClassVar

from mszoo.kernels.exchange import to_torch
from mszoo.layers.decoder.spec import DecoderSpec, MLPSpec, MoESpec, NormSpec
from mszoo.layers.vision_grid import GridVisionSpec, MergerSpec
from mszoo.models.config import ConfigReader
from mszoo.models.moe_reader import MoEReader
from mszoo.models.qwen2_vl import (
    VISION_EPS,
    GridVisionReader,
    Qwen2VLForConditionalGeneration,
    QwenVLSpec,
    with_mrope,
)
from mszoo.models.qwen3 import Qwen3ForCausalLM
from mszoo.models.qwen_moe import Qwen3MoeForCausalLM

import mindspore as ms


class Qwen3VLText(Qwen3ForCausalLM):
    """Qwen3-VL's decoder: Qwen3's, whose tokens have a frame, a row and a column that take turns."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen3_vl_text`` config."""
        return with_mrope(super().read_config(config, who), config, who, interleaved=True)


class Qwen3VLMoeText(Qwen3MoeForCausalLM):
    """Qwen3-VL-MoE's decoder: Qwen3-MoE's, with the same positions of its tokens."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``qwen3_vl_moe_text`` config."""
        return with_mrope(super().read_config(config, who), config, who, interleaved=True)

    @classmethod
    def read_moe(cls, reader: MoEReader) -> MoESpec:
        """Return the mixture of experts, whose weights always add up to 1."""
        stacked = "experts.gate_up_proj", "experts.down_proj"
        moe = reader.moe("num_experts", stacked_names=stacked, stacked_either_way=True)
        # Published checkpoints have them one way and those that transformers saves the other. Of these sizes nobody
        # can tell which.
        if reader.hidden_size in (moe.intermediate_size, 2 * moe.intermediate_size):
            reader.refuse("moe_intermediate_size", moe.intermediate_size)
        return moe


class Qwen3VLForConditionalGeneration(Qwen2VLForConditionalGeneration):
    """Qwen3-VL: as Hugging Face's ``models/qwen3_vl`` defines it."""

    decoder = Qwen3VLText
    output_field: ClassVar[str] = "out_hidden_size"

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        super().__init__(config, prefix=prefix)
        self.deepstack = len(self.spec.vision.deepstack)

    @classmethod
    def read_config(cls, config: Any, who: str) -> QwenVLSpec:
        """Read a ``qwen3_vl`` config; see the base class."""
        spec = super().read_config(config, who)
        if len(spec.vision.deepstack) > spec.text.num_hidden_layers:
            ConfigReader(config.vision_config, who).refuse(
                "deepstack_visual_indexes", list(spec.vision.deepstack)
            )
        return spec

    @classmethod
    def read_vision_config(cls, reader: GridVisionReader) -> GridVisionSpec:
        """Return the tower."""
        up, down = "linear_fc1", "linear_fc2"
        width, act = reader.size("intermediate_size"), reader.required("hidden_act")
        mlp = MLPSpec(width, act, gated=False, bias=True, up_name=up, down_name=down)
        norm = NormSpec("layer_norm", VISION_EPS)
        output = reader.size(cls.output_field)
        merger = MergerSpec(output, norm.named("norm"), up, down, deepstack_name="deepstack_merger_list")
        positions, layers = reader.size("num_position_embeddings"), reader.size("depth")
        if int(positions**0.5) ** 2 != positions:
            reader.refuse("num_position_embeddings", positions)
        deepstack = reader.required("deepstack_visual_indexes")
        if (
            not isinstance(deepstack, (list, tuple))
            or not all(type(index) is int and 0 <= index < layers for index in deepstack)
            or list(deepstack) != sorted(set(deepstack))
        ):
            reader.refuse("deepstack_visual_indexes", deepstack)
        return reader.tower(
            reader.size("hidden_size"),
            mlp,
            norm,
            merger,
            patch_bias=True,
            num_positions=positions,
            deepstack=tuple(deepstack),
        )

    def forward(
        self,
        input_ids: ms.Tensor | None,
        positions: ms.Tensor,
        inputs_embeds: ms.Tensor | None = None,
        deepstack: ms.Tensor | None = None,
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.multimodal.MultiModalLM.forward`."""
        text = self.language_model
        x = text.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        added = () if deepstack is None else to_torch(deepstack).unbind()
        found: ms.Tensor = text.decoder(positions, x, added)
        return found


class Qwen3VLMoeForConditionalGeneration(Qwen3VLForConditionalGeneration):
    """Qwen3-VL with experts: as Hugging Face's ``models/qwen3_vl_moe`` defines it."""

    decoder = Qwen3VLMoeText
