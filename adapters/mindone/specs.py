"""What MindSpore One's decoder layers are: their specs, read off the suite's cells and the config.

How families differ beyond what their cells tell is declared in :mod:`mszoo.adapters.mindone.families`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mszoo.adapters.mindone.families import Family, Mixture, family_of
from mszoo.layers import current_model_config
from mszoo.layers.cells import CellStays
from mszoo.layers.decoder import (
    AttentionSpec,
    DecoderLayerSpec,
    MLPSpec,
    MoESpec,
    NormSpec,
    QKVLayout,
    RotarySpec,
)
from mszoo.models.config import ConfigReader
from mszoo.models.config_keys import reference_of
from mszoo.models.reader import rope_of_layer
from mszoo.registry.errors import RefusalError

import mindspore as ms

#: Activations as Hugging Face's configs call them, by class of the suite's.
_ACTIVATIONS = {
    "FastGELUActivation": "gelu_fast",
    "GELUActivation": "gelu",
    "GELUTanh": "gelu_pytorch_tanh",
    "NewGELUActivation": "gelu_new",
    "ReLU": "relu",
    "ReLUSquaredActivation": "relu2",
    "SiLU": "silu",
    "SiLUActivation": "silu",
}
# What families call the same thing.
_MLP = ("mlp", "block_sparse_moe")
_UP_AND_DOWN = (
    ("up_proj", "down_proj"),
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("input_linear", "output_linear"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("fc_in", "fc_out"),
)
_ACTIVATION = ("act_fn", "activation_fn", "act", "activation")
_OUTPUT = ("o_proj", "dense", "out_proj", "c_proj")
_NORMED_LATE = "query_layernorm"
_QK_NORMS = (("q_norm", "k_norm"), (_NORMED_LATE, "key_layernorm"), ("q_layernorm", "k_layernorm"))
_COHERE = ("CohereLayerNorm", "Cohere2LayerNorm")
_OTHER = "Serve it with another implementation"


def layer_spec(cell: ms.nn.Cell) -> DecoderLayerSpec:
    """Return what a decoder layer of the suite is.

    Raises:
        CellStays: it does something that no spec says.
        RefusalError: its sizes can't be told, or contradict the config.
    """
    if _has(cell, "crossattention") or not getattr(cell, "do_layer_norm_before", True):
        raise CellStays("a layer attends to an encoder too, or norms the stream itself")
    family = family_of(type(cell).__module__)
    attention = getattr(cell, family.attention)
    if family.flat_mlp:
        mlp: MLPSpec | MoESpec = mlp_spec(cell, family, name="")
    else:
        name = _first_name(cell, _MLP)
        mlp = _mlp_or_experts(getattr(cell, name), family, name)
    shared = None
    if _has(cell, "shared_mlp"):
        shared = mlp_spec(cell.shared_mlp, family, name="shared_mlp")
    before_attention, after_attention, before_mlp, after_mlp = (
        norm_spec(getattr(cell, name), name) if name and _has(cell, name) else None for name in family.norms
    )
    _, hidden_size = _sizes(_qkv_cell(attention, family), family)
    return DecoderLayerSpec(
        hidden_size,
        attention_spec(attention, family),
        mlp,
        before_attention,
        after_attention,
        before_mlp,
        after_mlp,
        parallel_residual=family.parallel or getattr(cell, "use_parallel_residual", False),
        residual_multiplier=float(getattr(cell, "residual_multiplier", 1.0)),
        shared_mlp=shared,
    )


def norm_spec(cell: ms.nn.Cell, name: str = "") -> NormSpec:
    """Return what a norm of the suite is.

    Raises:
        CellStays: it isn't one of the known ones.
    """
    kind = type(cell).__name__
    offset = 1.0 if kind == "NemotronLayerNorm1P" else 0.0
    if isinstance(cell, ms.nn.LayerNorm):
        made = NormSpec("layer_norm", cell.epsilon, bias=cell.beta is not None)
    elif isinstance(cell, ms.mint.nn.LayerNorm):
        weight, bias = cell.weight is not None, cell.bias is not None
        made = NormSpec("layer_norm", cell.eps, weight=weight, bias=bias, offset=offset)
    elif kind == "OlmoLayerNorm":
        made = NormSpec("layer_norm", 1e-5, weight=False, bias=False)
    elif kind in _COHERE:
        made = NormSpec("layer_norm", cell.variance_epsilon, bias=False)
    elif kind == "StableLmLayerNormPerHead":
        made = NormSpec("layer_norm", cell.norms[0].eps, bias=False)
    elif getattr(cell, "weight", None) is None:
        raise CellStays(f"a {kind} is none that mszoo knows")
    elif kind.endswith("GemmaRMSNorm") or kind in ("Gemma2RMSNorm", "Gemma3RMSNorm"):
        made = NormSpec("gemma_rms_norm", cell.eps)
    else:
        made = NormSpec("rms_norm", cell.variance_epsilon)
    return replace(made, name=name, eps=float(made.eps))


def attention_spec(cell: ms.nn.Cell, family: Family) -> AttentionSpec:
    """Return what an attention of the suite is.

    Raises:
        RefusalError: its sizes can't be told, or contradict the config.
    """
    config = getattr(cell, "config", None) or current_model_config().hf_config
    index = cell.layer_idx
    heads, kv_heads, size = _heads(cell, config)
    output = _first_name(cell, _OUTPUT)
    norms = next((pair for pair in _QK_NORMS if _has(cell, pair[0])), None)
    of_heads: dict[str, Any] = {}
    if norms is not None:
        norm = getattr(cell, norms[0])
        listed = hasattr(norm, "norms")
        shape: tuple[int, ...] = () if listed or norm.weight is None else tuple(norm.weight.shape)
        of_heads = {
            "qk_norm": norm_spec(norm),
            "qk_norm_spans_heads": len(shape) == 1 and shape[0] != size,
            "qk_norm_weights": "listed" if listed else "stacked" if len(shape) > 1 else "",
            "qk_norm_after_rotary": norms[0] == _NORMED_LATE,
            "q_norm_name": norms[0],
            "k_norm_name": norms[1],
        }
    return AttentionSpec(
        heads,
        kv_heads,
        size,
        scale=_scale(cell, size, index),
        qkv_bias=_has_bias(_qkv_cell(cell, family)),
        o_bias=_has_bias(getattr(cell, output)),
        rotary=_rotary(cell, family, index, size) if family.rotates and _rotates(cell) else None,
        clip_qkv=getattr(config, "clip_qkv", None),
        sliding_window=_sliding_window(cell, config, index),
        logits_soft_cap=float(_first(cell, "attn_logit_softcapping", "softcap") or 0) or None,
        name=family.attention,
        qkv_name="qkv_proj" if family.qkv is None else family.qkv.name,
        o_name=output,
        qkv_layout=_layout(family, heads, kv_heads),
        conv1d=family.conv1d,
        **of_heads,
    )


def mlp_spec(cell: ms.nn.Cell, family: Family, *, name: str) -> MLPSpec:
    """Return what an MLP of the suite is.

    Raises:
        CellStays: its activation isn't one of the known ones.
    """
    up_name, down_name = next(pair for pair in _UP_AND_DOWN if _has(cell, pair[1]))
    up, down = getattr(cell, up_name, None), getattr(cell, down_name)
    _, width = _sizes(down, family)
    if family.gated and (up is None or up.weight.shape[0] == width):  # not gate and up in one
        up_name, up = "gate_up_proj", getattr(cell, "gate_up_proj", up)
    return MLPSpec(
        width,
        activation_name(getattr(cell, _first_name(cell, _ACTIVATION))),
        gated=family.gated,
        bias=_has_bias(down),
        name=name,
        up_name=up_name,
        down_name=down_name,
        conv1d=family.conv1d,
    )


def _mlp_or_experts(cell: ms.nn.Cell, family: Family, name: str) -> MLPSpec | MoESpec:
    mixture = family.mixture
    if mixture is None or not (hasattr(cell, "experts") or hasattr(cell, "router")):
        return mlp_spec(cell, family, name=name)
    routers: list[Any] = [cell]
    for part in mixture.router.split("."):
        routers.append(getattr(routers[-1], part))

    def said(attribute: str, default: Any) -> Any:
        found = (getattr(place, attribute, None) for place in routers)
        return next((value for value in found if value is not None), default)

    shared = getattr(cell, mixture.shared, None)
    act = cell.activation if mixture.stacked else cell.experts[0].act_fn
    return MoESpec(
        routers[-1].weight.shape[0],
        said("top_k", None),
        _width_of_expert(cell, mixture),
        activation_name(act),
        scoring_func=mixture.scoring_func,
        renormalize=said("norm_topk_prob", True),
        routed_scaling_factor=said("routed_scaling_factor", 1.0),
        correction_bias_name=mixture.bias,
        num_expert_group=said("n_group", 1),
        topk_group=said("topk_group", 1),
        shared=None if shared is None else mlp_spec(shared, family, name=mixture.shared),
        shared_gate_name=mixture.shared_gate,
        name=name,
        router_name=mixture.router,
        expert_names=mixture.experts,
        stacked_names=mixture.stacked,
    )


def _width_of_expert(cell: ms.nn.Cell, mixture: Mixture) -> int:
    """Return the intermediate size of each expert.

    Raises:
        CellStays: a projection has a bias.
    """
    if mixture.stacked is not None:
        return int(getattr(cell, mixture.stacked[1]).weight.shape[2])
    projections = [getattr(cell.experts[0], name) for name in mixture.experts]
    if any(_has_bias(layer) for layer in projections):
        raise CellStays("the projections of its experts have a bias")
    return int(projections[2].weight.shape[1])


def activation_name(cell: ms.nn.Cell) -> str:
    """Return what Hugging Face's configs call an activation.

    Raises:
        CellStays: it isn't one of the known ones.
    """
    kind = type(cell).__name__
    if kind not in _ACTIVATIONS:
        raise CellStays(f"{kind} is none that mszoo knows")
    return _ACTIVATIONS[kind]


def _heads(cell: ms.nn.Cell, config: Any) -> tuple[int, int, int]:
    """Return the number of heads, of key/value heads, and the size of each."""
    heads = _first(cell, "num_heads", "num_attention_heads") or config.num_attention_heads
    kv_heads = (
        _first(cell, "num_key_value_heads", "num_kv_heads")
        or getattr(config, "num_key_value_heads", None)
        or heads
    )
    size = (
        _first(cell, "qk_head_dim", "head_dim", "head_size")
        or getattr(config, "head_dim", None)
        or config.hidden_size // heads
    )
    if not all(isinstance(value, int) and value > 0 for value in (heads, kv_heads, size)):
        raise RefusalError(type(cell).__name__, "its number and size of heads can't be told", _OTHER)
    declared = getattr(config, "head_dim", None) or size
    if size != declared:
        what = f"config.json says head_dim={declared}, and MindSpore One's model makes heads of {size}"
        raise RefusalError(type(cell).__name__, what, _OTHER)
    return heads, kv_heads, size


def _scale(cell: ms.nn.Cell, size: int, index: int) -> float:
    """Return what multiplies a layer's scores."""
    scale = _first(cell, "scaling", "softmax_scale")
    if scale is None:
        scale = size**-0.5 if getattr(cell, "scale_attn_weights", True) else 1.0
    # GPT-2's.
    return float(scale) / (index + 1 if getattr(cell, "scale_attn_by_inverse_layer_idx", False) else 1)


