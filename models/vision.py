"""CLIP's and SigLIP's vision transformers, as towers of models that read images."""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder.spec import MLPSpec, NormSpec
from mszoo.layers.vision import VisionSpec
from mszoo.models.config import ConfigReader

CLIP, SIGLIP = "clip_vision_model", "siglip_vision_model"


def read_vision_config(config: Any, who: str, num_layers: int) -> VisionSpec:
    """Read a ``clip_vision_model`` or ``siglip_vision_model`` config; Hugging Face's networks read no other fields.

    Args:
        config: the Hugging Face config.
        who: the adapter's name, for messages.
        num_layers: how many of the layers run.

    Raises:
        RefusalError: naming the field that can't be honoured.
    """
    reader = ConfigReader(config, who)
    reader.required("num_hidden_layers")  # of which num_layers is made
    heads, hidden = reader.required("num_attention_heads"), reader.required("hidden_size")
    if hidden % heads:
        reader.refuse("num_attention_heads", heads)
    image_size, patch_size = reader.required("image_size"), reader.required("patch_size")
    if patch_size > image_size:
        reader.refuse("patch_size", patch_size)
    norm = NormSpec("layer_norm", reader.required("layer_norm_eps"))
    is_clip = config.model_type == CLIP
    return VisionSpec(
        image_size,
        patch_size,
        reader.required("num_channels"),
        hidden,
        num_layers,
        heads,
        tower_mlp(reader),
        norm,
        class_embedding=is_clip,
        patch_bias=not is_clip,
        norm_before_layers=norm.named("pre_layrnorm") if is_clip else None,
    )


def tower_mlp(reader: ConfigReader) -> MLPSpec:
    """Return the MLP of a tower's layers, by the names that they share."""
    return MLPSpec(
        reader.required("intermediate_size"),
        reader.required("hidden_act"),
        gated=False,
        bias=True,
        up_name="fc1",
        down_name="fc2",
    )
