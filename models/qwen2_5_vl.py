"""Qwen2.5-VL: Qwen2-VL whose tower sees windows in most of its layers."""

from __future__ import annotations

from typing import ClassVar

from mszoo.layers.decoder.spec import MLPSpec, NormSpec
from mszoo.layers.vision_grid import GridVisionSpec, MergerSpec
from mszoo.models.qwen2_vl import VISION_EPS, GridVisionReader, Qwen2VLForConditionalGeneration


class Qwen2_5_VLForConditionalGeneration(Qwen2VLForConditionalGeneration):
    """Qwen2.5-VL: as Hugging Face's ``models/qwen2_5_vl`` defines it."""

    output_field: ClassVar[str] = "out_hidden_size"

    @classmethod
    def read_vision_config(cls, reader: GridVisionReader) -> GridVisionSpec:
        """Return the tower."""
        mlp = MLPSpec(reader.size("intermediate_size"), reader.required("hidden_act"), bias=True)
        norm = NormSpec("rms_norm", VISION_EPS)
        merger = MergerSpec(reader.size(cls.output_field), norm.named("ln_q"), "mlp.0", "mlp.2")
        window, patches = (
            reader.size("window_size"),
            reader.size("patch_size") * reader.size("spatial_merge_size"),
        )
        if window < patches:
            reader.refuse("window_size", window)
        whole = reader.required("fullatt_block_indexes")
        if not isinstance(whole, (list, tuple)) or not all(type(index) is int for index in whole):
            reader.refuse("fullatt_block_indexes", whole)
        return reader.tower(
            reader.size("hidden_size"), mlp, norm, merger, window=window // patches, whole_layers=tuple(whole)
        )