def _sliding_window(cell: ms.nn.Cell, config: Any, index: int) -> int | None:
    """Return how many keys a layer sees, itself included; None where it sees all.

    The config's ``layer_types`` decide where there are any: some cells hold the window of other layers, or none.
    """
    reader = ConfigReader(config, type(cell).__name__, reference=reference_of(config))
    if not reader.has_effect("sliding_window"):
        return None
    window = getattr(config, "sliding_window", None) or None
    types = getattr(config, "layer_types", None)
    if types is not None and reader.is_computed_with("layer_types"):
        return window if types[index] == "sliding_attention" else None
    return (cell.sliding_window or None) if hasattr(cell, "sliding_window") else window


def _rotary(cell: ms.nn.Cell, family: Family, index: int, size: int) -> RotarySpec:
    """Return how a layer's queries and keys turn, by Hugging Face's config.

    Raises:
        RefusalError: the config doesn't say it.
    """
    config = current_model_config().hf_config
    parameters = getattr(config, "rope_parameters", None)
    if family.own_angles:
        if not cell.rotary_dim:
            raise RefusalError(type(cell).__name__, "its config has no rotary_dim", _OTHER)
        parameters = {"rope_theta": 10000.0, "partial_rotary_factor": cell.rotary_dim / size}
    elif parameters is not None:
        parameters = rope_of_layer(parameters, getattr(config, "layer_types", None), index)
    reader = ConfigReader(
        config, type(cell).__name__, reference="" if family.own_angles else reference_of(config)
    )
    return RotarySpec(reader.rope(parameters), config.max_position_embeddings, is_neox_style=not family.pairs)


