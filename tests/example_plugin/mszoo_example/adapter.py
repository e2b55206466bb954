"""What mszoo-example registers: plain data that names the model's class and imports nothing heavy."""

from __future__ import annotations

from mszoo.registry import ModelAdapter, Suite, hookimpl


@hookimpl
def mszoo_suite() -> Suite:
    """Name the suite; ``mszoo list`` shows it, and ``example.ExampleForCausalLM`` asks for its model."""
    return Suite("example", description="Models of mszoo-example")


@hookimpl
def mszoo_model_adapters() -> list[ModelAdapter]:
    """Give the models: the name in config.json, and the class that implements it."""
    return [
        ModelAdapter(
            "ExampleForCausalLM",
            "mszoo_example.model:ExampleForCausalLM",
            example_config={
                "architectures": ["ExampleForCausalLM"],
                "model_type": "llama",
                "vocab_size": 256,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "head_dim": 32,
                "max_position_embeddings": 512,
                "residual_scale": 0.5,
            },
        )
    ]
