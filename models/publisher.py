"""Reads configs of models whose code only their publisher has, beside the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mszoo.layers.decoder.spec import AttentionSpec, RotarySpec
from mszoo.models.reader import DecoderReader


class PublisherReader(DecoderReader):
    """Reads a config whose class comes with the checkpoint, or whose keys nothing but config.json tells.

    Any field may have an effect in the publisher's code: one that nobody here reads is refused, unless every such
    config has it.

    Args:
        config: the Hugging Face config; vLLM makes it with ``--trust-remote-code``.
        who: the adapter's name, for messages.
        names: the publisher's names of common fields, where they are others.
    """

    def __init__(self, config: Any, who: str, names: Mapping[str, str] | None = None) -> None:
        super().__init__(config, who, names=names)

    def attention(self, index: int, **changes: Any) -> AttentionSpec:
        """Return the attention of layer ``index``: none of these models has a sliding window."""
        return super().attention(index, **{"sliding_window": None} | changes)

    def rope_parameters(self) -> dict[str, Any]:
        """Return ``rope_parameters`` where the config's class, or vLLM, made some; else those of older fields."""
        given = self.optional("rope_parameters", None) or self.optional("rope_scaling", None) or {}
        if isinstance(given, Mapping):
            given = {"rope_theta": self.optional("rope_theta", 10000.0), **given}
        return self.rope(given)

    def rotary(self, index: int, is_neox_style: bool = True) -> RotarySpec:
        """Return the rotation, which is that of every layer."""
        return RotarySpec(self.rope_parameters(), self.required("max_position_embeddings"), is_neox_style)
