"""The ops of vllm-ascend's layer of experts, without quantization and with all experts on each rank, by torch.

Their meaning and their limits are those of CANN's documentation: aclnnMoeGatingTopK, aclnnMoeInitRoutingV3,
aclnnGroupedMatmulV4 and aclnnMoeTokenUnpermute. What they refuse there is refused here.
"""

import torch

from ._ops import op

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)


def _refuse_unless(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} takes {what}")


def _stand_in_lacks(name: str, **arguments) -> None:
    for argument, value in arguments.items():
        if value:
            raise NotImplementedError(f"torch_npu's stand-in has no {argument} for {name}")


@op(
    "moe_gating_top_k(Tensor x, int k, int k_group, int group_count, int group_select_mode, int renorm, "
    "int norm_type, bool out_flag, float routed_scaling_factor, float eps, Tensor? bias_opt=None) "
    "-> (Tensor y, Tensor expert_idx, Tensor out)",
    namespace="_C_ascend",
    like=lambda x, k, *_, **__: (
        x.new_empty(len(x), k),
        x.new_empty(len(x), k, dtype=torch.int32),
        x.new_empty(x.shape, dtype=torch.float32),
    ),
)
def moe_gating_top_k(
    x,
    k,
    k_group,
    group_count,
    group_select_mode,
    renorm,
    norm_type,
    out_flag,
    routed_scaling_factor,
    eps,
    bias_opt=None,
):
    """Score experts, choose the best of the best groups, and weigh them by their scores without the bias."""
    name, experts = "moe_gating_top_k", x.shape[-1]
    _refuse_unless(
        x.dim() == 2 and x.dtype in _FLOATS and experts <= 2048, name, "[rows, at most 2048 experts]"
    )
    _refuse_unless(experts % group_count == 0, name, "groups of one size")
    _refuse_unless(1 <= k_group <= group_count, name, "no more groups than there are")
    _refuse_unless(1 <= k <= experts // group_count * k_group, name, "no more experts than the groups have")
    _refuse_unless(bias_opt is None or bias_opt.dtype == x.dtype, name, "a bias of the scores' dtype")
    wide = x.float()
    scores = wide.softmax(-1) if norm_type == 0 else wide.sigmoid()
    biased = scores if bias_opt is None else scores + bias_opt.float()
    if k_group < group_count:
        grouped = biased.unflatten(-1, (group_count, -1))
        _refuse_unless(grouped.shape[-1] > group_select_mode, name, "groups of two and more")
        of_groups = grouped.topk(2, -1)[0].sum(-1) if group_select_mode else grouped.amax(-1)
        hidden = torch.ones_like(of_groups, dtype=torch.bool)
        hidden.scatter_(1, of_groups.topk(k_group, -1)[1], False)
        biased = grouped.masked_fill(hidden[..., None], float("-inf")).flatten(1)
    chosen = biased.topk(k, -1)[1]
    weights = scores.gather(1, chosen)
    if norm_type == 1 or renorm:
        weights = weights / (weights.sum(-1, keepdim=True) + eps)
    return (weights * routed_scaling_factor).to(x.dtype), chosen.int(), scores


@op(
    "npu_moe_init_routing_custom(Tensor x, Tensor expert_idx, *, Tensor? scale=None, Tensor? offset=None, "
    "int active_num=-1, int expert_capacity=-1, int expert_num=-1, int drop_pad_mode=0, "
    "int expert_tokens_num_type=0, bool expert_tokens_num_flag=False, int quant_mode=0, "
    "int[2] active_expert_range=[], int row_idx_type=0) -> (Tensor, Tensor, Tensor, Tensor)",
    namespace="_C_ascend",
    like=lambda x, expert_idx, *, expert_num=-1, **_: (
        x.new_empty(expert_idx.numel(), x.shape[-1]),
        expert_idx.new_empty(expert_idx.numel()),
        expert_idx.new_empty(expert_num, dtype=torch.int64),
        x.new_empty(expert_idx.numel(), dtype=torch.float32),
    ),
)
def npu_moe_init_routing_custom(
    x,
    expert_idx,
    *,
    scale=None,
    offset=None,
    active_num=-1,
    expert_capacity=-1,
    expert_num=-1,
    drop_pad_mode=0,
    expert_tokens_num_type=0,
    expert_tokens_num_flag=False,
    quant_mode=0,
    active_expert_range=(),
    row_idx_type=0,
):
    """Repeat tokens for each of their experts, expert by expert; tell where each went, and how many each has."""
    name = "npu_moe_init_routing_custom"
    _stand_in_lacks(
        name,
        scale=scale is not None or offset is not None,
        quant_mode=quant_mode != -1,
        active_expert_range=list(active_expert_range) not in ([], [0, expert_num]),
        row_idx_type=row_idx_type,
        expert_tokens_num_type=expert_tokens_num_type == 2,
    )
    _refuse_unless(x.dim() == 2 and x.dtype in _FLOATS, name, "tokens [rows, width]")
    _refuse_unless(expert_idx.shape[:-1] == x.shape[:1], name, "experts [rows, k]")
    _refuse_unless(expert_idx.dtype == torch.int32, name, "experts of int32")
    _refuse_unless(active_num == expert_idx.numel(), name, "an active_num of rows times k")
    _refuse_unless(drop_pad_mode == 0, name, "a drop_pad_mode of 0")
    _refuse_unless(
        expert_tokens_num_flag and expert_tokens_num_type == 1, name, "counts of each expert's tokens"
    )
    flat = expert_idx.flatten().long()
    _refuse_unless(bool(((flat >= 0) & (flat < expert_num)).all()), name, "experts that there are")
    order = flat.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    counts = flat.bincount(minlength=expert_num)
    return x[order // expert_idx.shape[-1]], place.int(), counts, torch.zeros(len(order))


def _products_like(x, weight, **_):
    return [x[0].new_empty(len(x[0]), weight[0].shape[-1])]


@op(
    "npu_grouped_matmul(Tensor[] x, Tensor[] weight, *, Tensor[]? bias=None, Tensor[]? scale=None, "
    "Tensor[]? offset=None, Tensor[]? antiquant_scale=None, Tensor[]? antiquant_offset=None, "
    "Tensor[]? per_token_scale=None, Tensor? group_list=None, int split_item=0, int? group_type=None, "
    "int group_list_type=0, int act_type=0, ScalarType? output_dtype=None) -> Tensor[]",
    like=_products_like,
)
def npu_grouped_matmul(
    x,
    weight,
    *,
    bias=None,
    scale=None,
    offset=None,
    antiquant_scale=None,
    antiquant_offset=None,
    per_token_scale=None,
    group_list=None,
    split_item=0,
    group_type=None,
    group_list_type=0,
    act_type=0,
    output_dtype=None,
):
    """Multiply each group of rows [rows, K] with a weight of its own, of [groups, K, N]."""
    name = "npu_grouped_matmul"
    scales = (bias, scale, offset, antiquant_scale, antiquant_offset, per_token_scale)
    _stand_in_lacks(
        name,
        bias_or_scales=any(item is not None for item in scales),
        act_type=act_type,
        output_dtype=output_dtype,
        group_type=group_type != 0,
        group_list_type=group_list_type not in (0, 1),
    )
    _refuse_unless(
        len(x) == len(weight) == 1 and split_item in (2, 3), name, "one tensor each, and gives one"
    )
    (rows,), (weights,) = x, weight
    _refuse_unless(rows.dim() == 2 and weights.dim() == 3, name, "rows [rows, K] and weights [groups, K, N]")
    _refuse_unless(rows.shape[1] == weights.shape[1], name, "one K")
    _refuse_unless(
        rows.dtype == weights.dtype and rows.dtype in _FLOATS, name, "rows and weights of one dtype"
    )
    _refuse_unless(max(rows.shape[1], weights.shape[2]) < 65536, name, "widths below 65536")
    _refuse_unless(group_list.dtype == torch.int64, name, "a group_list of int64")
    _refuse_unless(
        group_list.shape == weights.shape[:1] and len(weights) <= 1024, name, "at most 1024 groups"
    )
    ends = (group_list if group_list_type == 0 else group_list.cumsum(0)).tolist()
    _refuse_unless(ends[-1] == len(rows), name, "groups of all rows")
    output = rows.new_empty(len(rows), weights.shape[2])
    start = 0
    for group, end in zip(weights, ends, strict=True):
        output[start:end] = (rows[start:end].float() @ group.float()).to(rows.dtype)
        start = end
    return [output]


@op(
    "npu_moe_token_unpermute(Tensor permuted_tokens, Tensor sorted_indices, Tensor? probs=None, "
    "bool padded_mode=False, int[]? restore_shape=None) -> Tensor",
    like=lambda permuted_tokens, sorted_indices, probs=None, **_: permuted_tokens.new_empty(
        len(sorted_indices if probs is None else probs), permuted_tokens.shape[-1]
    ),
)
def npu_moe_token_unpermute(
    permuted_tokens, sorted_indices, probs=None, padded_mode=False, restore_shape=None
):
    """Add up what each token's experts gave, weighed."""
    name = "npu_moe_token_unpermute"
    _stand_in_lacks(name, padded_mode=padded_mode, restore_shape=restore_shape)
    _refuse_unless(
        permuted_tokens.dim() == 2 and permuted_tokens.dtype in _FLOATS, name, "tokens [rows, width]"
    )
    _refuse_unless(
        sorted_indices.dtype == torch.int32 and sorted_indices.shape == permuted_tokens.shape[:1],
        name,
        "places [rows] of int32",
    )
    found = permuted_tokens[sorted_indices.long()].float()
    if probs is None:
        return found.to(permuted_tokens.dtype)
    _refuse_unless(probs.dim() == 2 and probs.numel() == len(found), name, "weights [tokens, k]")
    _refuse_unless(probs.shape[1] <= 512, name, "at most 512 experts of a token")
    weighed = found.unflatten(0, probs.shape) * probs.float()[..., None]
    return weighed.sum(1).to(permuted_tokens.dtype)
