"""What a decoder is, in the terms of its field: the one description that every way of running it reads.

A spec is data. A model's config reader writes it (:mod:`mszoo.models`); :class:`mszoo.layers.decoder.DecoderLayer`
builds its modules from it, and computes it op by op, as one compiled call, or as a part of a graph. ``name`` in a
spec is what checkpoints call the thing inside its parent, and may have dots: modules carry these names, so that
weights and LoRA adapters find them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class NormSpec:
    """A norm over the last axis.

    Attributes:
        kind: "rms_norm"; "gemma_rms_norm", whose weight is an offset from one, computed in float32; "layer_norm".
        eps: added to the mean square or the variance.
        name: the checkpoint's.
        weight, bias: whether a layer norm has them.
        offset: added to a layer norm's weight (1 for Nemotron).
    """

    kind: Literal["rms_norm", "gemma_rms_norm", "layer_norm"]
    eps: float
    name: str = ""
    weight: bool = True
    bias: bool = True
    offset: float = 0.0

    def named(self, name: str) -> NormSpec:
        """Return the same norm by another name."""
        return replace(self, name=name)


@dataclass(frozen=True)
class RotarySpec:
    """A rotary position embedding.

    Attributes:
        parameters: ``rope_parameters`` of Hugging Face's configs: rope_type, rope_theta, partial_rotary_factor and
            what the type needs beside.
        max_position_embeddings: of the config; some types scale by it.
        is_neox_style: halves of a head turn (GPT-NeoX); otherwise pairs of neighbours (GPT-J).
        axes: tokens have several positions (M-RoPE): which of them turns each frequency; empty where they have one.
            The rotations of all layers are the same then.
    """

    parameters: Mapping[str, Any]
    max_position_embeddings: int
    is_neox_style: bool = True
    axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class QKVLayout:
    """How a checkpoint has queries, keys and values, where it isn't all queries, keys, then values in one tensor.

    The rows are put in order as they are loaded. A LoRA adapter's aren't: the record of such a model declares none.

    Attributes:
        groups: the rows come in so many groups, each with queries, keys and values of its share of the heads.
        order: of queries, keys and values in a group.
        modules: by name of a checkpoint's module inside the attention, the order of what it holds, where the
            checkpoint has several (TeleChat2's ``query`` and ``key_value``); empty where it has one.
    """

    groups: int
    order: str = "qkv"
    modules: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class AttentionSpec:
    """Self-attention: causal on a paged KV cache, or of all tokens of a sequence at once.

    Attributes:
        num_heads, num_kv_heads, head_size: H, G and D, of all ranks.
        scale: multiplies the scores; None for ``head_size**-0.5``.
        qkv_bias, o_bias: whether the projections have biases.
        rotary: turns queries and keys; None where nothing turns.
        qk_norm: norm of queries and keys, by the names ``q_norm_name`` and ``k_norm_name``.
        qk_norm_spans_heads: it norms all heads of a token together, not each.
        qk_norm_weights: each head has a weight of its own: "stacked" in one tensor of the checkpoint (Cohere), or
            "listed", a tensor for each head (StableLM); empty where heads share one.
        qk_norm_after_rotary: queries and keys are normed after they turned.
        clip_qkv: bounds queries, keys and values on both sides, after the norms and before the rotation (OLMo).
        sliding_window: keys this many tokens behind and more are hidden, and where attention isn't causal those as
            far ahead; None shows all.
        logits_soft_cap: scores become ``cap * tanh(scores / cap)``; None leaves them.
        is_causal: tokens see earlier ones and themselves. Otherwise they see the whole sequence, nothing is cached,
            and such a decoder can only be pooled (gte-Qwen2); not with ``logits_soft_cap``.
        sinks: each head has a learned score, by the name ``sinks``, of a key without a value, which takes its share
            of attention (gpt-oss); where attention is causal alone.
        relative_bias: scores get a bias by how far two tokens are apart, which the encoder hands to its layers
            (MPNet); not where attention is causal, nor with ``sliding_window``.
        name, qkv_name, o_name: the checkpoint's, of the attention and of the projections in it. The record of the
            model says which of the checkpoint's modules ``qkv_name`` holds.
        qkv_layout: see :class:`QKVLayout`.
        conv1d: the checkpoint has the weights of projections as [in, out] (Hugging Face's ``Conv1D``); not with
            ``qkv_layout``.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    scale: float | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    rotary: RotarySpec | None = None
    qk_norm: NormSpec | None = None
    qk_norm_spans_heads: bool = False
    qk_norm_weights: Literal["", "stacked", "listed"] = ""
    qk_norm_after_rotary: bool = False
    clip_qkv: float | None = None
    sliding_window: int | None = None
    logits_soft_cap: float | None = None
    is_causal: bool = True
    sinks: bool = False
    relative_bias: bool = False
    name: str = "self_attn"
    qkv_name: str = "qkv_proj"
    o_name: str = "o_proj"
    q_norm_name: str = "q_norm"
    k_norm_name: str = "k_norm"
    qkv_layout: QKVLayout | None = None
    conv1d: bool = False


@dataclass(frozen=True)
class LatentAttentionSpec:
    """Multi-head latent attention (DeepSeek-V2 and later); see :class:`mszoo.layers.decoder.LatentAttention`.

    Attributes:
        num_heads: of all ranks.
        q_lora_rank: rank of the queries; None for full rank.
        kv_lora_rank: rank of keys and values.
        qk_nope_head_dim, qk_rope_head_dim: the parts of a head's query and key without and with position.
        v_head_dim: size of a head's value.
        scale: multiplies the scores.
        norm_eps: of the norms of what low ranks compute.
        rotary: turns the part with position.
        name: the checkpoint's.
    """

    num_heads: int
    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    scale: float
    norm_eps: float
    rotary: RotarySpec
    name: str = "self_attn"


@dataclass(frozen=True)
class MLPSpec:
    """Two projections with an activation between; a gated one has ``act(gate) * up`` there.

    Attributes:
        intermediate_size: width between the projections.
        hidden_act: the activation, by its name in Hugging Face's configs.
        gated: whether it is gated.
        bias: whether the projections have biases.
        down_bias: whether the second one has, where that differs (TeleChat2).
        name: the checkpoint's, in the layer; empty where the projections are the layer's own.
        up_name: of the first projection (gate and up in one where gated); the record of the model says which of the
            checkpoint's modules it holds.
        down_name: of the second one.
        up_first: the checkpoint has up and gate in one tensor in this order (GTE), not gate and up; not with
            ``conv1d``.
        conv1d: as of :class:`AttentionSpec`.
    """

    intermediate_size: int
    hidden_act: str
    gated: bool = True
    bias: bool = False
    down_bias: bool | None = None
    name: str = "mlp"
    up_name: str = "gate_up_proj"
    down_name: str = "down_proj"
    up_first: bool = False
    conv1d: bool = False


@dataclass(frozen=True)
class MoESpec:
    """A mixture of experts: gated MLPs, of which each token passes those that a router chooses.

    Attributes:
        num_experts, top_k: experts, and how many of them a token passes.
        intermediate_size, hidden_act: of each expert; "swigluoai" is gpt-oss's activation, which clamps gate and
            up, whose rows take turns in one tensor.
        scoring_func: what makes scores of the router's logits: "softmax", "sigmoid" or "sparsemixer" (Phi-MoE).
        jitter: of the sparsemixer; see :class:`mszoo.layers.TopKRouter`.
        renormalize: the weights of a token's experts are made to add up to 1.
        routed_scaling_factor: multiplies the weights.
        correction_bias_name: experts are chosen by their scores and this bias of the checkpoint, weighed by scores
            alone (DeepSeek-V3); empty where there is none.
        num_expert_group, topk_group: a token's experts are of the ``topk_group`` best groups: those whose two best
            experts are the best where there is a bias (DeepSeek-V3), else whose best one is (DeepSeek-V2).
        shared: an MLP that every token passes beside; its name is inside the mixture.
        shared_gate_name: the layer that weighs it, by a sigmoid; empty where it isn't weighed.
        name: the checkpoint's.
        router_name: of the router's linear layer, inside the mixture.
        expert_names: of an expert's gate, up and down projection.
        stacked_names: of one tensor with gate and up projection of all experts, [experts, 2 intermediate, hidden],
            and of one with their down projections, inside the mixture, where the checkpoint has those.
        stacked_either_way: they may be [experts, hidden, 2 intermediate] and [experts, intermediate, hidden] too.
        bias: router and experts have biases, those of stacked tensors by their names with ``_bias`` behind, and the
            stacked tensors are [experts, hidden, 2 intermediate] and [experts, intermediate, hidden] (gpt-oss).
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    hidden_act: str
    scoring_func: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    jitter: float = 0.0
    renormalize: bool = True
    routed_scaling_factor: float = 1.0
    correction_bias_name: str = ""
    num_expert_group: int = 1
    topk_group: int = 1
    shared: MLPSpec | None = None
    shared_gate_name: str = ""
    name: str = "mlp"
    router_name: str = "gate"
    expert_names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    stacked_names: tuple[str, str] | None = None
    stacked_either_way: bool = False
    bias: bool = False


@dataclass(frozen=True)
class DecoderLayerSpec:
    """A decoder layer: attention and MLP on a residual stream.

    Attributes:
        hidden_size: width of the stream.
        attention, mlp: its two halves.
        norm_before_attention, norm_after_attention, norm_before_mlp, norm_after_mlp: None where there is none. A
            norm "before" sees the stream, a norm "after" what the half computed.
        norms_sums: the norms "after" see the stream with what the half computed added to it, and what they give is
            the stream (BERT); both are there then, and none "before".
        parallel_residual: both halves see the same stream, normed once, or for the MLP by ``norm_before_mlp``.
        residual_multiplier: of what each half adds to the stream.
        shared_mlp: an MLP beside a mixture of experts that isn't inside it (GraniteMoeShared).
        norm_beside: attention reads another vector of each token in front of the stream, as wide and by this norm
            (the embedding, in heads of EAGLE-3); None where it reads the stream alone.
    """

    hidden_size: int
    attention: AttentionSpec | LatentAttentionSpec
    mlp: MLPSpec | MoESpec
    norm_before_attention: NormSpec | None = None
    norm_after_attention: NormSpec | None = None
    norm_before_mlp: NormSpec | None = None
    norm_after_mlp: NormSpec | None = None
    norms_sums: bool = False
    parallel_residual: bool = False
    residual_multiplier: float = 1.0
    shared_mlp: MLPSpec | None = None
    norm_beside: NormSpec | None = None

    @property
    def norms(self) -> tuple[NormSpec | None, NormSpec | None, NormSpec | None, NormSpec | None]:
        """The norms before and after attention, before and after the MLP."""
        return (
            self.norm_before_attention,
            self.norm_after_attention,
            self.norm_before_mlp,
            self.norm_after_mlp,
        )

    @property
    def has_experts(self) -> bool:
        """Whether the MLP is a mixture of experts."""
        return isinstance(self.mlp, MoESpec)

    @property
    def carries_residual(self) -> bool:
        """Whether what the MLP computed is added to the stream by the next layer's first norm, in one kernel."""
        first = self.norm_before_attention
        plain = not self.parallel_residual and self.residual_multiplier == 1.0
        return plain and first is not None and first.kind == "rms_norm"


@dataclass(frozen=True)
class PositionSpec:
    """Learned position embeddings, added to the tokens'.

    Attributes:
        num_embeddings: rows of the table.
        offset: added to a position to find its row (2 for OPT).
        name: the checkpoint's, inside the network.
    """

    num_embeddings: int
    offset: int = 0
    name: str = "embed_positions"


@dataclass(frozen=True)
class RelativeBiasSpec:
    """A bias of attention's scores by how far two tokens are apart, one table for all layers (T5, MPNet).

    Half of the buckets are for tokens ahead. Half of those are for one distance each, the others for ranges that
    grow with the logarithm, up to ``max_distance``.

    Attributes:
        name: the checkpoint's, of the table, inside the network.
        num_embeddings: rows of the table.
        num_buckets: how many of them are used.
        max_distance: tokens this far away and more share a bucket.
    """

    name: str
    num_embeddings: int
    num_buckets: int = 32
    max_distance: int = 128


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder that generates text, or one whose hidden states are pooled.

    Attributes:
        vocab_size, hidden_size: of the token embedding.
        layers: one each.
        norm: the last norm.
        tie_word_embeddings: the output projection is the token embedding.
        embedding_multiplier: of the token embeddings.
        scales_lookup: it is the look-up's own: embeddings given in place of tokens have it already (Gemma 3).
        positions: learned position embeddings.
        lm_head_bias: whether the output projection has a bias.
        normalizes_lm_head: its rows are brought to length one as they are loaded (Baichuan 2).
        logit_scale: multiplies the logits.
        final_logit_softcapping: logits become ``cap * tanh(logits / cap)``; None leaves them.
        name: the checkpoint's, of the network without output projection. This one and the next may have dots.
        embedding_name, layers_name: inside the network, as the name of ``norm``.
        lm_head_name: of the output projection.
        ignored: tensors that old checkpoints carry and nobody reads: names inside each attention, such as GPT-2's
            causal mask.
        unserved: tensors that predict further tokens, of which heads are made; "*" at the end stands for any.
    """

    vocab_size: int
    hidden_size: int
    layers: tuple[DecoderLayerSpec, ...]
    norm: NormSpec
    tie_word_embeddings: bool = False
    embedding_multiplier: float = 1.0
    scales_lookup: bool = False
    positions: PositionSpec | None = None
    lm_head_bias: bool = False
    normalizes_lm_head: bool = False
    logit_scale: float = 1.0
    final_logit_softcapping: float | None = None
    name: str = "model"
    embedding_name: str = "embed_tokens"
    layers_name: str = "layers"
    lm_head_name: str = "lm_head"
    ignored: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()

    @property
    def is_causal(self) -> bool:
        """Whether no token sees a later one, as generating text takes it."""
        return all(getattr(layer.attention, "is_causal", True) for layer in self.layers)
