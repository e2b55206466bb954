"""The dense decoder: Llama, Mistral, Qwen2 and Qwen3 are this one with small declared differences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mszoo.layers import (
    Attention,
    CausalLM,
    FusedDecoder,
    FusedDecoderLayer,
    GatedActivation,
    InterleavedRotaryEmbedding,
    LogitsProcessor,
    Module,
    ModuleList,
    Parts,
    QKNorm,
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
from mszoo.models.config import DecoderConfig

if TYPE_CHECKING:
    import mindspore as ms


class SelfAttention(Module):
    """Attention: fused projection, head norms if declared, rotation, paged attention, output projection."""

    def __init__(self, config: DecoderConfig, sliding_window: int | None, prefix: str) -> None:
        super().__init__()
        heads, kv_heads = heads_on_this_rank(config.num_attention_heads, config.num_key_value_heads)
        self.qkv_proj = qkv_linear(
            config.hidden_size,
            config.head_dim,
            config.num_attention_heads,
            config.num_key_value_heads,
            bias=config.qkv_bias,
            prefix=f"{prefix}.qkv_proj",
        )
        self.qk_norm = None
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.qk_norm = QKNorm(self.q_norm, self.k_norm, heads, kv_heads)
        rotary = InterleavedRotaryEmbedding if config.interleaved_rotary else RotaryEmbedding
        self.rotary_emb = rotary(
            config.head_dim,
            heads,
            kv_heads,
            config.max_position_embeddings,
            dict(config.rope_parameters),
        )
        self.attn = Attention(
            heads,
            config.head_dim,
            config.head_dim**-0.5,
            kv_heads,
            sliding_window=sliding_window,
            prefix=f"{prefix}.attn",
        )
        self.o_proj = row_linear(
            config.num_attention_heads * config.head_dim,
            config.hidden_size,
            bias=config.output_bias,
            prefix=f"{prefix}.o_proj",
        )

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], [T, hidden] -> [T, hidden]."""
        qkv = apply_linear(self.qkv_proj, x)
        if self.qk_norm is not None:
            qkv = self.qk_norm(qkv)
        qkv = self.rotary_emb(positions, qkv)
        return apply_linear(self.o_proj, self.attn(qkv))


class MLP(Module):
    """Gated MLP."""

    def __init__(self, config: DecoderConfig, prefix: str) -> None:
        super().__init__()
        self.gate_up_proj = gate_up_linear(
            config.hidden_size,
            config.intermediate_size,
            bias=config.mlp_bias,
            prefix=f"{prefix}.gate_up_proj",
        )
        self.act_fn = GatedActivation(config.hidden_act)
        self.down_proj = row_linear(
            config.intermediate_size, config.hidden_size, bias=config.mlp_bias, prefix=f"{prefix}.down_proj"
        )

    def forward(self, x: ms.Tensor) -> ms.Tensor:
        """[T, hidden] -> [T, hidden]."""
        return apply_linear(self.down_proj, self.act_fn(apply_linear(self.gate_up_proj, x)))


