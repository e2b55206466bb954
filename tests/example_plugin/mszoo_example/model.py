"""A decoder whose attention and MLP read the same norm side by side, with a scale on what they add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mszoo.layers import (
    Attention,
    CausalLM,
    GatedActivation,
    LogitsProcessor,
    Module,
    ModuleList,
    RMSNorm,
    RotaryEmbedding,
    apply_linear,
    gate_up_linear,
    heads_on_this_rank,
    lm_head,
    qkv_linear,
    row_linear,
    token_embedding,
)
from mszoo.models.config import ConfigReader

if TYPE_CHECKING:
    import mindspore as ms


@dataclass(frozen=True)
class ExampleConfig:
    """What the model reads of config.json."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden_act: str
    norm_eps: float
    max_position: int
    rope: dict[str, Any]
    residual_scale: float

    @classmethod
    def read(cls, config: Any) -> ExampleConfig:
        """Read a Hugging Face config; refuse a field that is set and not read, as it may change the math."""
        reader = ConfigReader(config, "example.ExampleForCausalLM")
        result = cls(
            vocab_size=reader.required("vocab_size"),
            hidden_size=reader.required("hidden_size"),
            intermediate_size=reader.required("intermediate_size"),
            num_layers=reader.required("num_hidden_layers"),
            num_heads=reader.required("num_attention_heads"),
            num_kv_heads=reader.required("num_key_value_heads"),
            head_dim=reader.required("head_dim"),
            hidden_act=reader.required("hidden_act"),
            norm_eps=reader.required("rms_norm_eps"),
            max_position=reader.required("max_position_embeddings"),
            rope=reader.required("rope_parameters"),
            residual_scale=reader.required("residual_scale"),
        )
        reader.refuse_unread()
        return result


class ParallelBlock(Module):
    """``x + residual_scale * (attention(norm(x)) + mlp(norm(x)))``."""

    def __init__(self, config: ExampleConfig, prefix: str) -> None:
        super().__init__()
        heads, kv_heads = heads_on_this_rank(config.num_heads, config.num_kv_heads)
        self.residual_scale = config.residual_scale
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        # One layer for three tensors of the checkpoint: q_proj, k_proj and v_proj.
        self.qkv_proj = qkv_linear(
            config.hidden_size,
            config.head_dim,
            config.num_heads,
            config.num_kv_heads,
            bias=False,
            prefix=f"{prefix}.qkv_proj",
        )
        self.rotary_emb = RotaryEmbedding(config.head_dim, heads, kv_heads, config.max_position, config.rope)
        # vLLM's KV cache; the prefix names the layer in it, so it must be unique.
        self.attn = Attention(
            heads, config.head_dim, config.head_dim**-0.5, kv_heads, prefix=f"{prefix}.attn"
        )
        self.o_proj = row_linear(
            config.num_heads * config.head_dim, config.hidden_size, bias=False, prefix=f"{prefix}.o_proj"
        )
        self.gate_up_proj = gate_up_linear(
            config.hidden_size, config.intermediate_size, bias=False, prefix=f"{prefix}.gate_up_proj"
        )
        self.act_fn = GatedActivation(config.hidden_act)
        self.down_proj = row_linear(
            config.intermediate_size, config.hidden_size, bias=False, prefix=f"{prefix}.down_proj"
        )

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], [T, hidden] -> [T, hidden]: a step's tokens of all requests lie side by side."""
        normed = self.norm(x)
        qkv = self.rotary_emb(positions, apply_linear(self.qkv_proj, normed))
        attention = apply_linear(self.o_proj, self.attn(qkv))
        mlp = apply_linear(self.down_proj, self.act_fn(apply_linear(self.gate_up_proj, normed)))
        # Between layers any MindSpore code goes.
        return x + (attention + mlp) * self.residual_scale


class Decoder(Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, config: ExampleConfig, prefix: str) -> None:
        super().__init__()
        self.embed_tokens = token_embedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        self.layers = ModuleList(
            ParallelBlock(config, f"{prefix}.layers.{index}") for index in range(config.num_layers)
        )
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], [T, hidden] -> [T, hidden]."""
        for layer in self.layers:
            x = layer(positions, x)
        return self.norm(x)


class ExampleForCausalLM(CausalLM):
    """The model that vLLM serves. Loading, the KV cache, batching and sampling are not its business.

    Raises:
        RefusalError: naming the field of config.json that can't be honoured.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        own = ExampleConfig.read(config)
        super().__init__()
        self.config = config
        dot = f"{prefix}." if prefix else ""
        self.model = Decoder(own, f"{dot}model")
        self.lm_head = lm_head(own.vocab_size, own.hidden_size, prefix=f"{dot}lm_head")
        self.logits_processor = LogitsProcessor(own.vocab_size)

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """Return the hidden states of a step's tokens, [T, hidden]."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        return self.model(positions, x)
