"""THE decoder: one spec, and the layer that runs it op by op, compiled, or as a part of a graph."""

from mszoo.layers.decoder.attention import SelfAttention
from mszoo.layers.decoder.latent_attention import LatentAttention
from mszoo.layers.decoder.layer import DecoderLayer
from mszoo.layers.decoder.mlp import MLP, MixtureOfExperts
from mszoo.layers.decoder.model import Decoder, DecoderForCausalLM
from mszoo.layers.decoder.spec import (
    AttentionSpec,
    DecoderLayerSpec,
    DecoderSpec,
    LatentAttentionSpec,
    MLPSpec,
    MoESpec,
    NormSpec,
    PositionSpec,
    QKVLayout,
    RotarySpec,
)

__all__ = [
    "MLP",
    "AttentionSpec",
    "Decoder",
    "DecoderForCausalLM",
    "DecoderLayer",
    "DecoderLayerSpec",
    "DecoderSpec",
    "LatentAttention",
    "LatentAttentionSpec",
    "MLPSpec",
    "MixtureOfExperts",
    "MoESpec",
    "NormSpec",
    "PositionSpec",
    "QKVLayout",
    "RotarySpec",
    "SelfAttention",
]