def _rotates(cell: ms.nn.Cell) -> bool:
    """Return whether a layer's queries and keys are turned: some families leave out layers that see everything."""
    if hasattr(cell, "use_rope"):
        return bool(cell.use_rope)
    kind = type(cell).__name__
    if kind == "Cohere2Attention":
        return cell.sliding_window is not None
    if kind == "Exaone4Attention":
        return cell.sliding_window is None or bool(cell.is_sliding)
    return True


def _layout(family: Family, heads: int, kv_heads: int) -> QKVLayout | None:
    """Return how a checkpoint has queries, keys and values in one tensor.

    Raises:
        CellStays: heads can't be shared out to its groups.
    """
    qkv = family.qkv
    if qkv is None or qkv.is_plain:
        return None
    groups = 1 if heads != kv_heads else heads if qkv.groups is None else qkv.groups
    if heads % groups:
        raise CellStays(f"{heads} heads don't make {groups} groups")
    return QKVLayout(groups, qkv.order)


def _qkv_cell(attention: ms.nn.Cell, family: Family) -> ms.nn.Cell:
    return getattr(attention, "q_proj" if family.qkv is None else family.qkv.name)


def _sizes(linear: ms.nn.Cell, family: Family) -> tuple[int, int]:
    """Return outputs and inputs of a projection."""
    rows, columns = linear.weight.shape
    return (columns, rows) if family.conv1d else (rows, columns)


def _has(cell: ms.nn.Cell, name: str) -> bool:
    """Return whether a cell has a part, and not None in its place."""
    return getattr(cell, name, None) is not None


def _has_bias(cell: ms.nn.Cell) -> bool:
    return isinstance(getattr(cell, "bias", None), ms.Parameter)


def _first_name(cell: ms.nn.Cell, names: tuple[str, ...]) -> str:
    """Return the one of these names that a cell has: families call the same thing otherwise."""
    return next(name for name in names if _has(cell, name))


def _first(cell: ms.nn.Cell, *names: str) -> Any:
    """Return the first of these attributes that the cell has, or None."""
    return next((getattr(cell, name) for name in names if _has(cell, name)), None)
