"""What gpt-oss's reader makes of its published config, and what it refuses by name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import GptOssConfig

from mszoo.layers.decoder.compiled import unsupported
from mszoo.layers.decoder.spec import AttentionSpec, DecoderSpec, MoESpec
from mszoo.models.gpt_oss import GptOssForCausalLM
from mszoo.registry.errors import RefusalError
from tests.published import corpus


def read(**fields: Any) -> DecoderSpec:
    config = GptOssConfig(**(corpus.read()["openai/gpt-oss-20b"] | fields))
    return GptOssForCausalLM.read_config(config, "native.GptOssForCausalLM")


def test_the_published_one() -> None:
    """Every layer has sinks and experts with biases, and every other one a window."""
    layers = read().layers
    for layer in layers:
        assert isinstance(layer.attention, AttentionSpec)
        assert isinstance(layer.mlp, MoESpec)
        assert (layer.attention.sinks, layer.attention.qkv_bias, layer.attention.o_bias) == (True,) * 3
        assert (layer.mlp.bias, layer.mlp.hidden_act, layer.mlp.router_name) == (True, "swigluoai", "router")
        assert unsupported(layer) == "sinks"
    assert [getattr(layer.attention, "sliding_window", 0) for layer in layers] == [16, None, 16]


@pytest.mark.parametrize(
    "fields",
    [{"swiglu_limit": 5.0}, {"swiglu_alpha": 1.0}, {"hidden_act": "gelu"}, {"num_experts_per_tok": 9}],
)
def test_what_it_refuses(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(RefusalError, match=f"native.GptOssForCausalLM: config.json says {name}={value!r}"):
        read(**fields)
