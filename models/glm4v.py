"""GLM-4.1V and GLM-4.5V: a tower whose convolution joins patches, and a decoder of GLM's with M-RoPE."""

from __future__ import annotations

from typing import Any, ClassVar

from mszoo.layers.decoder.spec import DecoderSpec, MLPSpec, NormSpec
from mszoo.layers.vision_grid import GridVisionSpec
from mszoo.layers.vision_merger import ConvolutionalMergerSpec
from mszoo.models.config_keys import reference_of
from mszoo.models.config_types import MOST
from mszoo.models.glm import Glm4ForCausalLM, read_glm
from mszoo.models.glm_moe import Glm4MoeForCausalLM
from mszoo.models.qwen2_vl import GridVisionReader, Qwen2VLForConditionalGeneration, with_mrope
from mszoo.models.reader import DecoderReader

#: Of the merger's norm, whatever the config says, as in Hugging Face's code.
_INNER_EPS = 1e-5


class Glm4vText(Glm4ForCausalLM):
    """GLM-4.1V's decoder: GLM-4's, whose tokens have a frame, a row and a column."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm4v_text`` config; queries, keys and values have biases whatever it says."""
        reader = DecoderReader(config, who, reference=reference_of(config))
        size = reader.head_size_of_equal_shares()
        spec = read_glm(reader, norms_outputs=True, qkv_bias=True, head_size=size)
        return with_mrope(spec, config, who, interleaved=False)


class Glm4vMoeText(Glm4MoeForCausalLM):
    """GLM-4.5V's decoder: GLM-4-MoE's without norms of queries and keys, with the same positions of its tokens."""

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a ``glm4v_moe_text`` config."""
        return with_mrope(super().read_config(config, who), config, who, interleaved=False)


class Glm4vForConditionalGeneration(Qwen2VLForConditionalGeneration):
    """GLM-4.1V: as Hugging Face's ``models/glm4v`` defines it."""

    decoder = Glm4vText
    output_field: ClassVar[str] = "out_hidden_size"
    #: Of the tower's gate and up projection, which checkpoints have apart, and the decoder's in one.
    gate_up: ClassVar[str] = "gate_up"

    @classmethod
    def read_vision_config(cls, reader: GridVisionReader) -> GridVisionSpec:
        """Return the tower."""
        act, output = reader.required("hidden_act"), reader.size(cls.output_field)
        norm = NormSpec("rms_norm", reader.required("rms_norm_eps"))
        merger = ConvolutionalMergerSpec(
            output,
            norm.named("post_layernorm"),
            "downsample",
            NormSpec("layer_norm", _INNER_EPS, name="post_projection_norm"),
            "proj",
            MLPSpec(reader.size("intermediate_size"), act, name="", up_name=cls.gate_up),
        )
        side = reader.size("image_size") // reader.size("patch_size")
        if not 1 <= side**2 <= MOST:
            reader.refuse("image_size", reader.size("image_size"))
        return reader.tower(
            reader.size("hidden_size"),
            MLPSpec(output, act, up_name=cls.gate_up),  # as wide as the embedding, in Hugging Face's code
            norm,
            merger,
            patch_bias=True,
            qkv_bias=reader.flag("attention_bias"),
            o_bias=False,
            patch_norm=norm.named("post_conv_layernorm"),
            num_positions=side**2,
            positions_name="embeddings.position_embedding",
            resampling="bicubic",
        )


class Glm4vMoeForConditionalGeneration(Glm4vForConditionalGeneration):
    """GLM-4.5V: as Hugging Face's ``models/glm4v_moe`` defines it, with GLM-4.1V's tower."""

    decoder = Glm4vMoeText
    gate_up = "gate_up_proj"
