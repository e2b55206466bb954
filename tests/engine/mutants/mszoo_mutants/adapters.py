"""What the wrong models register: each is a suite of its own, with one architecture that transformers knows."""

from __future__ import annotations

from mszoo.registry import Capability, LayerAdapter, ModelAdapter, OpAdapter, Suite, hookimpl

EXAMPLE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 128,  # as many as 4 heads of 32: the output projection is square
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": True,
    "max_position_embeddings": 512,
}
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class Mutant:
    """A plugin with one wrong model."""

    def __init__(
        self, name: str, model: str, *capabilities: Capability, dtypes: tuple[str, ...] = ("float32",)
    ) -> None:
        self.name, self.model, self.capabilities, self.dtypes = name, model, capabilities, dtypes

    @hookimpl
    def mszoo_suite(self) -> Suite:
        return Suite(self.name, description="wrong on purpose")

    @hookimpl
    def mszoo_model_adapters(self) -> list[ModelAdapter]:
        return [
            ModelAdapter(
                "LlamaForCausalLM",
                f"mszoo_mutants.models:{self.model}",
                capabilities=self.capabilities,
                dtypes=self.dtypes,
                packed_modules_mapping=FUSED,
                example_config=EXAMPLE,
            )
        ]


wrong_rope = Mutant("wrong_rope", "WrongRope")
missing_bias = Mutant("missing_bias", "MissingBias")
wrong_in_16_bits = Mutant("wrong_in_16_bits", "WrongIn16Bits", dtypes=("float32", "bfloat16"))
transposed_weight = Mutant("transposed_weight", "TransposedWeight")
stale_slot = Mutant("stale_slot", "StaleSlot")
wrong_claim = Mutant("wrong_claim", "PlainLayer", Capability.LORA)
copy_in_torch = Mutant("copy_in_torch", "CopyInTorch")
copy_through_numpy = Mutant("copy_through_numpy", "CopyThroughNumpy")


class Parts:
    """A plugin with layers and ops."""

    def __init__(self, name: str, layers: list[LayerAdapter], ops: list[OpAdapter]) -> None:
        self.name, self.layers, self.ops = name, layers, ops

    @hookimpl
    def mszoo_suite(self) -> Suite:
        return Suite(self.name, description="layers and ops")

    @hookimpl
    def mszoo_layer_adapters(self) -> list[LayerAdapter]:
        return self.layers

    @hookimpl
    def mszoo_op_adapters(self) -> list[OpAdapter]:
        return self.ops


FLOAT32 = ("float32",)
right_parts = Parts(
    "right_parts",
    [
        LayerAdapter("vllm:RMSNorm", "mszoo_mutants.parts:RMSNorm", dtypes=FLOAT32),
        LayerAdapter("vllm:SiluAndMul", "mszoo_mutants.parts:SiluAndMul", dtypes=FLOAT32),
    ],
    [
        OpAdapter("rms_norm", "mszoo.kernels.mindspore_set:rms_norm", "mine", dtypes=FLOAT32),
        OpAdapter("paged_attention", "mszoo.kernels.mindspore_set:paged_attention", "mine", dtypes=FLOAT32),
        OpAdapter("rotary_embedding", "mszoo.kernels.cpu_set:rotary_embedding", "mine"),
        OpAdapter("fused_add_rms_norm", "mszoo.kernels.cpu_set:fused_add_rms_norm", "mine"),
    ],
)
wrong_parts = Parts(
    "wrong_parts",
    [
        LayerAdapter("vllm:RMSNorm", "mszoo_mutants.parts:NormThatForgetsTheSum", dtypes=FLOAT32),
        LayerAdapter("vllm:SwiGluAndMul", "mszoo_mutants.parts:SiluAndMul", dtypes=FLOAT32),
    ],
    [
        OpAdapter("silu_and_mul", "mszoo_mutants.parts:swapped_silu_and_mul", "mine", dtypes=FLOAT32),
        OpAdapter("gelu_and_mul", "mszoo_mutants.parts:greedy_gelu_and_mul", "mine", dtypes=FLOAT32),
        OpAdapter("rms_norm", "mszoo_mutants.parts:careless_rms_norm", "mine", dtypes=FLOAT32),
    ],
)
