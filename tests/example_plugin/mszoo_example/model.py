"""A decoder whose attention and MLP read the same norm side by side, with a scale on what they add.

The spec says what the model is. mszoo builds it, loads it, and runs it op by op or compiled.
"""

from __future__ import annotations

from typing import Any

from mszoo.layers.decoder import DecoderForCausalLM, DecoderLayerSpec, DecoderSpec
from mszoo.models.reader import DecoderReader


class ExampleForCausalLM(DecoderForCausalLM):
    """The model that vLLM serves. Loading, the KV cache, batching and sampling are not its business."""

    suite = "example"

    @classmethod
    def read_config(cls, config: Any, who: str) -> DecoderSpec:
        """Read a Hugging Face config; a field that is set and that nobody reads is refused: it may change the math.

        Raises:
            RefusalError: naming the field of config.json that can't be honoured.
        """
        reader = DecoderReader(config, who)
        norm = reader.rms_norm()

        def layer(index: int) -> DecoderLayerSpec:
            """``x + residual_scale * (attention(norm(x)) + mlp(norm(x)))``; names are those of the checkpoint."""
            return reader.layer(
                reader.attention(index),
                reader.mlp(),
                norm_before_attention=norm.named("norm"),
                parallel_residual=True,
                residual_multiplier=reader.required("residual_scale"),
            )

        return reader.decoder(layer, norm)