class DecoderLayer(Module):
    """One layer: attention and MLP, each after a norm, on a residual stream.

    Args:
        config: the decoder's.
        sliding_window: see :class:`mszoo.layers.Attention`.
        prefix: the layer's name.
        mlp: takes the place of the usual MLP: [T, hidden] -> [T, hidden]. One without ``gate_up_proj``, ``act_fn``
            and ``down_proj`` (experts) is called as it is; the rest of the layer may run as a whole.
        attention: takes the place of the usual attention: [T], [T, hidden] -> [T, hidden]. The layer then runs op
            by op.
    """

    def __init__(
        self,
        config: DecoderConfig,
        sliding_window: int | None,
        prefix: str,
        mlp: Module | None = None,
        attention: Module | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = attention or SelfAttention(config, sliding_window, f"{prefix}.self_attn")
        self.mlp = MLP(config, f"{prefix}.mlp") if mlp is None else mlp
        self._is_dense = hasattr(self.mlp, "gate_up_proj")
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_self_attn_layernorm = self.post_mlp_layernorm = None
        if config.sandwich_norms:
            self.post_self_attn_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.post_mlp_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.fused = FusedDecoderLayer(self._parts) if attention is None else None

    def forward(
        self, positions: ms.Tensor, x: ms.Tensor, residual: ms.Tensor | None
    ) -> tuple[ms.Tensor, ms.Tensor]:
        """Return the layer's output and the residual stream that is still to be added to it: [T, hidden]."""
        fused = None if self.fused is None else self.fused(positions, x, residual)
        if fused is not None:
            return fused if self._is_dense else (self._mlp(fused[0]), fused[1])
        if residual is None:
            x, residual = self.input_layernorm(x), x
        else:
            x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(positions, x)
        if self.post_self_attn_layernorm is not None:
            x = self.post_self_attn_layernorm(x)
        x, residual = self.post_attention_layernorm(x, residual)
        return self._mlp(x), residual

    def _mlp(self, x: ms.Tensor) -> ms.Tensor:
        x = self.mlp(x)
        return x if self.post_mlp_layernorm is None else self.post_mlp_layernorm(x)

    def _parts(self) -> Parts:
        attention = self.self_attn
        mlp = self.mlp if self._is_dense else None
        return Parts(
            before_attention=self.input_layernorm,
            after_attention=self.post_self_attn_layernorm,
            before_mlp=self.post_attention_layernorm,
            after_mlp=self.post_mlp_layernorm,
            qkv_proj=attention.qkv_proj,
            head_norms=(attention.q_norm, attention.k_norm) if attention.qk_norm is not None else None,
            rotary_emb=attention.rotary_emb,
            rotation="pairs" if attention.rotary_emb.interleaved else "halves",
            attn=attention.attn,
            o_proj=attention.o_proj,
            up_proj=None if mlp is None else mlp.gate_up_proj,
            activation="" if mlp is None else mlp.act_fn,
            down_proj=None if mlp is None else mlp.down_proj,
        )


class Decoder(Module):
    """Embedding, layers and the last norm."""

    def __init__(self, config: DecoderConfig, prefix: str) -> None:
        super().__init__()
        self.embed_tokens = token_embedding(
            config.vocab_size, config.hidden_size, prefix=f"{prefix}.embed_tokens"
        )
        self.layers = ModuleList(
            DecoderLayer(config, window, f"{prefix}.layers.{index}")
            for index, window in enumerate(config.sliding_windows)
        )
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.fused = FusedDecoder([layer.fused for layer in self.layers], self.norm)

    def forward(self, positions: ms.Tensor, x: ms.Tensor) -> ms.Tensor:
        """[T], embeddings [T, hidden] -> hidden states [T, hidden]."""
        hidden_states = self.fused(positions, x)
        if hidden_states is not None:
            return hidden_states
        residual = None
        for layer in self.layers:
            x, residual = layer(positions, x, residual)
        return self.norm(x, residual)[0]


class DecoderForCausalLM(CausalLM):
    """A dense decoder that generates text.

    Args:
        config: the Hugging Face config.
        prefix: prepended to the layers' names.

    Raises:
        RefusalError: naming the config field that can't be honoured.
    """

    def __init__(self, config: Any, *, prefix: str = "") -> None:
        decoder = self.read_config(config)
        super().__init__()
        self.config = config
        dot = f"{prefix}." if prefix else ""
        self.model = Decoder(decoder, f"{dot}model")
        self.lm_head = lm_head(
            decoder.vocab_size,
            decoder.hidden_size,
            prefix=f"{dot}lm_head",
            tied_to=self.model.embed_tokens if decoder.tie_word_embeddings else None,
        )
        self.logits_processor = LogitsProcessor(decoder.vocab_size)

    @staticmethod
    def read_config(config: Any) -> DecoderConfig:
        """Return what the decoder needs of a Hugging Face config; each architecture declares how."""
        raise NotImplementedError

    def forward(
        self, input_ids: ms.Tensor | None, positions: ms.Tensor, inputs_embeds: ms.Tensor | None = None
    ) -> ms.Tensor:
        """See :meth:`mszoo.layers.CausalLM.forward`."""
        x = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        return self.model(positions, x)
