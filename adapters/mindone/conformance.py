"""How mszoo's conformance tests MindSpore One's models that read images: with the native suite's processors."""

from __future__ import annotations

from mszoo.adapters.native import conformance as native


class TestLlava(native.TestLlava):
    """The standard tests."""

    architecture = "mindone.LlavaForConditionalGeneration"


class TestQwen2VL(native.TestQwen2VL):
    """The same."""

    architecture = "mindone.Qwen2VLForConditionalGeneration"


class TestQwen2_5_VL(native.TestQwen2_5_VL):
    """The same."""

    architecture = "mindone.Qwen2_5_VLForConditionalGeneration"
